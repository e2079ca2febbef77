"""How results look on a terminal, and as JSON."""

from __future__ import annotations

import json
import math
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import click

from relsdk.records import Hit, Relevance

__all__ = [
    "bar",
    "clip",
    "echo_json",
    "echo_table",
    "hit_to_dict",
    "percent",
    "relevance_cells",
    "relevance_to_dict",
]

_SHADES = "░▒▓█"  # levels 0, 1, 2, 3
_BAR_CELLS = 16


def echo_json(value: Any) -> None:
    """Print one JSON value on one line, escaped where the terminal's encoding lacks a character.

    What is no number (NaN) or infinite is null: JSON has no word for it.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_finite(value), allow_nan=False)
    click.echo(text)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def echo_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print columns, padded for wide characters; columns in `right` are right-aligned."""
    widths = [max(_width(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    for number, row in enumerate([header, *rows]):
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            padding = " " * (width - _width(cell))
            cells.append(padding + cell if column in right else cell + padding)
        line = "  ".join(cells).rstrip()
        click.echo(click.style(line, dim=True) if number == 0 else line)


def percent(value: float | None) -> str:
    """Return a share in percent with two digits; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.2f}"


def bar(probabilities: Sequence[float]) -> str:
    """Draw four probabilities as one bar of fixed width, from level 3 (dark) to level 0 (light)."""
    edges = [0.0]
    for level in (3, 2, 1, 0):
        edges.append(edges[-1] + probabilities[level])
    marks = [round(edge / edges[-1] * _BAR_CELLS) for edge in edges]
    return "".join(_SHADES[3 - i] * (marks[i + 1] - marks[i]) for i in range(4))


def relevance_cells(relevance: Relevance | None) -> tuple[str, str, str]:
    """Return (level as a word, bar, the four probabilities) as table cells."""
    if relevance is None:
        return "-", "-", "-"
    numbers = " ".join(f"{p:.2f}" for p in relevance.probabilities)
    return f"{int(relevance.level)} {relevance.level.name}", bar(relevance.probabilities), numbers


def relevance_to_dict(relevance: Relevance | None) -> dict[str, Any]:
    """Return the JSON form of a relevance; its fields are null without a calibration."""
    if relevance is None:
        return {"level": None, "level_name": None, "probabilities": None, "expected_level": None}
    return {
        "level": int(relevance.level),
        "level_name": relevance.level.name,
        "probabilities": [round(p, 6) for p in relevance.probabilities],
        "expected_level": round(relevance.expected_level, 6),
    }


def hit_to_dict(hit: Hit) -> dict[str, Any]:
    """Return the JSON form of a hit."""
    document = hit.document
    return {
        "id": document.id,
        "score": round(hit.score, 6),
        **relevance_to_dict(hit.relevance),
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }


def clip(text: str, used: int) -> str:
    """Cut a text to what is left of the terminal's width after `used` cells."""
    room = max(shutil.get_terminal_size((110, 24)).columns - used, 20)
    line = " ".join(text.split())
    if _width(line) <= room:
        return line
    cells, end = 0, 0
    for character in line:
        cells += _width(character)
        if cells > room - 1:
            break
        end += 1
    return line[:end] + "…"


def _width(text: str) -> int:
    """Terminal cells of a text."""
    return sum(
        0
        if unicodedata.combining(c) or c in "\u200d\ufe0f"
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )
