r"""The JSON schema of a pydantic model class as it is sent to an engine.

It is pydantic's own, except for three types, which pydantic describes for those who read values:

==============  =====================================================================================================
``Decimal``     pydantic says "a number or a string", in some releases with a pattern (2.12, 2.13; not in 2.11, 2.14)
                that no grammar holds. Here: a string of digits, with as many as ``max_digits`` and ``decimal_places``
                allow; a number if it has bounds that no pattern can hold
``datetime``,   pydantic says ``date-time`` and ``time``, which must have an offset from UTC; a model would invent
``time``        one. Here: with an offset or without; `NaiveDatetime` without
==============  =====================================================================================================

This module is imported only if a schema is a pydantic model class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

if TYPE_CHECKING:
    from decimal import Decimal

    from pydantic import BaseModel
    from pydantic_core import core_schema

_DATE = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?"
_OFFSET = r"(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)"
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_BOUNDS |= {"multiple_of": "multipleOf"}


def schema_to_send(model: type[BaseModel]) -> dict[str, Any]:
    r"""Return a model's JSON schema as it is sent.

    Examples
    --------
    >>> import decimal, pydantic
    >>> Price = pydantic.create_model("Price", euro=(decimal.Decimal, pydantic.Field(ge=0, decimal_places=2)))
    >>> schema_to_send(Price)["properties"]["euro"]["pattern"]
    '^(?:0|[1-9]\\d*)(?:\\.\\d{1,2})?$'
    """
    return model.model_json_schema(schema_generator=_Generator)


class _Generator(GenerateJsonSchema):
    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        given: Mapping[str, Any] = {**schema}
        bounds = {name: float(given[key]) for key, name in _BOUNDS.items() if key in given}
        digits, places = given.get("max_digits"), given.get("decimal_places")
        if bounds and bounds != {"minimum": 0} and digits is None and places is None:
            return {"type": "number", **bounds}
        least = max((given[key] for key in ("ge", "gt") if key in given), default=None)
        most = min((given[key] for key in ("le", "lt") if key in given), default=None)
        return {"type": "string", "pattern": _decimal_pattern(digits, places, least, most)}

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        constraint = schema.get("tz_constraint")
        if constraint is None:
            return {"type": "string", "pattern": f"^{_DATE}T{_TIME}{_OFFSET}?$"}
        if constraint == "naive":
            return {"type": "string", "pattern": f"^{_DATE}T{_TIME}$"}
        return super().datetime_schema(schema)

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        del schema
        return {"type": "string", "pattern": f"^{_TIME}{_OFFSET}?$"}


def _decimal_pattern(digits: int | None, places: int | None, least: Decimal | None, most: Decimal | None) -> str:
    """Return a pattern for numbers of so many digits; of the bounds it holds the sign and the digits before the dot."""
    whole = None if digits is None else digits - (places or 0)
    if least is not None and most is not None:
        of_bounds = len(str(int(max(abs(least), abs(most)))))
        whole = of_bounds if whole is None else min(whole, of_bounds)
    sign = "" if least is not None and least >= 0 else "-?"
    if digits is not None and places is None:
        # The fewer digits before the dot, the more there may be after it.
        sizes = [(count, digits - count) for count in range(1, (whole or 0) + 1)]
        return f"^{sign}(?:{'|'.join(_digits(count, count) + _fraction(rest) for count, rest in sizes)})$"
    return f"^{sign}{_digits(1, whole)}{_fraction(places)}$"


def _digits(least: int, most: int | None) -> str:
    """Return a pattern for a whole number of so many digits, without zeros before it."""
    if most is None:
        return r"(?:0|[1-9]\d*)"
    if most <= 1:
        return r"\d" if most == 1 else "0"
    more = f"{{{least - 1},{most - 1}}}" if least != most else f"{{{most - 1}}}"
    number = rf"[1-9]\d{more}"
    return rf"(?:0|{number})" if least <= 1 else number


def _fraction(most: int | None) -> str:
    if most is None:
        return r"(?:\.\d+)?"
    return rf"(?:\.\d{{1,{most}}})?" if most > 0 else ""
