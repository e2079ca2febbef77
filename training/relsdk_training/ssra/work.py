"""What each stage of an SSRA run does, given the stages before it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from relsdk.formats import read_pairs, write_pairs
from relsdk_checkpoint.pair_scores import TextEmbedder
from relsdk_training.config.settings import DataConfig, EmbedConfig, QueryDataConfig, ScoreConfig
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.data.pairs import load_pairs, pair_arrays
from relsdk_training.engine.identity import weights_hash
from relsdk_training.engine.interrupt import STOPPED_FROM_OUTSIDE
from relsdk_training.engine.loop import TrainResult
from relsdk_training.objectives.query import examples_of
from relsdk_training.query_models.base import QueryModel
from relsdk_training.query_models.endpoint import EndpointQueryModel
from relsdk_training.query_models.writer import QueryWriter
from relsdk_training.runs.embed import train_embed
from relsdk_training.runs.query import train_query
from relsdk_training.runs.score import train_score
from relsdk_training.ssra.balance import write_balanced
from relsdk_training.ssra.candidates import Candidates
from relsdk_training.ssra.cleaning import scripts
from relsdk_training.ssra.comparison import measured
from relsdk_training.ssra.judges import EndpointJudge, Judge, ModelJudge
from relsdk_training.ssra.preflight import judging_endpoint, writing_endpoint
from relsdk_training.ssra.records import (
    distinct,
    document_of,
    drawn,
    kept_pairs,
    labelled_key,
    read_records,
)
from relsdk_training.ssra.report import stage_report
from relsdk_training.ssra.scoring import PairScorer, fit_levels
from relsdk_training.ssra.stage_runner import read_lines, shard_paths, write_lines
from relsdk_training.ssra.synthesis import Filters, agreement, annotate, filtered, write

__all__ = ["OnNote", "OnProgress", "StageWork"]

OnNote = Callable[[str], None]
OnProgress = Callable[[str, int, int], None]
# Dev documents that a query model is tried on after it was trained.
_TRIED = 100
# Queries, and documents, at most that a warm start learns to repeat: more would drown the graded pairs.
_REPEATED = 10_000
# From this share of equal queries on, a query model repeats itself.
_REPEATS = 0.5
# From this share of unused pairs on, balance has thrown most of the work away.
_UNUSED = 0.5
# Documents that an endpoint is asked about before the answers are written down: they cost money.
_ASKED_AT_ONCE = 10


class StageWork:
    """Fills a stage's folder, `work`, from those of other stages, and returns the stage's report.

    Every method may be called again on a folder that it did not finish.

    Args:
        config: Of the run.
        on_note: Called with lines for people.
        on_progress: Called with a stage's name, how much of it is done, and of how much.
    """

    def __init__(self, config: SsraConfig, on_note: OnNote, on_progress: OnProgress) -> None:
        self.config = config
        self.on_note, self.on_progress = on_note, on_progress
        self._scorers: dict[Path, PairScorer] = {}

    @property
    def judging(self) -> ScoreConfig | EmbedConfig:
        """How the models are trained that judge pairs."""
        return self.config.score if self.config.filter.scorer == "cross_encoder" else self.config.embed

    def score(self, work: Path, pool: Path) -> Mapping[str, Any]:
        """Train the score model on the labelled pairs, or take the one that is given."""
        data = DataConfig(train=str(pool / "labelled.jsonl"), dev=str(pool / "dev.jsonl"))
        if self.config.filter.checkpoint:
            shutil.copytree(self.config.filter.checkpoint, work / "best", dirs_exist_ok=True)
            return {"levels": self._levels(work, data)}
        return self._scoring(work, data, 0)

    def judge(self, work: Path, pool: Path) -> Mapping[str, Any]:
        """Train a second score model on a part of the labelled queries and another seed."""
        pairs = load_pairs(str(pool / "labelled.jsonl"))
        queries = list(dict.fromkeys(pair.query for pair in pairs))
        count = max(1, round(self.config.filter.judge_share * len(queries)))
        rng = np.random.default_rng(self.config.run.seed + 1)
        chosen = {queries[row] for row in rng.permutation(len(queries))[:count]}
        write_pairs(work / "labelled.jsonl", [pair for pair in pairs if pair.query in chosen])
        data = DataConfig(train=str(work / "labelled.jsonl"), dev=str(pool / "dev.jsonl"))
        return self._scoring(work, data, 1)

    def _scoring(self, work: Path, data: DataConfig, other_seed: int) -> Mapping[str, Any]:
        """Train what judges pairs, and fit its levels on dev."""
        task = train_score if self.config.filter.scorer == "cross_encoder" else train_embed
        report = self._trained(work, task, self.judging, data, other_seed)
        return {**report, "levels": self._levels(work, data)}

    def _levels(self, work: Path, data: DataConfig) -> Mapping[str, Any]:
        dev = pair_arrays(load_pairs(data.dev))
        return fit_levels(work, self.config.filter.scorer, self.judging.model, dev)

    def candidates(self, work: Path, pool: Path) -> Mapping[str, Any]:
        """Find the queries that are nearest to each unlabelled document."""
        config = self.config
        queries = [line["query"] for line in read_lines(pool / "queries.jsonl")]
        checkpoint = Path(config.embed.model.checkpoint)
        finder = _Lazy(
            lambda: Candidates(queries, checkpoint, config.candidates, config.embed.model.max_tokens)
        )

        def make(lines: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
            found = finder.get().nearest([document_of(line) for line in lines])
            return [{"document": d, "queries": q} for d, q in zip(lines, found, strict=True)]

        self._mapped(work, pool, "documents", "candidates", make)
        total = sum(
            len(line["queries"]) for path in shard_paths(work, "candidates") for line in read_lines(path)
        )
        return {"pairs": total}

    def annotate(self, work: Path, pool: Path, candidates: Path, score: Path) -> Mapping[str, Any]:
        """Let the score model judge the candidates."""
        filters = _Lazy(lambda: self._filters(pool, score, None))
        labelled = read_pairs(pool / "labelled.jsonl")
        known = {labelled_key(pair) for pair in labelled}

        def make(lines: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
            return annotate(lines, filters.get(), known)

        self._mapped(work, candidates, "candidates", "records", make)
        return stage_report(read_records(work))

    def query(self, work: Path, pool: Path, stages: list[Path]) -> Mapping[str, Any]:
        """Train the query model on labelled pairs and what is kept of the stages before it."""
        made = chain.from_iterable(map(kept_pairs, stages))
        some = drawn(made, self.config.synthesis.most_pairs, self.config.run.seed)
        pairs = chain(read_pairs(pool / "labelled.jsonl"), some)
        write_pairs(work / "pairs.jsonl", distinct(pairs, labelled_key))
        del some, pairs  # the training reads the file
        data = QueryDataConfig(
            train=str(work / "pairs.jsonl"), dev=str(pool / "dev.jsonl"), texts=self._repeated(work, pool)
        )
        return self._trained(work, train_query, self.config.query, data, 0)

    def _repeated(self, work: Path, pool: Path) -> tuple[str, ...]:
        """Write the unlabelled text that a warm start learns to read by: queries and documents."""
        if self.config.query.model.kind != "warm_start":
            return ()
        queries = (line["query"] for line in read_lines(pool / "queries.jsonl"))
        documents = (
            document_of(line) for path in shard_paths(pool, "documents") for line in read_lines(path)
        )
        texts = [*islice(queries, _REPEATED), *islice(documents, _REPEATED)]
        write_lines(
            work / "texts.jsonl", ({"_id": str(number), "text": text} for number, text in enumerate(texts))
        )
        return (str(work / "texts.jsonl"),)

    def attempt(self, work: Path, query: Path, score: Path, dev: Path) -> Mapping[str, Any]:
        """Let the query model write for dev documents; what it is told decides whether the rounds go on."""
        documents = pair_arrays(load_pairs(str(dev))).documents[:_TRIED]
        levels, seed = self.config.synthesis.levels, self.config.run.seed
        return agreement(self._writer(query), self._scorer(score), documents, levels=levels, seed=seed)

    def write(self, work: Path, pool: Path, query: Path | None) -> Mapping[str, Any]:
        """Write queries of the wanted levels for each document; an endpoint does where `query` is None."""
        config = self.config
        model = _Lazy(lambda: self._writer(query) if query else self._endpoint_writer(pool))

        def make(lines: list[dict[str, Any]], shard: int) -> list[dict[str, Any]]:
            return write(
                lines,
                model.get(),
                levels=config.synthesis.levels,
                samples=config.synthesis.samples,
                seed=config.run.seed * 10_007 + shard,
            )

        self._mapped(work, pool, "documents", "written", make, at_once=0 if query else _ASKED_AT_ONCE)
        lines = (line for path in shard_paths(work, "written") for line in read_lines(path))
        return {"queries": sum(len(line["queries"]) for line in lines)}

    def filter(
        self,
        work: Path,
        written: Path,
        number: int,
        pool: Path,
        score: Path,
        judge: Path | None,
        query: Path | None,
    ) -> Mapping[str, Any]:
        """Keep of what was written that on which score model and judge agree."""
        filters = _Lazy(lambda: self._filters(pool, score, judge))
        model_hash = weights_hash(query / "best") if query else self.config.synthesis.endpoint_name

        def make(lines: list[dict[str, Any]], shard: int) -> list[dict[str, Any]]:
            return filtered(lines, filters.get(), round_number=number, model_hash=model_hash)

        by_endpoint = self.config.filter.judge == "endpoint"
        at_once = _ASKED_AT_ONCE * len(self.config.synthesis.levels) if by_endpoint else 0
        self._mapped(work, written, "written", "records", make, at_once=at_once)
        report = stage_report(read_records(work))
        if (report["duplicate_rate"] or 0.0) > _REPEATS:
            self.on_note(
                f"the query model repeats itself: {report['duplicate_rate']:.0%} of its queries were written "
                "before; train it longer, on more pairs, or raise query.model.temperature"
            )
        return report

    def balance(self, work: Path, pool: Path, made: list[Path]) -> Mapping[str, Any]:
        """Put labelled and made pairs together in the wanted shares."""
        asked = self.config.balance
        used = [stage for stage in made if asked.annotated or not stage.name.endswith("-annotate")]
        unused = write_balanced(work, pool / "labelled.jsonl", used, asked, self.config.run.seed)
        report = stage_report(read_records(work))
        total = sum(unused) + report["total"] - sum(report["sources"].get("labelled", []))
        if sum(unused) > _UNUSED * total:
            self.on_note(
                f"{sum(unused):,} of {total:,} made pairs are not used, of levels 0-3 {unused}: the scarcest "
                "level decides how many keep balance.shares; set balance.size to take more, or other shares"
            )
        return {**report, "unused": unused}

    def embed(self, work: Path, balance: Path, pool: Path) -> Mapping[str, Any]:
        """Train the encoder on the balanced pairs."""
        data = DataConfig(train=str(balance / "pairs.jsonl"), dev=str(pool / "dev.jsonl"))
        return self._trained(work, train_embed, self.config.embed, data, 0)

    def compare(self, work: Path, embed: Path, pool: Path) -> Mapping[str, Any]:
        """Measure the untrained and the trained encoder on dev, with intervals."""
        dev = pair_arrays(load_pairs(str(pool / "dev.jsonl")))
        model = self.config.embed.model
        folders = {"untrained": Path(model.checkpoint), "trained": embed / "best"}
        return {
            "bars": [
                {
                    "name": name,
                    **measured(
                        dev,
                        TextEmbedder(folder, model.max_tokens).scores(dev.texts()),
                        seed=self.config.run.seed,
                    ),
                }
                for name, folder in folders.items()
            ]
        }

    def _trained(
        self, work: Path, task: Callable[..., TrainResult], config: Any, data: DataConfig, other_seed: int
    ) -> Mapping[str, Any]:
        """Train one of the models inside a stage. The loop ends a step on Ctrl-C; here that ends the run."""
        run = self.config.run
        settings = replace(
            config,
            data=data,
            run=replace(config.run, output=str(work), seed=run.seed + 1000 * other_seed, threads=run.threads),
        )
        name = work.name

        def on_step(step: int, steps: int, statistics: dict[str, float]) -> None:
            self.on_progress(name, step, steps)

        result = task(settings, resume=True, on_step=on_step, on_note=self.on_note)
        if result.stopped in STOPPED_FROM_OUTSIDE:
            raise KeyboardInterrupt
        for warning in result.warnings:
            self.on_note(f"{name}: {warning}")
        dev = {measure: value for measure, value in result.best.items() if math.isfinite(value)}
        return {"dev": dev, "steps": result.steps, "best_step": result.best_step}

    def _mapped(
        self,
        work: Path,
        source: Path,
        name: str,
        target: str,
        make: Callable[[list[dict[str, Any]], int], Iterable[Mapping[str, Any]]],
        at_once: int = 0,
    ) -> None:
        """Turn each shard of a stage into one of this stage; those that are there are not made again.

        With `at_once`, so many lines of a shard are made and kept before the next, too.
        """
        shards = shard_paths(source, name)
        for number, path in enumerate(shards):
            written = work / f"{target}-{number:05d}.jsonl"
            if not written.is_file():
                lines = list(read_lines(path))
                size = at_once or max(1, len(lines))
                pieces = (lines[start : start + size] for start in range(0, len(lines), size))
                _write_in_parts(written, (partial(make, piece, number) for piece in pieces))
            for part in _parts(written):
                part.unlink()
            self.on_progress(work.name, number + 1, len(shards))

    def _filters(self, pool: Path, score: Path, judge: Path | None) -> Filters:
        settings = self.config.filter
        held_out = {line["query"] for line in read_lines(pool / "held_out.jsonl")}
        known = set[str]().union(*(scripts(pair.query) for pair in read_pairs(pool / "labelled.jsonl")))
        asked: Judge | None = None
        if judge is not None:
            asked = ModelJudge(self._scorer(judge))
        elif settings.judge == "endpoint":
            asked = EndpointJudge(judging_endpoint(self.config))
        return Filters(self._scorer(score), settings.thresholds, settings.by_score, asked, held_out, known)

    def _scorer(self, stage: Path) -> PairScorer:
        if stage not in self._scorers:
            asked = self.config.filter
            self._scorers[stage] = PairScorer(stage, asked.scorer, self.judging.model, adjust=asked.adjust)
        return self._scorers[stage]

    def _writer(self, stage: Path) -> QueryModel:
        model = self.config.query.model
        return QueryWriter.open(
            stage / "best", guidance=model.guidance, temperature=model.temperature, top_p=model.top_p
        )

    def _endpoint_writer(self, pool: Path) -> QueryModel:
        examples = examples_of(pair_arrays(load_pairs(str(pool / "labelled.jsonl"))))
        temperature = self.config.query.model.temperature
        return EndpointQueryModel(writing_endpoint(self.config), examples, temperature=temperature)


class _Lazy:
    """Makes a thing when it is first asked for: a stage whose shards are all there loads no model."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def get(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made


def _write_in_parts(path: Path, makers: Iterable[Callable[[], Iterable[Mapping[str, Any]]]]) -> None:
    """Write a file of lines, part by part: a part that is there is not made again."""
    for number, make in enumerate(makers):
        part = path.with_name(f"part-{path.stem}-{number:05d}.jsonl")
        if not part.is_file():
            write_lines(part, make())
    write_lines(path, (line for part in _parts(path) for line in read_lines(part)))


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"part-{path.stem}-*.jsonl"))
