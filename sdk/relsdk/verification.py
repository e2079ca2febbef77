"""Does a bundle still give the vectors it gave when it was made? Hashes, settings, golden vectors.

Shape letters: N texts, D dimension.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import GOLDEN_TEXTS, Bundle, Variant, read_golden
from relsdk.errors import BundleError

__all__ = ["Verification", "golden_vectors", "verify_variant"]

# Kernels differ between CPUs: fp32 in the order of additions, int8 in what is rounded where.
MIN_COSINE = {"fp32": 0.9999, "int8": 0.999}
_FIXED_SETTINGS = ("dimension", "max_tokens", "pooling", "normalize", "prompts", "document_template")


class Encodes(Protocol):
    """The part of `Embedder` that is needed here."""

    def encode(self, inputs: list[str], /, *, truncation: Literal["silent"]) -> NDArray[Any]:
        """Encode texts as they are."""

    def encode_query(self, inputs: list[str], /, *, truncation: Literal["silent"]) -> NDArray[Any]:
        """Encode with the query prompt."""

    def encode_document(self, inputs: list[str], /, *, truncation: Literal["silent"]) -> NDArray[Any]:
        """Encode with the document prompt."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome for one variant.

    Attributes:
        variant: Its name.
        texts: How many golden texts were compared; 0 when none could be.
        min_cosine: The worst cosine to the golden vectors; NaN when none could be compared.
        max_difference: The largest absolute difference of a coordinate; NaN when none could be compared.
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


def golden_vectors(encoder: Encodes, texts: Sequence[tuple[str, str]] = GOLDEN_TEXTS) -> NDArray[np.float32]:
    """Encode golden texts, each alone: (prompt name, text) pairs to (N, D) float32."""
    encode = {"query": encoder.encode_query, "document": encoder.encode_document}
    rows = [encode.get(prompt, encoder.encode)([text], truncation="silent")[0] for prompt, text in texts]
    return np.stack(rows).astype(np.float32)


def verify_variant(bundle: Bundle, variant: Variant, encoder: Encodes) -> Verification:
    """Check hashes, settings and golden vectors.

    Args:
        bundle: The bundle.
        variant: Which of its variants `encoder` runs.
        encoder: The bundle, open; with fewer dimensions, the golden vectors are cut, too.

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
        found = golden_vectors(encoder, golden.texts)  # (N, D)
    except BundleError as error:
        return Verification(variant.name, 0, float("nan"), float("nan"), (*problems, str(error)))
    expected = expected[:, : found.shape[1]]
    if bundle.settings.normalize:
        expected = expected / np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    if expected.shape != found.shape:
        problems.append(f"vectors have {found.shape[1]} dimensions, the golden ones {expected.shape[1]}")
        return Verification(variant.name, 0, float("nan"), float("nan"), tuple(problems))
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", found, expected) / np.maximum(norms, 1e-12)
    worst, difference = float(cosines.min()), float(np.abs(found - expected).max())
    limit = MIN_COSINE.get(variant.quantisation, min(MIN_COSINE.values()))
    if not worst >= limit:  # a NaN does not pass
        text = golden.texts[int(cosines.argmin())]
        problems.append(
            f"vectors differ from the golden ones: cosine {worst:.5f} ({limit} is needed) on {text[1][:20]!r}"
            + (f" with the {text[0]} prompt" if text[0] else "")
        )
    return Verification(variant.name, len(cosines), worst, difference, tuple(problems))


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
        f"the setting {name!r} is {present[name]!r}; the vectors were made with {recorded.get(name)!r}"
        for name in _FIXED_SETTINGS
        if present[name] != recorded.get(name)
    ]
