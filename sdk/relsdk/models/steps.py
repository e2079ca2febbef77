"""The steps of an answer: what a model has to run before the answer goes on.

A flow is a generator that yields steps and is sent what each gives. `run_flow` runs it in place; a server
runs the steps of many flows together, in batches of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from relsdk.models.embedder import Embedder

__all__ = ["Compute", "Encode", "Flow", "run_flow"]

Result = TypeVar("Result")
# Yields steps, takes what each gives, returns the answer.
Flow = Generator[Any, Any, Result]


@dataclass(frozen=True, slots=True)
class Encode:
    """Texts to unit vectors.

    Attributes:
        embedder: What encodes them.
        side: Whether they are queries or documents.
        texts: N of them, without the prompt.
        options: Of `Embedder.encode_query`.
    """

    embedder: Embedder
    side: Literal["query", "document"]
    texts: list[str]
    options: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """Return (N, D) float32."""
        encode = self.embedder.encode_query if self.side == "query" else self.embedder.encode_document
        return encode(self.texts, **self.options)


@dataclass(frozen=True, slots=True)
class Compute:
    """Work without a model.

    Attributes:
        name: What it does, in one word.
        run: Does it.
    """

    name: str
    run: Callable[[], Any]


def run_flow(flow: Flow[Result]) -> Result:
    """Run a flow's steps one after the other and return its answer."""
    try:
        step = next(flow)
        while True:
            step = flow.send(step.run())
    except StopIteration as end:
        answer: Result = end.value
        return answer
