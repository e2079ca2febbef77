"""JSON files of a model folder, and what is read of those that others define."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec

from relsdk.errors import BundleError
from relsdk.typed_json import read_json as read_typed

__all__ = [
    "Limits",
    "ModelConfig",
    "PromptConfig",
    "SpecialTokens",
    "TokenizerConfig",
    "TokenizerFile",
    "read_json",
    "write_json",
]

Kind = TypeVar("Kind")
COPY_AGAIN = "copy the folder again or make it again"
_Width = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class ModelConfig(TypedDict, total=False):
    """What is read of `config.json`."""

    architectures: list[str] | None
    id2label: dict[str, Any] | None
    num_labels: Annotated[int, msgspec.Meta(ge=0)] | None
    relsdk_head: str | None
    hidden_size: _Width | None
    dim: _Width | None  # DistilBERT
    max_position_embeddings: int | None
    model_type: str | None
    pad_token_id: int | None


class PromptConfig(TypedDict, total=False):
    """What is read of `config_sentence_transformers.json`."""

    prompts: dict[str, str] | None
    default_prompt_name: str | None
    matryoshka_dims: list[_Width] | None


class Limits(TypedDict, total=False):
    """What is read of `sentence_bert_config.json`."""

    max_seq_length: int | None
    do_lower_case: bool | None


class _Token(TypedDict):
    content: str


class SpecialTokens(TypedDict, total=False):
    """What is read of `special_tokens_map.json`."""

    pad_token: str | _Token | None


class TokenizerConfig(SpecialTokens, total=False):
    """What is read of `tokenizer_config.json`."""

    model_max_length: int | float | None


class _Padding(TypedDict, total=False):
    pad_token: str


class _AddedToken(TypedDict):
    id: int
    content: str


class TokenizerFile(TypedDict, total=False):
    """What is read of `tokenizer.json`."""

    padding: _Padding | None
    added_tokens: list[_AddedToken] | None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented, as people compare them."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_json(
    path: Path,
    kind: type[Kind],
    *,
    required: bool = True,
    remedy: str = COPY_AGAIN,
) -> Kind:
    """Read a JSON file into a type; a missing one is `kind()` when it is not required.

    Raises:
        BundleError: The file is missing, unreadable, not strict JSON or not of the type.
    """
    if not required and not path.is_symlink() and not path.exists():
        return kind()
    return read_typed(path, kind, error=BundleError, remedy=remedy)
