"""Parts of a report in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relsdk.levels import NUM_LEVELS

__all__ = ["markdown_table", "markdown_text", "opinions_section"]

_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_MARKUP = re.compile(r"([\\`*_\[\]<>&|~#!])")


def markdown_text(text: str) -> str:
    """Text on one line in which nothing is markup, and no character controls anything."""
    return _MARKUP.sub(r"\\\1", " ".join(_CONTROL.sub("\ufffd", text).split()))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: set[int]) -> str:
    """A table; columns of numbers are aligned to the right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def opinions_section(opinions: Mapping[str, Any]) -> str:
    """What a language model's grades are worth, where people graded the same pairs.

    Args:
        opinions: See `Opinions.to_dict`.
    """
    parts = ["## Opinions", f"{markdown_text(opinions['told'])}."]
    if confusion := opinions["confusion"]:
        levels = range(NUM_LEVELS)
        rows = [
            [str(level), str(count), *(f"{share:.2f}" for share in row)]
            for level, count, row in zip(levels, opinions["levels"], confusion, strict=True)
        ]
        header = ["opinion", "pairs", *(f"people say {level}" for level in levels)]
        parts.append(markdown_table(header, rows, numbers=set(range(len(header)))))
    return "\n\n".join(parts)
