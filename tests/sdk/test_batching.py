import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.runtime.batching import token_budget_batches


@given(
    lengths=st.lists(st.integers(0, 600), max_size=200),
    budget=st.integers(1, 3000),
    batch_size=st.none() | st.integers(1, 40),
)
def test_batches_are_a_bounded_partition(lengths, budget, batch_size):
    batches = token_budget_batches(lengths, token_budget=budget, batch_size=batch_size)
    rows = np.concatenate(batches) if batches else np.array([], dtype=np.int64)
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        assert batch_size is None or len(batch) <= batch_size
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)


def test_a_hand_made_case():
    batches = token_budget_batches([3, 10, 4, 9], token_budget=20)
    assert [batch.tolist() for batch in batches] == [[1, 3], [2, 0]]


@pytest.mark.parametrize("bad", [{"token_budget": 0}, {"batch_size": 0}])
def test_bounds_below_one_are_errors(bad):
    with pytest.raises(InputError, match="at least 1"):
        token_budget_batches([1], **bad)
