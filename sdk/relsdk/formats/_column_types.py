"""Types of the columns of CSV and TSV, which hold text only: found in the cells, or named by the user."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from relsdk.errors import InputError
from relsdk.formats._lines import Row, listed

# Columns that are no metadata: text, and kept when they are empty, so that it can be told.
STAYS_TEXT = frozenset(
    ("_id", "id", "doc_id", "query_id", "query-id", "qid", "title", "text", "query", "label")
)
TYPES = ("text", "number", "boolean")
# What is taken for a number unasked: no leading zero, which codes have, no exponent, and no more digits than
# a floating point number keeps, which identifiers have. Prices (9.50, 10.00) are numbers, versions (1.9,
# 1.10) are not.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_MAX_DIGITS = 15
_ANY_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def check_types(types: Mapping[str, str]) -> None:
    """Raise for a type that is none."""
    for name, kind in types.items():
        if kind not in TYPES:
            raise InputError(f"type {kind!r} of column {name!r}; allowed are {', '.join(TYPES)}")
        if name in STAYS_TEXT and kind != "text":
            raise InputError(f"column {name!r} is always text; name types of the other columns")


def check_columns(names: Sequence[str], types: Mapping[str, str]) -> None:
    """Raise for a type of a column that is not there."""
    unknown = [name for name in types if name not in names]
    if unknown:
        raise InputError(
            f"a type is given for {unknown[0]!r}, which is no column; the columns are {listed(names)}"
        )


def find_types(rows: Iterable[Row], types: Mapping[str, str]) -> dict[str, str]:
    """Return the type of every column that is no text: of `types`, else what all its cells are.

    Args:
        rows: All of them, with cells as text, without empty cells.
        types: Of the user; these columns are not looked at.
    """
    kinds = dict.fromkeys([*STAYS_TEXT, *types], "text")
    decimals: dict[str, set[int]] = {}  # how many the cells of a column have
    padded: set[str] = set()  # columns with a cell such as 1.10
    for _, fields in rows:
        for name, cell in fields.items():
            known = kinds.get(name)
            if known != "text":
                kind = _kind(cell)
                kinds[name] = kind if known in (None, kind) else "text"
                fraction = cell.strip().partition(".")[2] if kind == "number" else ""
                if fraction:
                    decimals.setdefault(name, set()).add(len(fraction))
                if len(fraction) > 1 and fraction.endswith("0"):
                    padded.add(name)
    for name in padded:
        if len(decimals[name]) > 1:  # 1.1 and 1.10 are two versions, and would be one number
            kinds[name] = "text"
    return {**{name: kind for name, kind in kinds.items() if kind != "text"}, **types}


def _kind(cell: str) -> str:
    text = cell.strip()
    if _NUMBER.fullmatch(text) and (
        sum(map(str.isdigit, text)) <= _MAX_DIGITS or ("." in text and repr(float(text)) == text)
    ):
        return "number"
    return "boolean" if text.lower() in ("true", "false") else "text"


def _text(name: str, cell: str) -> str:
    return cell


def _number(name: str, cell: str) -> int | float:
    text = cell.strip()
    if not _ANY_NUMBER.fullmatch(text):
        raise InputError(
            f"column {name!r} holds numbers, and {cell[:40]!r} is no number; give --types {name}=text"
        )
    try:
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:  # more digits than Python reads
        value = math.inf
    if not math.isfinite(value):
        raise InputError(f"column {name!r} has a number that is too large; give --types {name}=text")
    return value


def _boolean(name: str, cell: str) -> bool:
    value = _FLAGS.get(cell.strip().lower())
    if value is None:
        raise InputError(
            f"column {name!r} holds true and false (or 1 and 0), and {cell[:40]!r} is neither; "
            f"give --types {name}=text"
        )
    return value


CONVERTERS: dict[str, Callable[[str, str], str | int | float | bool]] = {
    "text": _text,
    "number": _number,
    "boolean": _boolean,
}
