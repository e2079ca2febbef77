"""The numbers of README and docs/, and docs/cli.md, generated from the committed results and the commands.

`--write` puts them in, `--check` fails when one is stale.
A generated part stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from bench.experiments.rows import row_name, study_of
from bench.pages.cli_page import cli_page
from bench.pages.export_time import export_table
from bench.pages.few_sample import few_table
from bench.pages.hybrid import hybrid_table
from bench.pages.index_int8 import int8_table
from bench.pages.living_index import filter_uses, living_index_parts
from bench.pages.native_engine import native_engine_table
from bench.pages.peers import peers_parts
from bench.pages.scale import scale_parts
from bench.pages.serve import serve_parts
from bench.pages.settings_page import few_settings, ssra_settings, training_settings
from relsdk.index import IndexConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/zh/README.md",
    "docs/benchmarks.md",
    "docs/export.md",
    "docs/scale.md",
    "docs/searching.md",
    "docs/training.md",
    "docs/ssra.md",
)
CLI_PAGE = "docs/cli.md"
RESULTS = ROOT / "bench/results"
TOWER = "query tower, 2 layers"
STATIC = "query tower, static"
TAUGHT = "score categorical, taught by an encoder and two score models"


@click.command()
@click.option("--write", is_flag=True, help="Replace the generated parts.")
@click.option("--check", is_flag=True, help="Fail when a part is not what the results say.")
def main(write: bool, check: bool) -> None:
    """Generate README's numbers."""
    results = committed()
    stale = []
    for name in (*PAGES, CLI_PAGE):
        path = ROOT / name
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = cli_page() if name == CLI_PAGE else fill(before, blocks(*results))
        if before != after:
            stale.append(name)
            if write:
                path.write_text(after, encoding="utf-8")
    if check and stale:
        click.echo(
            f"{', '.join(stale)}: not what bench/results and the commands say; run: "
            "python -m bench.pages.readme --write"
        )
        sys.exit(1)
    click.echo("README's numbers are those of bench/results" if not stale or write else f"stale: {stale}")


def committed() -> list[Any]:
    """Read the results that the pages show, in the order of the parameters of `blocks`.

    Those of `make demo-train` and `make bench-scale` may be missing: their parts stay as they are then.
    """
    names = (
        "latency",
        "real",
        "train",
        "student_latency",
        "suites",
        "ssra",
        "pool",
        "million",
        "hybrid",
        "index",
        "index_int8",
        "serve",
        "export_time",
        "native_engine",
    )
    paths = [RESULTS / f"{name}.json" for name in (*names, "few_sample", "scale")]
    return [json.loads(path.read_text()) if path.is_file() or path.stem in names else None for path in paths]


def fill(page: str, parts: dict[str, str]) -> str:
    """Replace the parts of a page by name; a part the page does not have is left out."""
    for name, text in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = pattern.sub(lambda match, text=text: match[1] + text + match[2], page)
    return page


def blocks(
    latency: dict[str, Any],
    real: dict[str, Any],
    train: dict[str, Any],
    students: dict[str, Any],
    suites: dict[str, Any],
    ssra: dict[str, Any],
    pool: dict[str, Any],
    million: dict[str, Any],
    hybrid: dict[str, Any],
    index: dict[str, Any],
    int8: dict[str, Any],
    serve: dict[str, Any],
    export_time: dict[str, Any],
    native_engine: dict[str, Any],
    few: dict[str, Any] | None = None,
    scale: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Return every generated part."""
    timed = {entry["name"]: entry for entry in latency["benchmarks"]}
    return {
        "numbers": _numbers(students, index),
        "numbers-zh": _numbers_zh(train, students, index),
        "gain": _gain_table(train),
        "latency": _latency_table(timed, latency["machine"]),
        "quality": _quality_table(real),
        "training": _training_table(train, students),
        "ssra": _ssra_table(ssra),
        "pool": _pool_table(pool),
        "hybrid": hybrid_table(hybrid),
        "index-int8": int8_table(int8),
        "export-time": export_table(export_time),
        "native-engine": native_engine_table(native_engine),
        "demo": _first_answers(_verbatim("demo.txt")),
        "example": _verbatim("example.txt"),
        **peers_parts(suites, million),
        **living_index_parts(index),
        **serve_parts(serve),
        **scale_parts(scale),
        **({} if few is None else {"few-sample": few_table(few)}),
        "settings": training_settings(),
        "ssra-settings": ssra_settings(),
        "few-settings": few_settings(),
    }


def _numbers(students: dict[str, Any], index: dict[str, Any]) -> str:
    tower = students["models"][TOWER]["query_p50_ms"]
    cold, warm, _ = filter_uses(index)
    return (
        f"- **Fast on a CPU.** One thread encodes a query in {tower:.2f} ms with a two-layer query tower; a "
        f"new filter over a million documents takes {warm:.1f} ms warm, {cold:.0f} ms cold, search "
        "included.\n"
        "- **Levels, not only scores.** Every hit has a level and calibrated probabilities, so a page can "
        "leave out what does not help.\n"
        "- **Runs anywhere.** Serving needs no torch and no network; a pretrained encoder comes from a PyPI "
        "mirror, and training on your own graded pairs makes a better one.\n"
    )


def _numbers_zh(train: dict[str, Any], students: dict[str, Any], index: dict[str, Any]) -> str:
    tower, encoder = (students["models"][name]["query_p50_ms"] for name in (TOWER, "embed"))
    fresh, first, again = filter_uses(index)
    ap, ndcg = (
        [f"{100 * _mean(train, name, key):.2f}" for name in ("untrained", "embed", TOWER)]
        for key in ("mean_ap", "ndcg_at_10")
    )
    return (
        f"- **CPU 上很快。** 单线程编码一条查询：两层查询塔 {tower:.2f} 毫秒，"
        f"完整的 int8 编码器 {encoder:.1f} 毫秒。在一百万个文档中按条件检索（留下百分之一）："
        f"{again:.1f} 毫秒，条件首次使用 {first:.1f} 毫秒，进程未预热时 {fresh:.0f} 毫秒。\n"
        "- **给出档位，而不只是分数。** 每条结果都有档位和校准过的概率，没有用的结果可以不展示。\n"
        "- **训练有效。** KUAKE-QTR 测试集：预训练编码器的平均 AP 为 "
        f"{ap[0]}，用 17,885 对标注训练后为 {ap[1]}，查询改用两层塔为 {ap[2]}；"
        f"nDCG@10 依次为 {ndcg[0]}、{ndcg[1]}、{ndcg[2]}。\n"
        "- **随处可用。** 推理不需要 torch，也不需要联网；预训练编码器来自 PyPI 镜像。\n"
    )


def _gain_table(train: dict[str, Any]) -> str:
    """What training gives, for README: three rows of `_training_table`."""
    labels = {
        "untrained": "pretrained encoder",
        "embed": "trained on 17,885 graded pairs",
        TOWER: "the same, queries by a two-layer tower",
    }
    lines = ["| KUAKE-QTR, test | mean AP | nDCG@10 |", "|---|---|---|"]
    for name, label in labels.items():
        points = " | ".join(f"{100 * _mean(train, name, key):.2f}" for key in ("mean_ap", "ndcg_at_10"))
        lines.append(f"| {label} | {points} |")
    return "\n".join(lines) + "\n"


def _mean(train: dict[str, Any], name: str, measure: str) -> float:
    """Return a test measure of a run, the mean over the seeds there are."""
    found = [row["test"][measure] for row in _runs(train, name) if measure in row["test"]]
    return sum(found) / len(found)


def _runs(train: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for key, row in train.items() if key == name or key.startswith(f"{name} / seed")]


def _latency_table(timed: dict[str, Any], machine: dict[str, Any]) -> str:
    rows = {
        "encode one query, int8": "test_single_query[int8]",
        "encode one query, fp32": "test_single_query[fp32]",
        "search 20,000 x 384, default effort": f"test_search[{IndexConfig.ef_search}]",
        "search 20,000 x 384, exact": "test_search[exact]",
        "text in, ten of 5,000 documents out, int8": "test_whole_query[int8]",
    }
    lines = ["| one thread | p50 ms | p95 ms | p99 ms | recall@10 |", "|---|---|---|---|---|"]
    for label, name in rows.items():
        entry = timed[name]
        times = " | ".join(f"{entry[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        recall = f"{entry['recall_at_10']:.3f}" if "recall_at_10" in entry else ""
        lines.append(f"| {label} | {times} | {recall} |")
    return "\n".join(lines) + f"\n\n{machine['cpu']}, {machine['date']}; `make bench` measures yours.\n"


def _quality_table(real: dict[str, Any]) -> str:
    lines = [
        "| file | MB | AP>=1 | AP>=2 | AP=3 | mean AP | nDCG@10 | accuracy | QWK | ECE |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in _by_variant(real).items():
        order, levels = entry["ranking"], entry["grading"]
        points = " | ".join(
            f"{order[key] * 100:.2f}" for key in ("ap_1", "ap_2", "ap_3", "mean_ap", "ndcg_at_10")
        )
        grades = " | ".join(f"{levels[key]:.3f}" for key in ("accuracy", "qwk", "ece"))
        lines.append(f"| {name} | {real['variants'][name]['bytes'] / 1e6:.0f} | {points} | {grades} |")
    return "\n".join(lines) + "\n"


def _training_table(train: dict[str, Any], students: dict[str, Any]) -> str:
    """Test measures of the runs that a user would repeat, each the mean over the seeds there are."""
    times = {name: found["query_p50_ms"] for name, found in students["models"].items()}
    labels = {
        "untrained": "pretrained encoder",
        "embed": "encoder, `train embed`",
        TOWER: "queries by a 2-layer tower, `train distill`",
        STATIC: "queries by a static tower, the same",
        "score categorical": "score model, `train score`",
        TAUGHT: "score model, taught by the encoder and two such",
    }
    header = ("17,885 graded pairs", "seeds", "mean AP", "nDCG@10", "accuracy", "one query, int8, p50 ms")
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name, label in labels.items():
        runs = _runs(train, name)
        if not runs:
            continue
        points = (
            f"{100 * _mean(train, name, key):.2f}" if key in runs[0]["test"] else ""
            for key in ("mean_ap", "ndcg_at_10", "accuracy")
        )
        time = f"{times[name]:.2f}" if name in times else ""
        lines.append(f"| {label} | {len(runs)} | {' | '.join(points)} | {time} |")
    return "\n".join(lines) + "\n"


def _pool_table(pool: dict[str, Any]) -> str:
    """Test measures of each model alone and of both: means over the seeds there are."""
    rows = [row["test"] for row in pool.values()]
    lines = [
        "| served, int8 | seeds | mean AP | nDCG@10 | accuracy | QWK | log loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in rows[0]:
        mean = {key: sum(row[name][key] for row in rows) / len(rows) for key in rows[0][name]}
        percents = " | ".join(f"{100 * mean[key]:.2f}" for key in ("mean_ap", "ndcg_at_10", "accuracy"))
        lines.append(f"| {name} | {len(rows)} | {percents} | {mean['qwk']:.3f} | {mean['log_loss']:.3f} |")
    return "\n".join(lines) + "\n"


def _ssra_table(ssra: dict[str, Any]) -> str:
    """Test measures at 2,000 labels and the most steps: means over the seeds there are, best first."""
    steps = max(study_of(key)[1] for key in ssra if study_of(key)[0] == _LABELS)
    runs: dict[str, list[dict[str, float]]] = {}
    for key, row in ssra.items():
        if study_of(key) == (_LABELS, steps):
            runs.setdefault(row_name(key), []).append(row["test"])
    means = {
        name: [100 * sum(run[key] for run in found) / len(found) for key in ("mean_ap", "ndcg_at_10")]
        for name, found in runs.items()
    }
    lines = [
        f"| {_LABELS:,} labels, middle levels cut to 4.5 %, {steps:,} steps | seeds | mean AP | nDCG@10 |",
        "|---|---|---|---|",
    ]
    for name, (ap, ndcg) in sorted(means.items(), key=lambda item: -item[1][0]):
        lines.append(f"| {name} | {len(runs[name])} | {ap:.2f} | {ndcg:.2f} |")
    return "\n".join(lines) + "\n"


_LABELS = 2000


def _verbatim(name: str) -> str:
    return f"```\n{(RESULTS / name).read_text(encoding='utf-8').strip(chr(10))}\n```\n"


def _first_answers(demo: str) -> str:
    """Keep the first three answers to the demo's first query."""
    answers = next(part for part in demo.split("\n\n") if "\n1  0." in part)
    return "```\n" + "\n".join(answers.strip("\n").splitlines()[:5]) + "\n```\n"


def _by_variant(real: dict[str, Any]) -> dict[str, Any]:
    return {entry["variant"]: entry for entry in real["evaluation"]}


if __name__ == "__main__":
    main()
