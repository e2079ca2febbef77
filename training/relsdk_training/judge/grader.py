"""A language model as a grader: what level a document has for a query, how sure it is, and why."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from relsdk.errors import InputError, TrainingError
from relsdk.levels import NUM_LEVELS, most_probable_level
from relsdk.records import LabelledPair
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.judge._answers import read_answer
from relsdk_training.query_models.chat_endpoint import ChatEndpoint, UselessAnswers
from relsdk_training.query_models.rubric import BUILT_IN

__all__ = ["EndpointGrader", "Opinion"]

_TASK = "你是搜索相关性的评审员。给你一个查询和一篇文档，请判断文档对这个查询的相关性等级。"
_FORM = """\
只输出一个 JSON 对象，不要别的内容：{"level": 等级, "reason": "理由"}
level 是 0、1、2、3 中的一个数字，reason 用一句话说明为什么。"""
_EXAMPLES_PER_LEVEL = 4
# Of sampling, where more than one answer is wanted.
_TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a language model says of a pair.

    Attributes:
        level: The level that most of its answers name; of several, the lowest.
        probabilities: P(level = 0), ..., P(level = 3): the share of the answers that name each.
        reason: Of the first answer that names the level; may be empty.
    """

    level: int
    probabilities: tuple[float, float, float, float]
    reason: str


class EndpointGrader:
    """Asks a chat model for the levels of pairs, one pair a question.

    Args:
        endpoint: The chat model.
        rubric: What the levels mean; see `read_rubric`.
        examples: Pairs that people labelled; four of each level, drawn once, stand in every question.
        samples: Answers for each pair. One is the likeliest; of more, drawn at temperature 1, the shares are
            the probabilities.

    Raises:
        InputError: No sample is asked for.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        *,
        rubric: str = BUILT_IN,
        examples: Sequence[LabelledPair] = (),
        samples: int = 1,
    ) -> None:
        if samples < 1:
            raise InputError(f"samples is {samples}; 1 or more is needed")
        self.samples = samples
        self._endpoint = endpoint
        self._rubric = rubric
        self._examples = _choose(examples)
        self._temperature = 0.0 if samples == 1 else _TEMPERATURE
        self._useless = UselessAnswers()

    def messages(self, query: str, document: str) -> list[dict[str, str]]:
        """Return the question about a pair; examples of the same query or document are left out of it."""
        shown = [
            f"查询：{pair.query}\n文档：{document_text(pair.document)}\n等级：{pair.level:d}"
            for pair in self._examples
            if normal_form(pair.query) != normal_form(query) and document_text(pair.document) != document
        ]
        examples = ["由人评定的例子：", *shown] if shown else []
        return [
            {"role": "system", "content": "\n\n".join([_TASK, self._rubric, *examples, _FORM])},
            {"role": "user", "content": f"查询：{query}\n文档：{document}"},
        ]

    def is_recorded(self, query: str, document: str) -> bool:
        """Whether the endpoint's recording holds all answers about a pair, so that nobody is asked."""
        messages = self.messages(query, document)
        recorded = self._endpoint.recorded(
            messages, temperature=self._temperature, seed=0, samples=self.samples
        )
        return recorded is not None

    def grade(self, pairs: Iterable[tuple[str, str]]) -> Generator[Opinion | None]:
        """Yield the model's opinion of each pair, in their order; None where no answer names one level.

        Args:
            pairs: Queries and documents.

        Raises:
            InputError: The recording that is replayed lacks an answer.
            TrainingError: The endpoint refuses or keeps failing, or hardly any answer names a level; see
                `UselessAnswers`.
        """
        with closing(self._endpoint.each(self._ask, pairs)) as answered:
            for answers in answered:
                yield self._opinion(answers)

    def _ask(self, pair: tuple[str, str]) -> list[str]:
        messages = self.messages(*pair)
        return self._endpoint.ask(messages, temperature=self._temperature, seed=0, samples=self.samples)

    def _opinion(self, answers: Sequence[str]) -> Opinion | None:
        """Return what the answers about a pair say, or stop a model that says nothing of use."""
        named = [level for level in map(read_answer, answers) if level is not None]
        if self._useless.give_up(useful=bool(named)):
            raise TrainingError(
                f"hardly any answer of {self._endpoint.model} names a level, the last is "
                f"{answers[-1][-100:]!r}; let another model judge, or say in the rubric what 0 to 3 mean; "
                "what is recorded is not asked again: where the endpoint was at fault, delete its recording"
            )
        if not named:
            return None
        shares = np.bincount([level for level, _ in named], minlength=NUM_LEVELS) / len(named)
        level = int(most_probable_level(shares[None])[0])
        p0, p1, p2, p3 = shares.tolist()
        return Opinion(level, (p0, p1, p2, p3), next(reason for one, reason in named if one == level))


def _choose(examples: Sequence[LabelledPair]) -> list[LabelledPair]:
    """Draw some of each level, in an order that shows no level last."""
    chance = random.Random(0)
    chosen = []
    for level in range(NUM_LEVELS):
        of_level = [pair for pair in examples if pair.level == level]
        chosen += chance.sample(of_level, min(_EXAMPLES_PER_LEVEL, len(of_level)))
    chance.shuffle(chosen)
    return chosen
