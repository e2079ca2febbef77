"""JSON files of a model folder, and the fields that are read of those that others define."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec

from relsdk.errors import BundleError
from relsdk.typed_json import read_json as read_typed

__all__ = [
    "DenseConfig",
    "Limits",
    "ModelConfig",
    "ModuleEntry",
    "PoolingConfig",
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
    """The fields of `config.json` that are read."""

    architectures: list[str] | None
    id2label: dict[str, Any] | None
    num_labels: Annotated[int, msgspec.Meta(ge=0)] | None
    relsdk_head: str | None
    hidden_size: _Width | None
    dim: _Width | None  # DistilBERT
    max_position_embeddings: int | None
    model_type: str | None
    pad_token_id: int | None
    is_causal: bool | None


class PromptConfig(TypedDict, total=False):
    """The fields of `config_sentence_transformers.json` that are read."""

    model_type: str | None
    prompts: dict[str, str | None] | None
    default_prompt_name: str | None
    similarity_fn_name: str | None
    truncate_dim: _Width | None
    matryoshka_dims: list[_Width] | None


class _Token(TypedDict):
    content: str


class SpecialTokens(TypedDict, total=False):
    """The fields of `special_tokens_map.json` that are read."""

    pad_token: str | _Token | None


class TokenizerConfig(SpecialTokens, total=False):
    """The fields of `tokenizer_config.json` that are read."""

    model_max_length: int | float | None
    tokenizer_class: str | None
    truncation_side: str | None
    split_special_tokens: bool | None
    do_lower_case: bool | None
    strip_accents: bool | None
    tokenize_chinese_chars: bool | None
    add_prefix_space: bool | None


class Limits(TypedDict, total=False):
    """The fields of `sentence_bert_config.json` that are read; the last two are one field of two versions."""

    max_seq_length: int | None
    do_lower_case: bool | None
    transformer_task: str | None
    modality_config: dict[str, Any] | None
    processing_kwargs: dict[str, Any] | None
    query_length: int | None
    document_length: int | None
    query_expansion: dict[str, Any] | None
    processor_kwargs: TokenizerConfig | None
    tokenizer_args: TokenizerConfig | None


class ModuleEntry(TypedDict, total=False):
    """The fields of an entry of `modules.json` that are read."""

    type: str
    path: str


class PoolingConfig(TypedDict, total=False):
    """The fields of `1_Pooling/config.json` that are read, besides the flags that it had before version 6."""

    embedding_dimension: _Width | None
    word_embedding_dimension: _Width | None
    pooling_mode: str | list[str] | None
    include_prompt: bool | None


class _DenseWidths(TypedDict):
    in_features: _Width
    out_features: _Width


class DenseConfig(_DenseWidths, total=False):
    """The fields of `2_Dense/config.json` that are read."""

    bias: bool
    activation_function: str
    module_input_name: str | None
    module_output_name: str | None
    use_residual: bool


class _Padding(TypedDict, total=False):
    pad_token: str


class _Truncation(TypedDict, total=False):
    direction: str | None


class _AddedToken(TypedDict):
    id: int
    content: str


class TokenizerFile(TypedDict, total=False):
    """The fields of `tokenizer.json` that are read."""

    padding: _Padding | None
    truncation: _Truncation | None
    normalizer: dict[str, Any] | None
    pre_tokenizer: dict[str, Any] | None
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
