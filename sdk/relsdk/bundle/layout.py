"""The sentence-transformers part of a model folder: its file names, and the settings they hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from relsdk.bundle._dense import dense_config
from relsdk.bundle._json_files import read_json, write_json
from relsdk.bundle._modules import Pooling, write_modules

__all__ = [
    "EncoderSettings",
    "Head",
    "ScorerSettings",
    "Side",
    "copy_tokenizer",
    "read_training",
    "settings_content",
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

# Our key in a scorer's `config.json`: three outputs may be three classes of somebody else's.
HEAD_KEY = "relsdk_head"
Head = Literal["categorical", "ordinal", "regression"]
Side = Literal["left", "right"]
Dimension = Annotated[int, msgspec.Meta(ge=1, le=65_536)]
TokenLimit = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
# Settings that the first format does not have: left out where they say nothing, so that a model's description
# and its fingerprint are what they were.
_ADDED = ("default_prompt", "truncation_side", "truncate_dim", "similarity", "dense")
# Outputs by head.
HEADS: dict[str, int] = {"categorical": 4, "ordinal": 3, "regression": 1}


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """The settings that a vector depends on besides the weights; part of the fingerprint.

    Attributes:
        dimension: Width of the vectors.
        max_tokens: Limit per text, special tokens included.
        pooling: How token vectors become one.
        normalize: Whether vectors have unit length.
        prompts: Text put before the input, by prompt name ("query", "document").
        document_template: How title and text make one string.
        pad_token: The tokenizer's padding.
        matryoshka_dims: Leading sub-dimensions that the model was trained to be cut to.
        default_prompt: Which of the prompts is put before a text whose caller names none; empty for none.
        truncation_side: Which end of a text that is too long is cut away.
        truncate_dim: How many leading coordinates are kept where the caller says nothing; 0 keeps all.
        similarity: What the vectors were trained to be compared by; relsdk compares by cosine.
        dense: Folders of linear layers behind the pooling; a graph with an output `sentence_embedding` holds
            them already.
    """

    dimension: Dimension
    max_tokens: TokenLimit
    pooling: Pooling
    normalize: bool
    prompts: Mapping[str, str] = field(default_factory=dict)
    document_template: str = "{title} {text}"
    pad_token: str = "[PAD]"
    matryoshka_dims: tuple[Dimension, ...] = ()
    default_prompt: str = ""
    truncation_side: Side = "right"
    truncate_dim: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 0
    similarity: str = "cosine"
    dense: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScorerSettings:
    """The settings that a relevance depends on besides the weights; part of the fingerprint.

    Attributes:
        head: What the model's outputs mean: "categorical" (4 logits, one a level), "ordinal" (3 logits of
            P(level >= 1), P(level >= 2), P(level >= 3)) or "regression" (one number, higher is better).
        max_tokens: Limit per pair, special tokens included.
        document_template: How title and text make one string.
        pad_token: The tokenizer's padding.
        truncation_side: Which end of a pair that is too long is cut away.
    """

    head: Head
    max_tokens: TokenLimit
    document_template: str = "{title} {text}"
    pad_token: str = "[PAD]"
    truncation_side: Side = "right"

    @property
    def outputs(self) -> int:
        """The number of outputs for a pair."""
        return HEADS[self.head]


def settings_content(settings: EncoderSettings | ScorerSettings) -> dict[str, Any]:
    """Return the JSON form of settings: what is written, hashed and compared."""
    defaults = {item.name: item.default for item in fields(settings)}
    return {
        name: value
        for name, value in asdict(settings).items()
        if name not in _ADDED or value != defaults[name]
    }


def write_layout(folder: Path, settings: EncoderSettings) -> None:
    """Write `modules.json`, pooling, prompts and limits (in the tokenizer's configuration, too).

    The files of linear layers must be in place.
    """
    width = dense_config(folder, settings.dense[0])["in_features"] if settings.dense else settings.dimension
    write_modules(folder, width, settings.pooling, normalize=settings.normalize, dense=settings.dense)
    prompts = {
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt or None,
        "similarity_fn_name": settings.similarity,
    }
    cut = {"truncate_dim": settings.truncate_dim} if settings.truncate_dim else {}
    trained = {MATRYOSHKA: list(settings.matryoshka_dims)} if settings.matryoshka_dims else {}
    write_json(folder / PROMPTS, {**prompts, **cut, **trained})
    write_json(folder / MAX_LENGTH, {"max_seq_length": settings.max_tokens, "do_lower_case": False})
    _write_tokenizer_config(folder, settings)


def write_scorer_layout(folder: Path, settings: ScorerSettings) -> None:
    """Complete the model and tokenizer configuration of a scorer: what its outputs mean, and its limit."""
    write_json(
        folder / MODEL_CONFIG, {**read_json(folder / MODEL_CONFIG, dict[str, Any]), HEAD_KEY: settings.head}
    )
    _write_tokenizer_config(folder, settings)


def _write_tokenizer_config(folder: Path, settings: EncoderSettings | ScorerSettings) -> None:
    side = {"truncation_side": settings.truncation_side} if settings.truncation_side != "right" else {}
    if side or (folder / TOKENIZER_CONFIG).is_file():  # fastembed reads the limit here and nowhere else
        stated = read_json(folder / TOKENIZER_CONFIG, dict[str, Any], required=False)
        limit = {"model_max_length": settings.max_tokens}
        write_json(folder / TOKENIZER_CONFIG, {**stated, **limit, **side})


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
    """Return the path of a model folder's tokenizer."""
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
