"""What a written query must be before anybody judges it."""

from __future__ import annotations

import re

from relsdk_training.text import normal_form

__all__ = ["cleaned", "fault"]

_LONGEST = 64
# Opening quotes and their partners.
_QUOTES = tuple(zip("“‘「『《\"'`", "”’」』》\"'`", strict=True))
# Four of a character in a row, or a piece of two to eight characters three times in a row; numbers may do so.
_STUTTER = re.compile(r"(\D)\1{3,}|(\D{2,8}?)\2{2,}")


def cleaned(query: str) -> str:
    """Return the first line without outer quotes, runs of spaces and full stops at the end.

    A quote stays where its partner is inside the line, as in 《红楼梦》作者.
    """
    line, before = " ".join(next((x for x in query.splitlines() if x.strip()), "").split()), ""
    while line != before:
        before, line = line, line.rstrip("。. ")
        for first, last in _QUOTES:
            if line.startswith(first) and last not in line[1:-1]:
                line = line[1:].lstrip()
            if line.endswith(last) and first not in line[:-1]:
                line = line[:-1].rstrip()
    return line


def fault(query: str, title: str) -> str:
    """Say why a cleaned query cannot be used: "cleaning", "echo" of the title, or "" when it can."""
    letters = sum(character.isalnum() for character in query)
    if letters < 2 or len(query) > _LONGEST or 2 * letters < len(query.replace(" ", "")):
        return "cleaning"
    if "\ufffd" in query or _STUTTER.search(query):
        return "cleaning"
    return "echo" if normal_form(query) == normal_form(title) else ""
