"""Read our own JSON files: strict syntax, typed content, one error that names file and field."""

from __future__ import annotations

import difflib
import json
import math
import re
import reprlib
import stat
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect

from relsdk.errors import RelsdkError

__all__ = ["convert_json", "read_json"]

Kind = TypeVar("Kind")
_MAX_BYTES = 64 << 20  # the largest tokenizers in use have 35 MB
_MAX_DEPTH = 100
_PLACE = re.compile(r"(?s)(?P<what>.*) - at `(?P<key>key in )?\$(?P<path>.*)`\Z")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def read_json(path: Path, kind: type[Kind], *, error: type[RelsdkError], remedy: str) -> Kind:
    """Read a JSON file into a type.

    Args:
        path: A regular file, at most 64 MiB of UTF-8.
        kind: What it must hold; see `convert_json`.
        error: The class of what is raised.
        remedy: What to do about a damaged file; ends the message.

    Raises:
        RelsdkError: Of the class `error`: the file is missing, not a regular file, unreadable, too large, not
            strict JSON (see `_parse_json`), or its content is not of the type.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device read without end
            raise error(f"{path} is not a regular file; {remedy}")
        if status.st_size > _MAX_BYTES:
            raise error(f"{path} has {status.st_size:,} bytes; at most {_MAX_BYTES:,} are read; {remedy}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path} is missing; {remedy}") from None
    except (OSError, ValueError) as problem:
        raise error(f"cannot read {path}: {getattr(problem, 'strerror', None) or problem}") from problem
    value = _parse_json(content, where=str(path), error=error, remedy=remedy)
    return convert_json(value, kind, where=str(path), error=error, remedy=remedy)


def _parse_json(content: bytes, *, where: str, error: type[RelsdkError], remedy: str) -> Any:
    """Parse strict JSON: UTF-8, no key twice, no NaN or Infinity, no lone surrogate, at most 100 levels deep.

    Args:
        content: The bytes.
        where: Names the file, and the line where it has records in lines.
        error: The class of what is raised.
        remedy: Ends the message.

    Raises:
        RelsdkError: Of the class `error`: it is something else.
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
        level = _containers([[value]])
        for _ in range(_MAX_DEPTH):
            if not level:
                return value
            level = _containers(level)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where} is not readable JSON: {problem}; {remedy}") from problem
    raise error(f"{where} is not readable JSON: more than {_MAX_DEPTH} levels; {remedy}")


def convert_json(
    value: Any,
    kind: type[Kind],
    *,
    where: str,
    error: type[RelsdkError],
    remedy: str,
    at: str = "",
    verdict: str = "is damaged",
) -> Kind:
    """Turn parsed JSON into a type, without converting numbers to text or text to numbers.

    Args:
        value: What `_parse_json` gave.
        kind: A dataclass or `msgspec.Struct`, `dict`, `list` or what else msgspec supports. Bounds of fields
            are `Annotated[int, msgspec.Meta(ge=1)]`. A key that a dataclass or a Struct does not have is
            refused.
        where: Names the file.
        error: The class of what is raised.
        remedy: Ends the message.
        at: The path inside the file that `value` has, such as "settings".
        verdict: What is said of the file; people who wrote it made a mistake, and damaged nothing.

    Raises:
        RelsdkError: Of the class `error`: a value is missing, of another type or out of bounds; the message
            names the field.
    """
    try:
        _refuse_unknown(value, _type_info(cast(Hashable, kind)), "")
        return msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as problem:
        own = problem.__cause__  # of a dataclass that looks at its own fields
        what = str(own) if isinstance(own, RelsdkError) else _explain(str(problem), value, kind, at)
        raise error(f"{where} {verdict}: {what}; {remedy}") from problem


def _containers(parents: list[Any]) -> list[Any]:
    """Return the mappings and lists inside some; in one loop, as a vocabulary is 250,000 lists."""
    return [
        item
        for parent in parents
        for item in (parent.values() if isinstance(parent, dict) else parent)
        if isinstance(item, (dict, list))
    ]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {reprlib.repr(key)} is there twice")
            seen.add(key)
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


@lru_cache(maxsize=64)
def _type_info(kind: Hashable) -> inspect.Type:
    return inspect.type_info(kind)


def _refuse_unknown(value: Any, info: inspect.Type, at: str) -> None:
    """Refuse the keys that a dataclass or a Struct does not have; msgspec passes over them."""
    if isinstance(info, inspect.DataclassType | inspect.StructType) and isinstance(value, dict):
        known = {field.encode_name: field.type for field in info.fields}
        for key, item in value.items():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}? Known" if near else "known"
                raise msgspec.ValidationError(
                    f"unknown key {reprlib.repr(key)}; {hint} are {', '.join(known)} - at `${at}`"
                )
            _refuse_unknown(item, known[key], f"{at}.{key}")
    elif isinstance(info, inspect.ListType | inspect.VarTupleType) and isinstance(value, list):
        for position, item in enumerate(value):
            _refuse_unknown(item, info.item_type, f"{at}[{position}]")
    elif isinstance(info, inspect.DictType) and isinstance(value, dict):
        for item in value.values():
            _refuse_unknown(item, info.value_type, f"{at}[...]")
    elif isinstance(info, inspect.UnionType):
        for option in info.types:
            _refuse_unknown(value, option, at)


def _explain(problem: str, value: Any, kind: Any, at: str) -> str:
    """Say what was got and what is needed, in the words of the file: `settings.dimension`."""
    match = _PLACE.match(problem)
    what, path = (match["what"], match["path"]) if match else (problem, "")
    place = f"{at}{path}".lstrip(".") or "its content"
    if match and match["key"]:
        return f"a key of {place}: {what}"
    got, known = _value_at(value, path)
    if what.startswith("Invalid enum value"):
        allowed = _type_at(_type_info(kind), path)
        what = "not an allowed value"
        options = allowed.types if isinstance(allowed, inspect.UnionType) else (allowed,)
        allowed = next((one for one in options if isinstance(one, inspect.LiteralType)), None)
        if allowed is not None:
            what = f"allowed are {', '.join(map(repr, allowed.values))}"
    shown = f" = {_shown(got)}" if known and not isinstance(got, dict | list) else ""
    return f"{place}{shown}: {what}"


def _shown(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # more digits than Python writes
        return "a number of thousands of digits"


def _type_at(info: inspect.Type, path: str) -> inspect.Type | None:
    """Follow a path of msgspec's through a type."""
    for step in re.findall(r"\.([^.\[\]]+)|\[", path):
        options = info.types if isinstance(info, inspect.UnionType) else (info,)
        info = next(option for option in options if not isinstance(option, inspect.NoneType))
        if isinstance(info, inspect.DataclassType | inspect.StructType | inspect.TypedDictType):
            type_ = {field.encode_name: field.type for field in info.fields}.get(step)
        elif isinstance(info, inspect.ListType | inspect.VarTupleType):
            type_ = info.item_type
        else:
            type_ = info.value_type if isinstance(info, inspect.DictType) else None
        if type_ is None:
            return None
        info = type_
    return info


def _value_at(value: Any, path: str) -> tuple[Any, bool]:
    """Follow a path of msgspec's; it writes `[...]` for any key of a mapping, which leads nowhere."""
    position = 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            return None, False
        key: Any = step[1] if step[1] is not None else int(step[2])
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None, False
        position = step.end()
    return value, True
