import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk_training.data.samplers import (
    balanced_rows,
    conflict_free_batches,
    grouped_batches,
    length_batches,
)

pairs = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=80)
sizes = st.integers(1, 9)
epochs = st.integers(0, 3)


def columns(rows):
    return np.array([q for q, _ in rows]), np.array([d for _, d in rows])


@given(pairs, sizes, epochs)
def test_conflict_free(rows, size, epoch):
    query_of, document_of = columns(rows)
    batches = conflict_free_batches(query_of, document_of, size, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) <= size
        assert len(set(query_of[batch].tolist())) == len(batch)
        assert len(set(document_of[batch].tolist())) == len(batch)


@given(pairs, sizes, epochs)
def test_grouped(rows, size, epoch):
    query_of, _ = columns(rows)
    batches = grouped_batches(query_of, size, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(rows)))
    assert max(map(len, batches)) <= size
    counts = np.bincount(query_of)
    for query in set(query_of.tolist()):
        holding = sum(query in query_of[batch] for batch in batches)
        assert holding == -(-counts[query] // size)  # no more batches than its pairs need


@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), sizes, epochs)
def test_by_length(lengths, size, epoch):
    batches = length_batches(lengths, size, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size


def test_similar_lengths_meet_and_their_order_is_random():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    batches = length_batches(lengths, 20, seed=0, epoch=0)
    waste = sum(lengths[b].max() * len(b) for b in batches) / lengths.sum()
    assert waste < 1.06
    first = [int(lengths[b].min()) for b in batches]
    assert first != sorted(first)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.floats(1, 8), epochs)
@settings(max_examples=50)
def test_balanced(labels, most, epoch):
    labels = np.array(labels)
    rows = balanced_rows(labels, most, seed=1, epoch=epoch)
    times = np.bincount(rows, minlength=len(labels))
    assert times.min() >= 1
    assert times.max() <= np.ceil(most)
    counts, before = np.bincount(labels[rows], minlength=4), np.bincount(labels, minlength=4)
    for level in range(4):
        assert counts[level] == (0 if not before[level] else min(before.max(), int(most * before[level])))


def test_epochs_differ_and_repeat():
    query_of, document_of = np.arange(50) % 10, np.arange(50)
    makers = [
        lambda epoch: conflict_free_batches(query_of, document_of, 8, seed=3, epoch=epoch),
        lambda epoch: grouped_batches(query_of, 8, seed=3, epoch=epoch),
        lambda epoch: length_batches(query_of.tolist(), 8, seed=3, epoch=epoch),
    ]
    for make in makers:
        one, again, other = (np.concatenate(make(epoch)).tolist() for epoch in (0, 0, 1))
        assert one == again != other


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_below_one(size):
    with pytest.raises(InputError, match="at least 1"):
        grouped_batches(np.arange(3), size, seed=0, epoch=0)
    with pytest.raises(InputError, match="at least 1"):
        balanced_rows(np.arange(3), 0.5, seed=0, epoch=0)
