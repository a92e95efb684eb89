"""``df.vbatch``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pandas as pd


class VBatchAccessor:
    """Runs this DataFrame as a batch: ``df.vbatch.run(template)``, ``submit`` and ``dry_run``.

    Parameters
    ----------
    df
        The frame.
    """

    def __init__(self, df: pd.DataFrame) -> None:
        self._df = df


def register(**functions: Callable[..., Any]) -> None:
    """Add ``vbatch`` to every DataFrame.

    Parameters
    ----------
    **functions
        Its methods by name, such as `vbatch_jupyter.submit`; each is called with the frame and the method's arguments.

    Examples
    --------
    >>> register(submit=lambda df, template: len(df))
    >>> pd.DataFrame({"a": [1, 2]}).vbatch.submit("{{ a }}")
    2
    """
    for name, function in functions.items():
        setattr(VBatchAccessor, name, _method(function))
    # pandas warns when a name is registered again, which a reloaded extension does.
    if getattr(pd.DataFrame, "vbatch", None) is not VBatchAccessor:
        pd.api.extensions.register_dataframe_accessor("vbatch")(VBatchAccessor)


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method from a function whose first argument is the frame; `help` and Tab show the others."""

    @functools.wraps(function)
    def method(self: VBatchAccessor, *arguments: Any, **options: Any) -> Any:
        return function(self._df, *arguments, **options)

    signature = inspect.signature(function)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, *list(signature.parameters.values())[1:]]
    method.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return method
