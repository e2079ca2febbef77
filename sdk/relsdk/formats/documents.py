"""Read and write documents and queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from relsdk.errors import InputError
from relsdk.formats._fields import (
    EmptyRowError,
    missing,
    take_document,
    take_id,
    take_required_text,
)
from relsdk.formats._json import filled_lines
from relsdk.formats._lines import (
    Reading,
    Row,
    Source,
    check_readable,
    plain_lines,
    resolve_format,
    source_name,
)
from relsdk.formats._rows import (
    SUFFIXES,
    at_least_one,
    open_rows,
    open_typed_rows,
    parsed_rows,
)
from relsdk.formats._write import write_jsonl
from relsdk.records import Document

_DOCUMENT_ID = ("_id", "id", "doc_id")
_QUERY_ID = ("_id", "id", "query_id", "query-id", "qid")


@dataclass(frozen=True, slots=True)
class Query:
    """A search query.

    Attributes:
        id: Unique within its file; the line number where the file has no ids.
        text: What was typed.
    """

    id: str
    text: str


def read_documents(
    path: Source,
    format: str | None = None,
    *,
    types: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    skip_empty: bool = False,
    row_is_line: bool = False,
    on_types: Callable[[Mapping[str, str]], None] | None = None,
) -> Iterator[Document]:
    """Read documents one at a time; the file is never in memory as a whole.

    A row has an id (`_id`, `id` or `doc_id`, the first of them that is there; integers become strings), a
    `title` and a `text`, one of which may be absent or empty. Everything else is metadata; the fields of a
    nested `metadata` object, as BEIR writes it, join the others. That ids are unique is for the index to
    check.

    Args:
        path: A file, or "-" for JSON lines on standard input. Text formats may be compressed (`.gz`).
        format: "jsonl" (also one JSON array, which is read whole), "csv" (RFC 4180), "tsv" (no quoting) or
            "parquet" (extra `parquet`); None goes by the suffix. CSV and TSV name their columns in the first
            row; an empty cell is no field.
        types: Column of CSV or TSV to "text", "number" or "boolean". The file is read once more for the other
            columns: "number" are those whose cells are all plain decimal numbers, without leading zeros and
            of at most 15 digits, or empty; "boolean" those of true and false. Codes ("007"), long identifiers
            and "1e5" stay text, and so do all columns of a pipe, which cannot be read twice.
        encoding: Of a text format, such as "gb18030"; a byte order mark is dropped.
        delimiter: The character between the cells of CSV (a comma) or TSV (a tab).
        skip_empty: Leave out rows with neither title nor text, and log how many, instead of raising.
        row_is_line: Raise for a blank line among JSON lines, so that row n is line n.
        on_types: Called with the columns of CSV or TSV that are no text and their types, before the first
            document.

    Returns:
        An iterator. The file, its format and the extra are checked before it is returned, each row when it is
        reached.

    Raises:
        InputError: Missing, empty or damaged file; or a bad row, by file and line (Parquet: row).
        MissingExtraError: Parquet without pyarrow.
    """
    reading = Reading(encoding, delimiter, types or {}, row_is_line)
    rows = open_typed_rows(path, format, reading, on_types)
    return parsed_rows(path, rows, _parse_document, skip_empty=skip_empty)


def document_from_mapping(fields: Mapping[str, Any]) -> Document:
    """Make a document of a dictionary with the fields that `read_documents` takes.

    Raises:
        InputError: A field is missing or wrong.
    """
    return _parse_document(dict(fields))


def write_documents(path: Source, documents: Iterable[Document]) -> int:
    """Write documents as JSON lines that `read_documents` reads back to equal ones.

    The form is BEIR's: `_id`, `title`, `text`, `metadata` (left out when empty). A path that ends in `.gz` is
    compressed. The file appears only when it is complete.

    Returns:
        The number of documents.

    Raises:
        InputError: Metadata that JSON does not have, or a file that cannot be written.
    """
    return write_jsonl(path, (_document_fields(document) for document in documents))


def read_queries(
    path: Source,
    format: str | None = None,
    *,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    skip_empty: bool = False,
    row_is_line: bool = False,
    unique_ids: bool = True,
) -> Iterator[Query]:
    """Read queries: plain text, one a line, or rows with an id and a text.

    Plain text (suffix `.txt` or none, and standard input): white space at the ends of a line is dropped and
    the line number is the id. Rows (`.jsonl`, `.csv`, `.tsv`, `.parquet`): the id is `_id`, `id`, `query_id`,
    `query-id` or `qid`, the text `text` or `query`.

    Args:
        path: A file, or "-" for standard input. Text formats may be compressed (`.gz`).
        format: "text", "jsonl", "csv", "tsv" or "parquet"; None goes by the suffix.
        encoding: Of a text format, such as "gb18030"; a byte order mark is dropped.
        delimiter: The character between the cells of CSV (a comma) or TSV (a tab).
        skip_empty: Leave out rows whose text is empty, and log how many, instead of raising. Blank lines are
            no rows.
        row_is_line: Raise for a blank line in front of another, so that row n is line n.
        unique_ids: Raise for an id that occurred before, which takes memory for all ids.

    Returns:
        An iterator that checks each row when it is reached.

    Raises:
        InputError: Missing or empty file; or a bad row or an id that occurred before, by file and line.
        MissingExtraError: Parquet without pyarrow.
    """
    check_readable(path)
    name = resolve_format(path, format, {".txt": "text", "": "text", **SUFFIXES}, on_stdin="text")
    reading = Reading(encoding, delimiter, row_is_line=row_is_line)
    if name == "text" and delimiter is not None:
        raise InputError(f"{source_name(path)}: no delimiter for text; leave out what is for CSV and TSV")
    rows = at_least_one(path, _text_rows(path, reading)) if name == "text" else open_rows(path, name, reading)
    if not unique_ids:
        return parsed_rows(path, rows, _parse_query, skip_empty=skip_empty)
    return _queries(path, rows, skip_empty)


def read_ids(path: Source) -> Iterator[str]:
    """Read ids of documents: plain text, one a line, or rows that have them as `read_documents` finds them.

    Args:
        path: A UTF-8 file: `.txt`, without a suffix or "-" (standard input) for plain text, in which white
            space at the ends of a line is dropped; `.jsonl`, `.csv`, `.tsv` or `.parquet` for rows, whose
            other fields are passed over. Text formats may be compressed (`.gz`). Blank lines are no rows.

    Returns:
        An iterator that checks each row when it is reached.

    Raises:
        InputError: Missing or empty file, or a row without an id, by file and line.
        MissingExtraError: Parquet without pyarrow.
    """
    check_readable(path)
    name = resolve_format(path, None, {".txt": "text", "": "text", **SUFFIXES}, on_stdin="text")
    if name != "text":
        return parsed_rows(path, open_rows(path, name), _parse_id)
    lines = filled_lines(path, plain_lines(path), Reading())
    rows = at_least_one(path, ((number, {"id": line.strip()}) for number, line in lines))
    return parsed_rows(path, rows, _parse_id)


def _parse_id(fields: dict[str, Any]) -> str:
    names = dict(fields)
    identifier = take_id(fields, _DOCUMENT_ID)
    if identifier is None:
        raise missing(names, *_DOCUMENT_ID)
    return identifier


def _text_rows(path: Source, reading: Reading) -> Iterator[Row]:
    for number, line in filled_lines(path, plain_lines(path, reading.encoding), reading):
        yield number, {"id": number, "text": line.strip()}


def _queries(path: Source, rows: Iterable[Row], skip_empty: bool) -> Iterator[Query]:
    seen: set[str] = set()

    def parse(fields: dict[str, Any]) -> Query:
        query = _parse_query(fields)
        if query.id in seen:
            raise InputError(f"query id {query.id!r} occurred before; make the ids unique")
        seen.add(query.id)
        return query

    return parsed_rows(path, rows, parse, skip_empty=skip_empty)


def _parse_query(fields: dict[str, Any]) -> Query:
    names = dict(fields)
    identifier = take_id(fields, _QUERY_ID)
    if identifier is None:
        raise missing(names, *_QUERY_ID)
    if "text" not in fields and "query" not in fields:
        raise missing(names, "text", "query")
    name = "text" if "text" in fields else "query"
    if isinstance(fields[name], str | None) and not (fields[name] or "").strip():
        raise EmptyRowError(f"{name!r} is empty; fill it in or remove the row")
    return Query(identifier, take_required_text(fields, name))


def _parse_document(fields: dict[str, Any]) -> Document:
    return take_document(fields, _DOCUMENT_ID)


def _document_fields(document: Document) -> dict[str, Any]:
    fields: dict[str, Any] = {"_id": document.id, "title": document.title, "text": document.text}
    return {**fields, "metadata": dict(document.metadata)} if document.metadata else fields
