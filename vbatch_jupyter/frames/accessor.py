"""``df.vbatch``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pandas as pd


class VBatchAccessor:
    """Runs this DataFrame as a batch: ``df.vbatch.run(template)``, ``submit`` and ``dry_run``.

    Parameters
    ----------
    df
        The frame.
    """

    _submit: ClassVar[Callable[..., Any]]
    _run: ClassVar[Callable[..., Any]]
    _dry_run: ClassVar[Callable[..., Any]]

    def __init__(self, df: pd.DataFrame) -> None:
        self._df = df

    def submit(self, template: str, **options: Any) -> Any:
        """Make a batch and return at once. Takes the same arguments as `vbatch_jupyter.submit`."""
        return type(self)._submit(self._df, template, **options)  # noqa: SLF001 - its own class

    def run(self, template: str, **options: Any) -> Any:
        """Run this DataFrame as a batch and return the result. Takes the same arguments as `vbatch_jupyter.run`."""
        return type(self)._run(self._df, template, **options)  # noqa: SLF001 - its own class

    def dry_run(self, template: str, **options: Any) -> Any:
        """Return what a batch of this frame would ask, compute and cost. Takes the same arguments as `run`."""
        return type(self)._dry_run(self._df, template, **options)  # noqa: SLF001 - its own class


def register(*, submit: Callable[..., Any], run: Callable[..., Any], dry_run: Callable[..., Any]) -> None:
    """Add ``vbatch`` to every DataFrame.

    Parameters
    ----------
    submit, run, dry_run
        Called as ``submit(df, template, **options)``; they are passed in, because this room must not import them.

    Examples
    --------
    >>> register(submit=lambda df, template: len(df), run=print, dry_run=print)
    >>> pd.DataFrame({"a": [1, 2]}).vbatch.submit("{{ a }}")
    2
    """
    VBatchAccessor._submit = staticmethod(submit)  # noqa: SLF001
    VBatchAccessor._run = staticmethod(run)  # noqa: SLF001
    VBatchAccessor._dry_run = staticmethod(dry_run)  # noqa: SLF001
    # pandas warns when a name is registered again, which a reloaded extension does.
    if getattr(pd.DataFrame, "vbatch", None) is not VBatchAccessor:
        pd.api.extensions.register_dataframe_accessor("vbatch")(VBatchAccessor)
