from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.wheel import Wheel
    from tests.behind import Behind


@pytest.fixture(scope="session")
def wheel(behind: Behind) -> Wheel:
    return behind.wheel
