"""What a cell of a table says, and how wide texts are on a terminal: a Chinese character takes two cells."""

from __future__ import annotations

import math
import shutil
import unicodedata

__all__ = ["cells_left", "cut", "figure", "width"]


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


def figure(value: float, digits: int) -> str:
    """Return a number with so many digits; "-" for NaN, which stands for a value that does not exist."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


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
