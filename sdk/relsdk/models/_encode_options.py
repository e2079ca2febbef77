"""Options and inputs of the ways of encoding, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, TypedDict

from relsdk.errors import InputError
from relsdk.models.pooling import Precision
from relsdk.runtime.batch_runner import Truncation

__all__ = ["NamedPrompt", "Options", "check_option", "ordered_list", "text_list"]


class Options(TypedDict, total=False):
    """The options of each way of encoding, for the overloads."""

    prompt: str | None
    batch_size: int | None
    show_progress_bar: bool
    normalize_embeddings: bool | None
    precision: Precision
    truncation: Truncation


class NamedPrompt(Options, total=False):
    """The options of `Embedder.encode`."""

    prompt_name: str | None


def text_list(inputs: str | Sequence[str]) -> list[str]:
    """Return the texts as a list; raises `InputError` when one is no text."""
    if isinstance(inputs, str):
        return [inputs]
    texts = ordered_list(inputs)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"input {position} is {type(text).__name__}; a string is needed")
    return texts


def ordered_list(inputs: Iterable[Any]) -> list[Any]:
    """Return the inputs as a list; raises `InputError` when they have no order."""
    # Of a mapping the keys would be encoded, of a set nobody knew which row is which.
    if not isinstance(inputs, Iterable) or isinstance(inputs, Mapping | Set):
        raise InputError(f"inputs is {type(inputs).__name__}; a string or a list of strings is needed")
    return list(inputs)


def check_option(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise `InputError` unless the value of an option is allowed."""
    if value not in allowed:
        raise InputError(f"{name}={value!r}; allowed are {list(allowed)}")
