"""What a run asks of a language model: grades of pairs, and queries for documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from relsdk.formats import read_documents, read_unlabelled_pairs, write_pairs
from relsdk.levels import NUM_LEVELS, RelevanceLevel
from relsdk.records import Document, LabelledPair
from relsdk_training.config.few import FewConfig
from relsdk_training.data.pairs import load_pairs, pair_arrays
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.few._data import held_out_queries
from relsdk_training.judge.grader import EndpointGrader
from relsdk_training.judge.grades import ANSWER_TOKENS, Cost, count_tokens, grade_pairs, read_ungraded
from relsdk_training.objectives.query import examples_of
from relsdk_training.query_models.base import QueryRequest
from relsdk_training.query_models.chat_endpoint import ChatEndpoint, open_endpoint
from relsdk_training.query_models.endpoint import EndpointQueryModel
from relsdk_training.query_models.rubric import read_rubric, rubric_hash
from relsdk_training.ssra.job import OnProgress

__all__ = ["Asking", "OnQuestions", "check_endpoint"]

OnQuestions = Callable[[Cost], None]
# In the folder of the run: every answer, as it comes.
_RECORDING = "answers.jsonl"
# Tokens of a query that is written.
_QUERY_TOKENS = 20


def check_endpoint(config: FewConfig) -> None:
    """Check the endpoint, its key and its rubric; nothing is sent.

    Raises:
        InputError: One of them is wrong.
        MissingExtraError: The package that asks is not installed.
    """
    read_rubric(config.endpoint.rubric)
    open_endpoint(config.endpoint)


class Asking:
    """The questions of one run; every answer is recorded, so that none is asked twice.

    Attributes:
        grades: Whether pairs are graded.
        writes: Whether queries are written.

    Args:
        config: Of the run.
        data: Folder of the first stage.
        report: Its report.
        on_progress: Called with a stage's name, how much of it is done, and of how much.
        on_questions: Called once, before the first question of this process, with what asking will cost.
    """

    def __init__(
        self,
        config: FewConfig,
        data: Path,
        report: Mapping[str, Any],
        on_progress: OnProgress,
        on_questions: OnQuestions,
    ) -> None:
        asks = config.endpoint.is_named
        self.grades = bool(asks and not config.data.weak and report["pairs"])
        self.writes = bool(asks and not config.data.written and report["documents"])
        self._config, self._data = config, data
        self._on_progress, self._on_questions = on_progress, on_questions
        self._told = False

    def identity(self, stage: str) -> list[Any]:
        """Return what an asking stage, "grade" or "write", depends on besides the data."""
        ask, endpoint = self._config.ask, self._config.endpoint
        own = [list(ask.levels), ask.temperature] if stage == "write" else []
        return [endpoint.name, rubric_hash(endpoint.rubric), *own]

    def grade(self, folder: Path) -> dict[str, Any]:
        """Grade the unlabelled pairs, and those of dev blind, into grades.jsonl."""
        self._tell_cost()

        def on_progress(done: int, total: int) -> None:
            self._on_progress(folder.name, done, total)

        grading = grade_pairs(self._grader, self._ungraded, folder / "grades.jsonl", on_progress=on_progress)
        asked = _count([text for text, _ in self._grade_questions()], ANSWER_TOKENS)
        return {**asked, "without an opinion": grading.without_opinion}

    def write(self, folder: Path) -> dict[str, Any]:
        """Write queries of each wanted level for the documents, into written.jsonl.

        Those that cannot be used are dropped: no query at all, the title, one of dev or test, a repetition.
        """
        self._tell_cost()
        held_out = held_out_queries(self._data)
        written: dict[tuple[str, str], LabelledPair] = {}
        dropped: Counter[str] = Counter()
        wanted = [
            (document, level)
            for document in self._documents
            for level in map(RelevanceLevel, self._config.ask.levels)
        ]
        requests = (QueryRequest(document_text(document), level) for document, level in wanted)
        with closing(self._writer.write_each(requests, seed=0)) as answered:
            for number, ((document, level), queries) in enumerate(
                zip(wanted, answered, strict=True), start=1
            ):
                query = queries[0] if queries else ""
                same = normal_form(query)
                if not same or same == normal_form(document.title):
                    dropped["no query"] += 1
                elif same in held_out:
                    dropped["a query of dev or test"] += 1
                elif (same, document.id) in written:
                    dropped["repeated"] += 1
                else:
                    written[same, document.id] = LabelledPair(query, document, level)
                self._on_progress(folder.name, number, len(wanted))
        write_pairs(folder / "written.jsonl", written.values())
        asked = _count([text for text, _ in self._write_questions()], _QUERY_TOKENS)
        return {**asked, **{f"dropped, {name}": count for name, count in sorted(dropped.items())}}

    def _tell_cost(self) -> None:
        """Say what is still to be asked, once."""
        if self._told:
            return
        self._told = True
        total, parts = 0, []
        for questions, tokens in (
            (list(self._grade_questions()) if self.grades else [], ANSWER_TOKENS),
            (list(self._write_questions()) if self.writes else [], _QUERY_TOKENS),
        ):
            total += len(questions)
            parts.append(_count([text for text, is_recorded in questions if not is_recorded], tokens))
        left = {name: sum(part[name] for part in parts) for name in parts[0]}
        self._on_questions(Cost(total, left["questions"], left["tokens in"], left["tokens out"]))

    def _grade_questions(self) -> Iterator[tuple[str, bool]]:
        """Yield the text of each question about a pair, and whether its answer is recorded."""
        for query, document in self._ungraded:
            text = document_text(document)
            yield _said(self._grader.messages(query, text)), self._grader.is_recorded(query, text)

    def _write_questions(self) -> Iterator[tuple[str, bool]]:
        """Yield the text of each request for a query, and whether its answer is recorded."""
        ask = self._config.ask
        for document in self._documents:
            for level in ask.levels:
                messages = self._writer.messages(QueryRequest(document_text(document), level), 0)
                answers = self._endpoint.recorded(messages, temperature=ask.temperature, seed=0)
                yield _said(messages), answers is not None

    @cached_property
    def _endpoint(self) -> ChatEndpoint:
        """The endpoint, which records into the run's folder unless it is said where."""
        endpoint = self._config.endpoint
        if not (endpoint.record or endpoint.replay):
            endpoint = replace(endpoint, record=str(Path(self._config.run.output) / _RECORDING))
        return open_endpoint(endpoint)

    @cached_property
    def _grader(self) -> EndpointGrader:
        rubric = read_rubric(self._config.endpoint.rubric)
        return EndpointGrader(self._endpoint, rubric=rubric, examples=self._labels)

    @cached_property
    def _writer(self) -> EndpointQueryModel:
        """What writes; it is shown examples where there is one of each level."""
        has_all = len({pair.level for pair in self._labels}) == NUM_LEVELS
        return EndpointQueryModel(
            self._endpoint,
            examples_of(pair_arrays(self._labels)) if has_all else [],
            temperature=self._config.ask.temperature,
            rubric=read_rubric(self._config.endpoint.rubric),
        )

    @cached_property
    def _labels(self) -> list[LabelledPair]:
        path = self._data / "train.jsonl"
        return load_pairs(str(path)) if path.is_file() else []

    @cached_property
    def _ungraded(self) -> list[tuple[str, Document]]:
        """The unlabelled pairs, and those of dev, whose label is kept and not shown."""
        dev = self._data / "dev.jsonl"
        unlabelled = list(read_unlabelled_pairs(self._data / "pairs.jsonl"))
        return [*unlabelled, *(read_ungraded(dev) if dev.is_file() else [])]

    @cached_property
    def _documents(self) -> list[Document]:
        return list(read_documents(self._data / "documents.jsonl"))


def _said(messages: Iterable[Mapping[str, str]]) -> str:
    return "".join(message["content"] for message in messages)


def _count(texts: Collection[str], answer_tokens: int) -> dict[str, int]:
    """Return how many questions there are, and about how many tokens."""
    tokens = round(sum(map(count_tokens, texts)))
    return {"questions": len(texts), "tokens in": tokens, "tokens out": len(texts) * answer_tokens}
