"""The text of a document and the normal form of a query. Imports nothing heavy."""

from __future__ import annotations

import unicodedata

from relsdk.records import Document

__all__ = ["document_text", "normal_form"]

_TEMPLATE = "{title} {text}"


def document_text(document: Document) -> str:
    """Return the text that a bundle would encode for a document, before the prompt."""
    return _TEMPLATE.format(title=document.title, text=document.text).strip()


def normal_form(text: str) -> str:
    """Return what equal queries have in common: NFKC, case folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
