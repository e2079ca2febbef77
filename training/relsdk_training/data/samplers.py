"""Batches of pairs: pure functions of arrays, an epoch and a seed.

Shape letters: N pairs, B pairs of one batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError

__all__ = ["balanced_rows", "conflict_free_batches", "grouped_batches", "length_batches"]

Int = NDArray[np.int64]


def conflict_free_batches(
    query_of: Int, document_of: Int, batch_size: int, *, seed: int, epoch: int
) -> list[Int]:
    """Batch pairs so that no batch holds a query or a document twice.

    Each pair goes into the first open batch that knows neither its query nor its document. The document of
    one pair may still have been judged for another's query; the objective masks those.

    Args:
        query_of: (N,) query of each pair.
        document_of: (N,) document of each pair.
        batch_size: B.
        seed: Of the order.
        epoch: Changes the order.

    Returns:
        Full batches (B,) and a few smaller ones at the end; every pair is in one.

    Raises:
        InputError: B is below 1.
    """
    _check_size(batch_size)
    finished: list[list[int]] = []
    open_batches: list[tuple[list[int], set[int], set[int]]] = []
    for row in _order(len(query_of), seed, epoch).tolist():
        query, document = int(query_of[row]), int(document_of[row])
        at = next(
            (
                number
                for number, (_, queries, documents) in enumerate(open_batches)
                if query not in queries and document not in documents
            ),
            len(open_batches),
        )
        if at == len(open_batches):
            open_batches.append(([], set(), set()))
        rows, queries, documents = open_batches[at]
        rows.append(row)
        queries.add(query)
        documents.add(document)
        if len(rows) == batch_size:
            finished.append(rows)
            del open_batches[at]
    finished += [rows for rows, _, _ in open_batches]
    return [np.array(rows, dtype=np.int64) for rows in finished]


def grouped_batches(query_of: Int, batch_size: int, *, seed: int, epoch: int) -> list[Int]:
    """Batch pairs so that those of a query stay together, as losses over pairs of one query need.

    Queries come in random order; a query with more than B pairs is cut.

    Args:
        query_of: (N,) query of each pair.
        batch_size: B.
        seed: Of the order.
        epoch: Changes the order.

    Returns:
        Batches of at most B pairs; every pair is in one.

    Raises:
        InputError: B is below 1.
    """
    _check_size(batch_size)
    shuffled = _order(len(query_of), seed, epoch)
    groups: dict[int, list[int]] = {}
    for row in shuffled.tolist():
        groups.setdefault(int(query_of[row]), []).append(row)
    batches: list[list[int]] = [[]]
    for rows in groups.values():
        for start in range(0, len(rows), batch_size):
            piece = rows[start : start + batch_size]
            if len(batches[-1]) + len(piece) > batch_size:
                batches.append([])
            batches[-1] += piece
    return [np.array(rows, dtype=np.int64) for rows in batches if rows]


def length_batches(lengths: Sequence[int] | Int, batch_size: int, *, seed: int, epoch: int) -> list[Int]:
    """Batch inputs of similar length: sorted within random pools of fifty batches, batches in random order.

    Args:
        lengths: (N,) tokens of each input.
        batch_size: B.
        seed: Of the order.
        epoch: Changes the order.

    Returns:
        Batches of at most B rows; every row is in one.

    Raises:
        InputError: B is below 1.
    """
    _check_size(batch_size)
    rows = _order(len(lengths), seed, epoch)
    by_length = np.asarray(lengths)
    batches = []
    for start in range(0, len(rows), 50 * batch_size):
        pool = rows[start : start + 50 * batch_size]
        pool = pool[np.argsort(by_length[pool], kind="stable")]
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    order = np.random.default_rng((seed, epoch, 1)).permutation(len(batches))
    return [batches[at] for at in order]


def balanced_rows(labels: Int, most: float, *, seed: int, epoch: int) -> Int:
    """Repeat pairs of rare levels so that levels are as even as a limit allows.

    Args:
        labels: (N,) levels.
        most: How often a pair may be in an epoch, at least 1.
        seed: Of the choice of which pairs are repeated.
        epoch: Changes the choice.

    Returns:
        Row numbers, each at least once, in rising order.

    Raises:
        InputError: `most` is below 1.
    """
    if not most >= 1:
        raise InputError(f"most={most}; at least 1 is needed")
    rng = np.random.default_rng((seed, epoch, 2))
    rows = [np.arange(len(labels))]
    counts = np.bincount(labels)
    for level in np.flatnonzero(counts):
        wanted = min(int(counts.max()), int(most * counts[level])) - int(counts[level])
        of_level = np.flatnonzero(labels == level)
        whole, rest = divmod(wanted, len(of_level))
        rows += [of_level] * whole + [rng.permutation(of_level)[:rest]]
    return np.sort(np.concatenate(rows)).astype(np.int64)


def _order(count: int, seed: int, epoch: int) -> Int:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _check_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}; at least 1 is needed")
