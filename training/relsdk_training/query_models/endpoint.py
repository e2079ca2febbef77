"""A query model behind a chat endpoint, told by examples what each level means: the prompting baseline."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing

from relsdk.errors import InputError, TrainingError
from relsdk.levels import NUM_LEVELS, parse_level
from relsdk_training.query_models.base import QueryExample, QueryRequest
from relsdk_training.query_models.chat_endpoint import ChatEndpoint, UselessAnswers, without_thoughts
from relsdk_training.query_models.rubric import BUILT_IN

__all__ = ["EndpointQueryModel"]

_TASK = """\
你是搜索引擎的用户。给你一篇文档和一个相关性等级，请写出一个搜索查询，使该文档对这个查询的相关性恰好是该等级。

{rubric}

查询要简短自然，像真实用户输入的那样，语言与示例一致。只输出一个查询，不要解释、编号或引号。"""

# A query that was among the latest so many is nothing new.
_REMEMBERED = 200

_LEAD = re.compile(
    r"^(?:[-*•]\s+"  # a bullet
    r"|[(（]?\d{1,2}(?:[、)）]|\.(?!\d))\s*"  # 1. but not 3.5
    r"|(?:搜索)?(?:查询|query)词?\s*[:：]\s*)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r'"[^"]*"|\'[^\']*\'|“[^“”]*”|‘[^‘’]*’|「[^「」]*」|『[^『』]*』|`[^`]*`')


class EndpointQueryModel:
    """Asks a chat model for queries, with examples of every level before each document.

    Args:
        endpoint: The chat model.
        examples: From the domain, at least one of each level, or none.
        examples_per_level: At most so many are shown of each level.
        temperature: Of sampling; 0 gives the same query in all samples.
        rubric: What the levels mean; see `read_rubric`.

    Raises:
        InputError: Only some levels have examples, an example's level is not 0-3, or none shall be shown.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        examples: Sequence[QueryExample],
        *,
        examples_per_level: int = 4,
        temperature: float = 1.0,
        rubric: str = BUILT_IN,
    ) -> None:
        if examples_per_level < 1:
            raise InputError(f"examples_per_level is {examples_per_level}; 1 or more is needed")
        self._examples: list[list[QueryExample]] = [[] for _ in range(NUM_LEVELS)]
        for example in examples:
            self._examples[parse_level(example.level)].append(example)
        missing = [str(level) for level, found in enumerate(self._examples) if not found]
        if examples and missing:
            raise InputError(
                f"no examples of level {', '.join(missing)}; at least one of each level is needed"
            )
        self._endpoint = endpoint
        self._examples_per_level = examples_per_level
        self._temperature = temperature
        self._instructions = _TASK.replace("{rubric}", rubric)
        self._useless = UselessAnswers()
        self._latest: deque[str] = deque(maxlen=_REMEMBERED)

    def write(self, requests: Sequence[QueryRequest], *, samples: int, seed: int) -> list[list[str]]:
        """Write queries, with one conversation for each request.

        Args:
            requests: N of them. An error loses what was written for the others, unless it is recorded.
            samples: S queries for each.
            seed: The same request and seed give the same conversation, and the same queries where the
                endpoint knows seeds.

        Returns:
            N lists of at most S queries: the first line of each answer, without quotes and numbering; empty
            answers are left out.

        Raises:
            InputError: A level is not 0-3.
            TrainingError: The endpoint refuses or keeps failing, or writes nothing, or the same again and
                again; see `UselessAnswers`.
        """
        conversations = [self.messages(request, seed) for request in requests]  # all levels are checked first
        return list(self._write(conversations, samples, seed))

    def write_each(self, requests: Iterable[QueryRequest], *, seed: int) -> Generator[list[str]]:
        """Yield the queries of each request, one or none, in the order of the requests; see `write`."""
        yield from self._write((self.messages(request, seed) for request in requests), 1, seed)

    def _write(
        self, conversations: Iterable[list[dict[str, str]]], samples: int, seed: int
    ) -> Generator[list[str]]:
        def ask(messages: list[dict[str, str]]) -> list[str]:
            return self._endpoint.ask(messages, temperature=self._temperature, seed=seed, samples=samples)

        with closing(self._endpoint.each(ask, conversations)) as answered:
            for answers in answered:
                queries = [query for query in map(_first_query, answers) if query]
                self._check(queries, answers[-1])
                yield queries

    def _check(self, queries: Sequence[str], answer: str) -> None:
        """Stop asking a model that refuses in words, or has one answer for everything."""
        useful = any(query not in self._latest for query in queries)
        self._latest.extend(queries)
        if self._useless.give_up(useful):
            raise TrainingError(
                f"hardly any answer of {self._endpoint.model} is a new query, the last is {answer[-100:]!r}; "
                "let another model write (synthesis.endpoint.name), or raise query.temperature; "
                "finished work is kept and the same command goes on from there"
            )

    def messages(self, request: QueryRequest, seed: int) -> list[dict[str, str]]:
        """Return the conversation: examples of the wanted level come last, next to the question."""
        wanted = parse_level(request.level)
        chance = random.Random(f"{seed} {wanted:d} {request.document}")
        messages = [{"role": "system", "content": self._instructions}]
        for level in sorted(range(NUM_LEVELS), key=lambda level: level == wanted):
            # An example of the same document would give its true query away.
            others = [example for example in self._examples[level] if example.document != request.document]
            for example in chance.sample(others, min(self._examples_per_level, len(others))):
                messages.append(_question(example.document, level))
                messages.append({"role": "assistant", "content": example.query})
        return [*messages, _question(request.document, wanted)]


def _question(document: str, level: int) -> dict[str, str]:
    return {"role": "user", "content": f"文档：{document}\n相关性等级：{level:d}\n查询："}


def _first_query(answer: str) -> str:
    """Return the first line that is not empty when cleaned; "" when there is none."""
    lines = map(_cleaned, without_thoughts(answer).splitlines())
    return next((line for line in lines if line), "")


def _cleaned(line: str) -> str:
    """Return a line without the numbering before it and the quotes around it, in any order."""
    before, line = "", line.strip()
    while line != before:
        before, line = line, _LEAD.sub("", line, count=1).strip()
        if _QUOTED.fullmatch(line):
            line = line[1:-1].strip()
    return line
