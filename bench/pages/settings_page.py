"""Tables of the settings of `relsdk train`, made of the dataclasses that hold them and their docstrings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from relsdk_training.config.few import FewConfig
from relsdk_training.config.settings import DistillConfig, EmbedConfig, QueryConfig, ScoreConfig
from relsdk_training.config.ssra import SsraConfig, TrainingConfig

__all__ = ["few_settings", "ssra_settings", "training_settings"]

_TASKS = {"embed": EmbedConfig, "score": ScoreConfig, "distill": DistillConfig, "query": QueryConfig}


def training_settings() -> str:
    """Return a table for each section of the files of `relsdk train embed | score | distill | query`."""
    sections: dict[tuple[str, type], dict[str, Any]] = {}  # (section, class) -> its values in each command
    for task, config in _TASKS.items():
        defaults = config()
        for field in fields(defaults):
            values = getattr(defaults, field.name)
            sections.setdefault((field.name, type(values)), {})[task] = values
    return "\n".join(
        _table(f"[{name}]{'' if len(values) == len(_TASKS) else f' of {_listed(values)}'}", kind, values)
        for (name, kind), values in sections.items()
    )


def ssra_settings() -> str:
    """Return a table for each section of a file of `relsdk train ssra` that no other command has."""
    return _own_sections(SsraConfig(), "ssra", ())


def few_settings() -> str:
    """Return a table for each section of a file of `relsdk train few` that no command before has."""
    return _own_sections(FewConfig(), "few", (SsraConfig(),))


def _own_sections(config: Any, task: str, others: tuple[Any, ...]) -> str:
    """Return a table for each section whose class no training and none of `others` has."""
    known = {
        *_TASKS.values(),
        *(type(getattr(one(), field.name)) for one in _TASKS.values() for field in fields(one)),
        *(type(values) for other in others for _, values in _sections(other, "")),
    }
    sections: dict[type, list[tuple[str, Any]]] = {}  # sections of one class have one table
    for name, values in _sections(config, ""):
        if type(values) not in known:
            sections.setdefault(type(values), []).append((f"[{name}]", values))
    return "\n".join(
        _table(_listed([name for name, _ in same]), kind, {task: same[0][1]})
        for kind, same in sections.items()
    )


def _sections(config: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path of each section and its values, with the sections inside it."""
    for field in fields(config):
        values = getattr(config, field.name)
        if is_dataclass(values):
            yield f"{path}{field.name}", values
            yield from _sections(values, f"{path}{field.name}.")


def _table(title: str, kind: type, values: dict[str, Any]) -> str:
    """Return a section: what the class says of itself and of each field.

    Sections inside it have tables of their own, and so have the settings of `relsdk train ssra` that are in
    [training], too.
    """
    told = meanings(kind)
    shared = {field.name for field in fields(TrainingConfig)} if kind is not TrainingConfig else {}
    names = [
        field.name
        for field in fields(kind)
        if not is_dataclass(getattr(next(iter(values.values())), field.name))
        and not (issubclass(kind, TrainingConfig) and field.name in shared)
    ]
    rows = "".join(f"| `{name}` | {_defaults(name, values)} | {_cell(told[name])} |\n" for name in names)
    summary = (inspect.getdoc(kind) or "").partition("\n")[0]
    return f"### {title}\n\n{summary}\n\n| setting | default | meaning |\n|---|---|---|\n{rows}"


def meanings(kind: type) -> dict[str, str]:
    """Return what the docstrings of a dataclass and its bases say of each field.

    Raises:
        KeyError: A field has no line under "Attributes:".
    """
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        attributes = (inspect.getdoc(base) or "").partition("Attributes:\n")[2]
        told |= dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE))
    missing = [field.name for field in fields(kind) if field.name not in told]
    if missing:
        raise KeyError(f"{kind.__name__}: no line under Attributes: for {', '.join(missing)}")
    return told


def _defaults(name: str, values: dict[str, Any]) -> str:
    """Return the default of a setting; where commands differ, of each."""
    by_value: dict[str, list[str]] = {}
    for task, section in values.items():
        by_value.setdefault(_shown(getattr(section, name)), []).append(task)
    if len(by_value) == 1:
        return next(iter(by_value))
    return "; ".join(f"{_listed(tasks)}: {value}" for value, tasks in by_value.items())


def _shown(value: Any) -> str:
    """Return a value as a file has it; None and what is empty say nothing."""
    if value is None or value in ("", ()):
        return ""
    return f"`{_cell(json.dumps(value, ensure_ascii=False))}`"


def _listed(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
