"""`--where` conditions of the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from relsdk.errors import InputError

__all__ = ["parse_where"]

_CONDITION = re.compile(r"^(?P<field>[^<>=]+?)\s*(?P<operator><=|>=|<|>|=)\s*(?P<value>.+)$")
_RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


def parse_where(conditions: Sequence[str]) -> dict[str, Any] | None:
    """Turn `field=value`, `field<value` ... into the filter that `Index.search` takes; all must hold.

    A value that reads as a JSON number, true, false or null is one; anything else is text.

    Raises:
        InputError: A condition has another form.
    """
    where: dict[str, Any] = {}
    for condition in conditions:
        match = _CONDITION.match(condition)
        if match is None:
            raise InputError(
                f"--where {condition!r}; write FIELD=VALUE, FIELD<VALUE, FIELD<=VALUE, ... instead"
            )
        name, value = match["field"], _value(match["value"])
        if match["operator"] == "=":
            where[name] = value
            continue
        bounds = where.setdefault(name, {})
        if not isinstance(bounds, dict):
            raise InputError(f"--where has both {name}={bounds!r} and a range for {name}; one is enough")
        bounds[_RANGES[match["operator"]]] = value
    return where or None


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if value is None or isinstance(value, int | float | str) else text
