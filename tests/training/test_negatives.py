import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from relsdk.errors import InputError
from relsdk_training.data.negatives import DocumentQueue, MomentumCopy, known_pairs


def at_angles(*degrees):
    radians = torch.tensor(degrees, dtype=torch.float32).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def keys(*values):
    return torch.tensor(values)


rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=7)


@given(rows)
def test_known_pairs_are_those_the_batch_states(batch):
    query_keys, document_keys, labels = (torch.tensor(column) for column in zip(*batch, strict=True))
    for levels in (None, labels):
        stated = {(q, d) for q, d, level in batch if levels is None or level > 0}
        expected = [
            [i != j and (batch[i][0], batch[j][1]) in stated for j in range(len(batch))]
            for i in range(len(batch))
        ]
        assert known_pairs(query_keys, document_keys, levels).tolist() == expected


def test_a_judged_negative_of_the_same_query_stays_a_negative():
    # Rows 0 and 1 share query 5; row 1's document has label 0. Row 2 has row 0's document.
    known = known_pairs(keys(5, 5, 6), keys(1, 2, 1), keys(3, 0, 1))
    assert known.tolist() == [[False, False, True], [True, False, True], [True, False, False]]


def test_known_pairs_refuse_other_shapes():
    with pytest.raises(InputError, match="must be equal"):
        known_pairs(keys(1, 2), keys(1))
    with pytest.raises(InputError, match="one label a row"):
        known_pairs(keys(1, 2), keys(1, 2), keys(1))


def test_queue_is_first_in_first_out():
    queue = DocumentQueue(3, 2)
    assert len(queue) == 0
    queue.add(at_angles(0, 10), keys(1, 2))
    queue.add(at_angles(20, 30), keys(3, 4))
    assert sorted(queue.keys.tolist()) == [2, 3, 4]
    assert len(queue) == 3
    place = queue.keys.tolist().index(4)
    assert torch.allclose(queue.embeddings[place], at_angles(30)[0])


def test_queue_holds_a_document_once_as_embedded_last():
    queue = DocumentQueue(4, 2)
    queue.add(at_angles(0, 10, 20), keys(1, 1, 2))
    queue.add(5 * at_angles(30), keys(2))
    assert len(queue) == 2
    held = dict(zip(queue.keys.tolist(), queue.embeddings, strict=True))
    assert torch.allclose(held[1], at_angles(10)[0])
    assert torch.allclose(held[2], at_angles(30)[0])


def test_more_documents_than_fit_keep_the_last():
    queue = DocumentQueue(2, 2)
    queue.add(at_angles(0, 10, 20), keys(1, 2, 3))
    assert sorted(queue.keys.tolist()) == [2, 3]


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=6), st.integers(1, 6)
)
def test_queue_never_repeats_and_always_has_the_newest(batches, capacity):
    queue = DocumentQueue(capacity, 2)
    for batch in batches:
        queue.add(torch.ones(len(batch), 2), torch.tensor(batch))
        held = [key for key in queue.keys.tolist() if key >= 0]
        assert len(held) == len(set(held)) == len(queue)
        newest = list(dict.fromkeys(reversed(batch)))[:capacity]
        assert set(newest) <= set(held)


def test_hardest_are_similar_but_clearly_less_than_the_positive():
    queue = DocumentQueue(8, 2)
    queue.add(at_angles(5, 30, 40, 50, 80), keys(10, 11, 12, 13, 14))
    # Query at 0, positive at cosine 0.9: the bound 0.855 excludes 5 and 30 degrees (0.996, 0.866).
    mined = queue.hardest(at_angles(0), torch.tensor([0.9]), keys([-1, 13]), k=2)
    assert mined.keys.tolist() == [[12, 14]]  # 13 is forbidden
    assert mined.valid.tolist() == [[True, True]]
    assert torch.allclose(queue.embeddings[mined.rows[0]], at_angles(40, 80))


def test_fewer_than_k_are_marked():
    queue = DocumentQueue(2, 2)
    queue.add(at_angles(40), keys(7))
    mined = queue.hardest(at_angles(0, 0), torch.tensor([0.9, 0.1]), keys([-1], [-1]), k=3)
    assert mined.keys.tolist() == [[7, -1, -1], [-1, -1, -1]]
    assert mined.valid.tolist() == [[True, False, False], [False, False, False]]
    assert mined.rows[~mined.valid].tolist() == [0] * 5


def test_an_empty_queue_and_nothing_forbidden():
    mined = DocumentQueue(4, 2).hardest(at_angles(0), torch.tensor([1.0]), torch.empty(1, 0).long())
    assert mined.valid.shape == (1, 3)
    assert not mined.valid.any()


def test_a_negative_positive_still_bounds_from_above():
    queue = DocumentQueue(2, 2)
    queue.add(at_angles(100, 110), keys(1, 2))  # cosines -0.174, -0.342
    mined = queue.hardest(at_angles(0), torch.tensor([-0.18]), keys([-1]), k=2)
    assert mined.keys.tolist() == [[2, -1]]


def test_queue_state_resumes_exactly():
    queue, other = DocumentQueue(3, 2), DocumentQueue(3, 2)
    queue.add(at_angles(0, 10), keys(1, 2))
    state = queue.state_dict()
    queue.add(at_angles(20, 30), keys(3, 4))
    other.load_state_dict(state)
    other.add(at_angles(20, 30), keys(3, 4))
    assert torch.equal(other.keys, queue.keys)
    assert torch.equal(other.embeddings, queue.embeddings)
    with pytest.raises(InputError, match="saved queue"):
        DocumentQueue(4, 2).load_state_dict(state)


def test_queue_refuses_bad_input():
    with pytest.raises(InputError, match="at least 1"):
        DocumentQueue(0, 2)
    queue = DocumentQueue(2, 2)
    with pytest.raises(InputError, match=r"\(N, 2\)"):
        queue.add(torch.zeros(1, 3), keys(1))
    with pytest.raises(InputError, match="at least 0"):
        queue.add(torch.zeros(1, 2), keys(-1))
    with pytest.raises(InputError, match="one label a row"):
        queue.hardest(at_angles(0), torch.zeros(2), keys([-1]))
    with pytest.raises(InputError, match="k of at least 1"):
        queue.hardest(at_angles(0), torch.zeros(1), keys([-1]), k=0)
    with pytest.raises(InputError, match=r"needed are \(1, F\)"):
        queue.hardest(at_angles(0), torch.zeros(1), keys(-1))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.5)


def test_momentum_copy_follows():
    model = Normed()
    follower = MomentumCopy(model, 0.75)
    with torch.no_grad():
        model.norm.weight.fill_(5.0)
    model.norm.running_mean.fill_(2.0)
    follower.update(model)
    assert follower.model.norm.weight.tolist() == [2.0, 2.0]  # 0.75 * 1 + 0.25 * 5
    assert follower.model.norm.running_mean.tolist() == [2.0, 2.0]
    assert not follower.model.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in follower.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_momentum_one_never_moves():
    model = Normed()
    follower = MomentumCopy(model)
    before = copy.deepcopy(follower.model.state_dict())
    with torch.no_grad():
        model.norm.weight.fill_(5.0)
    follower.update(model)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in follower.model.state_dict().items())
    assert follower.state_dict() == {}  # what it is needs no saving
    follower.load_state_dict({})


def test_momentum_copy_state():
    model = Normed()
    follower, other = MomentumCopy(model, 0.5), MomentumCopy(model, 0.5)
    with torch.no_grad():
        model.norm.weight.fill_(5.0)
    follower.update(model)
    other.load_state_dict(follower.state_dict())
    assert torch.equal(other.model.norm.weight, follower.model.norm.weight)


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_momentum_is_a_share(momentum):
    with pytest.raises(InputError, match="0 to 1"):
        MomentumCopy(Normed(), momentum)
