"""Other servers beside ours: the same weights, one CPU, one thread, by turns."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import click
import numpy as np

from bench.http_server.api import Encode, Vectors, embed_queries, openai_vectors
from bench.http_server.load import Caller, Lane, Outcome, run_load
from bench.http_server.peers import NOT_HERE, AbsentError, peers, start, version_of
from bench.http_server.processes import Server
from bench.http_server.run import CLIENTS, Run, latency, short

OURS = {"relsdk serve": "encoder", "relsdk serve, query tower": "tower"}
# Texts whose vectors are compared.
_COMPARED = 8
# Calls of a block, one at a time.
_BLOCK_CALLS = 40


@dataclass
class Contender:
    """A server that runs, and how it is asked."""

    name: str
    server: Server
    message: Encode
    vectors: Any
    single: list[float]
    rates: list[float]
    loaded: list[Outcome]


def beside_peers(run: Run) -> dict[str, Any]:
    """Time one query at a time, and 16 clients, in blocks by turns; who does not run is stopped."""
    with ExitStack() as stack:
        contenders = _start_all(run, stack)
        found = {one.name: _identity(run, one) for one in contenders}
        for number in range(-1, run.sizes.rounds):
            first = run.take(_BLOCK_CALLS + round(20_000 * run.sizes.block_s))
            for one in contenders if number % 2 else contenders[::-1]:
                _block(run, one, first, counted=number >= 0)
    for one in contenders:
        found[one.name] |= {
            "single": latency(one.single),
            "texts_a_second": short(median(one.rates)),
            "at_16_clients": latency(np.concatenate([outcome.seconds(200) for outcome in one.loaded])),
        }
    return {"contenders": found, "versions": run.present, "absent": run.absent, "clients": CLIENTS}


def _start_all(run: Run, stack: ExitStack) -> list[Contender]:
    """Start every server that can run here, one after the other, and stop it until its turn."""
    found = []
    for name, model in OURS.items():
        server = stack.enter_context(run.server("--model", getattr(run.folders, model)))
        found.append(Contender(name, server, embed_queries, openai_vectors, [], [], []))
        server.pause()
    run.absent.update(NOT_HERE)
    for peer in peers(run.folders, run.work):
        if run.peers is not None and peer.name not in run.peers:
            continue
        click.echo(f"start {peer.name}", err=True)
        try:
            server = stack.enter_context(start(peer, run.work, run.cpus.server))
        except AbsentError as error:
            run.absent[peer.name] = str(error)
            continue
        run.present[peer.name] = version_of(peer, run.work)
        found.append(Contender(peer.name, server, peer.message, peer.vectors, [], [], []))
        server.pause()
    return found


def _identity(run: Run, one: Contender) -> dict[str, Any]:
    """Say how a server's vectors compare with the library's fp32 ones, and what its process holds."""
    texts = [run.texts.one(number) for number in range(_COMPARED)]
    one.server.resume()
    with Caller(one.server.address) as caller:
        vectors: Vectors = np.concatenate([_vectors(one, caller, [text]) for text in texts])
    one.server.pause()
    from relsdk import Embedder

    exact = Embedder(run.folders.encoder, threads=1).encode_query(texts, truncation="silent")
    cosines = np.einsum("nd,nd->n", vectors, exact) / np.linalg.norm(vectors, axis=1)
    return {"cosine_to_encoder": short(cosines.mean()), "start_s": short(one.server.start_s)}


def _vectors(one: Contender, caller: Caller, texts: list[str]) -> Vectors:
    _, status, body = caller.call(one.message(texts))
    if status != 200:
        raise RuntimeError(f"{one.name} answered {status}: {body[:300]!r}")
    found: Vectors = one.vectors(body)
    return found


def _block(run: Run, one: Contender, first: int, *, counted: bool) -> None:
    one.server.resume()
    with Caller(one.server.address) as caller:
        calls = min(_BLOCK_CALLS, run.sizes.calls)
        seconds = [
            caller.call(one.message([run.texts.one(number)]))[0] for number in range(first, first + calls)
        ]
    lane = Lane(
        "texts",
        lambda number: one.message([run.texts.one(first + _BLOCK_CALLS + number)]),
        clients=CLIENTS,
    )
    (outcome,) = run_load(one.server.address, [lane], run.sizes.block_s)
    one.server.pause()
    if set(outcome.status) != {200}:
        raise RuntimeError(f"{one.name} answered {dict(Counter(outcome.status))}")
    if counted:
        one.single += seconds
        one.loaded.append(outcome)
        one.rates.append(len(outcome.ended) / max(outcome.ended))
