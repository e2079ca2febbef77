"""Rules that a written query must pass before it is given a level."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from relsdk_training.data.text import normal_form

__all__ = ["clean", "fault", "scripts"]

_LONGEST = 64
# Opening quotes and their partners.
_QUOTES = tuple(zip("“‘「『《\"'`", "”’」』》\"'`", strict=True))
# Four of a character in a row, or a piece of two to eight characters three times in a row; numbers may do so.
_STUTTER = re.compile(r"(\D)\1{3,}|(\D{2,8}?)\2{2,}")


def clean(query: str) -> str:
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


def scripts(text: str) -> set[str]:
    """Return the scripts that a text's letters are of, as Unicode names them: CJK, LATIN, HIRAGANA, THAI."""
    letters = (character for character in unicodedata.normalize("NFKC", text) if character.isalpha())
    return {unicodedata.name(letter, "UNKNOWN").partition(" ")[0] for letter in letters}


def fault(query: str, title: str, known: Collection[str] | None = None) -> str:
    """Say why a cleaned query cannot be used: "cleaning", "script", "echo" of the title, or "" when it can.

    Args:
        query: Cleaned.
        title: Of the document that it was written for.
        known: Scripts that queries may have, besides those of the title; None allows all.
    """
    letters = sum(character.isalnum() for character in query)
    if letters < 2 or len(query) > _LONGEST or 2 * letters < len(query.replace(" ", "")):
        return "cleaning"
    if "\ufffd" in query or _STUTTER.search(query):
        return "cleaning"
    if known is not None and not scripts(query) <= {*known, *scripts(title)}:
        return "script"
    return "echo" if normal_form(query) == normal_form(title) else ""
