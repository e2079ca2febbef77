"""The simulated annotator: its mistakes are the ones that were asked for."""

import numpy as np
import pytest

from relsdk.errors import InputError
from relsdk_sample import generate, level_of
from relsdk_sample.annotator import GRADING, WRITING, annotate, write_queries

EXACT = np.eye(4).tolist()


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=1500, n_queries=400, pairs_per_query=16)


def shares(rows, columns):
    counts = np.zeros((4, 4))
    np.add.at(counts, ([int(level) for level in rows], [int(level) for level in columns]), 1)
    totals = counts.sum(axis=1)
    return counts / np.maximum(totals, 1)[:, None], totals


def test_opinions_have_the_confusion(world):
    opinions = annotate(world.pairs)
    found, counts = shares([pair.level for pair in world.pairs], [pair.level for pair in opinions])
    error = np.sqrt(np.array(GRADING) * (1 - np.array(GRADING)) / counts[:, None])
    assert counts.min() > 800
    assert (np.abs(found - GRADING) <= 4 * error).all()
    assert [(pair.query, pair.document) for pair in opinions] == [(p.query, p.document) for p in world.pairs]


def test_it_is_right_in_60_percent_and_calls_half_of_the_irrelevant_a_little_relevant():
    assert np.mean(np.diag(GRADING)) == pytest.approx(0.6)
    assert GRADING[0][1] == 0.5
    for confusion in (GRADING, WRITING):
        np.testing.assert_allclose(np.sum(confusion, axis=1), 1)


def test_an_opinion_depends_on_the_pair_and_the_seed_alone(world):
    pairs = world.pairs[:200]
    assert annotate(pairs[::-1]) == annotate(pairs)[::-1]
    assert annotate(pairs, seed=1) != annotate(pairs)
    assert annotate(pairs, confusion=EXACT) == pairs


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_perfect_writer_writes_the_level(world, level):
    written = write_queries(world.documents[:200], levels=[level], confusion=EXACT)
    assert len(written) > 190
    assert all(level_of(pair.query, pair.document) == level == pair.level for pair in written)


def test_written_queries_have_the_confusion(world):
    written = write_queries(world.documents)
    assert len(written) > 2.9 * len(world.documents)
    exact = [level_of(pair.query, pair.document) for pair in written]
    found, counts = shares([pair.level for pair in written], exact)
    wanted = np.array(WRITING)[1:]
    error = np.sqrt(wanted * (1 - wanted) / counts[1:, None])
    assert (np.abs(found[1:] - wanted) <= 4 * error + 0.01).all()
    assert len({pair.query for pair in written}) > 0.8 * len(written)


@pytest.mark.parametrize(
    "confusion", [EXACT[:3], [[1.0, 0.5, 0, 0], *EXACT[1:]], [[2, -1, 0, 0], *EXACT[1:]]]
)
def test_no_confusion(world, confusion):
    with pytest.raises(InputError, match="four rows of four probabilities that sum to 1"):
        annotate(world.pairs[:1], confusion=confusion)
