"""Pairs of a query and a document, with a relevance label or without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from relsdk.errors import InputError
from relsdk.formats._fields import missing, take_document, take_required_text
from relsdk.formats._lines import Reading, Source
from relsdk.formats._rows import open_rows, parsed_rows
from relsdk.formats._write import write_jsonl
from relsdk.levels import RelevanceLevel, parse_level
from relsdk.records import Document, LabelledPair

_DOCUMENT_ID = ("doc_id", "_id")


def read_pairs(
    path: Source,
    format: str | None = None,
    *,
    label_map: Mapping[int, int] | None = None,
    id_field: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    skip_empty: bool = False,
) -> Iterator[LabelledPair]:
    """Read labelled pairs one at a time.

    A row has a `query`, a `title` or a `text` or both, a `label` and perhaps the document's id. Everything
    else becomes the document's metadata. The public sets are read as their publishers ship them: KUAKE-QTR of
    CBLUE (one JSON array, labels "0" to "3") and QBQTC of CLUE (JSON lines in a `.json` file, labels "0" to
    "2").

    The document's id is `doc_id` or `_id`. `id` is not: in both public sets it numbers the pair, and taking
    it would make every occurrence of a title another document. Without an id, one is derived from title and
    text, so that equal documents share it.

    Labels stay what they are. QBQTC has three levels of its own, the best being 2; whoever trains with them
    has to decide what they mean and say so with `label_map`.

    Args:
        path: A file, or "-" for JSON lines on standard input. Text formats may be compressed (`.gz`).
        format: "jsonl" (also one JSON array, which is read whole), "csv" (RFC 4180), "tsv" (no quoting) or
            "parquet"; None goes by the suffix. CSV and TSV name their columns in the first row.
        label_map: The file's integer label to the level 0-3 it stands for; a label that is no key is an
            error.
        id_field: The one field that holds the document's id, then required in every row.
        encoding: Of a text format, such as "gb18030"; a byte order mark is dropped.
        delimiter: The character between the cells of CSV (a comma) or TSV (a tab).
        skip_empty: Leave out rows with neither title nor text, and log how many, instead of raising.

    Returns:
        An iterator. The file, its format and the map are checked before it is returned, each row when it is
        reached.

    Raises:
        InputError: Missing, empty or damaged file; or a bad row, by file and line (Parquet: row).
        MissingExtraError: Parquet without pyarrow.
    """
    levels = None if label_map is None else {key: parse_level(level) for key, level in label_map.items()}
    parse = partial(_parse_pair, levels=levels, id_field=id_field)
    rows = open_rows(path, format, Reading(encoding, delimiter))
    return parsed_rows(path, rows, parse, skip_empty=skip_empty)


def read_unlabelled_pairs(
    path: Source,
    format: str | None = None,
    *,
    id_field: str | None = None,
    keep_label: bool = False,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    skip_empty: bool = False,
) -> Iterator[tuple[str, Document]]:
    """Read pairs without labels: as `read_pairs`, and a `label`, should there be one, is ignored.

    Args:
        path: See `read_pairs`.
        format: See there.
        id_field: See there.
        keep_label: Keep a `label` as it is in the document's metadata.
        encoding: See there.
        delimiter: See there.
        skip_empty: See there.

    Returns:
        An iterator of (query, document).

    Raises:
        InputError: As `read_pairs`.
        MissingExtraError: Parquet without pyarrow.
    """
    parse = partial(_parse_unlabelled, id_field=id_field, keep_label=keep_label)
    rows = open_rows(path, format, Reading(encoding, delimiter))
    return parsed_rows(path, rows, parse, skip_empty=skip_empty)


def write_pairs(path: Source, pairs: Iterable[LabelledPair]) -> int:
    """Write pairs as JSON lines that `read_pairs` reads back to equal ones.

    The fields are `query`, `doc_id`, `title`, `text`, `label` and, when the document has any, `metadata`. A
    path that ends in `.gz` is compressed. The file appears only when it is complete.

    Returns:
        The number of pairs.

    Raises:
        InputError: Metadata that JSON does not have, or a file that cannot be written.
    """
    return write_jsonl(path, (_fields(pair.query, pair.document, int(pair.level)) for pair in pairs))


def write_unlabelled_pairs(
    path: Source, pairs: Iterable[tuple[str, Document]], weights: Iterable[float]
) -> int:
    """Write pairs that wait for a label: `read_pairs` reads them once a level stands in place of each null.

    The fields are those of `write_pairs`, with `weight` besides; an id that is empty is left out.

    Args:
        path: See `write_pairs`.
        pairs: Queries and documents.
        weights: How many pairs each stands for.

    Returns:
        The number of pairs.

    Raises:
        InputError: See `write_pairs`.
    """
    rows = []
    for (query, document), weight in zip(pairs, weights, strict=True):
        rows.append({**_fields(query, document, None), "weight": weight})
        if not document.id:
            del rows[-1]["doc_id"]
    return write_jsonl(path, rows)


def _parse_pair(
    fields: dict[str, Any], levels: Mapping[int, RelevanceLevel] | None, id_field: str | None
) -> LabelledPair:
    names = dict(fields)
    label = fields.pop("label", None)
    if label is None and "label" in names:
        raise InputError("label is null; put one in its place, or leave out the row")
    if label is None:
        raise missing(names, "label")
    level = parse_level(label) if levels is None else _level_of(label, levels)
    query, document = _parse_unlabelled(fields, id_field)
    return LabelledPair(query, document, level)


def _parse_unlabelled(
    fields: dict[str, Any], id_field: str | None, keep_label: bool = False
) -> tuple[str, Document]:
    query = take_required_text(fields, "query")
    if not keep_label:
        fields.pop("label", None)
    if id_field is not None:
        return query, take_document(fields, (id_field,))
    return query, take_document(fields, _DOCUMENT_ID, derive_id=True)


def _level_of(label: object, levels: Mapping[int, RelevanceLevel]) -> RelevanceLevel:
    """Return the level of a label such as 2 or "2"."""
    try:
        if isinstance(label, bool):
            raise ValueError
        # A float equal to an integer finds that integer's entry; any other finds none.
        return levels[float(label)]  # type: ignore[arg-type, index]
    except (TypeError, ValueError, KeyError):
        allowed = ", ".join(map(str, levels))
        raise InputError(f"label {label!r} is not in the label map; it has {allowed}") from None


def _fields(query: str, document: Document, label: int | None) -> dict[str, Any]:
    fields = {
        "query": query,
        "doc_id": document.id,
        "title": document.title,
        "text": document.text,
        "label": label,
    }
    return {**fields, "metadata": dict(document.metadata)} if document.metadata else fields
