import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk.levels import cumulative_to_probabilities
from relsdk_training.losses.cosent import cosent
from relsdk_training.losses.ordinal import (
    CumulativeLink,
    cumulative_bce,
    ordinal_nll,
)
from relsdk_training.losses.similarity import paired_cosine


def test_cosent_by_hand():
    # Ordered pairs: (0, 1), (0, 2), (1, 2); gaps over t = 0.5: 0.4, -0.8 and -1.2.
    loss = cosent(torch.tensor([0.5, 0.7, 0.1]), torch.tensor([3, 1, 0]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0.4) + math.exp(-0.8) + math.exp(-1.2)))


def test_cosent_is_zero_among_equal_labels():
    scores = torch.tensor([0.5, 0.7], requires_grad=True)
    loss = cosent(scores, torch.tensor([2, 2]))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [0, 0]


@pytest.mark.peers
def test_cosent_equals_sentence_transformers():
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(2, 12, 8, generator=generator)
    labels = torch.randint(0, 4, (12,), generator=generator)
    theirs = losses.CoSENTLoss(torch.nn.Identity()).compute_loss_from_embeddings([queries, documents], labels)
    ours = cosent(paired_cosine(queries, documents), labels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_cosent_refuses_other_shapes():
    with pytest.raises(InputError, match="one label a row"):
        cosent(torch.zeros(3), torch.zeros(2))


def test_link_starts_where_told_and_falls():
    link = CumulativeLink((0.2, 0.5, 0.9), slope=10.0)
    assert link.thresholds().tolist() == pytest.approx([0.2, 0.5, 0.9])
    assert link(torch.tensor([0.5]))[0].tolist() == pytest.approx([3.0, 0.0, -4.0], abs=1e-5)


def test_link_has_any_number_of_levels():
    assert CumulativeLink((0.5,))(torch.zeros(2)).shape == (2, 1)


@pytest.mark.parametrize(("thresholds", "slope"), [((), 1.0), ((0.5, 0.5), 1.0), ((0.1, 0.2), 0.0)])
def test_link_refuses(thresholds, slope):
    with pytest.raises(InputError, match="thresholds must rise"):
        CumulativeLink(thresholds, slope)


def test_link_learns_thresholds_between_the_levels():
    scores = torch.linspace(0, 1, 80)
    labels = (scores * 4).long().clamp(max=3)
    link = CumulativeLink((0.4, 0.5, 0.6), slope=5.0)
    optimiser = torch.optim.Adam(link.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        ordinal_nll(link(scores), labels).backward()
        optimiser.step()
    assert link.thresholds().tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.03)


def test_nll_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64).expand(4, 3)
    at_least = [1.0, *(1 / (1 + math.exp(-x)) for x in (2.0, 0.0, -1.0)), 0.0]
    for level in range(4):
        loss = ordinal_nll(logits[:1], torch.tensor([level]))
        assert loss.item() == pytest.approx(-math.log(at_least[level] - at_least[level + 1]))


@settings(max_examples=30, deadline=None)
@given(
    first=st.floats(-8, 8),
    gaps=st.lists(st.floats(0.01, 6), min_size=2, max_size=2),
    label=st.integers(0, 3),
)
def test_nll_is_the_log_of_the_probability_the_sdk_gives(first, gaps, label):
    logits = torch.tensor([[first, first - gaps[0], first - sum(gaps)]], dtype=torch.float64)
    probability = cumulative_to_probabilities(torch.sigmoid(logits).numpy())[0, label]
    assert float(ordinal_nll(logits, torch.tensor([label]))) == pytest.approx(
        -math.log(probability), rel=1e-6
    )


@pytest.mark.parametrize("label", range(4))
def test_nll_stays_finite_far_out_and_at_equal_logits(label):
    for row in ([90.0, 80.0, 70.0], [-70.0, -80.0, -90.0], [1.0, 1.0, 1.0]):
        logits = torch.tensor([row], requires_grad=True)
        loss = ordinal_nll(logits, torch.tensor([label]))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


def test_nll_gradient():
    logits = torch.tensor([[2.0, 0.0, -1.0]] * 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ordinal_nll(x, torch.arange(4)), (logits,))


def test_bce_by_hand():
    # Label 2: yes, yes, no; label 0: no, no, no. At logit 0 every answer costs log 2.
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    first = 2 * math.log(1 + math.exp(-1)) + math.log(2)
    loss = cumulative_bce(logits, torch.eye(4)[[2, 0]])
    assert loss.item() == pytest.approx((first + 3 * math.log(2)) / 2)


def test_bce_of_probabilities_is_the_mean_over_labels():
    logits = torch.tensor([[2.0, 0.5, -1.0]])
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    of_labels = [cumulative_bce(logits, torch.eye(4)[[level]]) for level in range(4)]
    wanted = sum(p * loss for p, loss in zip(probabilities[0], of_labels, strict=True))
    assert cumulative_bce(logits, probabilities).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_ordinal_losses_refuse_other_shapes():
    with pytest.raises(InputError, match="one label a row"):
        ordinal_nll(torch.zeros(3, 3), torch.zeros(2, dtype=torch.long))
    for rows, levels in ((2, 4), (3, 3)):
        with pytest.raises(InputError, match="a probability of each level"):
            cumulative_bce(torch.zeros(3, 3), torch.zeros(rows, levels))
