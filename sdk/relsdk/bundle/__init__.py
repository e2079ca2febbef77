"""The contract of the model folder; its file names are known to this package alone."""

from relsdk.bundle._dense import DenseLayer, copy_dense, read_dense
from relsdk.bundle._modules import states_pooling
from relsdk.bundle.calibration_key import CalibrationKey
from relsdk.bundle.foreign import is_scorer_folder, read_encoder_settings, read_scorer_settings
from relsdk.bundle.golden import (
    GOLDEN_TEXTS,
    GoldenVectors,
    golden_inputs,
    has_golden,
    read_golden,
    write_golden,
)
from relsdk.bundle.inside import check_inside, name_of_model
from relsdk.bundle.layout import (
    EncoderSettings,
    Head,
    ScorerSettings,
    copy_tokenizer,
    read_training,
    settings_content,
    tokenizer_path,
    update_model_config,
    write_layout,
    write_model_card,
    write_scorer_layout,
    write_tokenizer,
    write_training,
)
from relsdk.bundle.model import RELSDK_JSON, Bundle, Tower, Variant, onnx_file
from relsdk.bundle.reading import open_bundle, read_bundle
from relsdk.bundle.writing import finish_bundle, open_for_calibration, repository_files, save_calibration

__all__ = [
    "GOLDEN_TEXTS",
    "RELSDK_JSON",
    "Bundle",
    "CalibrationKey",
    "DenseLayer",
    "EncoderSettings",
    "GoldenVectors",
    "Head",
    "ScorerSettings",
    "Tower",
    "Variant",
    "check_inside",
    "copy_dense",
    "copy_tokenizer",
    "finish_bundle",
    "golden_inputs",
    "has_golden",
    "is_scorer_folder",
    "name_of_model",
    "onnx_file",
    "open_bundle",
    "open_for_calibration",
    "read_bundle",
    "read_dense",
    "read_encoder_settings",
    "read_golden",
    "read_scorer_settings",
    "read_training",
    "repository_files",
    "save_calibration",
    "settings_content",
    "states_pooling",
    "tokenizer_path",
    "update_model_config",
    "write_golden",
    "write_layout",
    "write_model_card",
    "write_scorer_layout",
    "write_tokenizer",
    "write_training",
]
