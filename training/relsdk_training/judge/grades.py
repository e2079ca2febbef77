"""A file of pairs, graded by a language model: what it will cost, and the file of grades.

    {"query": ..., "doc_id": ..., "title": ..., "label": 2,
     "metadata": {"probabilities": [...], "reason": ..., "human_label": 3}}

Each row is a labelled pair whose `label` is the model's opinion. A label of the pair itself is never shown to
the model; it becomes `human_label`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relsdk.errors import InputError, TrainingError
from relsdk.formats import read_unlabelled_pairs, write_pairs
from relsdk.levels import NUM_LEVELS, RelevanceLevel, parse_level
from relsdk.records import Document, LabelledPair
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.judge.grader import EndpointGrader, Opinion

__all__ = [
    "ANSWER_TOKENS",
    "Cost",
    "count_cost",
    "count_tokens",
    "grade_pairs",
    "read_ungraded",
    "without_pairs",
]

_LOGGER = logging.getLogger(__name__)

Pair = tuple[str, Document]
OnProgress = Callable[[int, int], None]
# Tokens a character: English has four characters a token, Chinese one or two.
_PLAIN, _OTHER = 0.25, 1.0
# Tokens of an answer: a level and a sentence.
ANSWER_TOKENS = 60
_HUMAN = "human_label"
_OPINION = ("label", "probabilities", "reason")


@dataclass(frozen=True, slots=True)
class Cost:
    """What asking a language model takes, estimated from characters.

    Attributes:
        pairs: Pairs to grade, or queries to write.
        questions: Of them, those that the endpoint has to be asked about.
        tokens_in: Of all questions, read once for each answer.
        tokens_out: Of all answers.
    """

    pairs: int
    questions: int
    tokens_in: int
    tokens_out: int

    def price(self, of_in: float, of_out: float) -> float:
        """Return what it costs at prices for a million tokens."""
        return (self.tokens_in * of_in + self.tokens_out * of_out) / 1e6


@dataclass(frozen=True, slots=True)
class _Grading:
    """What was graded.

    Attributes:
        pairs: Pairs that were asked about.
        levels: How many were given each level 0-3.
        without_opinion: How many got none: no answer named one level, or a content filter held it back.
        human_labels: How many of the graded have a label of people, too.
    """

    pairs: int
    levels: tuple[int, int, int, int]
    without_opinion: int
    human_labels: int


def read_ungraded(
    path: str | Path, *, limit: int = 0, reading: Mapping[str, Any] | None = None
) -> list[Pair]:
    """Read pairs to grade.

    Args:
        path: Any format of `relsdk.formats`, with labels or without.
        limit: The first so many; 0 reads all.
        reading: Arguments for `read_unlabelled_pairs`.

    Returns:
        Queries and documents; a label that people gave is `human_label` of the document's metadata. One that
        is no level is left out, and logged.

    Raises:
        InputError: The file is missing or has a bad row.
    """
    pairs: list[Pair] = []
    no_levels: list[Any] = []
    for query, document in read_unlabelled_pairs(path, keep_label=True, **(reading or {})):
        if limit and len(pairs) == limit:
            break
        metadata = dict(document.metadata)
        label = metadata.get(_HUMAN, None if "probabilities" in metadata else metadata.get("label"))
        for name in (_HUMAN, *_OPINION):  # of another model's opinion
            metadata.pop(name, None)
        if label is not None:
            try:
                metadata[_HUMAN] = int(parse_level(label))
            except InputError:
                no_levels.append(label)
        pairs.append((query, replace(document, metadata=metadata)))
    if no_levels:
        _LOGGER.warning(
            "%s: %d labels are no level 0-3, the first is %.40r; they are not kept as %s",
            path,
            len(no_levels),
            no_levels[0],
            _HUMAN,
        )
    return pairs


def without_pairs(examples: Iterable[LabelledPair], pairs: Iterable[Pair]) -> list[LabelledPair]:
    """Return the examples that are not among the pairs to grade: their labels would be given away."""
    graded = {_key(query, document) for query, document in pairs}
    return [pair for pair in examples if _key(pair.query, pair.document) not in graded]


def count_cost(grader: EndpointGrader, pairs: Sequence[Pair]) -> Cost:
    """Estimate what grading pairs takes; pairs whose answers are recorded cost nothing."""
    texts: dict[str, str] = {}  # by pair: what is there twice is asked once where answers are recorded
    for query, document in pairs:
        text = document_text(document)
        if not grader.is_recorded(query, text):
            texts[json.dumps([query, text])] = "".join(
                message["content"] for message in grader.messages(query, text)
            )
    tokens_in = sum(map(count_tokens, texts.values())) * grader.samples
    return Cost(len(pairs), len(texts), round(tokens_in), len(texts) * grader.samples * ANSWER_TOKENS)


def grade_pairs(
    grader: EndpointGrader,
    pairs: Sequence[Pair],
    output: str | os.PathLike[str],
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> _Grading:
    """Grade pairs and write them to a file, which appears when all are graded.

    Args:
        grader: Asks; its endpoint's recording keeps what was answered when this is stopped.
        pairs: See `read_ungraded`.
        output: A file of JSON lines, which `read_pairs` reads; pairs without an opinion are left out.
        on_progress: Called with how many are graded, and of how many.

    Raises:
        InputError: The file cannot be written, or a recording that is replayed lacks an answer.
        TrainingError: No answer names a level at all; see also `EndpointGrader.grade`.
    """
    levels = [0] * NUM_LEVELS
    human = 0

    def graded(opinions: Iterable[Opinion | None]) -> Iterator[LabelledPair]:
        nonlocal human
        for done, ((query, document), opinion) in enumerate(zip(pairs, opinions, strict=True), start=1):
            if opinion is not None:
                levels[opinion.level] += 1
                human += _HUMAN in document.metadata
                shares = [round(share, 4) for share in opinion.probabilities]
                metadata = {**document.metadata, "probabilities": shares, "reason": opinion.reason}
                yield LabelledPair(query, replace(document, metadata=metadata), RelevanceLevel(opinion.level))
            on_progress(done, len(pairs))
        if pairs and not sum(levels):  # so few that the grader did not give up
            raise TrainingError(
                f"no answer about {len(pairs)} pairs names a level, so {output} is not written; look at the "
                "answers in the recording, let another model judge, or say in the rubric what 0 to 3 mean"
            )

    texts = ((query, document_text(document)) for query, document in pairs)
    with closing(grader.grade(texts)) as opinions:
        write_pairs(output, graded(opinions))
    zero, one, two, three = levels
    return _Grading(len(pairs), (zero, one, two, three), len(pairs) - sum(levels), human)


def _key(query: str, document: Document) -> tuple[str, str]:
    return normal_form(query), document_text(document)


def count_tokens(text: str) -> float:
    """Estimate how many tokens a text has; nothing is known of the model's own."""
    plain = sum(character.isascii() for character in text)
    return plain * _PLAIN + (len(text) - plain) * _OTHER
