"""What a batch costs at a batch service, from a dated table that its reader may correct.

The built-in table is ``prices.toml`` in this folder, with its sources. ``vbatch-prices.toml`` in Jupyter's
configuration directory has the same format, and overrides it.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vbatch_jupyter.errors import BadRequestError

FILE_NAME = "vbatch-prices.toml"

_BUILT_IN = Path(__file__).with_name("prices.toml")
_MILLION = 1_000_000


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The list price of one model.

    Parameters
    ----------
    input, output
        US dollars per million tokens; embeddings have no ``output``.
    """

    input: float
    output: float | None = None


class ServicePrices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The prices of one batch service.

    Parameters
    ----------
    read_on
        When they were read.
    sources
        Addresses of pages with the prices.
    models
        The list prices.
    batch_share
        The fraction of the list price that a batch costs.
    note
        Notes.
    """

    read_on: dt.date
    sources: tuple[str, ...]
    models: Mapping[str, Price]
    batch_share: float = 0.5
    note: str = ""

    def cost(self, model: str, input_tokens: float, output_tokens: float = 0) -> float:
        """Return what a batch costs, in US dollars.

        Parameters
        ----------
        model
            One of ``models``.
        input_tokens, output_tokens
            Of the whole batch.

        Examples
        --------
        >>> prices = ServicePrices(
        ...     read_on=dt.date(2026, 11, 25), sources=(), models={"m": Price(input=2.0, output=8.0)}
        ... )
        >>> prices.cost("m", 1_000_000, 500_000)
        3.0
        """
        price = self.models[model]
        return self.batch_share * (price.input * input_tokens + (price.output or 0) * output_tokens) / _MILLION


def load(configured: Path | None = None) -> dict[str, ServicePrices]:
    """Return the prices by service.

    Parameters
    ----------
    configured
        The file that overrides the built-in table; by default the one in Jupyter's configuration directory.

    Raises
    ------
    BadRequestError
        The file is not valid TOML, or does not have the table's format.
    """
    from jupyter_core.paths import jupyter_config_dir

    path = configured or Path(jupyter_config_dir(), FILE_NAME)
    built_in = tomllib.loads(_BUILT_IN.read_text(encoding="utf-8"))
    try:
        ours = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return msgspec.convert(_merged(built_in, ours), dict[str, ServicePrices])
    except (OSError, ValueError, TypeError) as error:
        raise BadRequestError(f"The prices in {path} cannot be read: {error}.") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        before = below.get(name)
        # Replace a price as a whole: half an old price and half a new one would be wrong.
        is_table = isinstance(value, dict) and isinstance(before, dict) and "input" not in value
        merged[name] = _merged(before, value) if is_table else value  # type: ignore[arg-type]  # a table
    return merged
