"""Documents on their way into an index: checked, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from relsdk.errors import InputError
from relsdk.formats import document_from_mapping
from relsdk.index._document_writer import metadata_json
from relsdk.records import Document

__all__ = ["Chunk", "checked_chunks", "checked_metadata"]

# Position of the first document from 1, and the documents.
Chunk = tuple[int, list[Document]]


def checked_chunks(documents: Iterable[Document | Mapping[str, Any]], size: int) -> Iterator[Chunk]:
    """Yield checked documents, at most `size` at a time.

    Raises:
        InputError: An item is no document, or one that no index can hold.
    """
    if isinstance(documents, Document | str | bytes | Mapping):
        raise InputError(
            f"documents is a {type(documents).__name__}; an iterable of documents is needed, such as a list"
        )
    try:
        remaining = iter(documents)
    except TypeError:
        raise InputError(
            f"documents is a {type(documents).__name__}; an iterable of documents is needed, such as a list"
        ) from None
    first = 1
    while batch := list(islice(remaining, size)):
        yield first, [_to_document(item, first + offset) for offset, item in enumerate(batch)]
        first += len(batch)


def _to_document(item: object, position: int) -> Document:
    """Return the document that an item is or describes, by its position in the input."""
    try:
        if isinstance(item, Document):
            return _check_document(item)
        if isinstance(item, Mapping):
            return _check_document(document_from_mapping(item))
        raise InputError(f"it is a {type(item).__name__}; a Document or a mapping is needed")
    except InputError as error:
        raise InputError(f"document {position:,} of the input: {error}") from error


def _check_document(document: Document) -> Document:
    if not isinstance(document.id, str) or not document.id.strip():
        raise InputError(f"its id is {document.id!r}; text that is not empty is needed")
    for name, value in (("id", document.id), ("title", document.title), ("text", document.text)):
        if not isinstance(value, str):
            raise InputError(f"its {name} is {value!r}; text is needed")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"its {name} holds half of a surrogate pair; remove it") from None
    if not document.title.strip() and not document.text.strip():
        raise InputError(f"title and text of id {document.id!r} are both empty; fill one in or leave it out")
    if not isinstance(document.metadata, Mapping):
        raise InputError(f"its metadata are a {type(document.metadata).__name__}; a mapping is needed")
    return document


def checked_metadata(position: int, document: Document) -> str:
    """Return the metadata of a document as JSON.

    Raises:
        InputError: JSON cannot hold them.
    """
    try:
        return metadata_json(document.metadata)
    except InputError as error:
        raise InputError(f"document {position:,} of the input: {error}") from error
