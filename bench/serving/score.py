"""Score 10 and 50 candidates of one query with a cross-encoder."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bench.harness.interleave import Contender, measure
from bench.serving.engines import (
    Program,
    ctranslate2_classifier,
    in_batches,
    onnxruntime_program,
    open_tokenizer,
    openvino_program,
)
from bench.serving.peers import OURS, AbsentError, left_to_onnxruntime, module
from bench.serving.settings import Settings
from bench.serving.weights import dynamic_file, inlined_file
from relsdk.bundle import Bundle, read_bundle
from relsdk.metrics import spearman
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.runtime.variants import best_int8

CANDIDATES = (10, 50)
Scores = Callable[[str, list[str]], NDArray[np.float32]]


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time each number of candidates; quality is the rank correlation with fp32's scores."""
    made = scorer_bundle(settings)
    if made is None:
        return []
    bundle, checkpoint = made
    scorers = _scorers(settings, bundle, checkpoint)
    titles = [document.title for document in settings.world.documents]
    exact = scorers["relsdk fp32"][1]
    agreement = {
        name: {"rank_correlation_to_fp32": _agreement(settings, titles, scores, exact)}
        for name, (_, scores) in scorers.items()
    }
    rows = []
    for count in CANDIDATES:
        contenders = [
            Contender(
                name,
                lambda number, scores=scores, count=count: scores(*_task(settings, titles, count, number)),
                role=role,
                items=count,
                quality=agreement[name],
            )
            for name, (role, scores) in scorers.items()
        ]
        rows += measure(
            "score",
            f"{count} candidates",
            [*contenders, settings.yardstick],
            settings.plan(8, 2, warmup=1),
            parameters={"candidates": count},
            unit="pairs",
        )
    return rows


def scorer_bundle(settings: Settings) -> tuple[Path, Path | None] | None:
    """Return a cross-encoder's bundle and, if it was made here, its checkpoint; None without one.

    Made of the encoder with a random head: time does not depend on what a head has learnt.
    """
    if settings.scorer is not None:
        return settings.scorer, None
    if settings.checkpoint is None:
        settings.absent["cross-encoder"] = "no --scorer, and no checkpoint to make one of"
        return None
    checkpoint, bundle = (settings.temporary / name for name in ("scorer-checkpoint", "scorer"))
    if not (bundle / "relsdk.json").is_file():
        _write_checkpoint(settings.checkpoint, checkpoint)
        _export(checkpoint, bundle)
    return bundle, checkpoint


def _write_checkpoint(encoder: Path, target: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the head is new is what we want
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            encoder, num_labels=4, dtype=torch.float32, local_files_only=True
        )
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(encoder / name, target / name)


def _export(checkpoint: Path, target: Path) -> None:
    """Export without the limits on int8's error, which a random head need not keep."""
    from relsdk_export.gate.parity import ParityBudget
    from relsdk_export.scorer import export_scorer

    export_scorer(checkpoint, target, budget=ParityBudget(int8_probabilities=1.0))


def _scorers(settings: Settings, bundle: Path, checkpoint: Path | None) -> dict[str, tuple[str, Scores]]:
    opened = read_bundle(bundle)
    names = {variant.name for variant in opened.variants}
    int8 = best_int8() if best_int8() in names else "auto"
    found: dict[str, tuple[str, Scores]] = {}
    for label in OURS:
        variant = "fp32" if label.endswith("fp32") else int8
        try:
            with left_to_onnxruntime(label):
                model = CrossEncoder(opened, variant=variant, threads=settings.threads)
        except AbsentError as error:
            settings.absent.setdefault(label, str(error))
            continue
        found[label] = (
            "ours",
            lambda query, titles, model=model: model.outputs([(query, t) for t in titles]).scores,
        )
    if settings.peers and checkpoint is not None:
        for name, scores in _peers(settings, opened, int8, checkpoint).items():
            found[name] = "peer", scores
    return found


def _peers(settings: Settings, bundle: Bundle, int8: str, checkpoint: Path) -> dict[str, Scores]:
    """Return the peers that are here, by the names that their encoders have."""
    found: dict[str, Scores] = {}
    tokenizer, threads = open_tokenizer(bundle), settings.threads
    folder = settings.converted(checkpoint, "ctranslate2-scorer")
    if folder is not None and module(settings, "ctranslate2"):
        head = ctranslate2_classifier(folder, *_head(checkpoint), threads)
        found["CTranslate2 int8"] = _around(tokenizer, head)
    if module(settings, "openvino"):
        file = bundle.path / bundle.variant(int8).file
        path = inlined_file(file, settings.temporary / "scorer-inlined.onnx")
        found["OpenVINO int8"] = _around(tokenizer, openvino_program(path, "logits", threads, callers=1))
    path = dynamic_file(bundle.path / bundle.variant("fp32").file, settings.temporary / "scorer-dynamic.onnx")
    found["onnxruntime dynamic int8"] = _around(tokenizer, onnxruntime_program(path, "logits", threads))
    library = module(settings, "sentence_transformers")
    if library is not None:
        found["sentence-transformers"] = _torch_scores(library, checkpoint, threads)
    return found


def _around(tokenizer: Tokenizer, program: Program) -> Scores:
    """Return what scores pairs with an engine whose program gives logits."""
    return lambda query, titles: _levels(
        in_batches(program, tokenizer.encode_batch([(query, title) for title in titles]))
    )


def _head(checkpoint: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from safetensors.numpy import load_file

    tensors = load_file(checkpoint / "model.safetensors")
    return tensors["classifier.weight"], tensors["classifier.bias"]


def _levels(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return expected levels (N,) of logits (N, 4)."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shares / shares.sum(axis=1, keepdims=True)) @ np.arange(4.0)


def _torch_scores(library: Any, checkpoint: Path, threads: int) -> Scores:
    import torch

    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = library.CrossEncoder(str(checkpoint), device="cpu", local_files_only=True)

    def scores(query: str, titles: list[str]) -> NDArray[np.float32]:
        pairs = [(query, title) for title in titles]
        return _levels(peer.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False))

    return scores


def _task(settings: Settings, titles: list[str], count: int, number: int) -> tuple[str, list[str]]:
    start = number * count
    return settings.queries[number % len(settings.queries)], [
        titles[(start + i) % len(titles)] for i in range(count)
    ]


def _agreement(settings: Settings, titles: list[str], scores: Scores, reference: Scores) -> float:
    task = _task(settings, titles, 50, 0)
    return round(spearman(scores(*task), reference(*task)), 5)
