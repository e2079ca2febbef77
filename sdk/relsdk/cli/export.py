"""`relsdk export`: checkpoints to bundles."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from relsdk.cli.output import echo_json
from relsdk.formats import read_documents, read_pairs
from relsdk.records import Document

__all__ = ["export"]


@click.group()
def export() -> None:
    """Make a bundle from a checkpoint (needs relsdk[export])."""


@export.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--variant", "variants", multiple=True, help="fp32, int8_avx2, int8_avx512_vnni [default: all]."
)
@click.option("--vocabulary-from", "corpus", help="Cut the vocabulary to what these documents need.")
@click.option("--pairs", help="Labelled pairs: leave out variants that rank or grade worse than fp32.")
@click.option("--max-ap-loss", type=float, default=0.003, show_default=True, help="With --pairs: mean AP.")
@click.option("--max-ndcg-loss", type=float, default=0.002, show_default=True, help="With --pairs: nDCG@10.")
@click.option(
    "--max-level-changes", type=float, default=0.015, show_default=True, help="With --pairs: share of pairs."
)
@click.option(
    "--exporter",
    type=click.Choice(["torch", "optimum"]),
    default="torch",
    show_default=True,
    help="What writes the fp32 graph; optimum needs relsdk[optimum] in a virtual environment of its own.",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def encoder(
    checkpoint: Path,
    bundle: Path,
    variants: tuple[str, ...],
    corpus: str | None,
    pairs: str | None,
    max_ap_loss: float,
    max_ndcg_loss: float,
    max_level_changes: float,
    exporter: Literal["torch", "optimum"],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export the encoder CHECKPOINT to BUNDLE: fp32 and int8 ONNX, checked against the checkpoint."""
    from relsdk_export.encoder import DEFAULT_VARIANTS, export_encoder
    from relsdk_export.quality import QualityBudget

    started = time.perf_counter()
    made = export_encoder(
        checkpoint,
        bundle,
        variants=variants or DEFAULT_VARIANTS,
        vocabulary_from=None if corpus is None else _texts(corpus),
        pairs=[] if pairs is None else list(read_pairs(pairs)),
        quality_budget=QualityBudget(max_ap_loss, max_ndcg_loss, max_level_changes),
        exporter=exporter,
        overwrite=overwrite,
        on_step=lambda step: click.echo(f"{time.perf_counter() - started:6.1f} s  {step}", err=True),
    )
    if as_json:
        echo_json({**asdict(made), "path": str(made.path)})
        return
    vocabulary = made.provenance.get("vocabulary")
    if vocabulary:
        click.echo(
            f"vocabulary: {vocabulary['pieces_before']:,} -> {vocabulary['pieces']:,} pieces, "
            f"{vocabulary['unknown_share']:.4%} of the corpus's tokens unknown"
        )
    for variant in made.variants:
        quality = variant.quality
        parity = quality["parity"]
        click.echo(
            f"{variant.name:<18} {quality['bytes'] / 1e6:7.1f} MB  cosine to the checkpoint: "
            f"mean {parity['mean_cosine']:.4f}, worst {parity['min_cosine']:.4f}" + _gate(quality.get("gate"))
        )
    click.echo(
        f"next: relsdk calibrate {bundle} PAIRS, then relsdk index build INDEX --model {bundle} --input DOCS"
    )


def _gate(gate: dict[str, float] | None) -> str:
    if gate is None:
        return ""
    return (
        f"; mean AP {gate['mean_ap']:.4f} ({-gate['mean_ap_loss']:+.4f}), nDCG@10 {gate['ndcg_at_10']:.4f} "
        f"({-gate['ndcg_at_10_loss']:+.4f}), levels changed {gate['level_changes']:.1%}"
    )


def _texts(corpus: str) -> Iterator[str]:
    document: Document
    for document in read_documents(corpus):
        yield f"{document.title} {document.text}".strip()
