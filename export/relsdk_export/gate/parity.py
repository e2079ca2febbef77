"""Compare a bundle's outputs with its checkpoint's, through the real SDK, before the bundle moves into place.

Shape letters: N inputs, D dimension of a vector, C outputs of a scorer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from relsdk.calibration import Temperature
from relsdk.errors import QualityError
from relsdk.models.cross_encoder import CrossEncoder
from relsdk.models.embedder import Embedder
from relsdk_checkpoint.loading import load_tokenizer
from relsdk_export.onnx.convert import PairClassifier, SentenceEncoder

__all__ = [
    "ParityBudget",
    "check_logits",
    "check_parity",
    "torch_logits",
    "torch_vectors",
]


@dataclass(frozen=True, slots=True)
class ParityBudget:
    """The differences allowed between a checkpoint and a variant.

    Attributes:
        fp32_min: Smallest cosine, fp32.
        int8_min: Smallest cosine, int8.
        int8_mean: Smallest mean cosine, int8.
        fp32_alone: Largest difference between an output alone and in a batch, fp32.
        int8_alone: The same, int8.
        fp32_logits: Largest difference of a scorer's logits, relative to the largest logit.
        int8_probabilities: Largest mean total variation between a scorer's probabilities.
    """

    fp32_min: float = 0.9999
    int8_min: float = 0.98
    int8_mean: float = 0.99
    fp32_alone: float = 1e-5
    int8_alone: float = 1e-3
    fp32_logits: float = 1e-3
    int8_probabilities: float = 0.05


@dataclass(frozen=True, slots=True)
class _ParityReport:
    """Cosines between the bundle's vectors and the checkpoint's.

    Attributes:
        texts: How many texts were compared.
        mean_cosine: Their mean.
        min_cosine: The worst.
        batch_difference: Largest difference of a coordinate between a text alone and among the others.
    """

    texts: int
    mean_cosine: float
    min_cosine: float
    batch_difference: float

    def to_dict(self) -> dict[str, float]:
        """Return a JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _LogitParity:
    """Differences between the bundle's logits and the checkpoint's.

    Attributes:
        pairs: How many pairs were compared.
        max_logit_difference: Relative to the largest logit (at least 1).
        mean_variation: Mean total variation of the level probabilities; of a regression head, the mean
            difference of sigmoids.
        batch_difference: Largest difference between a pair alone and among the others.
    """

    pairs: int
    max_logit_difference: float
    mean_variation: float
    batch_difference: float

    def to_dict(self) -> dict[str, float]:
        """Return a JSON form."""
        return asdict(self)


def torch_vectors(model: SentenceEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode texts one by one with torch and transformers' own tokenizer.

    Args:
        model: The checkpoint, as `load_encoder` loads it.
        texts: N texts, prompts included.

    Returns:
        (N, D) float32.
    """
    tokenizer = model.tokenizer
    limit = min(tokenizer.model_max_length, model.max_tokens)
    vectors = []
    with torch.inference_mode():
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
            _, vector = model(tokens["input_ids"], tokens["attention_mask"])
            vectors.append(vector[0].numpy())
    return np.stack(vectors)


def torch_logits(
    model: PairClassifier, tokenizer_folder: Path, pairs: Sequence[tuple[str, str]]
) -> NDArray[np.float32]:
    """Score pairs one by one with torch and transformers' own tokenizer: (N, C) float32."""
    tokenizer = load_tokenizer(tokenizer_folder)
    limit = min(tokenizer.model_max_length, model.max_tokens)
    rows = []
    with torch.inference_mode():
        for query, document in pairs:
            # As lists: beside a plain string, transformers takes an empty second one for none.
            tokens = tokenizer([query], [document], truncation=True, max_length=limit, return_tensors="pt")
            logits = model(tokens["input_ids"], tokens["attention_mask"], tokens.get("token_type_ids"))
            rows.append(logits[0].numpy())
    return np.stack(rows)


def check_parity(
    embedder: Embedder,
    inputs: Sequence[tuple[str, str]],
    expected: NDArray[np.float32],
    budget: ParityBudget,
) -> _ParityReport:
    """Compare a bundle's vectors with the checkpoint's.

    Args:
        embedder: The bundle, open.
        inputs: N pairs of a prompt's name ("" for none) and a text.
        expected: (N, D) vectors of the checkpoint, prompts included.
        budget: What may lie between them.

    Raises:
        QualityError: A budget is exceeded; the message says by how much and on which text.
    """
    exact = embedder.variant.quantisation == "fp32"
    name = embedder.variant.name
    vectors = _together(embedder, inputs)  # (N, D)
    if vectors.shape != expected.shape:
        raise QualityError(f"{name} gives vectors of shape {vectors.shape}; the checkpoint {expected.shape}")
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", vectors, expected) / np.maximum(norms, 1e-12)
    if not np.isfinite(cosines).all():
        count = int((~np.isfinite(cosines)).sum())
        raise QualityError(f"{name}: {count} of {len(inputs)} vectors are not finite")
    alone = _batch_difference(name, vectors, embedder.golden(inputs), budget, exact=exact)
    report = _ParityReport(len(inputs), float(cosines.mean()), float(cosines.min()), alone)
    smallest = budget.fp32_min if exact else budget.int8_min
    mean = budget.fp32_min if exact else budget.int8_mean
    if report.min_cosine < smallest or report.mean_cosine < mean:
        prompt, text = inputs[int(cosines.argmin())]
        raise QualityError(
            f"{name} does not reproduce the checkpoint: cosine min {report.min_cosine:.5f} (budget "
            f"{smallest}), mean {report.mean_cosine:.5f} (budget {mean}), worst on {text[:40]!r}"
            f"{f' with the {prompt} prompt' if prompt else ''}; nothing was written"
        )
    return report


def check_logits(
    scorer: CrossEncoder,
    pairs: Sequence[tuple[str, str]],
    expected: NDArray[np.float32],
    budget: ParityBudget,
) -> _LogitParity:
    """Compare a bundle's logits with the checkpoint's; see `check_parity`.

    Args:
        scorer: The bundle, open.
        pairs: N pairs of query and document.
        expected: (N, C) logits of the checkpoint.
        budget: What may lie between them.

    Raises:
        QualityError: A budget is exceeded.
    """
    exact = scorer.variant.quantisation == "fp32"
    name = scorer.variant.name
    logits = scorer.logits(pairs, truncation="silent")  # (N, C)
    if not np.isfinite(logits).all():
        raise QualityError(f"{name}: some logits are not finite")
    gap = np.abs(logits - expected).max(axis=1) / max(1.0, float(np.abs(expected).max()))  # (N,)
    varied = np.abs(_probabilities(scorer, logits) - _probabilities(scorer, expected)).sum(axis=1) / 2
    alone = _batch_difference(name, logits, scorer.golden(pairs), budget, exact=exact)
    report = _LogitParity(len(pairs), float(gap.max()), float(varied.mean()), alone)
    difference, allowed = (
        (report.max_logit_difference, budget.fp32_logits)
        if exact
        else (report.mean_variation, budget.int8_probabilities)
    )
    if not difference <= allowed:
        worst = pairs[int(gap.argmax())]
        raise QualityError(
            f"{name} does not reproduce the checkpoint: {'logits' if exact else 'probabilities'} differ by "
            f"{difference:.5f} (budget {allowed}), worst on {worst[0][:20]!r} and {worst[1][:20]!r}; "
            "nothing was written"
        )
    return report


def _together(embedder: Embedder, inputs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
    """Encode inputs as `Embedder.golden` does, but in batches."""
    result = np.empty((len(inputs), embedder.dimension), dtype=np.float32)
    for prompt in dict.fromkeys(prompt for prompt, _ in inputs):
        rows = [row for row, (name, _) in enumerate(inputs) if name == prompt]
        texts = [inputs[row][1] for row in rows]
        result[rows] = embedder.encode(texts, prompt_name=embedder.known_prompt(prompt), truncation="silent")
    return result


def _batch_difference(
    name: str,
    together: NDArray[np.float32],
    alone: NDArray[np.float32],
    budget: ParityBudget,
    *,
    exact: bool,
) -> float:
    difference = float(np.abs(together - alone).max() / max(1.0, float(np.abs(alone).max())))
    allowed = budget.fp32_alone if exact else budget.int8_alone
    if not difference <= allowed:
        raise QualityError(
            f"{name} gives an input alone and in a batch outputs that differ by {difference:.2g} (budget "
            f"{allowed}); nothing was written"
        )
    return difference


def _probabilities(scorer: CrossEncoder, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    if scorer.settings.head == "regression":
        chance = 0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64)))
        return np.hstack([chance, 1.0 - chance])
    return Temperature(1.0, ordinal=scorer.settings.head == "ordinal").probabilities(logits)
