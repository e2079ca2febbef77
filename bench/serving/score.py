"""Score 10, 50 and 100 candidates of one query with a cross-encoder."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.interleave import Contender, measure
from bench.serving.peers import module
from bench.serving.settings import Settings
from relsdk.bundle import read_bundle
from relsdk.metrics import spearman
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.runtime.variants import best_int8

CANDIDATES = (10, 50, 100)
Scores = Callable[[str, list[str]], NDArray[np.float32]]


def run(settings: Settings) -> list[dict[str, Any]]:
    """Time each number of candidates; quality is the rank correlation with fp32's scores."""
    made = scorer_bundle(settings)
    if made is None:
        return []
    bundle, checkpoint = made
    scorers = _scorers(settings, bundle, checkpoint)
    titles = [document.title for document in settings.world.documents]
    rows = []
    for count in CANDIDATES:
        contenders = [
            Contender(
                name,
                lambda number, scores=scores, count=count: scores(*_task(settings, titles, count, number)),
                role=role,
                items=count,
                quality={
                    "rank_correlation_to_fp32": _agreement(
                        settings, titles, scores, scorers["relsdk fp32"][1]
                    )
                },
            )
            for name, (role, scores) in scorers.items()
        ]
        rows += measure(
            "score",
            f"{count} candidates",
            [*contenders, settings.yardstick],
            settings.plan(12, 3, warmup=1),
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
    found: dict[str, tuple[str, Scores]] = {}
    for label, variant in (
        ("relsdk int8", best_int8() if best_int8() in names else "auto"),
        ("relsdk fp32", "fp32"),
    ):
        model = CrossEncoder(opened, variant=variant, threads=settings.threads)
        found[label] = (
            "ours",
            lambda query, titles, model=model: model.outputs([(query, t) for t in titles]).scores,
        )
    library = module(settings, "sentence_transformers") if settings.peers and checkpoint is not None else None
    if library is not None and checkpoint is not None:
        found["sentence-transformers"] = "peer", _torch_scores(library, checkpoint, settings.threads)
    return found


def _torch_scores(library: Any, checkpoint: Path, threads: int) -> Scores:
    import torch

    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = library.CrossEncoder(str(checkpoint), device="cpu", local_files_only=True)

    def scores(query: str, titles: list[str]) -> NDArray[np.float32]:
        logits = peer.predict(
            [(query, title) for title in titles], activation_fn=torch.nn.Identity(), show_progress_bar=False
        )
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (shares / shares.sum(axis=1, keepdims=True)) @ np.arange(4.0)

    return scores


def _task(settings: Settings, titles: list[str], count: int, number: int) -> tuple[str, list[str]]:
    start = number * count
    return settings.queries[number % len(settings.queries)], [
        titles[(start + i) % len(titles)] for i in range(count)
    ]


def _agreement(settings: Settings, titles: list[str], scores: Scores, reference: Scores) -> float:
    task = _task(settings, titles, 50, 0)
    return round(spearman(scores(*task), reference(*task)), 5)
