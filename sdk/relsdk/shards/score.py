"""Grade the pairs of a file into a folder of parts, by one worker or by many."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from relsdk.files.folders import json_sha256
from relsdk.models.cross_encoder import Judge
from relsdk.models.relevance_scorer import RelevanceScorer
from relsdk.models.steps import Encode, Flow
from relsdk.records import Predictions
from relsdk.runtime.tokenizer import TokenizedTexts
from relsdk.shards._pieces import check_model, check_places, pieces, quietly, threads_of_a_worker
from relsdk.shards.folder import PartsSummary, check_parts_folder, fill_folder
from relsdk.shards.parts import Columns, PartInfo, write_part
from relsdk.shards.plan import Job, OnProgress, RowCursor, Shard, Source, open_source
from relsdk.shards.runner import LocalRunner, Runner

__all__ = ["ScoreWork", "score_shards"]


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """Grades a shard of pairs and writes its part; see `EncodeWork`."""

    model: Path
    job: Job
    source: Source
    folder: Path
    threads: int

    def open(self) -> Callable[[Shard], PartInfo]:
        """Load the model; return what grades a shard. Raises as `EncodeWork.open`."""
        check_places(self.model, self.source.path, self.folder)
        with quietly():
            scorer = RelevanceScorer(self.model, variant=self.job.variant, threads=self.threads)
        check_model(scorer.model.bundle, scorer.model.variant, self.job)
        cursor = RowCursor(self.source)
        return lambda shard: self._score(scorer, cursor, shard)

    def _score(self, scorer: RelevanceScorer, cursor: RowCursor, shard: Shard) -> PartInfo:
        queries: list[str] = []
        ids: list[str] = []
        graded: list[Predictions] = []
        counts = _Counts()
        for piece in pieces(cursor, shard):
            with piece.named_in_errors():
                graded.append(counts.run(scorer.flow(piece.rows)))
            queries += [query for query, _ in piece.rows]
            ids += [document.id for _, document in piece.rows]
        self.source.check_unchanged()
        every = Predictions.concatenate(graded)
        columns: Columns = {
            "query": queries,
            "id": ids,
            "score": every.scores,
            "level": every.levels.astype(np.int32),
            **{f"p{level}": every.probabilities[:, level] for level in range(4)},
        }
        tokens, truncated = counts.tokens, counts.truncated
        return write_part(
            self.folder, shard, self.source, self.job, columns, tokens=tokens, truncated=truncated
        )


@dataclass(slots=True)
class _Counts:
    """Runs the steps of an answer, and counts the tokens that the models read."""

    tokens: int = 0
    truncated: int = 0

    def run(self, flow: Flow[Predictions]) -> Predictions:
        try:
            step = next(flow)
            while True:
                step = flow.send(self._run_step(step))
        except StopIteration as end:
            answer: Predictions = end.value
            return answer

    def _run_step(self, step: Any) -> Any:
        if isinstance(step, Judge):
            return step.scorer.logits_of_tokens(self._count(step.scorer.tokenize(step.pairs)))
        if isinstance(step, Encode):
            prompt = step.embedder.known_prompt(step.side)
            tokens = self._count(step.embedder.tokenize(step.texts, prompt_name=prompt))
            return step.embedder.encode_tokens(tokens, prompt_name=prompt, normalize_embeddings=True)
        return step.run()

    def _count(self, tokens: TokenizedTexts) -> TokenizedTexts:
        self.tokens += sum(tokens.lengths)
        self.truncated += len(tokens.truncated)
        return tokens


def score_shards(
    model: str | os.PathLike[str],
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    runner: Runner | None = None,
    variant: str = "auto",
    threads: int | None = None,
    reading: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> PartsSummary:
    """Grade the pairs of a file into a folder of parts: query, id, score, level, and p0 to p3.

    Args:
        model: See `RelevanceScorer`.
        source: The file; see `read_unlabelled_pairs`.
        folder: See `encode_shards`.
        runner: See there.
        variant: See `Embedder`.
        threads: See `encode_shards`.
        reading: See there.
        overwrite: See there.
        on_progress: See there; the stage of the work is "pairs".

    Raises:
        CalibrationError: The model gives no levels.
        InputError: As `encode_shards`. So are the other errors.
    """
    folder = Path(folder)
    check_parts_folder(folder)
    opened = open_source(source, "pair", reading, on_progress)
    runner = runner or LocalRunner()
    pair_model = RelevanceScorer(model, variant=variant, threads=threads).model
    bundle, chosen = pair_model.bundle, pair_model.variant
    levels = json_sha256(chosen.calibration(pair_model.calibration_key))
    job = Job(bundle.name, bundle.fingerprint, chosen.name, pair_model.dimension or 0, "pair", levels)
    del pair_model  # the workers open it for themselves
    threads = threads_of_a_worker(runner, threads)
    work = ScoreWork(bundle.path.absolute(), job, opened, folder.absolute(), threads)
    return fill_folder(folder, opened, job, work, runner, overwrite=overwrite, on_progress=on_progress)
