"""Settings from TOML files and `--set a.b=c`, and what was resolved, with what is not default marked.

An unknown key is an error that names the nearest.
"""

from __future__ import annotations

import difflib
import math
import os
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from relsdk.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "RECIPES",
    "config_from_dict",
    "describe_config",
    "load_config",
    "settings_file",
]

Config = TypeVar("Config")
# Settings that were chosen on real data, by name: `relsdk train embed embed.toml`.
RECIPES = Path(__file__).resolve().parent.parent / "recipes"
_MAX_BYTES = 1 << 20  # of settings; those of relsdk have 2 kB
# What may be below 0.
_SIGNED = ("layers", "mask_margin", "min_gain")


def load_config(kind: type[Config], path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply overrides.

    Paths inside are relative to the current folder; `~` and environment variables are expanded.

    Args:
        kind: The root dataclass.
        path: TOML file, or the bare name of one in `RECIPES` where the current folder has none; None starts
            from the defaults.
        overrides: "section.key=value"; the value as TOML, or a bare string.

    Raises:
        InputError: A file, a section, a key or a value is wrong; the message says where and what is allowed.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            with settings_file(path).open("rb") as stream:
                raw = stream.read(_MAX_BYTES + 1)  # a device may have no end
            if len(raw) > _MAX_BYTES:
                raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
            content = tomllib.loads(raw.decode("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:  # also of Unicode, TOML and a NUL in the path
            names = sorted(recipe.name for recipe in RECIPES.glob("*.toml"))
            raise InputError(
                f"{path} is not a readable TOML file: {error}; relsdk's own are {', '.join(names)}"
            ) from error
    config = _filled(kind, content, str(path))
    for override in overrides:
        key, separator, text = override.partition("=")
        names = key.strip().split(".")
        if not separator or len(names) < 2 or not all(names):
            raise InputError(f"--set {override!r}; section.key=value is needed, such as run.seed=1")
        change: Any = _parsed(text)
        for name in reversed(names):
            change = {name: change}
        config = _merged(config, change, f"--set {override}")
    return config


def settings_file(path: Path) -> Path:
    """Return a file of settings, or the one of that bare name in `RECIPES` where the folder has none."""
    own = RECIPES / path.name
    return own if str(path) == path.name and not path.exists() and own.is_file() else path


def config_from_dict(kind: type[Config], content: Mapping[str, Any], where: str) -> Config:
    """Read what `dataclasses.asdict` wrote, with the same checks as a file."""
    return _filled(kind, content, where)


def describe_config(config: Any) -> str:
    """Return the settings as lines, those that are not default marked with `*`."""
    kind = type(config)
    return "\n".join(_described(config, kind(), ""))


def _described(config: Any, default: Any, prefix: str) -> Iterator[str]:
    for section in fields(config):
        value, usual = getattr(config, section.name), getattr(default, section.name)
        items = [item.name for item in fields(value) if not is_dataclass(getattr(value, item.name))]
        if items:
            yield f"[{prefix}{section.name}]"
        for name in items:
            mark = " " if getattr(value, name) == getattr(usual, name) else "*"
            yield f"{mark} {name} = {getattr(value, name)!r}"
        if not items:
            yield from _described(value, usual, f"{prefix}{section.name}.")


def _filled(kind: type[Config], content: Mapping[str, Any], where: str) -> Config:
    return _merged(kind(), content, where)


def _merged(config: Config, content: Mapping[str, Any], where: str) -> Config:
    """Replace what `content` names in a dataclass, sections included."""
    hints = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for key, value in content.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where}: unknown key {key!r}{hint} (allowed: {', '.join(hints)})")
        if is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: {key} is {value!r}; a section [{key}] is needed")
            changes[key] = _merged(getattr(config, key), value, where)
        else:
            changes[key] = _checked(value, hints[key], f"{where}: {key}")
    return replace(config, **changes)  # type: ignore[type-var]


def _checked(value: Any, hint: Any, where: str) -> Any:
    """Return a value as its type; raise `InputError` when it is of another."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _checked(value, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if value in arguments:
            return value
        raise InputError(f"{where} is {value!r}; allowed are {', '.join(map(repr, arguments))}")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_checked(item, arguments[0], where) for item in value)
        raise InputError(f"{where} is {value!r}; a list is needed, such as [1, 2]")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**63 else math.inf
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{where} is {value!r}; {hint.__name__} is needed")
    if hint is str:
        return os.path.expanduser(os.path.expandvars(value))
    return value if hint is bool else _number(value, where)


def _number(value: float, where: str) -> float:
    """Return a number; raise `InputError` when it is none, or below 0 where that makes no sense."""
    if not abs(value) < 2**63:  # NaN, too
        shown = repr(value) if isinstance(value, float) else "too large"
        raise InputError(f"{where} is {shown}; a number is needed, below 2**63")
    if value < 0 and where.rpartition(": ")[2] not in _SIGNED:
        raise InputError(f"{where} is {value!r}; 0 or more is needed")
    return value


def _parsed(text: str) -> Any:
    """Return a TOML value, or a text as it was typed: a prompt may end in a space."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML; or more digits than Python reads
        return text
