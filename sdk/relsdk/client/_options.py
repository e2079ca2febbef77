"""Options of the ways of encoding, for the overloads."""

from __future__ import annotations

from typing import TypedDict

from relsdk.client._calls import Truncation

__all__ = ["EncodeOptions", "PromptOptions"]


class EncodeOptions(TypedDict, total=False):
    """Of `Client.encode_query` and `encode_document`."""

    dimensions: int | None
    truncation: Truncation
    model: str | None


class PromptOptions(EncodeOptions, total=False):
    """Of `Client.encode`."""

    prompt_name: str | None
