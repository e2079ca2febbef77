"""TREC qrels and runs, the exchange format of retrieval evaluation (trec_eval, ir_measures, BEIR)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import TypeVar

from relsdk.errors import InputError
from relsdk.formats._lines import Source, error_at, plain_lines, source_name
from relsdk.formats._write import write_lines

_TREC_LAYOUT = "four, 'query 0 document label', or three under BEIR's header 'query-id corpus-id score'"
_BEIR_HEADER = ["query-id", "corpus-id", "score"]
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_Number = TypeVar("_Number", int, float)


def read_qrels(path: Source) -> dict[str, dict[str, int]]:
    """Read relevance judgements.

    Either TREC's four columns `query 0 document label`, separated by white space, or BEIR's three, separated
    by tabs under the header `query-id corpus-id score`. Blank lines are skipped. Labels are any integers:
    TREC has negative ones.

    Args:
        path: A file (perhaps `.gz`), or "-" for standard input.

    Returns:
        Query id to document id to label, in the order of the file.

    Raises:
        InputError: Missing or empty file; or a wrong line, a label that is no integer or a document judged
            twice for a query, by file and line.
    """
    qrels: dict[str, dict[str, int]] = {}
    lines = _filled_lines(path)
    for number, query, document, label in _qrel_columns(path, lines):
        if not _INTEGER.fullmatch(label):
            raise error_at(
                path, number, f"label {label!r} is not an integer; write the level as 0, 1, 2 or 3"
            )
        _insert(path, number, qrels, query, document, int(label))
    return _not_empty(path, qrels)


def read_run(path: Source) -> dict[str, dict[str, float]]:
    """Read a run in TREC's six columns `query Q0 document rank score tag`, separated by white space.

    As in trec_eval the score alone orders the documents; rank and tag are checked and dropped.

    Args:
        path: A file (perhaps `.gz`), or "-" for standard input.

    Returns:
        Query id to document id to score, in the order of the file.

    Raises:
        InputError: Missing or empty file; or a wrong line, a rank that is no integer, a score that is no
            finite number or a document found twice for a query, by file and line.
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in _filled_lines(path):
        columns = _split(line)
        if len(columns) != 6:
            layout = "'query Q0 document rank score tag'"
            raise error_at(path, number, f"{len(columns)} columns; a run has six: {layout}")
        query, _, document, rank, score, _ = columns
        if not _INTEGER.fullmatch(rank):
            raise error_at(path, number, f"rank {rank!r} is not an integer; number the documents from 1")
        _insert(path, number, run, query, document, _finite(path, number, score))
    return _not_empty(path, run)


def _filled_lines(path: Source) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in plain_lines(path) if line.strip())


def _split(line: str) -> list[str]:
    """Split at blanks and tabs only: other Unicode spaces may be part of an id."""
    return re.split(r"[ \t]+", line.strip(" \t"))


def _qrel_columns(path: Source, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, str, str]]:
    beir = False
    for index, (number, line) in enumerate(lines):
        if index == 0 and line.split("\t") == _BEIR_HEADER:
            beir = True
            continue
        columns = line.split("\t") if beir else _split(line)
        if len(columns) != (3 if beir else 4):
            layout = "three, 'query-id corpus-id score', between tabs" if beir else _TREC_LAYOUT
            raise error_at(path, number, f"{len(columns)} columns; qrels have {layout}")
        yield number, columns[0], columns[-2], columns[-1]


def _insert(
    path: Source, number: int, table: dict[str, dict[str, _Number]], query: str, document: str, value: _Number
) -> None:
    if not query or not document:
        raise error_at(path, number, "an id is empty; give every query and document one")
    row = table.setdefault(query, {})
    if document in row:
        reason = f"document {document!r} occurred before for query {query!r}; keep one line"
        raise error_at(path, number, reason)
    row[document] = value


def _finite(path: Source, number: int, text: str) -> float:
    value = float(text) if _DECIMAL.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise error_at(path, number, f"score {text!r} is not a finite number; write it as in 0.25")
    return value


def _not_empty(path: Source, table: dict[str, dict[str, _Number]]) -> dict[str, dict[str, _Number]]:
    if not table:
        raise InputError(
            f"{source_name(path)}: there are no rows in this file; check that it is the right one"
        )
    return table


def run_lines(run: Mapping[str, Mapping[str, float]], tag: str = "relsdk") -> Iterator[str]:
    """Yield the lines of a run in TREC's six columns, without their ends.

    Documents are ranked from 1 by descending score, ties by descending document id, as trec_eval will order
    them. Scores are written so that they are read back exactly.

    Args:
        run: Query id to document id to score.
        tag: Names the system, in the last column.

    Raises:
        InputError: An id or the tag is empty or holds white space, or a score is not finite.
    """
    _column(tag, "tag")
    for query, scores in run.items():
        for document, score in scores.items():
            if not isinstance(score, Real) or not math.isfinite(score):
                raise InputError(
                    f"score {score!r} of document {document!r} is no finite number; leave it out"
                )
        ranked = sorted(scores.items(), key=lambda item: (float(item[1]), item[0]), reverse=True)
        for rank, (document, score) in enumerate(ranked, 1):
            place = f"{_column(query, 'query id')} Q0 {_column(document, 'document id')}"
            yield f"{place} {rank} {float(score)!r} {tag}"


def write_run(path: Source, run: Mapping[str, Mapping[str, float]], tag: str = "relsdk") -> int:
    """Write a run that `read_run` reads back to an equal one; see `run_lines`.

    The file appears only when it is complete; one that ends in `.gz` is compressed.

    Returns:
        The number of lines.

    Raises:
        InputError: See `run_lines`; or the file cannot be written.
    """
    return write_lines(path, run_lines(run, tag))


def _column(value: str, name: str) -> str:
    if (
        not isinstance(value, str)
        or not value
        or any(character.isspace() or character == "\0" for character in value)
    ):
        raise InputError(f"{name} {value!r} cannot be a TREC column; it must be a string without white space")
    return value
