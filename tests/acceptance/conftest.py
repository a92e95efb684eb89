from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.wheel import Wheel


@pytest.fixture(scope="session", autouse=True)
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wheel | None]:
    """Begin with the wheel if it is tested, during the tests before it, whose processes mostly wait to be killed."""
    if not any("test_wheel" in item.nodeid for item in request.session.items):
        yield None
        return
    tmp_path_factory.getbasetemp()  # made here, and not by two threads at once
    wheel = Wheel(tmp_path_factory.mktemp)
    yield wheel
    wheel.close()
