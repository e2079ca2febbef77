"""Documents and grades as other programs hold them: a text, and a mapping of metadata.

The text is the document's, or its title where it has none; the title is in the metadata. A field of the
document that has the name of one of ours, such as "level", is kept as "metadata.level": nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from relsdk.errors import InputError
from relsdk.records import Document, Hit, Relevance

__all__ = ["GRADE", "add_grade", "grade_fields", "read_document", "show_document", "show_hit"]

# What a grade is made of. A program that keeps scores elsewhere has the last two only.
GRADE = ("score", "level", "probabilities")
_PREFIX = "metadata."
_OURS = re.compile(rf"({re.escape(_PREFIX)})*(title|text|passage|{'|'.join(GRADE)})")


def show_document(document: Document) -> tuple[str, dict[str, Any]]:
    """Return the text and the metadata of a document.

    Raises:
        InputError: It is no `Document`.
    """
    if not isinstance(document, Document):
        raise InputError(f"{type(document).__name__} is no document; a relsdk Document is needed")
    metadata = {_escape(name): value for name, value in document.metadata.items()}
    if document.title:
        metadata["title"] = document.title
        if document.text == document.title:  # or it would be taken for the title alone
            metadata["text"] = document.text
    return document.text or document.title, metadata


def show_hit(hit: Hit) -> tuple[str, dict[str, Any]]:
    """Return the text and the metadata of a hit: its document's, its grade, and the passage if any."""
    text, metadata = show_document(hit.document)
    if hit.passage is not None:
        part = hit.passage
        metadata["passage"] = {"text": part.text, "start": part.start, "end": part.end}
    return text, {**metadata, **grade_fields(hit.relevance, hit.score)}


def grade_fields(relevance: Relevance | None, score: float) -> dict[str, Any]:
    """Return a grade as JSON has it; level and probabilities are None without a calibration."""
    if relevance is None:
        return {"score": score, "level": None, "probabilities": None}
    return {"score": score, "level": int(relevance.level), "probabilities": list(relevance.probabilities)}


def add_grade(metadata: Mapping[str, Any], grade: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata with a grade, in place of an earlier one; other values of these names are kept."""
    if _is_graded(metadata):
        return {**metadata, **grade}
    kept = dict(metadata)
    for name in grade.keys() & metadata.keys():
        other = _escape(name)
        while other in kept:
            other = _escape(other)
        kept[other] = kept.pop(name)
    return {**kept, **grade}


def read_document(identifier: str, text: str, metadata: Mapping[str, Any]) -> Document:
    """Return the document of a text and its metadata, without grade and passage."""
    fields = dict(metadata)
    if _is_graded(fields):
        for name in (*GRADE, "passage"):
            fields.pop(name, None)
    title = fields.pop("title") if isinstance(fields.get("title"), str) else ""
    if title and text == title and fields.get("text") == text:
        del fields["text"]
    elif title and text == title:
        text = ""
    return Document(identifier, title, text, {_unescape(name): value for name, value in fields.items()})


def _is_graded(metadata: Mapping[str, Any]) -> bool:
    return "level" in metadata and "probabilities" in metadata


def _escape(name: str) -> str:
    return _PREFIX + name if _OURS.fullmatch(name) else name


def _unescape(name: str) -> str:
    return name.removeprefix(_PREFIX) if _OURS.fullmatch(name) else name
