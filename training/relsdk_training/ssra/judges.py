"""Pairwise consistency: are the queries of one document in the order of their levels?

Shape letters: n queries of one document.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import TrainingError
from relsdk.levels import expected_level
from relsdk_training.query_models.chat_endpoint import ChatEndpoint, UselessAnswers, without_thoughts
from relsdk_training.query_models.rubric import BUILT_IN
from relsdk_training.ssra.scoring import PairScorer

__all__ = ["EndpointJudge", "Group", "Judge", "ModelJudge", "consistent", "contradictions"]

# A or B as a word of its own: not that of "Both".
_LETTER = re.compile(r"(?<![A-Za-z])[AB](?![A-Za-z])")
# All of an answer: "a" in a sentence is a word.
_SMALL_LETTER = re.compile(r"\W*([ab])\W*")


@dataclass(frozen=True)
class Group:
    """The queries of one document, and the levels (n,) that they are meant to have."""

    document: str
    queries: Sequence[str]
    wanted: Sequence[int]


class Judge(Protocol):
    """Says which orders are wrong."""

    def contradictions(self, groups: Sequence[Group]) -> list[NDArray[np.bool_]]:
        """Return (n, n) for each group: True where i is meant to be more relevant than j, and is not."""


class ModelJudge:
    """Orders queries by the expected level of an independent score model."""

    def __init__(self, scorer: PairScorer) -> None:
        self.scorer = scorer

    def contradictions(self, groups: Sequence[Group]) -> list[NDArray[np.bool_]]:
        """See `Judge`."""
        graded = [group for group in groups if len(set(group.wanted)) > 1]
        pairs = [(query, group.document) for group in graded for query in group.queries]
        expected = expected_level(self.scorer.probabilities(pairs))
        contradicted, start = [], 0
        for group in groups:
            if len(set(group.wanted)) > 1:
                end = start + len(group.queries)
                contradicted.append(contradictions(group.wanted, expected[start:end]))
                start = end
            else:
                contradicted.append(np.zeros((len(group.queries),) * 2, dtype=bool))
        return contradicted


class EndpointJudge:
    """Asks a language model which of two queries a document answers better.

    Args:
        endpoint: The chat model.
        rubric: What the levels mean; see `read_rubric`.

    Raises:
        TrainingError: Hardly any answer names one query; see `UselessAnswers`.
    """

    def __init__(self, endpoint: ChatEndpoint, rubric: str = BUILT_IN) -> None:
        self.endpoint = endpoint
        self._rubric = rubric
        self._useless = UselessAnswers()

    def contradictions(self, groups: Sequence[Group]) -> list[NDArray[np.bool_]]:
        """See `Judge`; an answer that names neither query contradicts nothing."""
        contradicted = [np.zeros((len(group.queries),) * 2, dtype=bool) for group in groups]
        places = [
            (number, i, j)
            for number, group in enumerate(groups)
            for i, high in enumerate(group.wanted)
            for j, low in enumerate(group.wanted)
            if high > low
        ]
        pairs = (
            (groups[number].document, groups[number].queries[i], groups[number].queries[j])
            for number, i, j in places
        )
        with closing(self.endpoint.each(self._ask, pairs)) as answered:
            for (number, i, j), answers in zip(places, answered, strict=True):
                contradicted[number][i, j] = [self._choice(answer) for answer in answers] == ["B", "A"]
        return contradicted

    def _ask(self, pair: tuple[str, str, str]) -> list[str]:
        """Ask about a document, the better query and the other; again the other way round after a B.

        A model that likes one letter better contradicts nothing.
        """
        document, better, other = pair
        answers = [self._compare(document, better, other)]
        if _chosen_letter(answers[0]) == "B":
            answers.append(self._compare(document, other, better))
        return answers

    def _compare(self, document: str, one: str, other: str) -> str:
        question = f"文档：{document}\nA：{one}\nB：{other}\n这篇文档更能满足哪个搜索词？只回答 A 或 B。"
        messages = [{"role": "system", "content": self._rubric}, {"role": "user", "content": question}]
        (answer,) = self.endpoint.ask(messages, temperature=0.0, seed=0)
        return answer

    def _choice(self, answer: str) -> str:
        """Return the letter of an answer, or stop a model that names none."""
        choice = _chosen_letter(answer)
        if self._useless.give_up(useful=bool(choice)):
            raise TrainingError(
                f"hardly any answer of {self.endpoint.model} names A or B, the last is {answer[-100:]!r}; "
                "let another model judge (filter.endpoint.name), or none (filter.judge)"
            )
        return choice


def _chosen_letter(answer: str) -> str:
    """Return which of A and B an answer names; "" when it names none, or both."""
    text = without_thoughts(answer)
    small = _SMALL_LETTER.fullmatch(text)
    letters = {small[1].upper()} if small else set(_LETTER.findall(text))
    return letters.pop() if len(letters) == 1 else ""


def contradictions(wanted: Sequence[int], expected: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return (n, n): wanted_i > wanted_j although expected_i <= expected_j."""
    levels, values = np.asarray(wanted), np.asarray(expected)
    return np.asarray((levels[:, None] > levels[None, :]) & (values[:, None] <= values[None, :]))


def consistent(wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drop queries until no two contradict each other, those in most contradictions first.

    Args:
        wrong: (n, n) of `Judge.contradictions`.

    Returns:
        (n,) whether a query stays; of equally contradicted ones the later goes.
    """
    clash = wrong | wrong.T
    keep = np.ones(len(clash), dtype=bool)
    while (counts := (clash & keep[:, None] & keep[None, :]).sum(axis=1)).any():
        keep[len(counts) - 1 - int(counts[::-1].argmax())] = False
    return keep
