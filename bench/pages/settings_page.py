"""Tables of the settings of `relsdk train`, made of the dataclasses that hold them and their docstrings."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields, is_dataclass
from typing import Any

from relsdk_training.config.settings import DistillConfig, EmbedConfig, QueryConfig, ScoreConfig
from relsdk_training.config.ssra import SsraConfig

__all__ = ["ssra_settings", "training_settings"]

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
    defaults = SsraConfig()
    others = {
        *_TASKS.values(),
        *(type(getattr(task(), field.name)) for task in _TASKS.values() for field in fields(task)),
    }
    return "\n".join(
        _table(f"[{field.name}]", type(values), {"ssra": values})
        for field in fields(defaults)
        if is_dataclass(values := getattr(defaults, field.name)) and type(values) not in others
    )


def _table(title: str, kind: type, values: dict[str, Any]) -> str:
    """Return a section: what the class says of itself and of each field."""
    told = meanings(kind)
    rows = "".join(
        f"| `{field.name}` | {_defaults(field.name, values)} | {_cell(told[field.name])} |\n"
        for field in fields(kind)
    )
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
