"""`--where` conditions of the command line: a small grammar, read by recursive descent.

    filter     = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation   = "not" negation | "(" filter ")" | comparison
    comparison = field ( "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
               | field [ "not" ] "in" "(" value { "," value } ")"
               | field "exists"

A field is words, or a name in double quotes. A value is words, which end where `and`, `or`, a
bracket or (in a list) a comma stands, or a text in single or double quotes with the escapes of JSON.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from relsdk.errors import InputError
from relsdk.index.filter_parser import MAX_DEPTH

__all__ = ["WHERE_HELP", "parse_where"]

WHERE_HELP = (
    "Filter, as in 'duration<60 and not author in (a, b)'. Comparisons: = != < <= > >=, in (...), exists; "
    "together with and, or, not and parentheses. Given twice, both hold."
)
_EXAMPLE = 'as in: duration<60 and (title="a and b" or tags in (a, b))'
_MAX_CHARACTERS = 100_000
_TOKEN = re.compile(
    r"""\s*(?:(?P<operator><=|>=|<>|!=|==|<|>|=)
    |(?P<sign>[(),])
    |(?P<double>"(?:[^"\\]|\\.)*")
    |(?P<single>'(?:[^'\\]|\\.)*')
    |(?P<word>(?:[^\s(),=<>!]|!(?!=))+))""",
    re.VERBOSE | re.DOTALL,
)
_OPERATORS = {"=": "eq", "==": "eq", "!=": "ne", "<>": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_LOWER, _UPPER = ("gt", "gte"), ("lt", "lte")
_KEYWORDS = ("and", "or", "not", "in", "exists")
# What a Chinese keyboard types for the signs of the grammar, and other marks between values: (sign, meant).
_LOOKALIKES = {
    **dict.fromkeys("，、；;", ","),
    **dict.fromkeys("“”＂", '"'),
    **dict.fromkeys("‘’＇", "'"),
    **dict(zip("＜＞＝！（）", "<>=!()", strict=True)),
}
_LOOKALIKE = re.compile("[，、；;“”＂＜＞＝（）]|！$|^[‘’＇]|[‘’＇]$")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None}


def parse_where(conditions: Sequence[str]) -> dict[str, Any] | None:
    """Turn the texts of `--where` into the filter that `Index.search` takes; all must hold.

    A bare value that reads as a number, true, false or null is one; anything else, and all that is quoted, is
    text. A lower and an upper bound of one field that are put together with "and" hold for the same element
    of a list.

    Returns:
        The filter; None without a condition.

    Raises:
        InputError: A text is wrong: which, and at which character.
    """
    parts = [part for text in conditions for part in _conjuncts(_Parser(text).parse())]
    return _all_of(parts) if parts else None


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # "operator", "sign", "double", "single", "word" or "end"
    text: str
    start: int
    end: int


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > _MAX_CHARACTERS:
            raise InputError(f"--where has {len(text):,} characters; at most {_MAX_CHARACTERS:,} are allowed")
        self._text = text
        self._tokens = self._split(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> dict[str, Any]:
        wanted = self._filter()
        if self._next.kind != "end":
            self._fail(self._next, "'and', 'or' or the end is expected")
        return wanted

    def _split(self, text: str) -> list[_Token]:
        tokens, at, end = [], 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                self._fail_at(at, "this is no part of a condition")
            kind = str(match.lastgroup)
            token = _Token(kind, match[kind], match.start(kind), match.end())
            if kind == "word" and token.text[0] in "\"'":
                self._fail(token, "the quote is never closed")
            tokens.append(token)
            at = match.end()
        return [*tokens, _Token("end", "", len(text), len(text))]

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _word(self, *words: str) -> bool:
        """Tell whether the next token is one of the words, in any case."""
        return self._next.kind == "word" and self._next.text.lower() in words

    def _take(self, *words: str) -> bool:
        """Step over the next token if it is one of the words or signs."""
        matches = self._word(*words) or (self._next.kind == "sign" and self._next.text in words)
        self._at += matches
        return matches

    def _filter(self) -> dict[str, Any]:
        parts = [self._conjunction()]
        while self._take("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else {"or": parts}

    def _conjunction(self) -> dict[str, Any]:
        parts = _conjuncts(self._negation())
        while self._take("and"):
            parts += _conjuncts(self._negation())
        return _all_of(parts)

    def _negation(self) -> dict[str, Any]:
        opening = self._next
        if not self._take("not", "("):
            return self._comparison()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(opening, f"nested more than {MAX_DEPTH} levels deep; write it flatter")
        if opening.text == "(":
            wanted = self._filter()
            if not self._take(")"):
                self._fail(self._next, f"')' is expected, for '(' at character {opening.start + 1}")
        else:
            wanted = {"not": self._negation()}
        self._depth -= 1
        return wanted

    def _comparison(self) -> dict[str, Any]:
        name = self._field()
        token = self._next
        if token.kind == "operator":
            self._at += 1
            return {name: {_OPERATORS[token.text]: self._value()}}
        if self._take("exists"):
            return {name: {"exists": True}}
        negated = self._take("not")
        if self._take("in"):
            return {name: {"nin" if negated else "in": self._values()}}
        self._fail(self._next, f"an operator (= != < <= > >= in exists) is missing after {name!r}")

    def _field(self) -> str:
        first = self._next
        if first.kind == "double":
            self._at += 1
            name = self._unquote(first)
            return f"metadata.{name}" if name in ("and", "or", "not") else name
        if first.kind != "word" or self._word(*_KEYWORDS):
            self._fail(first, "a field is expected")
        return self._words(_KEYWORDS)

    def _value(self, ends: tuple[str, ...] = ()) -> Any:
        token = self._next
        if token.kind in ("double", "single"):
            self._at += 1
            return self._unquote(token)
        if token.kind != "word" or self._word("and", "or"):
            self._fail(token, "a value is expected")
        text = self._words(("and", "or"))
        if self._next.text == "," and not ends:
            self._fail(
                self._next,
                "for several values write FIELD in (A, B); put a text that holds ',' in double quotes",
            )
        if self._next.kind == "operator" or (
            self._next.kind == "sign" and self._next.text not in (")", *ends)
        ):
            self._fail(self._next, "this sign is part of no bare value")
        if _NUMBER.fullmatch(text):
            return _number(text)
        return _WORDS.get(text, text)

    def _values(self) -> list[Any]:
        if self._next.text[:1] in _LOOKALIKES:
            self._refuse(self._next.start)
        if not self._take("("):
            self._fail(self._next, "'(' is expected, and values with commas between them")
        values = [self._value((",",))]
        while self._take(","):
            values.append(self._value((",",)))
        if not self._take(")"):
            self._fail(self._next, "',' or ')' is expected")
        return values

    def _words(self, stops: tuple[str, ...]) -> str:
        """Take words up to something else, as they stand in the text, spaces included."""
        first = last = self._next
        while self._next.kind == "word" and not self._word(*stops):
            last = self._next
            self._at += 1
        text = self._text[first.start : last.end]
        if lookalike := _LOOKALIKE.search(text):
            self._refuse(first.start + lookalike.start())
        return text

    def _refuse(self, at: int) -> NoReturn:
        """Refuse what looks like a sign of the grammar: a reader may have meant the sign, or text."""
        sign = self._text[at]
        meant = _LOOKALIKES[sign]
        self._fail_at(
            at,
            f"write {meant} instead of {sign}, or put a text that holds {sign} in double quotes",
            "",
        )

    def _unquote(self, token: _Token) -> str:
        inside = token.text[1:-1]
        if token.kind == "single":
            inside = re.sub(
                r'\\.|"', lambda m: {"\\'": "'", '"': '\\"'}.get(m[0], m[0]), inside, flags=re.DOTALL
            )
        try:
            text: str = json.loads(f'"{inside}"', strict=False)
        except ValueError:
            self._fail(token, "a backslash starts an escape of JSON; write \\\\ for the character itself")
        return text

    def _fail(self, token: _Token, expected: str) -> NoReturn:
        self._fail_at(token.start, expected)

    def _fail_at(self, at: int, expected: str, example: str = f"; {_EXAMPLE}") -> NoReturn:
        rest = self._text[at:].strip()
        place = f"at character {at + 1}, {rest[:20]!r}" if rest else "at its end"
        shown = self._text if len(self._text) <= 80 else self._text[:77] + "..."
        raise InputError(f"--where {shown!r}, {place}: {expected}{example}")


def _number(text: str) -> int | float | str:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:  # more digits than Python reads
        return text


def _conjuncts(wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of a conjunction, so that nested ones become one."""
    return list(wanted["and"]) if "and" in wanted else [wanted]


def _all_of(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Put parts together; a lower and an upper bound of one field become one range."""
    merged: list[dict[str, Any]] = []
    waiting: dict[tuple[str, bool], deque[int]] = {}  # where a bound is, and whether it is a lower one
    for part in parts:
        ((name, operators),) = part.items()
        lower = _is_lower(operators) if name not in ("and", "or", "not") else None
        if lower is not None:
            if partners := waiting.get((name, not lower)):
                at = partners.popleft()
                merged[at] = {name: {**merged[at][name], **operators}}
                continue
            waiting.setdefault((name, lower), deque()).append(len(merged))
        merged.append(part)
    return merged[0] if len(merged) == 1 else {"and": merged}


def _is_lower(operators: object) -> bool | None:
    """Tell whether an operator is a lower bound, or an upper one; None for any other or several."""
    if not isinstance(operators, dict) or len(operators) != 1:
        return None
    (operator,) = operators
    return True if operator in _LOWER else False if operator in _UPPER else None
