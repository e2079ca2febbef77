"""Verify that a bundle still gives the outputs it was made with: hashes, settings, golden vectors.

Shape letters: N golden inputs, D dimension of a vector, or outputs of a scorer.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import (
    Bundle,
    EncoderSettings,
    ScorerSettings,
    Variant,
    has_golden,
    read_golden,
    settings_content,
)
from relsdk.errors import BundleError
from relsdk.files.folders import FileStamp
from relsdk.runtime.onnx_runtime import onnxruntime
from relsdk.runtime.session import ModelSession
from relsdk.runtime.variants import runs_exactly

__all__ = ["Verification", "check_runtime", "verified_version", "verify_variant"]

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
    "default_prompt",
    "truncation_side",
    "truncate_dim",
    "head",
)

# Golden inputs with more characters are left out when a model is opened: they would take most of the time.
_SHORT_INPUT = 64
# Files that gave their golden outputs in this process.
_checked: set[FileStamp] = set()


class _Compute(Protocol):
    """Runs golden inputs, (prompt name, text) or (query, document), as an open bundle does."""

    def __call__(self, inputs: Sequence[tuple[str, str]], *, together: bool) -> NDArray[np.float32]:
        """Return (N, D): each input alone, or all of them in one call."""


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


def verify_variant(bundle: Bundle, variant: Variant, compute: _Compute) -> Verification:
    """Check hashes, settings and golden outputs: of each input alone, and of all in one call.

    A runtime can be right for one text and wrong for several, so both are needed.

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
    cosines, gaps = [], []
    for together in (False, True):
        try:
            vectors = compute(golden.texts, together=together)  # (N, D)
            compared = _compare(vectors, expected, bundle.settings)
        except BundleError as error:
            return Verification(variant.name, 0, float("nan"), float("nan"), (*problems, str(error)))
        cosines.append(float(compared[0].min()))
        gaps.append(float(compared[1].max()))
        different = _differences(bundle, variant, golden.texts, *compared)
        if different:
            problems += [
                f"{problem}, all inputs in one call" if together else problem for problem in different
            ]
            break
    return Verification(variant.name, len(expected), min(cosines), max(gaps), tuple(problems))


def check_runtime(
    bundle: Bundle, variant: Variant, session: ModelSession, prompts: Container[str] | None, compute: _Compute
) -> None:
    """Compare golden outputs where this onnxruntime is not the version that the bundle was made with.

    Short inputs, in one call, once for each file in a process. Nothing is compared where there is nothing to
    compare with: a folder without golden outputs, or a variant that this CPU does not run exactly.

    Args:
        bundle: The bundle.
        variant: Which of its variants is open.
        session: One of the variant's files.
        prompts: Names of the prompts whose inputs run through that file; None means every input.
        compute: Runs inputs.

    Raises:
        BundleError: The outputs differ.
    """
    made_with = verified_version(bundle)
    if made_with == onnxruntime.__version__ or session.stamp in _checked or not runs_exactly(variant):
        return
    golden = read_golden(bundle.path) if has_golden(bundle.path) else None
    expected = None if golden is None else golden.vectors.get(variant.name)
    if golden is not None and expected is not None:
        rows = [
            row
            for row, (prompt, text) in enumerate(golden.texts)
            if (prompts is None or prompt in prompts) and len(prompt) + len(text) <= _SHORT_INPUT
        ]
        inputs = [golden.texts[row] for row in rows]
        problems = []
        try:
            if inputs:
                comparison = _compare(compute(inputs, together=True), expected[rows], bundle.settings)
                problems = _differences(bundle, variant, inputs, *comparison)
        except BundleError as error:
            problems = [str(error)]
        if problems:
            raise BundleError(
                f"{bundle.path} ({variant.name}) was made with onnxruntime {made_with or 'of some version'}; "
                f"with {onnxruntime.__version__}, which is installed here, {problems[0]}; install another "
                f"version: pip install {f'onnxruntime=={made_with}' if made_with else '-U onnxruntime'}"
            )
    _checked.add(session.stamp)


def verified_version(bundle: Bundle) -> str | None:
    """Return the version of onnxruntime that gave a bundle's golden outputs; None where nobody noted it."""
    versions = bundle.provenance.get("versions")
    version = versions.get("onnxruntime") if isinstance(versions, Mapping) else None
    return version if isinstance(version, str) else None


def _compare(
    vectors: NDArray[np.float32], expected: NDArray[np.float32], settings: EncoderSettings | ScorerSettings
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the cosine and the largest difference of each row, (N,).

    Raises:
        BundleError: The outputs have another width.
    """
    expected = _cut_like(vectors, expected, settings)
    if expected.shape != vectors.shape:
        raise BundleError(f"outputs have {vectors.shape[1]} numbers, the golden ones {expected.shape[1]}")
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", vectors, expected) / np.maximum(norms, 1e-12)  # (N,)
    return cosines, np.abs(vectors - expected).max(axis=1)


def _cut_like(
    vectors: NDArray[np.float32], expected: NDArray[np.float32], settings: EncoderSettings | ScorerSettings
) -> NDArray[np.float32]:
    if isinstance(settings, ScorerSettings):
        return expected
    cut = expected[:, : vectors.shape[1]]
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
    present = json.loads(json.dumps(settings_content(bundle.settings)))
    return [
        f"the setting {name!r} is {present.get(name)!r}; the vectors were made with {recorded.get(name)!r}"
        for name in _FIXED_SETTINGS
        if present.get(name) != recorded.get(name)
    ]
