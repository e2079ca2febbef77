"""Settings from TOML files and `--set a.b=c`, and what was resolved, with what is not default marked.

An unknown key is an error that names the nearest, one of a former version an error that names its successor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from relsdk.errors import InputError
from relsdk.typed_json import convert_json

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
    config = kind()
    settings = asdict(cast(Any, config))
    for change, where in _changes(path, overrides):
        _refuse_replaced(kind, change, where)
        settings = _merged(settings, change, where)
        config = _read(kind, settings, where)
    return config


def _changes(path: Path | None, overrides: Sequence[str]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield what a file and each override set, by section, and where it stands."""
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
        yield content, str(path)
    for override in overrides:
        key, separator, text = override.partition("=")
        names = key.strip().split(".")
        if not separator or len(names) < 2 or not all(names):
            raise InputError(f"--set {override!r}; section.key=value is needed, such as run.seed=1")
        change: Any = _parsed(text)
        for name in reversed(names):
            change = {name: change}
        yield change, f"--set {override}"


def settings_file(path: Path) -> Path:
    """Return a file of settings, or the one of that bare name in `RECIPES` where the folder has none."""
    own = RECIPES / path.name
    return own if str(path) == path.name and not path.exists() and own.is_file() else path


def config_from_dict(kind: type[Config], content: Mapping[str, Any], where: str) -> Config:
    """Read what `dataclasses.asdict` wrote, with the same checks as a file."""
    _refuse_replaced(kind, content, where)
    return _read(kind, _merged(asdict(cast(Any, kind())), content, where), where)


def describe_config(config: Any) -> str:
    """Return the settings as lines, those that are not default marked with `*`.

    What has no value, neither given nor by default, is left out.
    """
    return "\n".join(_describe(config, type(config)(), ""))


def _describe(config: Any, default: Any, path: str) -> Iterator[str]:
    """Yield the lines of a section, and then those of the sections inside it."""
    settings = [(one.name, getattr(config, one.name), getattr(default, one.name)) for one in fields(config)]
    lines = [
        f"{' ' if value == usual else '*'} {name} = {value!r}"
        for name, value, usual in settings
        if not is_dataclass(value) and (value, usual) != (None, None)
    ]
    if lines:
        yield f"[{path}]"
        yield from lines
    for name, value, usual in settings:
        if is_dataclass(value):
            yield from _describe(value, usual, f"{path}.{name}".lstrip("."))


def _refuse_replaced(kind: type, content: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` for settings of a former version; the root's `REPLACED` says what they are now."""
    replaced: Mapping[str, str] = getattr(kind, "REPLACED", {})
    former = [f"{name} {replaced[name]}" for name in _paths(content) if name in replaced]
    if former:
        raise InputError(f"{where}: {'; '.join(former)}")


def _paths(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _merged(settings: Mapping[str, Any], change: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings with what `change` names instead, sections included."""
    merged = dict(settings)
    for key, value in change.items():
        if isinstance(settings.get(key), dict):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: {key} is {value!r}; a section [{key}] is needed")
            value = _merged(settings[key], value, where)
        merged[key] = value
    return merged


def _read(kind: type[Config], settings: Mapping[str, Any], where: str) -> Config:
    """Return settings as their type, with paths expanded."""
    remedy = "docs/training.md and docs/ssra.md list the settings"
    config = convert_json(settings, kind, where=where, error=InputError, verdict="is wrong", remedy=remedy)
    return _finished(config, where)


def _finished(config: Config, where: str) -> Config:
    """Expand `~` and variables in texts, and look at numbers, in all sections."""
    changes: dict[str, Any] = {}
    for item in fields(cast(Any, config)):
        value = getattr(config, item.name)
        section = is_dataclass(value)
        changes[item.name] = _finished(value, where) if section else _leaf(value, f"{where}: {item.name}")
    return replace(config, **changes)  # type: ignore[type-var]


def _leaf(value: Any, where: str) -> Any:
    if isinstance(value, tuple):
        return tuple(_leaf(part, where) for part in value)
    if isinstance(value, str):
        return os.path.expanduser(os.path.expandvars(value))
    if value is None or isinstance(value, bool):
        return value
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
