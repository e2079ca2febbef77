"""`relsdk export`: checkpoints to bundles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from relsdk.bundle import Bundle, Variant
from relsdk.cli.output import echo, echo_json, echo_next, percent
from relsdk.errors import InputError
from relsdk.formats import read_pairs
from relsdk.records import LabelledPair
from relsdk_export.cli._steps import Steps

__all__ = ["export"]

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def export() -> None:
    """Make a bundle from a checkpoint (needs relsdk[export])."""


def _shared_options(command: F) -> F:
    """Options of both commands; all of them are about what goes into the bundle and what is measured."""
    for option in reversed(
        [
            click.argument("checkpoint", type=click.Path(path_type=Path)),
            click.argument("bundle", type=click.Path(path_type=Path)),
            click.option(
                "--variant",
                "variants",
                multiple=True,
                help="fp32, int8_avx512_vnni, int8_avx2, int8_any [default: all]; relsdk doctor names "
                "this CPU's.",
            ),
            click.option(
                "--vocabulary-from",
                "corpus",
                help="Cut the vocabulary to what these documents, or queries (.txt), need.",
            ),
            click.option("--keep-layers", "layers", help="Keep these layers only, counted from 0: 0,2,4."),
            click.option(
                "--pairs",
                help="Labelled pairs: int8 is fitted to their texts; variants that rank or grade worse "
                "than fp32 are left out.",
            ),
            click.option(
                "--max-ap-loss", type=float, default=0.003, show_default=True, help="With --pairs: mean AP."
            ),
            click.option(
                "--max-ndcg-loss", type=float, default=0.002, show_default=True, help="With --pairs: nDCG@10."
            ),
            click.option(
                "--max-level-changes",
                type=float,
                default=0.015,
                show_default=True,
                help="With --pairs: share of pairs.",
            ),
            click.option("--overwrite", is_flag=True, help="Replace a bundle that is there."),
            click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        ]
    ):
        command = option(command)
    return command


@export.command(epilog="Example: relsdk export encoder checkpoint bundle --vocabulary-from docs.jsonl")
@_shared_options
@click.option("--dim", "dimension", type=int, help="Keep the first so many dimensions (Matryoshka models).")
@click.option(
    "--query-tower",
    type=click.Path(path_type=Path),
    help="Encode queries with this smaller checkpoint: a query tower of relsdk train distill.",
)
@click.option(
    "--exporter",
    type=click.Choice(["torch", "optimum"]),
    default="torch",
    show_default=True,
    help="What writes the fp32 graph; optimum needs relsdk[optimum] in a virtual environment of its own.",
)
def encoder(
    checkpoint: Path,
    bundle: Path,
    variants: tuple[str, ...],
    corpus: str | None,
    layers: str | None,
    dimension: int | None,
    pairs: str | None,
    max_ap_loss: float,
    max_ndcg_loss: float,
    max_level_changes: float,
    query_tower: Path | None,
    exporter: Literal["torch", "optimum"],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export the encoder CHECKPOINT to BUNDLE: fp32 and int8 ONNX, checked against the checkpoint."""
    steps = Steps()
    settings = _Inputs(checkpoint, corpus, layers, pairs, query_tower)
    steps("import torch")
    from relsdk_export.encoder import EncoderCuts, export_encoder
    from relsdk_export.pipeline import DEFAULT_VARIANTS

    exported = export_encoder(
        checkpoint,
        bundle,
        variants=variants or DEFAULT_VARIANTS,
        cuts=EncoderCuts(settings.texts, settings.layers, dimension),
        gate=_gate(settings.pairs, max_ap_loss, max_ndcg_loss, max_level_changes),
        exporter=exporter,
        query_tower=query_tower,
        overwrite=overwrite,
        on_step=steps,
    )
    seconds = steps.finish()
    if as_json:
        echo_json({**asdict(exported), "path": str(exported.path), "seconds": seconds})
        return
    for variant in exported.variants:
        parity = variant.quality["parity"]
        close = (
            f"cosine to the checkpoint: mean {parity['mean_cosine']:.4f}, worst {parity['min_cosine']:.4f}"
        )
        _echo_variant(variant, close)
    _echo_cuts(exported)
    echo_next("index build INDEX --model", bundle, "--input DOCS (levels: relsdk calibrate", bundle, "PAIRS)")


@export.command(epilog="Example: relsdk export scorer grader/best scorer")
@_shared_options
def scorer(
    checkpoint: Path,
    bundle: Path,
    variants: tuple[str, ...],
    corpus: str | None,
    layers: str | None,
    pairs: str | None,
    max_ap_loss: float,
    max_ndcg_loss: float,
    max_level_changes: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export the cross-encoder CHECKPOINT to BUNDLE: fp32 and int8 ONNX, checked against the checkpoint.

    Its head has 4 outputs (one a level), 3 (an ordinal head of relsdk train score) or 1 (a score).
    """
    steps = Steps()
    settings = _Inputs(checkpoint, corpus, layers, pairs)
    steps("import torch")
    from relsdk_export.pipeline import DEFAULT_VARIANTS
    from relsdk_export.scorer import ScorerCuts, export_scorer

    exported = export_scorer(
        checkpoint,
        bundle,
        variants=variants or DEFAULT_VARIANTS,
        cuts=ScorerCuts(settings.texts, settings.layers),
        gate=_gate(settings.pairs, max_ap_loss, max_ndcg_loss, max_level_changes),
        overwrite=overwrite,
        on_step=steps,
    )
    seconds = steps.finish()
    if as_json:
        echo_json({**asdict(exported), "path": str(exported.path), "seconds": seconds})
        return
    for variant in exported.variants:
        parity = variant.quality["parity"]
        close = (
            f"to the checkpoint: logits within {parity['max_logit_difference']:.1e}, probabilities "
            f"{parity['mean_variation']:.4f}"
        )
        _echo_variant(variant, close)
    _echo_cuts(exported)
    echo_next("calibrate", bundle, "PAIRS, then relsdk query INDEX QUERY --scorer", bundle)


class _Inputs:
    """The inputs of both commands, checked before torch is imported and the checkpoint is loaded."""

    def __init__(
        self,
        checkpoint: Path,
        corpus: str | None,
        layers: str | None,
        pairs: str | None,
        query_tower: Path | None = None,
    ) -> None:
        from relsdk_export.checks import check_checkpoint
        from relsdk_export.gate.corpus import read_texts

        self.layers = _numbers(layers)
        check_checkpoint(checkpoint, self.layers)
        if query_tower is not None:
            check_checkpoint(query_tower)
        self.pairs = None if pairs is None else list(read_pairs(pairs))
        self.texts: Iterator[str] | None = None
        if corpus is not None:
            texts = read_texts(Path(corpus))
            self.texts = chain(list(islice(texts, 1)), texts)  # reads the first row now


def _gate(pairs: list[LabelledPair] | None, ap: float, ndcg: float, level_changes: float) -> Any:
    from relsdk_export.gate.quality import QualityBudget
    from relsdk_export.pipeline import Gate

    return None if pairs is None else Gate(pairs, QualityBudget(ap, ndcg, level_changes))


def _numbers(layers: str | None) -> tuple[int, ...] | None:
    if layers is None:
        return None
    try:
        return tuple(int(number) for number in layers.split(","))
    except ValueError:
        raise InputError(f"--keep-layers {layers!r}; numbers with commas are needed, such as 0,2,4") from None


def _echo_variant(variant: Variant, close: str) -> None:
    quality = variant.quality
    line = f"{variant.name:<18} {quality['bytes'] / 1e6:7.1f} MB  {close}"
    gate = quality.get("gate")
    if gate is not None:
        line += f"; mean AP {percent(gate['mean_ap'])} ({percent(gate['mean_ap_loss'])} lost)"
        line += f", nDCG@10 {percent(gate['ndcg_at_10'])} ({percent(gate['ndcg_at_10_loss'])} lost)"
        line += f", levels changed {gate['level_changes']:.1%}"
    echo(line)


def _echo_cuts(bundle: Bundle) -> None:
    cuts = bundle.provenance.get("cuts", {})
    vocabulary = cuts.get("vocabulary")
    if vocabulary:
        echo(
            f"vocabulary: {vocabulary['pieces_before']:,} -> {vocabulary['pieces']:,} pieces, "
            f"{vocabulary['unknown_share']:.4%} of the corpus's tokens unknown"
        )
    if "before" in cuts:
        before, after = cuts["before"], cuts["after"]
        echo(
            f"cut, fp32: {before['bytes'] / 1e6:.1f} -> {after['bytes'] / 1e6:.1f} MB, mean AP "
            f"{percent(before['mean_ap'])} -> {percent(after['mean_ap'])}, nDCG@10 "
            f"{percent(before['ndcg_at_10'])} -> {percent(after['ndcg_at_10'])}"
        )
