"""Losses of distributions over levels: by hand, as those of labels where one level is certain, gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError
from relsdk_training.losses.contrastive import label_weighted_info_nce
from relsdk_training.losses.cosent import cosent
from relsdk_training.losses.ordinal import CumulativeLink, cumulative_bce, ordinal_nll
from relsdk_training.losses.wasserstein import _gaussian_distance, batch_wasserstein

WIDE = torch.float64


def batch(rows, seed=0, dimension=6):
    generator = torch.Generator().manual_seed(seed)
    queries, documents = torch.randn(2, rows, dimension, dtype=WIDE, generator=generator)
    targets = torch.rand(rows, 4, dtype=WIDE, generator=generator)
    weights = 0.5 + torch.rand(rows, dtype=WIDE, generator=generator)
    return queries, documents, targets / targets.sum(dim=1, keepdim=True), weights


def certain(labels):
    return torch.eye(4)[labels]


def test_labels_and_certain_distributions_are_one():
    """Bit for bit: a training of labels alone is what it was."""
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(2, 20, 8, generator=generator)
    labels = torch.randint(0, 4, (20,), generator=generator)
    scores = torch.rand(20, generator=generator)
    logits = CumulativeLink()(scores)
    ones = torch.ones(20)
    for weighting in ("label", "binary"):
        one, _ = label_weighted_info_nce(queries, documents, labels, temperature=0.1, weighting=weighting)
        other, _ = label_weighted_info_nce(
            queries, documents, certain(labels), temperature=0.1, weighting=weighting, row_weights=ones
        )
        assert torch.equal(one, other)
    assert torch.equal(cosent(scores, labels), cosent(scores, certain(labels), weights=ones))
    assert torch.equal(ordinal_nll(logits, labels), ordinal_nll(logits, certain(labels), weights=ones))
    # What they were before they took distributions.
    above = labels[:, None] > labels[None, :]
    gaps = (scores[None, :] - scores[:, None]) / 0.05
    before = torch.nn.functional.pad(gaps[above], (1, 0)).logsumexp(dim=0)
    assert torch.equal(cosent(scores, labels), before)


def test_info_nce_pulls_by_the_expected_level_by_hand():
    # Cosines: own 1 and 1, crossed 0; t = 1: each row costs log(e + 1) - 1 times its weight.
    unit = torch.eye(2, dtype=WIDE)
    targets = torch.tensor([[0.0, 0.5, 0.0, 0.5], [0.75, 0.25, 0.0, 0.0]], dtype=WIDE)
    weights = torch.tensor([1.0, 2.0], dtype=WIDE)
    cost = math.log(math.e + 1) - 1
    for weighting, pulls in (("label", 1 * 2.0 + 2 * 0.25), ("binary", 1 * 1.0 + 2 * 0.25)):
        loss, _ = label_weighted_info_nce(
            unit, unit, targets, temperature=1.0, weighting=weighting, row_weights=weights
        )
        assert loss.item() == pytest.approx(pulls * cost / 2)


def test_cosent_counts_the_likelier_order_of_two_rows_by_hand():
    # P(level_0 > level_1) = 0.7 * 1 (level 2 over 1), the reverse 0.3 * 1 (level 1 over 0): 0.4 more.
    targets = torch.tensor([[0.3, 0.0, 0.7, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=WIDE)
    scores, weights = torch.tensor([0.3, 0.1], dtype=WIDE), torch.tensor([2.0, 0.25], dtype=WIDE)
    loss = cosent(scores, targets, temperature=0.5, weights=weights)
    assert loss.item() == pytest.approx(math.log(1 + 0.5 * 0.4 * math.exp(-0.4)))
    assert cosent(-scores, targets, temperature=0.5, weights=weights).item() == pytest.approx(
        math.log(1 + 0.5 * 0.4 * math.exp(0.4))
    )


def test_cosent_leaves_rows_of_one_opinion_where_they_are():
    opinion = torch.rand(4, generator=torch.Generator().manual_seed(0)).expand(40, 4) + 0.1
    targets = opinion / opinion.sum(dim=1, keepdim=True)
    assert cosent(torch.linspace(-1, 1, 40), targets, temperature=0.02).item() == 0


def test_ordinal_and_cumulative_losses_by_hand():
    logits = torch.tensor([[2.0, 0.5, -1.0]], dtype=WIDE)
    at_least = [1.0, *torch.sigmoid(logits)[0].tolist(), 0.0]
    levels = [at_least[k] - at_least[k + 1] for k in range(4)]
    p = [0.1, 0.2, 0.3, 0.4]
    targets, weights = torch.tensor([p], dtype=WIDE), torch.tensor([3.0], dtype=WIDE)
    wanted = -3 * sum(share * math.log(level) for share, level in zip(p, levels, strict=True))
    assert ordinal_nll(logits, targets, weights=weights).item() == pytest.approx(wanted)
    q = [0.9, 0.7, 0.4]
    wanted = -3 * sum(
        a * math.log(s) + (1 - a) * math.log(1 - s) for a, s in zip(q, at_least[1:4], strict=True)
    )
    assert cumulative_bce(logits, targets, weights=weights).item() == pytest.approx(wanted)


def test_gradients_by_finite_differences():
    queries, documents, targets, weights = batch(5)
    keys = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 2, 0, 3])
    scores = torch.rand(5, dtype=WIDE, generator=torch.Generator().manual_seed(1))

    def info_nce(q, d):
        return label_weighted_info_nce(
            q, d, targets, temperature=0.3, self_contrast=True, mask_margin=None, row_weights=weights
        )[0]

    def wasserstein(q, d):
        return batch_wasserstein(q, d, targets, *keys, temperature=0.5, weights=weights)

    leaves = [x.clone().requires_grad_() for x in (queries, documents)]
    assert torch.autograd.gradcheck(info_nce, leaves)
    assert torch.autograd.gradcheck(wasserstein, leaves)
    leaf = scores.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: cosent(s, targets, temperature=0.3, weights=weights), leaf)
    falling = torch.randn(5, 3, dtype=WIDE).sort(dim=1, descending=True).values.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ordinal_nll(x, targets, weights=weights), falling)
    assert torch.autograd.gradcheck(lambda x: cumulative_bce(x, targets, weights=weights), falling)


def symmetric_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def oracle(left, right, weights):
    """The squared 2-Wasserstein distance of two fitted Gaussians, with square roots of matrices."""
    parts = []
    for rows in (left, right):
        mean = np.average(rows, axis=0, weights=weights)
        shares = weights / weights.sum()
        factor = len(rows) / max(1, len(rows) - 1)
        parts.append((mean, factor * (shares[:, None] * (rows - mean)).T @ (rows - mean)))
    (m, s), (n, t) = parts
    root = symmetric_root(s)
    cross = symmetric_root(root @ t @ root)
    return float(np.square(m - n).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(cross))


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 7), width=st.integers(1, 5), seed=st.integers(0, 1000), weighted=st.booleans())
def test_the_distance_equals_the_formula_with_square_roots(rows, width, seed, weighted):
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(2, rows, width))
    weights = 0.5 + rng.random(rows) if weighted else np.ones(rows)
    found = _gaussian_distance(torch.from_numpy(left), torch.from_numpy(right), torch.from_numpy(weights))
    assert found.item() == pytest.approx(oracle(left, right, weights), abs=1e-5)
    assert found.item() >= -1e-9


def test_the_distance_of_commuting_covariances_by_hand():
    # Rows of standard deviation 1 and 3 along one axis: (1 - 3)^2, means 2 apart: 4.
    left = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]) / math.sqrt(2)
    right = torch.tensor([[3.0, 0.0], [-3.0, 0.0]]) / math.sqrt(2) + torch.tensor([0.0, 2.0])
    assert _gaussian_distance(left, right).item() == pytest.approx(4 + 4)
    # Across each other: no common part, 1 + 9.
    across = right[:, [1, 0]] - torch.tensor([2.0, 0.0])
    assert _gaussian_distance(left, across).item() == pytest.approx(1 + 9)
    assert _gaussian_distance(left, left).item() == pytest.approx(0)
    single = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])
    assert _gaussian_distance(*single).item() == pytest.approx(4)


def test_lists_of_a_batch_by_hand():
    """Queries a, b; documents x, y, z; (a, x) 3, (a, y) 1, (b, z) 2; what is not judged has level 0."""
    queries = torch.eye(3, dtype=WIDE)[[0, 0, 1]]
    documents = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=WIDE)
    keys = torch.tensor([7, 7, 9]), torch.tensor([4, 2, 3])
    loss = batch_wasserstein(queries, documents, torch.tensor([3, 1, 2]), *keys, temperature=0.5)

    def softmax(row):
        powers = np.exp(row)
        return powers / powers.sum()

    half = math.sqrt(0.5)
    predicted = np.stack([softmax([2, 0, 2 * half]), softmax([0, 2, 2 * half])])  # of x, y, z
    wanted = np.stack([softmax([3, 1, 0]), softmax([0, 0, 2])])
    assert loss.item() == pytest.approx(oracle(predicted, wanted, np.ones(2)), abs=1e-6)
    weighted = batch_wasserstein(
        queries,
        documents,
        torch.tensor([3, 1, 2]),
        *keys,
        temperature=0.5,
        weights=torch.tensor([1.0, 3.0, 0.5], dtype=WIDE),
    )
    assert weighted.item() == pytest.approx(1.5 * oracle(predicted, wanted, np.array([2.0, 0.5])), abs=1e-6)
    expected = torch.tensor(
        [[0, 0, 0, 1], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]], dtype=WIDE
    )  # of levels 3, 1, 2
    same = batch_wasserstein(queries, documents, expected, *keys, temperature=0.5)
    assert same.item() == pytest.approx(loss.item())


def test_wasserstein_learns_the_order_of_lists():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(8, 6, dtype=WIDE, generator=generator)
    documents = torch.randn(8, 6, dtype=WIDE, generator=generator).requires_grad_()
    labels = torch.tensor([3, 2, 1, 0] * 2)
    keys = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.arange(8)
    queries = queries[keys[0]]
    adam = torch.optim.Adam([documents], lr=0.05)
    losses = []
    for _ in range(200):
        loss = batch_wasserstein(queries, documents, labels, *keys, temperature=0.3)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    scores = torch.nn.functional.cosine_similarity(queries, documents.detach())
    assert [scores[part].argsort(descending=True).tolist() for part in (slice(0, 4), slice(4, 8))] == [
        [0, 1, 2, 3]
    ] * 2


def test_autocast_costs_no_digits():
    queries, documents, targets, weights = (x.float() for x in batch(12))
    keys = torch.arange(12) // 3, torch.arange(12) % 5
    scores = torch.nn.functional.cosine_similarity(queries, documents)

    def losses():
        return torch.stack(
            [
                label_weighted_info_nce(queries, documents, targets, temperature=0.1, row_weights=weights)[0],
                cosent(scores, targets, weights=weights),
                batch_wasserstein(
                    queries, documents, targets, *keys, temperature=0.1, weights=weights
                ).float(),
            ]
        )

    plain = losses()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(losses(), plain, rtol=1e-6, atol=1e-6)


FIVE, SIX = torch.ones(5), torch.ones(6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, d: label_weighted_info_nce(q, d, torch.rand(5, 3), temperature=1), "probabilities"),
        (
            lambda q, d: label_weighted_info_nce(q, d, FIVE, temperature=1, row_weights=SIX),
            "weights has shape",
        ),
        (lambda q, d: cosent(q[:, 0], torch.rand(4, 4)), "probabilities"),
        (lambda q, d: cosent(q[:, 0], FIVE, weights=SIX), "weights has shape"),
        (lambda q, d: ordinal_nll(q[:, :3], torch.rand(5, 3)), "probabilities"),
        (lambda q, d: batch_wasserstein(q, d, FIVE, SIX, FIVE, temperature=1), "one label a row"),
        (lambda q, d: _gaussian_distance(q[:0], d[:0]), "at least 1"),
    ],
)
def test_other_shapes_are_refused(call, message):
    queries, documents = torch.randn(2, 5, 6)
    with pytest.raises(InputError, match=message):
        call(queries, documents)
