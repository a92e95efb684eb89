"""What a batch costs at a batch service, from a dated table that its reader may correct.

The table that comes along is ``prices.toml`` beside this module, with its sources. ``vbatch-prices.toml`` in Jupyter's
configuration directory has the same form, and goes before it.
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
        When they were looked up.
    sources
        Addresses of pages that say them.
    models
        The list prices.
    batch_share
        What part of the list price a batch costs.
    note
        What else to know of them.
    """

    read_on: dt.date
    sources: tuple[str, ...]
    models: Mapping[str, Price]
    batch_share: float = 0.5
    note: str = ""

    def cost(self, model: str, input_tokens: float, output_tokens: float = 0) -> float:
        """Give what a batch costs, in US dollars.

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
    """Give the prices by service.

    Parameters
    ----------
    configured
        The file that goes before the table that comes along; the one in Jupyter's configuration directory by default.

    Raises
    ------
    BadRequestError
        The file is no TOML, or not of the table's form.
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
        # A price is taken whole: half of an old one and half of a new one is none.
        is_table = isinstance(value, dict) and isinstance(before, dict) and "input" not in value
        merged[name] = _merged(before, value) if is_table else value  # type: ignore[arg-type]  # a table
    return merged
