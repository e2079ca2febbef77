"""The model-folder contract. Nobody outside this package knows the names of the files in it."""

from relsdk.bundle.folder import Bundle, Tower, Variant, finish_bundle, onnx_file, read_bundle, save_variants
from relsdk.bundle.golden import GOLDEN_TEXTS, GoldenVectors, golden_inputs, read_golden, write_golden
from relsdk.bundle.layout import (
    EncoderSettings,
    Head,
    ScorerSettings,
    copy_tokenizer,
    read_encoder_settings,
    read_scorer_settings,
    tokenizer_path,
    update_model_config,
    write_layout,
    write_model_card,
    write_scorer_layout,
    write_tokenizer,
)

__all__ = [
    "GOLDEN_TEXTS",
    "Bundle",
    "EncoderSettings",
    "GoldenVectors",
    "Head",
    "ScorerSettings",
    "Tower",
    "Variant",
    "copy_tokenizer",
    "finish_bundle",
    "golden_inputs",
    "onnx_file",
    "read_bundle",
    "read_encoder_settings",
    "read_golden",
    "read_scorer_settings",
    "save_variants",
    "tokenizer_path",
    "update_model_config",
    "write_golden",
    "write_layout",
    "write_model_card",
    "write_scorer_layout",
    "write_tokenizer",
]
