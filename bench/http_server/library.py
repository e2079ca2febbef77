"""The library in a process of its own, on the server's CPU, asked line by line.

    python -m bench.http_server.library SETTINGS

What a call takes is timed in this process, around the call alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness.machine import ROOT
from bench.http_server.models import Texts
from bench.http_server.processes import ONE_THREAD, kernel_view, python_path

# Larger than the caches of one core.
_CACHES_BYTES = 32 << 20


class Session:
    """What the process does when it is asked.

    Args:
        settings: "model", "index", "scorer": folders, each may be absent; "shared": for the texts.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        from relsdk import Embedder, Index, RelevanceScorer, Searcher

        self.texts = Texts(Path(settings["shared"]))
        self.embedder = Embedder(settings["model"], threads=1)
        self.embedder.warmup()
        self.embedder.encode_document("预热")  # a server has loaded that side's file, too
        scorer = settings.get("scorer")
        self.scorer = None if scorer is None else RelevanceScorer(scorer, threads=1)
        index = settings.get("index")
        self.searcher = None if index is None else Searcher(self.embedder, Index.open(index))
        self.caches = np.zeros(_CACHES_BYTES, dtype=np.int8)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Call the method that the request names."""
        name = request.pop("do")
        found: dict[str, Any] = getattr(self, f"do_{name}")(**request)
        return found

    def do_encode(self, number: int, count: int) -> dict[str, Any]:
        """Encode the texts of a request."""
        texts = self.texts.some(number, count)
        return _timed(lambda: self._encode(texts))

    def do_block(self, first: int, count: int, seconds: float) -> dict[str, Any]:
        """Encode requests from a number on, one after the other."""
        number, begin = first, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            self._encode(self.texts.some(number, count))
            number += 1
        return {"texts": (number - first) * count, "seconds": time.perf_counter() - begin}

    def do_work(self, first: int, requests: int, count: int) -> dict[str, Any]:
        """Encode so many requests."""
        for number in range(first, first + requests):
            self._encode(self.texts.some(number, count))
        return {}

    def do_search(self, number: int, k: int, mode: str) -> dict[str, Any]:
        """Search for a text."""
        if self.searcher is None:
            raise RuntimeError("no index was given")
        searcher, query = self.searcher, self.texts.one(number)
        return _timed(lambda: searcher.search(query, k, mode=mode))

    def do_rerank(self, number: int, documents: list[str]) -> dict[str, Any]:
        """Order documents by the scorer."""
        if self.scorer is None:
            raise RuntimeError("no scorer was given")
        scorer, query = self.scorer, self.texts.one(number)
        return _timed(lambda: scorer.rank(query, documents))

    def do_evict(self) -> dict[str, Any]:
        """Fill this CPU's caches with something else."""
        self.caches += 1
        return {}

    def do_kernel_view(self) -> dict[str, Any]:
        """Say what the process holds."""
        return kernel_view(os.getpid())

    def _encode(self, texts: list[str]) -> Any:
        return self.embedder.encode_query(texts[0] if len(texts) == 1 else texts, truncation="silent")


class Library:
    """A session in another process; a context manager.

    Args:
        settings: See `Session`.
        cpu: Its CPU.
    """

    def __init__(self, settings: dict[str, Any], cpu: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "bench.http_server.library", json.dumps(settings)],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD, **python_path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: The process ended; what it wrote to its standard error says why.
        """
        requests, answers = self.process.stdin, self.process.stdout
        if requests is None or answers is None:
            raise RuntimeError("the process has no pipes")
        print(json.dumps({"do": do, **request}), file=requests, flush=True)
        line = answers.readline()
        if not line:
            raise RuntimeError(f"the library's process ended with {self.process.wait()} at {do}")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()


def _timed(work: Callable[[], Any]) -> dict[str, float]:
    begin = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - begin}


def main() -> None:
    """Answer requests until there are none."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    session = Session(json.loads(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(session.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
