"""What the lexical side of an index takes as the words of a text."""

from __future__ import annotations

import re
import unicodedata
from operator import add
from typing import Protocol

__all__ = ["WHOLE_WORD", "Analyser", "CjkAnalyser"]

# Before a word with letters and digits that is taken as a whole.
WHOLE_WORD = "="

# Scripts written without spaces: Han with its iteration and zero signs, kana, Hangul, and the Han beyond the
# first 65,536 characters.
_CJK = (
    "\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Marks are no letters for `re`, yet Devanagari and Thai are not written without them.
_MARKS = "\u0300-\u036f\u0900-\u0903\u093a-\u094f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
_RUNS = re.compile(f"([{_CJK}]+)|((?:[^\\W_{_CJK}]|[{_MARKS}])+)")
_PARTS = re.compile(r"\d+|\D+")
# A longer word is a key or an address: its beginning tells it from others.
_LONGEST = 64


class Analyser(Protocol):
    """Cuts texts and queries into tokens: the same text always into the same ones.

    An index notes name and version of its analyser, and is searched with no other.
    """

    @property
    def name(self) -> str:
        """Which analyser this is."""

    @property
    def version(self) -> int:
        """Rises when the tokens of some text change."""

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text, repeated as often as they occur."""


class CjkAnalyser:
    """Characters and bigrams of Chinese, Japanese and Korean; words and numbers of everything else.

    The text is normalised (NFKC) and lowered first. A word with letters and digits gives its parts, each two
    neighbours joined, and itself behind a sign: "X200Pro" gives x, 200, pro, x200, 200pro and =x200pro. So
    both "x200" and "x200 pro" find it, "x20" does not, and for "x200" (with =x200) the X200 itself is better.
    """

    name = "cjk"
    version = 1

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        tokens: list[str] = []
        for run, word in _RUNS.findall(unicodedata.normalize("NFKC", text).lower()):
            if run:
                tokens += run
                tokens += map(add, run, run[1:])
            elif word.isalpha() or word.isdigit():
                tokens.append(word[:_LONGEST])
            else:
                tokens += _split(word[:_LONGEST])
        return tokens


def _split(word: str) -> list[str]:
    """Return the runs of letters and of digits, each two neighbours joined, and the whole behind a sign."""
    parts: list[str] = _PARTS.findall(word)
    if len(parts) == 1:  # letters with marks
        return parts
    return [*parts, *map(add, parts, parts[1:]), WHOLE_WORD + word]
