"""The stages of an SSRA run, from labelled pairs and unlabelled text to a better encoder: what follows what.

What each of them does is in `relsdk_training.ssra.work`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from relsdk_training.config.ssra import SsraConfig
from relsdk_training.engine.identity import checkpoint_hash, training_identity
from relsdk_training.ssra.identity import (
    filter_identity,
    judging_identity,
    sampling_identity,
    writing_identity,
)
from relsdk_training.ssra.pool import pool_identity, write_pool
from relsdk_training.ssra.preflight import check
from relsdk_training.ssra.stage_runner import Stage, Stages, read_stages, shard_paths
from relsdk_training.ssra.work import OnNote, OnProgress, StageWork

__all__ = ["SsraResult", "train_ssra"]

# Query, try, write, filter.
_STAGES_A_ROUND = 4
# The number of the first stage after all rounds, however many they are.
_AFTER = 90


@dataclass(frozen=True)
class SsraResult:
    """What a run made.

    Attributes:
        encoder: Folder of the trained encoder.
        pairs: File of the balanced pairs.
        dev: Measures of the encoder on dev.
        stages: Seconds of each stage.
    """

    encoder: str
    pairs: str
    dev: dict[str, float]
    stages: dict[str, float]


def train_ssra(
    config: SsraConfig,
    *,
    on_note: OnNote = lambda note: None,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> SsraResult:
    """Run the whole method, or what is not done of it yet.

    Args:
        config: See `SsraConfig`.
        on_note: Called with lines for people.
        on_progress: Called with a stage's name, how much of it is done, and of how much.

    Raises:
        InputError: The configuration or the data is wrong.
        LockedError: Another process runs in the same folder.
        TrainingError: A training or an endpoint cannot go on; what is done is kept.
    """
    check(config)
    stages = Stages(Path(config.run.output), on_note)
    try:
        return _Pipeline(config, stages, StageWork(config, on_note, on_progress), on_note).run()
    finally:
        stages.close()


class _Pipeline:
    def __init__(self, config: SsraConfig, stages: Stages, work: StageWork, on_note: OnNote) -> None:
        self.config = config
        self.stages = stages
        self.work = work
        self.on_note = on_note

    def run(self) -> SsraResult:
        config = self.config
        pool = self.done(1, "pool", pool_identity(config), [], lambda work: write_pool(work, config))
        labels = [pool / name for name in ("labelled.jsonl", "dev.jsonl")]
        documents = shard_paths(pool, "documents")
        learning = [config.filter.scorer, training_identity(self.work.judging), config.run.seed]
        given = config.filter.checkpoint
        taken = [judging_identity(config), checkpoint_hash(given)]
        score = self.done(
            2, "score", taken if given else learning, labels, partial(self.work.score, pool=pool)
        )
        judge = None
        if config.filter.judge == "model" and config.synthesis.rounds:
            settings = [*learning, config.filter.judge_share]
            judge = self.done(3, "judge", settings, labels, partial(self.work.judge, pool=pool))
        made: list[Path] = []
        if config.synthesis.reannotate or config.balance.annotated:
            start = config.embed.model
            settings = [asdict(config.candidates), checkpoint_hash(start.checkpoint), start.max_tokens]
            sources = [*documents, pool / "queries.jsonl"]
            find = partial(self.work.candidates, pool=pool)
            candidates = self.done(4, "candidates", settings, sources, find)
            settings = [config.filter.thresholds, config.filter.adjust, judging_identity(config)]
            annotate = partial(self.work.annotate, pool=pool, candidates=candidates, score=score)
            sources = [candidates, score, labels[0]]
            made.append(self.done(5, "annotate", settings, sources, annotate))
        made += self._rounds(pool, score, judge, made)
        settings = [asdict(config.balance), config.run.seed]
        sources = [labels[0], *made]
        balance = self.done(
            _AFTER, "balance", settings, sources, partial(self.work.balance, pool=pool, made=made)
        )
        settings = [training_identity(config.embed), config.run.seed]
        sources = [balance / "pairs.jsonl", labels[1]]
        embed = self.done(
            _AFTER + 1, "embed", settings, sources, partial(self.work.embed, balance=balance, pool=pool)
        )
        settings = [
            checkpoint_hash(config.embed.model.checkpoint),
            config.embed.model.max_tokens,
            config.run.seed,
        ]
        compare = partial(self.work.compare, embed=embed, pool=pool)
        self.done(_AFTER + 2, "compare", settings, [embed, labels[1]], compare)
        seconds = {stage.name: stage.seconds for stage in read_stages(self.stages.run)}
        dev = self.stages.report(embed)["dev"]
        return SsraResult(str(embed / "best"), str(balance / "pairs.jsonl"), dev, seconds)

    def _rounds(self, pool: Path, score: Path, judge: Path | None, annotated: list[Path]) -> list[Path]:
        """Train, write, filter, again; return the filter stages."""
        config, made = self.config, list[Path]()
        followed = -1.0
        learned = annotated if config.synthesis.reannotate else []
        dev, labelled = pool / "dev.jsonl", pool / "labelled.jsonl"
        documents = shard_paths(pool, "documents")
        rounds = config.synthesis.rounds
        if config.synthesis.endpoint_url and rounds > 1:
            self.on_note(
                "one round: a model behind an endpoint does not learn, it would write the same again"
            )
            rounds = 1
        for number in range(1, rounds + 1):
            query, at = None, _STAGES_A_ROUND * (number - 1)
            if not config.synthesis.endpoint_url:
                stages = [*learned, *made[-1:]]
                inputs = [labelled, dev, *stages]
                if config.query.model.kind == "warm_start":  # it learns to read by unlabelled text
                    inputs += [pool / "queries.jsonl", *documents]
                train = partial(self.work.query, pool=pool, stages=stages)
                settings = [training_identity(config.query), config.run.seed, config.synthesis.most_pairs]
                query = self.done(6 + at, f"query-{number}", settings, inputs, train)
                settings = [sampling_identity(config.query.model), config.synthesis.levels]
                settings += [config.filter.adjust, judging_identity(config), config.run.seed]
                attempt = partial(self.work.attempt, query=query, score=score, dev=dev)
                tried = self.done(7 + at, f"try-{number}", settings, [query, score, dev], attempt)
                found = self.stages.report(tried)["mean"]
                if number > 1 and found - followed < config.synthesis.min_gain:
                    self.on_note(
                        f"round {number}: agreement {found:.3f} after {followed:.3f}; no more rounds"
                    )
                    break
                followed = found
            settings = [writing_identity(config), config.run.seed]
            writer = query or labelled  # an endpoint is shown examples
            writing = partial(self.work.write, pool=pool, query=query)
            written = self.done(8 + at, f"write-{number}", settings, [writer, *documents], writing)
            judges = [judge] if judge else []
            sift = partial(
                self.work.filter,
                written=written,
                number=number,
                pool=pool,
                score=score,
                judge=judge,
                query=query,
            )
            sources = [written, labelled, pool / "held_out.jsonl", score, *judges]
            settings = [filter_identity(config.filter), judging_identity(config)]
            made.append(self.done(9 + at, f"filter-{number}", settings, sources, sift))
        return made

    def done(
        self,
        number: int,
        name: str,
        settings: Any,
        inputs: list[Path],
        make: Callable[[Path], Mapping[str, Any]],
    ) -> Path:
        """Run a stage, unless it is done. Numbers stay the same when stages or rounds are left out."""
        return self.stages.done(Stage(f"{number:02d}-{name}", settings, inputs, make))
