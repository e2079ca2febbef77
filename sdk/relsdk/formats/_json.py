"""Objects out of JSON lines, or out of one JSON array."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NoReturn

from relsdk.formats._lines import Reading, Row, Source, error_at, first_duplicate, numbered_lines

_SPACE = re.compile(r"[ \t\n\r]*")
_MAX_ARRAY = 1 << 29  # characters: an array is in memory as a whole


def json_rows(path: Source, reading: Reading) -> Iterator[Row]:
    """Yield the objects of a JSON lines file, or of one JSON array (which is read whole)."""
    lines = filled_lines(path, numbered_lines(path, reading.encoding), reading)
    first = next(lines, None)
    if first is None:
        return
    every = chain([first], lines)
    values = _array_values(path, every) if first[1].lstrip().startswith("[") else _line_values(path, every)
    for number, value in values:
        if not isinstance(value, dict):
            reason = f"JSON, but {type(value).__name__} and not an object; write {{...}} with named fields"
            raise error_at(path, number, reason)
        yield number, value


def filled_lines(
    path: Source, lines: Iterable[tuple[int, str]], reading: Reading
) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank; one in front of another is an error when each line is a row."""
    blank = None
    for number, text in lines:
        if not text.strip():
            blank = blank or number
            continue
        if blank and reading.row_is_line:
            raise error_at(path, blank, "a blank line, and row n is line n; remove it, or give --skip-empty")
        yield number, text


def _line_values(path: Source, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    for number, text in lines:
        try:
            yield number, _DECODER.decode(text)
        except json.JSONDecodeError as error:
            raise error_at(path, number, _not_json(error.msg, error.colno)) from None
        except (ValueError, RecursionError) as error:
            raise error_at(path, number, _not_json(error)) from None


def _array_values(path: Source, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    numbers, texts, length = [], [], 0
    for line_number, text in lines:
        length += len(text)
        if length > _MAX_ARRAY:
            reason = (
                f"an array of more than {_MAX_ARRAY >> 20} MiB; write one object a line, which is streamed"
            )
            raise error_at(path, line_number, reason)
        numbers.append(line_number)
        texts.append(text)
    whole = "\n".join(texts)
    at, number, counted = _skip_space(whole, 0) + 1, 0, 0  # behind the bracket
    try:
        at = _skip_space(whole, at)
        more = not whole.startswith("]", at)
        while more:
            number, counted = number + whole.count("\n", counted, at), at
            value, end = _DECODER.raw_decode(whole, at)
            yield numbers[number], value
            at = _skip_space(whole, end)
            more = whole.startswith(",", at)
            if not more and not whole.startswith("]", at):
                raise json.JSONDecodeError("Expecting ',' or ']'", whole, at)
            at = _skip_space(whole, at + 1) if more else at
        at = _skip_space(whole, at + 1)
        if at != len(whole):
            raise json.JSONDecodeError("Extra data behind the array", whole, at)
    except json.JSONDecodeError as error:
        line = numbers[min(error.lineno, len(numbers)) - 1]
        raise error_at(path, line, _not_json(error.msg, error.colno)) from None
    except (ValueError, RecursionError) as error:
        raise error_at(path, numbers[number], _not_json(error)) from None


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _not_json(reason: object, column: int | None = None) -> str:
    place = "" if column is None else f" at character {column}"
    return f"not JSON ({str(reason).removesuffix(' at')}{place}); write one JSON object a line"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = first_duplicate(name for name, _ in pairs) or ""
        raise ValueError(f"the name {twice[:40]!r} is there twice in one object")
    return content


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_object)
