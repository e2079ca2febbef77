"""The model-folder contract. Nobody outside this package knows the names of the files in it."""

from relsdk.bundle.golden import (
    GOLDEN_TEXTS,
    GoldenVectors,
    golden_inputs,
    has_golden,
    read_golden,
    write_golden,
)
from relsdk.bundle.layout import (
    EncoderSettings,
    Head,
    ScorerSettings,
    copy_tokenizer,
    is_scorer_folder,
    read_encoder_settings,
    read_scorer_settings,
    read_training,
    tokenizer_path,
    update_model_config,
    write_layout,
    write_model_card,
    write_scorer_layout,
    write_tokenizer,
    write_training,
)
from relsdk.bundle.model import RELSDK_JSON, Bundle, Tower, Variant, onnx_file
from relsdk.bundle.modules import says_how_to_pool
from relsdk.bundle.reading import read_bundle
from relsdk.bundle.writing import finish_bundle, open_for_calibration, save_calibration

__all__ = [
    "GOLDEN_TEXTS",
    "RELSDK_JSON",
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
    "has_golden",
    "is_scorer_folder",
    "onnx_file",
    "open_for_calibration",
    "read_bundle",
    "read_encoder_settings",
    "read_golden",
    "read_scorer_settings",
    "read_training",
    "save_calibration",
    "says_how_to_pool",
    "tokenizer_path",
    "update_model_config",
    "write_golden",
    "write_layout",
    "write_model_card",
    "write_scorer_layout",
    "write_tokenizer",
    "write_training",
]
