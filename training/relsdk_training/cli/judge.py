"""`relsdk judge`: pairs graded by a language model."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from relsdk.cli.inputs import input_options
from relsdk.cli.options import json_option
from relsdk.cli.output import counted, echo, echo_json, echo_next
from relsdk.errors import InputError
from relsdk.files.folders import check_file_target
from relsdk.formats import read_pairs
from relsdk.progress import Progress

__all__ = ["echo_cost", "is_interactive", "judge", "price_option"]


def _check_price(
    context: click.Context, option: click.Parameter, price: tuple[float, float] | None
) -> tuple[float, float] | None:
    if price and not all(0 <= each < math.inf for each in price):
        raise InputError(f"--price {price[0]} {price[1]}; two numbers from 0 on are needed")
    return price


price_option = click.option(
    "--price",
    nargs=2,
    type=float,
    metavar="IN OUT",
    callback=_check_price,
    help="Of a million tokens that are sent and answered, to tell the cost.",
)


@click.command(
    epilog="Example: relsdk judge pairs.jsonl --endpoint http://localhost:8000/v1 --model qwen "
    "--rubric rubric.txt -o grades.jsonl"
)
@click.argument("pairs")
@click.option("--endpoint", "url", metavar="URL", default="", help="OpenAI-compatible, up to /v1.")
@click.option("--model", required=True, help="Name of the model there.")
@click.option("--key-env", metavar="VARIABLE", default="", help="Environment variable that holds the key.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for an answer.")
@click.option(
    "--at-once",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Questions that wait for an answer at the same time.",
)
@click.option("--rubric", metavar="FILE", default="", help="What 0-3 mean for you [default: relsdk's words].")
@click.option("--examples", metavar="PAIRS", help="Labelled pairs of which four of each level are shown.")
@click.option(
    "--samples", default=1, show_default=True, help="Answers a pair; their shares are probabilities."
)
@click.option(
    "--limit", type=click.IntRange(min=0), default=0, help="Grade the first so many [default: all]."
)
@click.option(
    "--record",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep the answers here as they come [default: beside GRADES].",
)
@click.option(
    "--replay",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take all answers from here; ask nobody.",
)
@price_option
@click.option("--yes", is_flag=True, help="Do not ask on a terminal whether to go on.")
@click.option(
    "--output", "-o", metavar="GRADES", required=True, type=click.Path(path_type=Path), help="JSON lines."
)
@click.option("--overwrite", is_flag=True, help="Replace GRADES.")
@input_options
@json_option
def judge(
    pairs: str,
    url: str,
    model: str,
    key_env: str,
    timeout: float,
    at_once: int,
    rubric: str,
    examples: str | None,
    samples: int,
    limit: int,
    record: Path | None,
    replay: Path | None,
    price: tuple[float, float] | None,
    yes: bool,
    output: Path,
    overwrite: bool,
    as_json: bool,
    reading: dict[str, Any],
) -> None:
    """Grade PAIRS (query, title, text) by a language model: level, probabilities, reason.

    What it will take is said first. A label in PAIRS is not shown to the model, and kept as human_label. Each
    answer is kept as it comes, in GRADES with the ending .recording.jsonl or where --record says: when the
    command was stopped, the same command goes on, and pays for nothing twice. GRADES are pairs for data.weak
    of a training; relsdk eval --judge says how far they can be believed.
    """
    from relsdk_training.judge.grader import EndpointGrader
    from relsdk_training.judge.grades import count_cost, grade_pairs, read_ungraded, without_pairs
    from relsdk_training.query_models.chat_endpoint import ChatEndpoint
    from relsdk_training.query_models.rubric import read_rubric

    check_file_target(output, overwrite=overwrite)
    if record is None and replay is None:
        record = _recording_of(output)
    _check_files(
        output,
        {"--record": record, "--replay": replay, "PAIRS": pairs, "--examples": examples, "--rubric": rubric},
    )
    ungraded = read_ungraded(pairs, limit=limit, reading=reading)
    shown = without_pairs(read_pairs(examples), ungraded) if examples else []
    if examples and not shown:
        raise InputError(f"all examples of {examples} are among the pairs to grade; name others")
    grader = EndpointGrader(
        ChatEndpoint(
            url,
            model,
            api_key_env=key_env,
            timeout=timeout,
            at_once=at_once,
            record=record or "",
            replay=replay or "",
        ),
        rubric=read_rubric(rubric),
        examples=shown,
        samples=samples,
    )
    if replay is None:
        cost = count_cost(grader, ungraded)
        echo_cost(cost, model, samples, price)
        if cost.questions and not yes and is_interactive() and not click.confirm("Go on?", err=True):
            echo("nothing was asked", err=True)
            return
    with Progress() as progress:
        grading = grade_pairs(
            grader, ungraded, output, on_progress=lambda done, total: progress("judge", done, total)
        )
    if as_json:
        echo_json({"grades": str(output), "recording": str(record or replay), **asdict(grading)})
        return
    levels = ", ".join(f"{count:,} with level {level}" for level, count in enumerate(grading.levels))
    echo(f"graded {sum(grading.levels):,} of {counted(grading.pairs, 'pair')}: {levels}; {output}")
    if grading.without_opinion:
        echo(f"left out, as no answer names one level: {counted(grading.without_opinion, 'pair')}", err=True)
    if grading.human_labels:
        echo_next("eval --judge", output)


def _check_files(output: Path, others: Mapping[str, str | Path | None]) -> None:
    """Check that grades are written where they can be read again, and nothing else is replaced by them."""
    if output.exists() and not output.is_file():
        return  # a pipe or a device
    plain = output.with_suffix("") if output.suffix.lower() == ".gz" else output
    if plain.suffix.lower() not in (".jsonl", ".ndjson", ".json"):
        raise InputError(
            f"{output}: grades are JSON lines; end their name with .jsonl, .jsonl.gz, .ndjson or .json"
        )
    for name, other in others.items():
        if other and os.path.realpath(other) == os.path.realpath(output):
            raise InputError(f"{output} is to hold the grades and is {name} too; name another file for one")


def _recording_of(output: Path) -> Path:
    """Return where the answers for a file of grades are kept."""
    if output.exists() and not output.is_file():
        raise InputError(f"{output} is no regular file; say with --record where the answers shall be kept")
    name = output.name.removesuffix(".gz")
    return output.with_name(name).with_suffix(".recording.jsonl")


def echo_cost(cost: Any, model: str, samples: int, price: tuple[float, float] | None) -> None:
    """Say what will be asked; nothing is known of the model's tokens, so they are estimated."""
    done = cost.pairs - cost.questions
    answers = "" if samples == 1 else f", {samples} answers each"
    known = f" ({done:,} of {cost.pairs:,} need none)" if done else ""
    money = f", about {cost.price(*price):,.2f} at that price" if price else ""
    echo(
        f"{model}: {counted(cost.questions, 'question')}{known}{answers}; estimated from characters, "
        f"{cost.tokens_in:,} tokens in and {cost.tokens_out:,} out{money}",
        err=True,
    )


def is_interactive() -> bool:
    """Whether somebody sits at a terminal who can answer."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
