"""What a run asks of a language model: grades of pairs, and queries for documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from relsdk.formats import read_documents, write_pairs
from relsdk.levels import NUM_LEVELS, RelevanceLevel
from relsdk.records import LabelledPair
from relsdk_training.config.few import FewConfig
from relsdk_training.config.ssra import EndpointConfig
from relsdk_training.data.pairs import load_pairs, pair_arrays
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.few._data import held_out_queries
from relsdk_training.objectives.query import examples_of
from relsdk_training.query_models.base import QueryExample, QueryRequest
from relsdk_training.query_models.chat_endpoint import open_endpoint
from relsdk_training.query_models.endpoint import EndpointQueryModel
from relsdk_training.query_models.rubric import read_rubric, rubric_hash
from relsdk_training.ssra.job import OnProgress

__all__ = ["Asking", "check_endpoint"]

# In the folder of the run: every answer, as it comes.
_RECORDING = "answers.jsonl"


def check_endpoint(config: FewConfig) -> None:
    """Check the endpoint, its key and its rubric; nothing is sent.

    Raises:
        InputError: One of them is wrong.
        MissingExtraError: The package that asks is not installed.
    """
    read_rubric(config.endpoint.rubric)
    open_endpoint(config.endpoint)


class Asking:
    """The questions of one run.

    Attributes:
        writes: Whether queries are written.
        plan: How much is asked; empty where nothing is.

    Args:
        config: Of the run.
        data: Folder of the first stage.
        report: Its report.
        on_progress: Called with a stage's name, how much of it is done, and of how much.
        on_questions: Called with the plan once, before the first question of this process.
    """

    def __init__(
        self,
        config: FewConfig,
        data: Path,
        report: Mapping[str, Any],
        on_progress: OnProgress,
        on_questions: Callable[[Mapping[str, Any]], None],
    ) -> None:
        asks = config.endpoint.is_named
        self.writes = bool(asks and not config.data.written and report["documents"])
        self._config, self._data = config, data
        self._on_progress, self._on_questions = on_progress, on_questions
        self.plan = {"questions": report["documents"] * len(config.ask.levels)} if self.writes else {}
        self._told = False

    def identity(self, stage: str) -> list[Any]:
        """Return what an asking stage, "grade" or "write", depends on besides the data."""
        ask, endpoint = self._config.ask, self._config.endpoint
        own = [list(ask.levels), ask.temperature] if stage == "write" else []
        return [endpoint.name, rubric_hash(endpoint.rubric), *own]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write queries of each wanted level for the documents, into written.jsonl.

        Those that cannot be used are dropped: no query at all, the title, one of dev or test, a repetition.
        """
        documents = list(read_documents(self._data / "documents.jsonl"))
        held_out = held_out_queries(self._data)
        self._tell()
        model = EndpointQueryModel(
            open_endpoint(self._endpoint()),
            self._examples(),
            temperature=self._config.ask.temperature,
            rubric=read_rubric(self._config.endpoint.rubric),
        )
        written: dict[tuple[str, str], LabelledPair] = {}
        dropped: Counter[str] = Counter()
        for number, document in enumerate(documents):
            for level in map(RelevanceLevel, self._config.ask.levels):
                (answers,) = model.write([QueryRequest(document_text(document), level)], samples=1, seed=0)
                query = answers[0] if answers else ""
                same = normal_form(query)
                if not same or same == normal_form(document.title):
                    dropped["no query"] += 1
                elif same in held_out:
                    dropped["query of dev or test"] += 1
                elif (same, document.id) in written:
                    dropped["repeated"] += 1
                else:
                    written[same, document.id] = LabelledPair(query, document, level)
            self._on_progress(folder.name, number + 1, len(documents))
        write_pairs(folder / "written.jsonl", written.values())
        return {"written": len(written), **{f"dropped, {name}": n for name, n in sorted(dropped.items())}}

    def _tell(self) -> None:
        """Say how much is asked, once."""
        if not self._told:
            self._told = True
            self._on_questions(self.plan)

    def _endpoint(self) -> EndpointConfig:
        """Return the endpoint, which records into the run's folder unless it is said where."""
        endpoint = self._config.endpoint
        if endpoint.record or endpoint.replay:
            return endpoint
        return replace(endpoint, record=str(Path(self._config.run.output) / _RECORDING))

    def _examples(self) -> list[QueryExample]:
        """Return labelled pairs as examples; none unless each level has one."""
        path = self._data / "train.jsonl"
        pairs = load_pairs(str(path)) if path.is_file() else []
        if len({pair.level for pair in pairs}) < NUM_LEVELS:
            return []
        return examples_of(pair_arrays(pairs))
