"""Training throughput beside sentence-transformers' trainer: same model, pairs, batch, precision, threads.

Run by `make train-speed`; needs the folder of real data and the extra `peers`. Both train InfoNCE with
in-batch negatives (its MultipleNegativesRankingLoss) on the positive pairs, in turn, a few steps each.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback

from bench.harness.machine import machine_record
from relsdk.files.folders import write_file_atomically
from relsdk.formats import read_pairs
from relsdk.records import LabelledPair
from relsdk_checkpoint.encoder import TextEncoder
from relsdk_training.config.settings import LossConfig, OptimiserConfig, RunConfig
from relsdk_training.data.lessons import label_targets
from relsdk_training.data.pairs import pair_arrays
from relsdk_training.engine.loop import train
from relsdk_training.objectives.embedding import EmbeddingObjective

MAX_TOKENS = 64
PLAIN = LossConfig(weighting="binary", self_contrast=False, mask_margin=-1.0)
Times = list[float]  # seconds a pair, one number a step


@click.command()
@click.option("--shared", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", default=4, show_default=True)
@click.option("--steps", default=6, show_default=True, help="Of each round; the first is not counted.")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(shared: Path, output: Path, rounds: int, steps: int, batch_size: int, threads: int) -> None:
    """Measure pairs a second."""
    torch.set_num_threads(threads)
    checkpoint = shared / "models/me5-small-zh"
    pairs = [pair for pair in read_pairs(shared / "data/kuake_qtr/train.jsonl") if int(pair.level) >= 1]
    runners: dict[str, _Peer | _Ours] = {
        "sentence-transformers": _Peer(checkpoint, pairs, steps, batch_size),
        "relsdk, no query twice in a batch": _Ours(checkpoint, pairs, steps, batch_size, group=False),
        "relsdk, queries kept together": _Ours(checkpoint, pairs, steps, batch_size, group=True),
    }
    precisions = {str(p.dtype) for runner in runners.values() for p in runner.module.parameters()}
    if len(precisions) > 1:
        raise click.ClickException(f"the models are in {sorted(precisions)}; their speed cannot be compared")
    times: dict[str, Times] = {name: [] for name in runners}
    for number in range(rounds):
        for name, run in list(runners.items())[:: 1 if number % 2 == 0 else -1]:
            times[name] += run(number)
            click.echo(f"round {number}  {name}  {1 / np.median(times[name]):.1f} pairs/s", err=True)
    peer = float(np.median(times["sentence-transformers"]))
    result = {
        "machine": machine_record(),
        "threads": threads,
        "precision": precisions.pop(),
        "batch_size": batch_size,
        "max_tokens": MAX_TOKENS,
        "runs": {
            name: {
                "steps": len(found),
                "pairs_per_second_p50": round(1 / float(np.median(found)), 2),
                "speed_to_sentence_transformers": round(peer / float(np.median(found)), 3),
            }
            for name, found in times.items()
        },
    }
    write_file_atomically(output, json.dumps(result, indent=1) + "\n")
    click.echo(json.dumps(result["runs"], indent=1))


class _Peer:
    """sentence-transformers' trainer, as its documentation uses it."""

    def __init__(self, checkpoint: Path, pairs: Sequence[LabelledPair], steps: int, batch_size: int) -> None:
        self.model = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
        self.model.float()  # it takes over a checkpoint's half precision, which is slower on a CPU
        self.model.max_seq_length = MAX_TOKENS
        self.data = Dataset.from_dict(
            {"anchor": [p.query for p in pairs], "positive": [p.document.title for p in pairs]}
        )
        self.steps, self.batch_size = steps, batch_size
        self.module: torch.nn.Module = self.model

    def __call__(self, seed: int) -> Times:
        clock = _Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = SentenceTransformerTrainingArguments(
                output_dir=folder,
                max_steps=self.steps,
                per_device_train_batch_size=self.batch_size,
                learning_rate=1e-5,
                prompts={"anchor": "query: ", "positive": "passage: "},
                seed=seed,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            SentenceTransformerTrainer(
                model=self.model,
                args=arguments,
                train_dataset=self.data,
                loss=MultipleNegativesRankingLoss(self.model),
                callbacks=[clock],
            ).train()
        return [seconds / self.batch_size for seconds in clock.times[1:]]


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times: Times = []
        self._last = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self._last:
            self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.times.append(now - self._last)
        self._last = now  # fetching the next batch belongs to the next step


class _Ours:
    """Our loop on the same pairs; dropout as in the checkpoint, as the peer has it."""

    def __init__(
        self, checkpoint: Path, pairs: Sequence[LabelledPair], steps: int, batch_size: int, *, group: bool
    ) -> None:
        few = pair_arrays(pairs[:20])  # dev is not what is timed
        self.run = RunConfig(
            batch_size=batch_size, max_steps=steps, evaluate_every=10**9, group=group, precision="fp32"
        )
        encoder = TextEncoder.load(checkpoint, max_tokens=MAX_TOKENS)
        self.objective = EmbeddingObjective(encoder, label_targets(pair_arrays(pairs)), few, PLAIN, self.run)
        self.module = self.objective.module

    def __call__(self, seed: int) -> Times:
        times: Times = []
        last = 0.0
        sizes = [len(batch) for batch in self.objective.batches(0)]

        def on_step(step: int, steps: int, statistics: dict[str, float]) -> None:
            nonlocal last
            now = time.perf_counter()
            if last:
                times.append((now - last) / sizes[step - 1])
            last = now

        with tempfile.TemporaryDirectory() as folder:
            run = RunConfig(**{**vars(self.run), "output": folder, "seed": seed})
            train(
                self.objective,
                OptimiserConfig(learning_rate=1e-5),
                run,
                metric="mean_ap",
                identity="speed",
                about={},
                on_step=on_step,
            )
        return times


if __name__ == "__main__":
    main()
