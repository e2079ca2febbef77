"""`--where` conditions of the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from relsdk.errors import InputError

__all__ = ["parse_where"]

_CONDITION = re.compile(r"^(?P<field>[^<>=]+?)\s*(?P<operator><=|>=|<|>|=)\s*(?P<value>.+)$")
_OPERATORS = {"=": "eq", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def parse_where(conditions: Sequence[str]) -> dict[str, Any] | None:
    """Turn `field=value`, `field<value` ... into the filter that `Index.search` takes; all must hold.

    A value that reads as a JSON number, true, false or null is one; anything else is text.

    Raises:
        InputError: A condition has another form, or a field has two values, or a value and a bound.
    """
    where: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        match = _CONDITION.match(condition)
        if match is None:
            raise InputError(
                f"--where {condition!r}; write FIELD=VALUE, FIELD<VALUE, FIELD<=VALUE, ... instead"
            )
        name, operator = match["field"], _OPERATORS[match["operator"]]
        wanted = where.setdefault(name, {})
        if operator in wanted or (wanted and "eq" in (operator, *wanted)):
            raise InputError(
                f"--where {condition!r} is a second condition on {name!r}, and one would be lost; "
                f"a field takes one value, or one bound of each kind"
            )
        wanted[operator] = _value(match["value"])
    return where or None


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, int | float | str) else text
