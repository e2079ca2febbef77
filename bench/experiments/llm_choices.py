"""How best to learn from a language model's answers, chosen on dev: `make llm-real`.

Every row of `bench/results/llm_choices.json` is the study's own (`bench/experiments/llm_labels.py`) as it was
before the choice, with one setting changed. Test is never read. Without labels the last step counts, as
there; here its encoder is measured on dev all the same.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click

from bench.experiments.graded_pairs import add_to, read_rows
from bench.experiments.llm_labels import AS_IT_IS, CORRECTED, made_row, measured, study
from bench.experiments.llm_labels_report import pooled_interval, unpack
from bench.experiments.rows import row_key, row_name, study_of, study_options
from bench.experiments.ssra_report import markdown
from relsdk.files.folders import write_file_atomically
from relsdk_training.data.pairs import PairArrays, load_pairs, pair_arrays

FIRST = "all count alike, human labels last: 30 %"
_FIRST_SETTINGS = ["data.written_weight=1", "data.human_last=0.3"]
# name -> settings of the run, settings of its loss
CHOICES: dict[str, tuple[list[str], dict[str, float]]] = {
    FIRST: ([], {}),
    "list-wise Wasserstein, weight 1": ([], {"wasserstein": 1.0}),
    "soft ordinal, weight 1": ([], {"ordinal": 1.0}),
    "grades count half": (["data.weak_weight=0.5"], {}),
    "written queries count half": (["data.written_weight=0.5"], {}),
    "human labels last: 15 %": (["data.human_last=0.15"], {}),
    "human labels last: 50 %": (["data.human_last=0.5"], {}),
}


@click.command()
@study_options
@click.option("--budget", "budgets", multiple=True, type=int, default=(500, 0), show_default=True)
@click.option("--steps", default=200, show_default=True, help="Of every encoder's training.")
@click.option("--seed", default=0, show_default=True)
def main(
    shared: Path,
    output: Path,
    work: Path,
    budgets: tuple[int, ...],
    steps: int,
    seed: int,
    overrides: tuple[str, ...],
) -> None:
    """Run what has no row yet."""
    dev = pair_arrays(load_pairs(str(shared / "data/kuake_qtr/dev.jsonl")))
    backbone = shared / "models/me5-small-zh"
    for budget, (name, (settings, loss)) in product(budgets, CHOICES.items()):
        if not budget and any(setting.startswith("data.human_last") for setting in settings):
            continue
        key = row_key(name, budget, steps, seed)
        if key in read_rows(output):
            continue
        click.echo(key, err=True)
        base = CORRECTED if budget else AS_IT_IS
        folder = work / f"llm_{budget}_{steps}_{seed}" / name.replace(" ", "_").replace(",", "")
        common = [*study(shared, backbone, budget, steps, seed), *overrides]
        if budget:
            common += _FIRST_SETTINGS
        row = made_row(base, [*common, *settings], shared / "data/llm", folder, backbone, loss)
        add_to(output, key, measured(row, "dev", dev, seed), partial(write_report, dev=dev))


def write_report(rows: dict[str, Any], path: Path, *, dev: PairArrays) -> None:
    """Write a table of each budget.

    Args:
        rows: Of the JSON, by key.
        path: Markdown file.
        dev: The pairs that the rows' cosines are of.
    """
    parts = [
        "# How best to learn from a language model's answers, by dev",
        "KUAKE-QTR dev, percent, one seed; test was not read. With labels: corrected grades, written queries "
        "and human labels; without, grades and written queries as they are. Each row but the first changes "
        "one setting. Intervals: a bootstrap over queries, 95 %. Written by `make llm-real`; settings and "
        "versions are in the JSON.",
    ]
    for budget, steps in sorted({study_of(key) for key in rows}):
        of = {key: row for key, row in rows.items() if study_of(key) == (budget, steps)}
        parts += [f"## {budget:,} labels, {steps:,} steps", markdown(*_table(of, dev))]
    write_file_atomically(path, "\n\n".join(parts) + "\n")


def _table(rows: dict[str, Any], dev: PairArrays) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return header and lines, beside the first settings."""
    own = next((row for key, row in rows.items() if row_name(key) == FIRST), None)
    lines = []
    for key, row in rows.items():
        shares = [f"{100 * row['dev'][measure]:.2f}" for measure in ("mean_ap", "ndcg_at_10")]
        against = ""
        if own is not None and row is not own:
            both = [(unpack(own["cosines"]), unpack(row["cosines"]))]
            mean, low, high = (100 * value for value in pooled_interval(dev, both, "mean_ap"))
            against = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append([row_name(key), *shares, str(row.get("best_step", "-")), against])
    return ("setting", "mean AP", "nDCG@10", "best step", "mean AP - the first's"), lines


if __name__ == "__main__":
    main()
