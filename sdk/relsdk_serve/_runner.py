"""Run models for requests: tokens made here, batches by the engine, and what it cost.

Shape letters: N texts or pairs, D dimension, C outputs of a head.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import TruncationError
from relsdk.models.cross_encoder import CrossEncoder, Judge
from relsdk.models.embedder import Embedder
from relsdk.models.pair_model import Pair
from relsdk.models.steps import Encode, Flow
from relsdk.runtime.tokenizer import TokenizedTexts
from relsdk_serve._engine import Engine
from relsdk_serve._jobs import Job, Lane

__all__ = ["Cost", "Runner", "parts_of"]

Result = TypeVar("Result")
# Texts of fewer characters together are tokenised on the event loop: less than a millisecond.
_AT_ONCE = 2000
# Of more, so many are tokenised at a time: about 20 ms.
_AT_A_TIME = 1 << 15


@dataclass(slots=True)
class Cost:
    """What a request asked of the models, and on which terms.

    Attributes:
        lane: Where its work waits.
        truncate: Whether texts that are too long are cut, or an error.
        inputs: Texts and pairs.
        tokens: Of them.
        truncated: Those that were cut.
        cached: Queries whose vectors were known.
        queued: Seconds of waiting.
        ran: Seconds of running, its share of batches.
    """

    lane: Lane = Lane.INTERACTIVE
    truncate: bool = True
    inputs: int = 0
    tokens: int = 0
    truncated: int = 0
    cached: int = 0
    queued: float = 0.0
    ran: float = 0.0
    lengths: list[int] = field(default_factory=list)

    def add(self, tokens: TokenizedTexts, limit: int) -> None:
        """Note what was tokenised.

        Raises:
            TruncationError: A text is too long and may not be cut.
        """
        self.lengths = tokens.lengths
        self.inputs += len(tokens.ids)
        self.tokens += sum(self.lengths)
        self.truncated += len(tokens.truncated)
        if tokens.truncated and not self.truncate:
            raise TruncationError(
                f"{len(tokens.truncated)} of {len(tokens.ids)} inputs exceed {limit} tokens (first: input "
                f'{tokens.truncated[0]}); shorten them, or send "truncate": true'
            )

    def note(self, job: Job) -> Job:
        """Note a job that is finished."""
        self.queued += job.queued_seconds or 0.0
        self.ran += job.run_seconds
        return job


class Runner:
    """Runs encoders, scorers and flows through one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="relsdk-tokenize")

    def close(self) -> None:
        """End the thread that tokenises."""
        self._tokenizing.shutdown(wait=False, cancel_futures=True)

    async def encode(
        self,
        embedder: Embedder,
        texts: Sequence[str],
        prompt_name: str | None,
        cost: Cost,
        *,
        normalize: bool | None = True,
    ) -> NDArray[np.float32]:
        """Return the vectors of N texts, (N, D).

        Args:
            embedder: What encodes them.
            texts: The texts.
            prompt_name: See `Embedder.encode`.
            cost: What is added to.
            normalize: See `Embedder.encode`.

        Raises:
            InputFailedError: The model cannot run one of them.
            TruncationError: One is too long and may not be cut.
        """
        query = prompt_name == "query" and normalize is not False
        if query and len(texts) == 1:
            known = embedder.cached_query(texts[0])
            if known is not None:
                cost.inputs += 1
                cost.cached += 1
                return known[None]
        if not texts:
            return np.empty((0, embedder.dimension), dtype=np.float32)
        tokenize = partial(embedder.tokenize, prompt_name=prompt_name)
        tokens = await self._tokens(tokenize, texts, cost, embedder.max_tokens)
        run = partial(embedder.encode_tokens, prompt_name=prompt_name, normalize_embeddings=normalize)
        # Prompts may run different models: texts of one batch have the same.
        key = ("encode", id(embedder), prompt_name, normalize)
        job = cost.note(await self.engine.rows(key, tokens, run, cost.lane))
        vectors: NDArray[np.float32] = job.result
        if query and not tokens.truncated:
            for text, vector in zip(texts, vectors, strict=True):
                embedder.cache_query(text, vector)
        return vectors

    async def logits(self, scorer: CrossEncoder, pairs: Sequence[Pair], cost: Cost) -> NDArray[np.float32]:
        """Return what a scorer gives for N pairs, (N, C); see `encode`."""
        if not pairs:
            return np.empty((0, scorer.settings.outputs), dtype=np.float32)
        tokens = await self._tokens(scorer.tokenize, pairs, cost, scorer.settings.max_tokens)
        run = scorer.logits_of_tokens
        job = cost.note(await self.engine.rows(("score", id(scorer)), tokens, run, cost.lane))
        logits: NDArray[np.float32] = job.result
        return logits

    async def flow(self, flow: Flow[Result], cost: Cost) -> Result:
        """Run a flow's steps and return its answer."""
        try:
            step = next(flow)
            while True:
                step = flow.send(await self._step(step, cost))
        except StopIteration as end:
            answer: Result = end.value
            return answer

    async def call(self, name: str, function: Callable[[], Result], cost: Cost) -> Result:
        """Run a function on a worker."""
        job = cost.note(await self.engine.call(name, function, cost.lane))
        result: Any = job.result
        returned: Result = result
        return returned

    async def _step(self, step: Any, cost: Cost) -> Any:
        if isinstance(step, Encode):
            prompt_name = step.embedder.known_prompt(step.side)
            return await self.encode(step.embedder, step.texts, prompt_name, cost)
        if isinstance(step, Judge):
            return await self.logits(step.scorer, step.pairs, cost)
        return await self.call(step.name, step.run, cost)

    async def _tokens(
        self, tokenize: Callable[[Any], TokenizedTexts], inputs: Sequence[Any], cost: Cost, limit: int
    ) -> TokenizedTexts:
        if len(inputs) < 64 and sum(map(_characters, inputs)) < _AT_ONCE:
            tokens = tokenize(inputs)
        else:
            loop = asyncio.get_running_loop()
            tokens = TokenizedTexts([], [], [])
            for part in parts_of(inputs):
                some = await loop.run_in_executor(self._tokenizing, tokenize, part)
                tokens.truncated.extend(len(tokens.ids) + row for row in some.truncated)
                tokens.ids.extend(some.ids)
                tokens.type_ids.extend(some.type_ids)
        cost.add(tokens, limit)
        return tokens


def parts_of(inputs: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Cut inputs into parts, so that the tokens of a large request are made in turns with those of others."""
    start = characters = 0
    for at, item in enumerate(inputs):
        characters += _characters(item)
        if characters > _AT_A_TIME:
            yield inputs[start : at + 1]
            start, characters = at + 1, 0
    if start < len(inputs):
        yield inputs[start:]


def _characters(item: Any) -> int:
    if isinstance(item, str):
        return len(item)
    query, document = item
    return len(query) + len(document if isinstance(document, str) else document.title + document.text)
