"""Parts of a report in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["markdown_table", "markdown_text"]

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
