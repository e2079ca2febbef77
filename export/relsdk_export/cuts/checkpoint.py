"""A checkpoint with a smaller vocabulary, to train on.

Most of a multilingual encoder's weights, and of an optimiser's work, are pieces that a corpus never holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from relsdk.bundle import (
    copy_dense,
    copy_tokenizer,
    read_encoder_settings,
    tokenizer_path,
    update_model_config,
    write_layout,
    write_tokenizer,
)
from relsdk.files.folders import staged_folder
from relsdk_export.checks import check_checkpoint
from relsdk_export.cuts.vocabulary import cut_vocabulary, keep_pieces
from relsdk_export.onnx.convert import load_encoder
from relsdk_export.onnx.weight_files import writing_weights

__all__ = ["cut_checkpoint"]


def cut_checkpoint(
    checkpoint: Path, target: Path, texts: Iterable[str], *, overwrite: bool = False
) -> dict[str, Any]:
    """Write an encoder's checkpoint with the pieces that a corpus needs.

    Args:
        checkpoint: Folder of an encoder with a Unigram tokenizer.
        target: The new folder, in the sentence-transformers layout.
        texts: The corpus: documents and queries.
        overwrite: Replace what is there.

    Returns:
        Pieces before and after, and the share of the corpus's tokens that are unknown now.

    Raises:
        InputError: `checkpoint` is no folder, or `target` is in the way.
        BundleError: The folder is no such checkpoint, or its tokenizer is of another type.
        RelsdkError: The file system refused.
    """
    check_checkpoint(checkpoint)
    settings = read_encoder_settings(checkpoint)
    prompts = {"", *settings.prompts.values()}
    with staged_folder(target, marker="modules.json", overwrite=overwrite, sources=[checkpoint]) as staging:
        cut = cut_vocabulary(
            tokenizer_path(checkpoint), (prompt + text for text in texts for prompt in prompts)
        )
        encoder = load_encoder(checkpoint, settings)
        changes = keep_pieces(encoder.transformer, cut)
        copy_tokenizer(checkpoint, staging)
        copy_dense(checkpoint, staging, settings.dense)
        with writing_weights():
            encoder.transformer.save_pretrained(staging)
        update_model_config(staging, changes)
        write_tokenizer(staging, cut.tokenizer)
        write_layout(staging, settings)
    return cut.to_dict()
