"""The sentence-transformers part of a model folder: its file names, and the settings they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import msgspec

from relsdk.bundle.json_files import (
    Limits,
    ModelConfig,
    PromptConfig,
    SpecialTokens,
    TokenizerConfig,
    TokenizerFile,
    read_json,
    write_json,
)
from relsdk.bundle.modules import POOLING, Pooling, read_modules, write_modules
from relsdk.errors import BundleError

__all__ = [
    "EncoderSettings",
    "Head",
    "ScorerSettings",
    "copy_tokenizer",
    "is_scorer_folder",
    "read_encoder_settings",
    "read_scorer_settings",
    "read_training",
    "tokenizer_path",
    "update_model_config",
    "write_layout",
    "write_model_card",
    "write_scorer_layout",
    "write_tokenizer",
    "write_training",
]

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
MODEL_CONFIG = "config.json"
PROMPTS = "config_sentence_transformers.json"
MAX_LENGTH = "sentence_bert_config.json"
MODEL_CARD = "README.md"
TRAINING = "training.json"
# Our key in PROMPTS, which keeps what it does not know.
MATRYOSHKA = "matryoshka_dims"

# Architectures that number positions from `pad_token_id + 1`: the table's rows before that are not used.
_OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
}
# Our key in a scorer's `config.json`: three outputs may be three classes of somebody else's.
HEAD_KEY = "relsdk_head"
Head = Literal["categorical", "ordinal", "regression"]
Dimension = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
TokenLimit = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
# Outputs by head.
HEADS: dict[str, int] = {"categorical": 4, "ordinal": 3, "regression": 1}


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What turns a text into a vector besides the weights; part of the fingerprint.

    Attributes:
        dimension: Width of the vectors.
        max_tokens: Limit per text, special tokens included.
        pooling: How token vectors become one.
        normalize: Whether vectors have unit length.
        prompts: Text put before the input, by prompt name ("query", "document").
        document_template: How title and text make one string.
        pad_token: The tokenizer's padding.
        matryoshka_dims: Leading sub-dimensions that the model was trained to be cut to.
    """

    dimension: Dimension
    max_tokens: TokenLimit
    pooling: Pooling
    normalize: bool
    prompts: Mapping[str, str] = field(default_factory=dict)
    document_template: str = "{title} {text}"
    pad_token: str = "[PAD]"
    matryoshka_dims: tuple[Dimension, ...] = ()


@dataclass(frozen=True, slots=True)
class ScorerSettings:
    """What turns a pair into a relevance besides the weights; part of the fingerprint.

    Attributes:
        head: What the model's outputs mean: "categorical" (4 logits, one a level), "ordinal" (3 logits of
            P(level >= 1), P(level >= 2), P(level >= 3)) or "regression" (one number, higher is better).
        max_tokens: Limit per pair, special tokens included.
        document_template: How title and text make one string.
        pad_token: The tokenizer's padding.
    """

    head: Head
    max_tokens: TokenLimit
    document_template: str = "{title} {text}"
    pad_token: str = "[PAD]"

    @property
    def outputs(self) -> int:
        """How many numbers the model gives for a pair."""
        return HEADS[self.head]


def is_scorer_folder(folder: Path) -> bool:
    """Whether a Hugging Face folder holds a cross-encoder, by the architecture that it names."""
    architectures = read_json(folder / MODEL_CONFIG, ModelConfig, required=False).get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def read_scorer_settings(folder: Path) -> ScorerSettings:
    """Read the settings of a Hugging Face sequence-classification folder (with or without ONNX files).

    Raises:
        BundleError: A file is damaged, or the outputs are not those of a relevance model.
    """
    config = read_json(folder / MODEL_CONFIG, ModelConfig)
    tokenizer_config = read_json(folder / TOKENIZER_CONFIG, TokenizerConfig, required=False)
    labels, count = config.get("id2label"), config.get("num_labels")
    outputs = len(labels) if labels else 2 if count is None else count  # transformers' own default
    stated = config.get(HEAD_KEY)
    head = stated or {4: "categorical", 1: "regression"}.get(outputs)
    if head not in HEADS or HEADS[head] != outputs:
        raise BundleError(
            f"{folder / MODEL_CONFIG} has {outputs} outputs ({HEAD_KEY}: {stated!r}); a scorer has 4 (one a "
            f'level), 1 (a score), or 3 with "{HEAD_KEY}": "ordinal"'
        )
    return ScorerSettings(
        head=cast("Head", head),
        max_tokens=_max_tokens(folder, config, tokenizer_config),
        pad_token=_pad_token(folder, config, tokenizer_config),
    )


def read_encoder_settings(folder: Path, *, dimension: int | None = None) -> EncoderSettings:
    """Read the settings of a sentence-transformers folder (with or without ONNX files).

    Args:
        folder: The folder.
        dimension: Width of the vectors; by default what the pooling or model configuration says.

    Raises:
        BundleError: A file is damaged, or asks for a pooling or a module that is not supported.
    """
    modules = read_modules(folder)
    _check_case(folder)
    model_config = read_json(folder / MODEL_CONFIG, ModelConfig, required=False)
    prompt_config = read_json(folder / PROMPTS, PromptConfig, required=False)
    tokenizer_config = read_json(folder / TOKENIZER_CONFIG, TokenizerConfig, required=False)
    width = dimension or modules.dimension or model_config.get("hidden_size") or model_config.get("dim")
    if not width:
        raise BundleError(f"{folder} does not say how wide its vectors are ({POOLING} or {MODEL_CONFIG})")
    prompts = prompt_config.get("prompts") or {}
    if "document" not in prompts and "passage" in prompts:
        prompts = {**prompts, "document": prompts["passage"]}
    return EncoderSettings(
        dimension=width,
        max_tokens=_max_tokens(folder, model_config, tokenizer_config),
        pooling=modules.pooling,
        normalize=modules.normalize,
        prompts=prompts,
        pad_token=_pad_token(folder, model_config, tokenizer_config),
        matryoshka_dims=tuple(prompt_config.get("matryoshka_dims") or ()),
    )


def _pad_token(folder: Path, model: ModelConfig, config: TokenizerConfig) -> str:
    """Return the padding by the first file that names it; `[PAD]` where none does, as in BERT."""
    special = read_json(folder / SPECIAL_TOKENS, SpecialTokens, required=False)
    tokenizer = read_json(folder / TOKENIZER_JSON, TokenizerFile, required=False)
    named = config.get("pad_token") or special.get("pad_token")
    padding = tokenizer.get("padding")
    named = named or (padding and padding.get("pad_token")) or "[PAD]"
    name = named if isinstance(named, str) else named["content"]
    known = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or ()}
    if known and name not in known:
        name = next((token for token, of in known.items() if of == model.get("pad_token_id")), name)
    return name


def _check_case(folder: Path) -> None:
    """Refuse texts that sentence-transformers makes lower case before the tokenizer sees them."""
    if read_json(folder / MAX_LENGTH, Limits, required=False).get("do_lower_case"):
        raise BundleError(
            f"{folder / MAX_LENGTH} has do_lower_case: true, which is not supported; put a Lowercase "
            f"normalizer into {TOKENIZER_JSON} and set it to false"
        )


def _max_tokens(folder: Path, model: ModelConfig, tokenizer: TokenizerConfig) -> int:
    stated = read_json(folder / MAX_LENGTH, Limits, required=False).get("max_seq_length")
    positions = model.get("max_position_embeddings")
    if positions is not None and model.get("model_type") in _OFFSET_POSITIONS:
        pad = model.get("pad_token_id")
        positions -= (1 if pad is None else pad) + 1
    limit = tokenizer.get("model_max_length")
    candidates = [int(v) for v in (stated, positions, limit) if v is not None and 0 < v < 1_000_000]
    return min(candidates, default=512)


def write_layout(folder: Path, settings: EncoderSettings) -> None:
    """Write `modules.json`, pooling, prompts and maximum length (in the tokenizer's configuration, too)."""
    write_modules(folder, settings.dimension, settings.pooling, normalize=settings.normalize)
    prompts = {"prompts": dict(settings.prompts), "default_prompt_name": None, "similarity_fn_name": "cosine"}
    trained = {MATRYOSHKA: list(settings.matryoshka_dims)} if settings.matryoshka_dims else {}
    write_json(folder / PROMPTS, {**prompts, **trained})
    write_json(folder / MAX_LENGTH, {"max_seq_length": settings.max_tokens, "do_lower_case": False})
    _write_limit(folder, settings.max_tokens)


def write_scorer_layout(folder: Path, settings: ScorerSettings) -> None:
    """Complete the model and tokenizer configuration of a scorer: what its outputs mean, and its limit."""
    write_json(
        folder / MODEL_CONFIG, {**read_json(folder / MODEL_CONFIG, dict[str, Any]), HEAD_KEY: settings.head}
    )
    _write_limit(folder, settings.max_tokens)


def _write_limit(folder: Path, max_tokens: int) -> None:
    if (folder / TOKENIZER_CONFIG).is_file():  # fastembed reads the limit here and nowhere else
        limit = {"model_max_length": max_tokens}
        write_json(
            folder / TOKENIZER_CONFIG, {**read_json(folder / TOKENIZER_CONFIG, dict[str, Any]), **limit}
        )


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the tokenizer and model configuration of a checkpoint into a bundle being made."""
    for name in (TOKENIZER_JSON, TOKENIZER_CONFIG, MODEL_CONFIG):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def read_training(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint says of how it was made; nothing where it says nothing.

    Raises:
        BundleError: What it says is damaged.
    """
    return read_json(checkpoint / TRAINING, dict[str, Any], required=False)


def write_training(checkpoint: Path, about: Mapping[str, Any]) -> None:
    """Say in a checkpoint's folder how it was made: settings, hashes, precision, and no place."""
    write_json(checkpoint / TRAINING, about)


def tokenizer_path(folder: Path) -> Path:
    """Where a model folder's tokenizer is."""
    return folder / TOKENIZER_JSON


def write_tokenizer(folder: Path, content: Mapping[str, Any]) -> None:
    """Replace the tokenizer of a bundle being made."""
    (folder / TOKENIZER_JSON).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def update_model_config(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change keys of the model configuration of a bundle being made."""
    write_json(folder / MODEL_CONFIG, {**read_json(folder / MODEL_CONFIG, dict[str, Any]), **changes})


def write_model_card(folder: Path, text: str) -> None:
    """Write the Markdown that says what a bundle is."""
    (folder / MODEL_CARD).write_text(text, encoding="utf-8")
