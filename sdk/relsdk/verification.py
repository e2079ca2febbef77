"""Does a bundle still give what it gave when it was made? Hashes, settings, golden vectors.

Shape letters: N golden inputs, D dimension of a vector, or outputs of a scorer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import Bundle, EncoderSettings, ScorerSettings, Variant, read_golden
from relsdk.errors import BundleError

__all__ = ["Compute", "Verification", "verify_variant"]

# Kernels differ between CPUs: fp32 in the order of additions, int8 in what is rounded where.
MIN_COSINE = {"fp32": 0.9999, "int8": 0.999}
MAX_LOGIT_DIFFERENCE = {"fp32": 1e-3, "int8": 0.1}
_FIXED_SETTINGS = (
    "dimension",
    "max_tokens",
    "pooling",
    "normalize",
    "prompts",
    "document_template",
    "head",
)

# Golden inputs, (prompt name, text) or (query, document), to what the open bundle gives for them, (N, D).
Compute = Callable[[Sequence[tuple[str, str]]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome for one variant.

    Attributes:
        variant: Its name.
        texts: How many golden inputs were compared; 0 when none could be.
        min_cosine: The worst cosine to the golden vectors; NaN when none could be compared.
        max_difference: The largest absolute difference of a number; NaN when none could be compared.
        problems: One line for each thing that is wrong; empty when the variant is what was exported.
    """

    variant: str
    texts: int
    min_cosine: float
    max_difference: float
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_variant(bundle: Bundle, variant: Variant, compute: Compute) -> Verification:
    """Check hashes, settings and golden vectors.

    Args:
        bundle: The bundle.
        variant: Which of its variants `compute` runs.
        compute: Runs the golden inputs; an encoder cut to fewer dimensions is compared with the cut vectors.

    Returns:
        What was found; nothing is raised for a bundle that differs.

    Raises:
        BundleError: The bundle has no golden vectors, or none of this variant.
    """
    golden = read_golden(bundle.path)
    expected = golden.vectors.get(variant.name)
    if expected is None:
        raise BundleError(
            f"{bundle.path} has golden vectors of {sorted(golden.vectors)}, not of {variant.name}; "
            "export it on a CPU that runs this variant"
        )
    problems = [*_hash_problems(bundle), *_setting_problems(bundle, golden.settings)]
    try:
        found = compute(golden.texts)  # (N, D)
    except BundleError as error:
        return Verification(variant.name, 0, float("nan"), float("nan"), (*problems, str(error)))
    expected = _cut_like(found, expected, bundle.settings)
    if expected.shape != found.shape:
        problems.append(f"outputs have {found.shape[1]} numbers, the golden ones {expected.shape[1]}")
        return Verification(variant.name, 0, float("nan"), float("nan"), tuple(problems))
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", found, expected) / np.maximum(norms, 1e-12)  # (N,)
    gaps = np.abs(found - expected).max(axis=1)  # (N,)
    problems += _differences(bundle, variant, golden.texts, cosines, gaps)
    return Verification(variant.name, len(gaps), float(cosines.min()), float(gaps.max()), tuple(problems))


def _cut_like(
    found: NDArray[np.float32], expected: NDArray[np.float32], settings: EncoderSettings | ScorerSettings
) -> NDArray[np.float32]:
    if isinstance(settings, ScorerSettings):
        return expected
    cut = expected[:, : found.shape[1]]
    return cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12) if settings.normalize else cut


def _differences(
    bundle: Bundle,
    variant: Variant,
    inputs: Sequence[tuple[str, str]],
    cosines: NDArray[np.float32],
    gaps: NDArray[np.float32],
) -> list[str]:
    """Compare with the limits; a NaN does not pass."""
    if bundle.kind == "scorer":
        allowed = MAX_LOGIT_DIFFERENCE.get(variant.quantisation, max(MAX_LOGIT_DIFFERENCE.values()))
        if gaps.max() <= allowed:
            return []
        query, document = inputs[int(gaps.argmax())]
        return [
            f"outputs differ from the golden ones by {gaps.max():.2g} ({allowed} is allowed) on "
            f"{query[:20]!r} and {document[:20]!r}"
        ]
    needed = MIN_COSINE.get(variant.quantisation, min(MIN_COSINE.values()))
    if cosines.min() >= needed:
        return []
    prompt, text = inputs[int(cosines.argmin())]
    return [
        f"vectors differ from the golden ones: cosine {cosines.min():.5f} ({needed} is needed) on "
        f"{text[:20]!r}" + (f" with the {prompt} prompt" if prompt else "")
    ]


def _hash_problems(bundle: Bundle) -> list[str]:
    problems = []
    for name in bundle.files:
        try:
            bundle.check_hashes(name)
        except BundleError as error:
            problems.append(str(error))
    return problems


def _setting_problems(bundle: Bundle, recorded: Any) -> list[str]:
    """Compare settings with those that made the golden vectors, through JSON: tuples are lists there."""
    present = json.loads(json.dumps(asdict(bundle.settings)))
    return [
        f"the setting {name!r} is {present.get(name)!r}; the vectors were made with {recorded.get(name)!r}"
        for name in _FIXED_SETTINGS
        if present.get(name) != recorded.get(name)
    ]
