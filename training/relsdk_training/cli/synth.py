"""`relsdk synth`: look at what an SSRA run made."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from relsdk.cli.options import json_option
from relsdk.cli.output import bar, clip, echo, echo_json, echo_table
from relsdk.errors import InputError

__all__ = ["synth"]


@click.group()
def synth() -> None:
    """Look at what relsdk train ssra made (needs relsdk[train])."""


@synth.command(epilog="Example: relsdk synth inspect runs/ssra --stage annotate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--stage", "name", help="As 05-annotate or annotate [default: the last that dropped any].")
@click.option("--per-level", default=5, show_default=True, help="Kept and dropped examples of each level.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of examples.")
@json_option
def inspect(run: Path, name: str | None, per_level: int, seed: int, as_json: bool) -> None:
    """Show a stage of the folder RUN: counts, shares for each level, random kept and dropped pairs."""
    from relsdk_training.ssra.pair_records import has_records, read_records
    from relsdk_training.ssra.stage_report import stage_report
    from relsdk_training.ssra.stage_runner import read_stages

    stage = _choose([stage for stage in read_stages(run) if has_records(stage.folder)], name)
    report = stage_report(read_records(stage.folder), examples=per_level, seed=seed)
    if as_json:
        echo_json({"stage": stage.name, "seconds": stage.seconds, **report})
        return
    _echo_counts(stage, report)
    echo()
    _echo_levels(report)
    if any(map(any, (samples.values() for samples in report["examples"]))):
        echo()
        _echo_examples(report)


@synth.command(epilog="Example: relsdk synth report runs/ssra")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Markdown [default: RUN/report.md].")
def report(run: Path, output: Path | None) -> None:
    """Write what the folder RUN holds as Markdown with pictures: levels, stages, losses, examples."""
    from relsdk_training.ssra.run_report import write_report

    echo(write_report(run, output or run / "report.md"))


def _choose(stages: Sequence[Any], name: str | None) -> Any:
    """The `Stage` of that name, with or without its number."""
    if not stages:
        raise InputError("no stage has made records yet; go on with: relsdk train ssra CONFIG.toml")
    if name is None:
        return ([stage for stage in stages if stage.report.get("dropped_because")] or stages)[-1]
    found = [stage for stage in stages if name in (stage.name, stage.name.partition("-")[2])]
    if len(found) != 1:
        which = "several stages" if found else "no stage with records"
        names = ", ".join(stage.name for stage in found or stages)
        raise InputError(f"{which} of this run is named {name!r}; choose one of {names}")
    return found[0]


def _echo_counts(stage: Any, report: Mapping[str, Any]) -> None:
    length, scripts = report["query_length"], report["scripts"]
    dropped = ", ".join(f"{reason} {number}" for reason, number in report["dropped_because"].items())
    echo(
        f"{stage.name}: {report['total']} records, {report['kept']} kept, dropped: {dropped or 'none'}; "
        f"{stage.seconds:.1f} s"
    )
    echo("sources: " + ", ".join(f"{name} {sum(of)}" for name, of in report["sources"].items()))
    echo(
        f"queries: {report['queries']}, duplicates {_percent(report['duplicate_rate'])}, "
        f"equal to the title {_percent(report['echo_share'])}, "
        + ", ".join(f"with {name} {_percent(share)}" for name, share in scripts.items())
    )
    if report["queries"]:
        echo(f"characters: mean {length['mean']:.1f}, median {length['p50']}, 95% {length['p95']}")


def _echo_levels(report: Mapping[str, Any]) -> None:
    rows = [
        [
            str(row["level"]),
            str(row["total"]),
            str(row["kept"]),
            _percent(row["kept_share"]),
            _percent(agreement),
            *map(str, counts),
        ]
        for row, agreement, counts in zip(
            report["levels"], report["agreement"], report["confusion"], strict=True
        )
    ]
    header = ["level", "records", "kept", "share", "as wanted", *(f"predicted {level}" for level in range(4))]
    echo_table(header, rows, right=range(1, len(header)))


def _echo_examples(report: Mapping[str, Any]) -> None:
    rows = []
    for level, samples in enumerate(report["examples"]):
        for record in samples["kept"] + samples["dropped"]:
            document, probabilities = record["document"], record["probabilities"]
            fate = "kept" if record["kept"] else record["dropped_because"]
            pair = f"{record['query']} → {document['title']} | {document['text'][:200]}"
            rows.append(
                [
                    str(level),
                    fate,
                    bar(probabilities) if probabilities else "-",
                    " ".join(f"{p:.2f}" for p in probabilities) or "-",
                    _printable(clip(pair, 60)),
                ]
            )
    echo_table(["level", "fate", "probabilities", "0, 1, 2, 3", "query → document"], rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _printable(text: str) -> str:
    """A text whose control characters cannot act on the terminal."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in text)
