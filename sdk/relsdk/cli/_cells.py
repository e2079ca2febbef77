"""How wide texts are on a terminal, where a Chinese character takes two cells."""

from __future__ import annotations

import shutil
import unicodedata

__all__ = ["cells_left", "cut", "width"]


def cells_left(used: int) -> int:
    """Return what is left of the terminal's width after `used` cells; below 0 where they are too many."""
    return shutil.get_terminal_size((110, 24)).columns - used


def cut(line: str, room: int) -> str:
    """Cut a line to at most `room` cells."""
    if width(line) <= room:
        return line
    cells, end = 0, 0
    for character in line:
        cells += width(character)
        if cells > room - 1:
            break
        end += 1
    return line[:end] + "…"


def width(text: str) -> int:
    """Return the terminal cells of a text."""
    return sum(
        0
        if unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )
