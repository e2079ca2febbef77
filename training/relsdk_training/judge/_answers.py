"""The level and the reason in what a language model answers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from relsdk_training.query_models.chat_endpoint import without_thoughts

__all__ = ["read_answer"]

_LONGEST = 20_000  # characters of an answer that are looked at, from its end, without thoughts
_REASON_LENGTH = 500
_DECODER = json.JSONDecoder(strict=False)  # models put line breaks into strings
_DIGITS = str.maketrans("０１２３４５６７８９", "0123456789")
_NAMES = ("level", "等级")
# Neither a part of a number (10, 2.5) nor of a range (0-3) or fraction (2/3).
_LEVEL = r"([0-3])(?!\d|\.\d|\s*[-~～–—到至/或]\s*\d)"
_QUOTES = "[\\s\"'“”‘’*`]*"
_NAME = rf"(?:level|grade|score|等级|级别|评分|得分|打分|分数){_QUOTES}(?:应?[是为]|is\b|[:：=])?{_QUOTES}"
_NAMED = re.compile(rf"{_NAME}{_LEVEL}", re.IGNORECASE)
# Another way to name one in the same answer, which may contradict: "not level 0, so 2分".
_MARKED = re.compile(rf"(?<![\d.~～–—/-]){_LEVEL}\s*[分级](?!\w)")
_VALUE = re.compile(rf"(?:{_NAME})?([0-3])(?:\.0)?\s*[分级]?", re.IGNORECASE)
# A line that is nothing but a level, or begins with one: "3分", "2级，因为...", "1: it has ...".
_LINE = re.compile(rf"^[\s\"'“‘*`#>(（\[【]*{_LEVEL}\s*(?:[分级](?!\w)|[,，:：;；]|[\W_]*$)", re.MULTILINE)
_REASON = re.compile(r"(?:reason|理由|原因)[\s\"'“”*`]*[:：][\s\"'“”*`]*(.+)", re.IGNORECASE | re.DOTALL)


def read_answer(answer: str) -> tuple[int, str] | None:
    """Return the one level that an answer names, and its reason, "" without one.

    A JSON object with "level" is looked for first, whatever is around it; then a level that is named as one
    ("等级：2", "level is 2"), or stands alone on a line or at its beginning ("3分"). Thoughts do not count.

    Returns:
        None for an answer that names no level 0-3, or several.
    """
    text = without_thoughts(answer)[-_LONGEST:].translate(_DIGITS).strip()
    levels: set[int | None]
    if objects := list(_objects(text)):
        levels = {_level_of(next(one[name] for name in _NAMES if name in one)) for one in objects}
        reason = next((one[name] for one in objects for name in ("reason", "理由") if name in one), "")
    else:
        says = _NAMED.findall(text)
        levels = set(map(int, [*says, *_MARKED.findall(text)] if says else _LINE.findall(text)))
        named = _REASON.search(text)
        reason = named[1] if named else text
    if len(levels) != 1 or (level := levels.pop()) is None:
        return None
    return level, _clean(reason)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text that name a level, also those inside others."""
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, end = None, at
        if isinstance(value, dict) and any(name in value for name in _NAMES):
            yield value
        else:
            end = at + 1
        at = text.find("{", end)


def _level_of(value: object) -> int | None:
    """Return the level that a JSON value is: 2, 2.0, "2", "2分"; None for another value."""
    if isinstance(value, str):
        match = _VALUE.fullmatch(value.strip())
        return int(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 1, 2, 3):
        return None
    return int(value)


def _clean(reason: object) -> str:
    """Return a reason that can be written to a file: one line, without controls and halves of characters."""
    text = reason if isinstance(reason, str) else ""
    bad = ("Cc", "Cs")
    text = "".join(" " if unicodedata.category(one) in bad else one for one in text)
    return " ".join(text.strip(" \t\r\n`\"'}{").split())[:_REASON_LENGTH]
