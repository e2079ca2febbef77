"""Open a bundle of either kind as a model of pairs."""

from __future__ import annotations

import os

from relsdk.bundle import Bundle, open_bundle
from relsdk.bundle.hub import local_model
from relsdk.errors import InputError
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.models.embedder import Embedder

__all__ = ["open_pair_model"]


def open_pair_model(
    model: str | os.PathLike[str],
    *,
    variant: str = "auto",
    threads: int | None = None,
    truncate_dim: int | None = None,
) -> BiEncoder | CrossEncoder:
    """Open an encoder or a scorer bundle; `truncate_dim` is for encoders only.

    Raises:
        BundleError: The folder is missing or damaged.
        InputError: An argument is out of range.
    """

    def load(bundle: Bundle) -> BiEncoder | CrossEncoder:
        if bundle.kind == "encoder":
            return BiEncoder(Embedder(model, variant=variant, threads=threads, truncate_dim=truncate_dim))
        if truncate_dim is not None:
            raise InputError(
                f"{model} is a scorer bundle; it has no vectors to cut to {truncate_dim} dimensions"
            )
        return CrossEncoder(bundle, variant=variant, threads=threads)

    return open_bundle(local_model(model), load)
