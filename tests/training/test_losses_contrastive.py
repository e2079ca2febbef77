import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from relsdk.errors import InputError
from relsdk_training.losses.contrastive import label_weighted_info_nce
from relsdk_training.losses.matryoshka import over_dimensions
from relsdk_training.losses.temperature import Temperature


def at_angles(*degrees):
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def random_batch(rows=6, dimension=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries, documents = torch.randn(2, rows, dimension, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 4, (rows,), generator=generator)
    return queries, documents, labels


def by_loops(queries, documents, labels, t, *, hard=None, known=None, self_contrast=False, margin=None):
    """The equation of the docstring, pair by pair."""
    cosine = lambda a, b: float(functional.cosine_similarity(a, b, dim=0))  # noqa: E731
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        positive = cosine(queries[i], documents[i])
        candidates = [] if hard is None else [cosine(queries[i], document) for document in hard[i]]
        for j in range(len(labels)):
            if j == i:
                continue
            if known is None or not known[i, j]:
                candidates.append(cosine(queries[i], documents[j]))
            if self_contrast and (known is None or not (known[i, j] or known[j, i])):
                candidates += [cosine(queries[i], queries[j]), cosine(documents[i], documents[j])]
        kept = [c for c in candidates if margin is None or c <= positive + margin]
        denominator = math.exp(positive / t) + sum(math.exp(c / t) for c in kept)
        total += label * -math.log(math.exp(positive / t) / denominator)
    return total / len(labels)


def test_two_rows_by_hand():
    # Cosines: own 1 and 1, crossed 0 and 0; t = 1: a row costs log(e + 1) - 1, the second of label 0 nothing.
    embeddings = at_angles(0, 90)
    loss, stats = label_weighted_info_nce(embeddings, embeddings, torch.tensor([3, 0]), temperature=1.0)
    assert loss.item() == pytest.approx(3 * (math.log(math.e + 1) - 1) / 2)
    assert (stats.accuracy, stats.pulled, stats.masked) == (1.0, 1, 0.0)
    assert stats.embedding_std == pytest.approx(0.5)  # each coordinate is 0 once and 1 once


def test_binary_weighting_counts_every_level_above_zero_once():
    queries, documents, labels = random_batch()
    binary, _ = label_weighted_info_nce(
        queries, documents, labels, temperature=0.1, weighting="binary", mask_margin=None
    )
    assert binary.item() == pytest.approx(by_loops(queries, documents, (labels > 0).long(), 0.1))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 6),
    self_contrast=st.booleans(),
    margin=st.sampled_from([None, 0.0, 0.1, 0.5]),
    hard_count=st.integers(0, 3),
    with_known=st.booleans(),
)
def test_equals_the_equation_pair_by_pair(seed, rows, self_contrast, margin, hard_count, with_known):
    queries, documents, labels = random_batch(rows, seed=seed)
    # Another seed than the batch's: the same numbers again make a tie, which rounding decides at margin 0.
    generator = torch.Generator().manual_seed(seed + 1_000_000)
    hard = torch.randn(rows, hard_count, 5, dtype=torch.float64, generator=generator) if hard_count else None
    known = torch.rand(rows, rows, generator=generator) > 0.6 if with_known else None
    loss, stats = label_weighted_info_nce(
        queries,
        documents,
        labels,
        temperature=0.2,
        hard_negatives=hard,
        known=known,
        self_contrast=self_contrast,
        mask_margin=margin,
    )
    expected = by_loops(
        queries, documents, labels, 0.2, hard=hard, known=known, self_contrast=self_contrast, margin=margin
    )
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert 0 <= stats.accuracy <= 1
    assert 0 <= stats.masked <= 1
    assert stats.pulled == int((labels > 0).sum())


def test_plain_form_is_cross_entropy():
    queries, documents, _ = random_batch()
    loss, _ = label_weighted_info_nce(
        queries, documents, torch.ones(6), temperature=0.05, mask_margin=None, weighting="binary"
    )
    logits = functional.normalize(queries, dim=1) @ functional.normalize(documents, dim=1).T / 0.05
    assert loss.item() == pytest.approx(float(functional.cross_entropy(logits, torch.arange(6))))


def test_margin_drops_a_candidate_above_it_and_keeps_one_below():
    # Query 0 at 0 degrees, its document at 60 (cosine 0.5), the other document at 0 (cosine 1).
    queries, documents = at_angles(0, 180), at_angles(60, 0)
    labels = torch.tensor([1, 0])
    dropped, stats = label_weighted_info_nce(queries, documents, labels, temperature=1.0, mask_margin=0.4)
    assert dropped.item() == 0.0
    assert (stats.masked, stats.accuracy) == (1.0, 1.0)
    kept, stats = label_weighted_info_nce(queries, documents, labels, temperature=1.0, mask_margin=0.6)
    assert kept.item() == pytest.approx((math.log(math.exp(0.5) + math.e) - 0.5) / 2)
    assert (stats.masked, stats.accuracy) == (0.0, 0.0)


def test_the_mask_carries_no_gradient_and_a_dropped_candidate_none_either():
    queries, documents = at_angles(0, 180).requires_grad_(), at_angles(60, 0).requires_grad_()
    loss, _ = label_weighted_info_nce(
        queries, documents, torch.tensor([1, 0]), temperature=1.0, mask_margin=0.4
    )
    loss.backward()
    assert documents.grad.abs().max() == 0


def test_a_missing_hard_negative_counts_as_none():
    queries, documents, labels = random_batch()
    hard = torch.randn(6, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    valid = torch.tensor([[True, False]]).expand(6, 2)
    with_both, _ = label_weighted_info_nce(
        queries, documents, labels, temperature=0.1, hard_negatives=hard, hard_negatives_valid=valid
    )
    with_first, _ = label_weighted_info_nce(
        queries, documents, labels, temperature=0.1, hard_negatives=hard[:, :1]
    )
    assert with_both.item() == pytest.approx(with_first.item())


def test_label_zero_rows_pull_nothing_but_push_others():
    queries, documents, _ = random_batch(3)
    queries.requires_grad_()
    documents.requires_grad_()
    loss, _ = label_weighted_info_nce(
        queries, documents, torch.tensor([2, 0, 1]), temperature=0.1, mask_margin=None
    )
    loss.backward()
    assert queries.grad[1].abs().max() == 0
    assert documents.grad[1].abs().max() > 0


def test_without_pulled_rows_the_loss_is_zero_and_finite_backwards():
    queries, documents, _ = random_batch(3)
    queries.requires_grad_()
    loss, stats = label_weighted_info_nce(queries, documents, torch.zeros(3), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert (stats.accuracy, stats.pulled) == (0.0, 0)
    assert torch.isfinite(queries.grad).all()


def test_gradients_are_right_also_of_the_temperature_beside_masked_candidates():
    queries, documents, labels = random_batch(4)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    known = torch.zeros(4, 4, dtype=torch.bool)
    known[0, 1] = True

    def loss_of(queries, documents, temperature):
        return label_weighted_info_nce(
            queries, documents, labels, temperature=temperature, known=known, self_contrast=True
        )[0]

    assert torch.autograd.gradcheck(
        loss_of, (queries.requires_grad_(), documents.requires_grad_(), temperature)
    )


def test_half_precision_embeddings_are_compared_in_single_precision():
    queries, documents, labels = random_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = label_weighted_info_nce(
            queries.bfloat16(), documents.bfloat16(), labels, temperature=0.03, mask_margin=None
        )
    exact, _ = label_weighted_info_nce(
        queries.bfloat16().double(), documents.bfloat16().double(), labels, temperature=0.03, mask_margin=None
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": torch.zeros(2, 4)}, "must be equal"),
        ({"labels": torch.zeros(3)}, "one label a row"),
        ({"hard_negatives": torch.zeros(2, 3)}, r"\(2, K, 3\) is needed"),
        ({"hard_negatives": torch.zeros(2, 1, 4)}, r"\(2, K, 3\) is needed"),
        ({"hard_negatives_valid": torch.ones(2, 1, dtype=torch.bool)}, "needs hard_negatives"),
        ({"known": torch.zeros(2, 3, dtype=torch.bool)}, r"\(2, 2\) is needed"),
        ({"weighting": "square"}, "allowed are 'label' and 'binary'"),
    ],
)
def test_bad_input(change, message):
    arguments = {"queries": torch.zeros(2, 3), "documents": torch.zeros(2, 3), "labels": torch.ones(2)}
    with pytest.raises(InputError, match=message):
        label_weighted_info_nce(temperature=0.1, **(arguments | change))


def test_matryoshka_is_the_mean_over_cut_embeddings():
    queries, documents, labels = random_batch()
    seen = []

    def loss_of(queries, documents, hard):
        seen.append(queries.shape[1])
        assert hard is None
        assert torch.allclose(queries.norm(dim=1), torch.ones(6, dtype=torch.float64))
        loss, _ = label_weighted_info_nce(queries, documents, labels, temperature=0.1)
        return loss, queries.shape[1]

    mean, stats = over_dimensions(loss_of, (queries, documents, None), [2, 5, 3])
    each = [
        label_weighted_info_nce(queries[:, :dim], documents[:, :dim], labels, temperature=0.1)[0]
        for dim in (2, 3, 5)
    ]
    assert mean.item() == pytest.approx(sum(map(float, each)) / 3)
    assert (seen, stats) == ([2, 5, 3], 5)


@pytest.mark.parametrize("dims", [[], [0, 2], [2, 6], [2, 2]])
def test_matryoshka_refuses_dimensions(dims):
    with pytest.raises(InputError, match="from 1 to 5"):
        over_dimensions(lambda x: (x.sum(), None), (torch.zeros(2, 5),), dims)


def test_temperature_starts_where_told_and_learns():
    temperature = Temperature()
    assert temperature().item() == pytest.approx(0.03)
    temperature().backward()
    assert temperature.log_temperature.grad.item() == pytest.approx(0.03)


@pytest.mark.parametrize(("log_value", "bound"), [(-20.0, 0.005), (5.0, 1.0)])
def test_temperature_comes_back_from_beyond_its_bounds(log_value, bound):
    temperature = Temperature()
    with torch.no_grad():
        temperature.log_temperature.fill_(log_value)
    value = temperature()
    value.backward()
    assert value.item() == pytest.approx(bound)
    assert temperature.log_temperature.grad.item() == pytest.approx(bound)


@pytest.mark.parametrize("bounds", [(0.03, 0.0, 1.0), (0.001, 0.005, 1.0), (2.0, 0.005, 1.0)])
def test_temperature_refuses_bounds(bounds):
    with pytest.raises(InputError, match="lowest <= start <= highest"):
        Temperature(*bounds)
