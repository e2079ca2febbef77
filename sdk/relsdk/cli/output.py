"""The look of results on a terminal, and as JSON.

Everything that a command prints goes through here: titles, ids, paths and messages come from other people.
What acts on a terminal (escape sequences, controls, changes of the reading direction) is shown, not sent.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relsdk.cli._cells import cells_left, cut, width
from relsdk.progress import draws_on

if TYPE_CHECKING:  # a command that prints no hits starts without them
    from relsdk.records import Hit, Relevance

__all__ = [
    "bar",
    "clip",
    "counted",
    "echo",
    "echo_json",
    "echo_next",
    "echo_table",
    "escape_what_is_lacking",
    "hit_to_dict",
    "percent",
    "printable",
    "relevance_cells",
    "relevance_to_dict",
    "rounded",
    "shell",
]

# C0 and C1 controls but tab and newline, marks and overrides of the reading direction, line separators.
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# The same in JSON, where all below \x20 is escaped anyway, and halves of surrogate pairs.
_NOT_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHADES = "░▒▓█"  # levels 0, 1, 2, 3
_BAR_CELLS = 16


def echo(text: object = "", *, err: bool = False, bold: bool = False, dim: bool = False) -> None:
    """Print lines on stdout, or stderr; what acts on a terminal is escaped, and only a terminal gets a style.

    Raises:
        OSError: stdout is full or closed. A stderr that cannot be written is passed over.
    """
    stream = sys.stderr if err else sys.stdout
    line = "\n".join(map(printable, str(text).split("\n")))
    if (bold or dim) and draws_on(stream) and not os.environ.get("NO_COLOR"):
        line = f"\x1b[{1 if bold else 2}m{line}\x1b[0m"
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError, AttributeError):
        if not err:
            raise


def printable(text: str) -> str:
    """Return a text in which what acts on a terminal is written as an escape."""
    return _ACTS.sub(lambda found: codecs.encode(found[0], "unicode-escape").decode(), text)


def shell(path: str | os.PathLike[str]) -> str:
    """Return a path as a shell wants it."""
    return shlex.quote(os.fspath(path))


def echo_next(*words: str | Path, err: bool = False) -> None:
    """Print the command that usually follows; paths are quoted."""
    echo("next: relsdk " + " ".join(shell(w) if isinstance(w, Path) else w for w in words), err=err)


def escape_what_is_lacking() -> set[str]:
    """Let stdout and stderr escape what their encodings lack; return the set that such encodings get into."""
    lacking: set[str] = set()

    def escape(error: UnicodeError) -> tuple[str | bytes, int]:
        if isinstance(error, UnicodeEncodeError) and not error.encoding.lower().startswith("utf"):
            lacking.add(error.encoding)
        return codecs.backslashreplace_errors(error)

    codecs.register_error("relsdk-escape", escape)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="relsdk-escape")
    return lacking


def counted(count: int, what: str) -> str:
    """Return a number of things in words: "1 hit", "2 hits"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def echo_json(value: Any) -> None:
    """Print one JSON value on one line, escaped where the terminal's encoding lacks a character.

    What is no number (NaN) or infinite is null: JSON has no word for it.
    """
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)
    text = _NOT_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_finite(value), allow_nan=False)
    echo(text)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def echo_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[int] = (),
    below: Sequence[str] = (),
) -> None:
    """Print columns, padded for wide characters; columns in `right` are right-aligned.

    Where `below` is given, its n-th text stands on a line of its own below row n, unless it is empty.
    """
    rows = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(header, *rows, strict=True)]
    for number, row in enumerate([header, *rows]):
        cells = []
        for column, (cell, wanted) in enumerate(zip(row, widths, strict=True)):
            padding = " " * (wanted - width(cell))
            cells.append(padding + cell if column in right else cell + padding)
        line = "  ".join(cells).rstrip()
        echo(line, dim=number == 0)
        if number and below and (text := below[number - 1]):
            indent = widths[0] + 2
            echo(" " * indent + clip(text, indent))


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
    """Return the JSON form of a hit.

    Its passage is null where the index does not split documents, its signals in a dense search.
    """
    document, passage, signals = hit.document, hit.passage, hit.signals
    return {
        "id": document.id,
        "score": round(hit.score, 6),
        **relevance_to_dict(hit.relevance),
        "title": document.title,
        "text": document.text,
        "passage": passage and {"text": passage.text, "start": passage.start, "end": passage.end},
        "signals": signals and {name: rounded(value) for name, value in asdict(signals).items()},
        "metadata": dict(document.metadata),
    }


def rounded(value: float | None) -> float | None:
    """Return a number with six digits after the point; None and whole numbers as they are."""
    return round(value, 6) if isinstance(value, float) else value


def clip(text: str, used: int) -> str:
    """Cut a text to what is left of the terminal's width after `used` cells, to 20 cells at least."""
    return cut(printable(" ".join(text.split())), max(cells_left(used), 20))
