"""Make a bundle of a checkpoint: write, quantise, compare, gate, describe, and only then move it into place.

What differs between encoders and scorers is in their jobs (`encoder`, `scorer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from relsdk.bundle import (
    RELSDK_JSON,
    Bundle,
    EncoderSettings,
    ScorerSettings,
    Tower,
    Variant,
    finish_bundle,
    is_scorer_folder,
    name_of_model,
    onnx_file,
    read_bundle,
    read_encoder_settings,
    read_training,
    write_golden,
    write_model_card,
)
from relsdk.errors import InputError, QualityError
from relsdk.files.folders import file_sha256, json_sha256, staged_folder
from relsdk.records import LabelledPair
from relsdk.runtime.blas import bounded_blas
from relsdk.runtime.variants import runs_exactly
from relsdk_export.checks import check_checkpoint
from relsdk_export.gate.corpus import sample_of_pairs
from relsdk_export.gate.quality import QualityBudget, fitting_half, measure_quality
from relsdk_export.int8.activations import measure_activations
from relsdk_export.int8.quantize import WEIGHT_RANGE, quantize_int8
from relsdk_export.model_card import model_card
from relsdk_export.onnx.operators import count_operators

__all__ = [
    "DEFAULT_VARIANTS",
    "Compared",
    "ExportJob",
    "Gate",
    "Inputs",
    "OnStep",
    "export_bundle",
    "own_sample",
]

DEFAULT_VARIANTS = ("fp32", *(f"int8_{isa}" for isa in WEIGHT_RANGE))
# Holds the same integers as the files with full-range signed weights, and runs everywhere.
_TWIN = "int8_any"
_PACKAGES = ("relsdk", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "tokenizers")

Inputs = Mapping[str, NDArray[np.int64]]
OnStep = Callable[[str], None]
# What one file gives: how close it is to the checkpoint, in a JSON form, and its golden outputs (N, D).
Compared = tuple[Mapping[str, float], NDArray[np.float32]]


class ExportJob(Protocol):
    """One model on its way into a bundle."""

    checkpoint: Path

    @property
    def towers(self) -> Mapping[Tower, Path]:
        """The checkpoint of each graph: "model", and perhaps "query_model"."""

    @property
    def settings(self) -> EncoderSettings | ScorerSettings:
        """The settings that outputs depend on besides the weights; known once the job is prepared."""

    def prepare(self, folder: Path, on_step: OnStep) -> None:
        """Load and cut the model; put its tokenizer and configuration into the folder."""

    def write_fp32(self, path: Path, tower: Tower) -> None:
        """Write the exact graph of a tower."""

    def typical_inputs(self, folder: Path, tower: Tower) -> Iterator[Inputs]:
        """Yield batches of (B, T) inputs that a tower's activations are measured on."""

    def compare(self, bundle: Bundle, variant: Variant) -> Compared:
        """Compare a variant with the checkpoint, and run the golden inputs while it is open.

        Raises:
            QualityError: It differs too much.
        """

    def cuts(self) -> Mapping[str, Any]:
        """Return the cuts in a JSON form; empty when the bundle is the whole model."""

    def export_whole(self, target: Path) -> Bundle:
        """Export the model without any cut, in fp32."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Labelled pairs, and what a variant may lose on them against fp32.

    Attributes:
        pairs: Labelled pairs; without any there is no such gate. Half of their queries serve to measure
            activations and fit calibrations, the other half to judge.
        budget: What may be lost.
    """

    pairs: Sequence[LabelledPair] = ()
    budget: QualityBudget = field(default_factory=QualityBudget)


def own_sample(gate: Gate | None) -> list[LabelledPair]:
    """Return pairs of the gate to measure activations on, none of which it judges by.

    Raises:
        InputError: There are too few queries to split.
    """
    if gate is None or not gate.pairs:
        return []
    half = fitting_half(gate.pairs)
    return sample_of_pairs([pair for pair, fits in zip(gate.pairs, half, strict=True) if fits])


def export_bundle(
    job: ExportJob,
    target: Path,
    *,
    variants: Sequence[str] = DEFAULT_VARIANTS,
    gate: Gate | None = None,
    overwrite: bool = False,
    on_step: OnStep = lambda step: None,
) -> Bundle:
    """Make a bundle.

    Args:
        job: The model.
        target: Where the bundle shall be.
        variants: Names out of `DEFAULT_VARIANTS`.
        gate: Labelled pairs: measure what each variant loses against fp32 and leave out those over budget.
        overwrite: Replace a bundle that is there.
        on_step: Called with a short description before each step, and with notes, which begin with "note: ".

    Returns:
        The bundle, in place.

    Raises:
        InputError: `target` is in the way, a variant is unknown, or there is no checkpoint folder.
        BundleError: The checkpoint is not usable.
        QualityError: A variant differs from the checkpoint, or none is within the quality budget; nothing is
            written.
    """
    unknown = [name for name in variants if name not in DEFAULT_VARIANTS]
    if unknown or not variants:
        raise InputError(f"unknown variants {unknown}; allowed are {list(DEFAULT_VARIANTS)}")
    for checkpoint in job.towers.values():
        check_checkpoint(checkpoint)
    name = name_of_model(target)  # the checkpoint's is in the provenance
    with staged_folder(target, marker=RELSDK_JSON, overwrite=overwrite, sources=[job.checkpoint]) as staging:
        on_step("load the checkpoint")
        job.prepare(staging, on_step)
        with bounded_blas():
            written = _write_variants(job, staging, variants, on_step)
        on_step("compare with the checkpoint")
        provenance = _provenance(job)
        bundle = _finish(staging, job, name, written, provenance)
        compared = _compare_variants(job, bundle)
        bundle = _with_measures(bundle, compared)
        if gate is not None and gate.pairs:
            bundle = _apply_gate(job, bundle, variants, gate, on_step)
        on_step("describe and hash")
        names = set(variants).difference(bundle.provenance.get("left_out", ()))
        kept = [variant for variant in bundle.variants if variant.name in names]
        golden = {variant.name: compared[_measurable(bundle, variant).name][1] for variant in kept}
        write_golden(staging, job.settings, golden)
        _remove_files(bundle, [variant for variant in bundle.variants if variant not in kept])
        write_model_card(staging, model_card(replace(bundle, variants=tuple(kept))))
        _finish(staging, job, name, kept, bundle.provenance)
    return read_bundle(target)


def _write_variants(
    job: ExportJob, folder: Path, names: Sequence[str], on_step: OnStep
) -> tuple[Variant, ...]:
    """Make the fp32 graphs and of them the other variants."""
    on_step("export fp32")
    exact = {tower: folder / onnx_file("fp32", "any", tower=tower) for tower in job.towers}
    for tower, path in exact.items():
        job.write_fp32(path, tower)
    # fp32 is what the others are measured against.
    variants = [_variant(job, name) for name in dict.fromkeys(("fp32", *names))]
    if not all(runs_exactly(variant) for variant in variants) and _TWIN not in names:
        variants.append(_variant(job, _TWIN))  # what is measured for those this CPU saturates
    for tower, reference in exact.items() if variants[1:] else ():
        on_step("measure activations")
        activations = measure_activations(reference, job.typical_inputs(folder, tower))
        on_step(f"quantise {', '.join(variant.name for variant in variants[1:])}")
        targets = {
            variant.isa: folder / onnx_file(variant.quantisation, variant.isa, tower=tower)
            for variant in variants[1:]
        }
        quantize_int8(reference, targets, activations)
    return tuple(variants)


def _variant(job: ExportJob, name: str) -> Variant:
    """Name the files of a variant."""
    quantisation, _, isa = name.partition("_")
    isa = isa or "any"
    files = {tower: onnx_file(quantisation, isa, tower=tower) for tower in job.towers}
    return Variant(name, files["model"], quantisation, isa, query_file=files.get("query_model", ""))


def _compare_variants(job: ExportJob, bundle: Bundle) -> dict[str, Compared]:
    """Compare with the checkpoint, by name, each variant that is measurable here."""
    measurable = {_measurable(bundle, variant).name for variant in bundle.variants}
    return {
        variant.name: job.compare(bundle, variant)
        for variant in bundle.variants
        if variant.name in measurable
    }


def _with_measures(bundle: Bundle, compared: Mapping[str, Compared]) -> Bundle:
    """Return the bundle with what was measured of each variant, or of what stands for it here."""
    exact = count_operators(bundle.path / onnx_file("fp32", "any"))
    measured = []
    for variant in bundle.variants:
        parity, _ = compared[_measurable(bundle, variant).name]
        size = bundle.variant_bytes(variant)
        operators = exact.compare(count_operators(bundle.onnx_path(variant)))
        quality = {"parity": dict(parity), "bytes": size, "operators": operators}
        measured.append(replace(variant, quality=quality))
    return replace(bundle, variants=tuple(measured))


def _apply_gate(job: ExportJob, bundle: Bundle, wanted: Sequence[str], gate: Gate, on_step: OnStep) -> Bundle:
    """Measure variants on labelled pairs; return the bundle with the measures and the names left out.

    Raises:
        QualityError: Every variant that is wanted is over budget.
    """
    on_step("measure ranking and levels on labelled pairs")
    stand_ins = [_measurable(bundle, variant).name for variant in bundle.variants]
    records = measure_quality(bundle.path, list(dict.fromkeys(stand_ins)), gate.pairs, gate.budget)
    by_name = {record.variant: record for record in records}
    measured: list[Variant] = []
    left_out: dict[str, list[str]] = {}
    for variant, stand_in in zip(bundle.variants, stand_ins, strict=True):
        record = by_name[stand_in]
        if record.over_budget and variant.name in wanted:
            left_out[variant.name] = list(record.over_budget)
            on_step(f"note: {variant.name} is left out: {'; '.join(record.over_budget)}")
        measured.append(replace(variant, quality={**variant.quality, "gate": record.to_dict()}))
    provenance = dict(bundle.provenance)
    if job.cuts():
        on_step("measure the whole model on labelled pairs")
        provenance["cuts"] = {**job.cuts(), **_cost_of_cuts(job, measured, gate)}
    if all(name in left_out for name in wanted):
        raise QualityError(f"every variant asked for is over budget: {left_out}; nothing was written")
    if left_out:
        provenance["left_out"] = left_out
    return replace(bundle, variants=tuple(measured), provenance=provenance)


def _measurable(bundle: Bundle, variant: Variant) -> Variant:
    """Return what gives a variant's exact outputs on this CPU: itself, or the file with the same integers."""
    return variant if runs_exactly(variant) else bundle.variant(_TWIN)


def _cost_of_cuts(job: ExportJob, measured: Sequence[Variant], gate: Gate) -> dict[str, Any]:
    """Measure the whole model as the cut one was measured: ranking and size before and after, in fp32."""
    with TemporaryDirectory() as folder:
        whole = job.export_whole(Path(folder) / "whole")
        (record,) = measure_quality(whole.path, ["fp32"], gate.pairs, gate.budget)
        size = int(whole.variant("fp32").quality["bytes"])
    exact = next(variant for variant in measured if variant.name == "fp32").quality
    keys = ("ap_1", "ap_2", "ap_3", "mean_ap", "ndcg_at_10")
    before, after = record.to_dict(), exact["gate"]
    return {
        "before": {"bytes": size, **{key: before[key] for key in keys}},
        "after": {"bytes": exact["bytes"], **{key: after[key] for key in keys}},
    }


def _remove_files(bundle: Bundle, variants: Sequence[Variant]) -> None:
    for variant in variants:
        for name in bundle.variant_files(variant):
            (bundle.path / name).unlink()


def _finish(
    folder: Path, job: ExportJob, name: str, variants: Sequence[Variant], provenance: Mapping[str, Any]
) -> Bundle:
    """Write the bundle's description of the variants that are in place."""
    tower = [provenance["query_tower_sha256"]] if "query_tower_sha256" in provenance else []
    return finish_bundle(
        folder,
        name=name,
        settings=job.settings,
        variants=tuple(variants),
        weights_sha256=json_sha256([provenance["checkpoint_sha256"], dict(job.cuts()), *tower]),
        provenance=provenance,
    )


def _provenance(job: ExportJob) -> dict[str, Any]:
    provenance: dict[str, Any] = {
        "checkpoint": name_of_model(job.checkpoint),
        "checkpoint_sha256": _weights_sha256(job.checkpoint),
        "versions": {package: version(package) for package in _PACKAGES},
        "training": read_training(job.checkpoint),
    }
    if "query_model" in job.towers:
        tower = job.towers["query_model"]
        provenance |= {
            "query_tower": name_of_model(tower),
            "query_tower_sha256": _weights_sha256(tower),
            "query_tower_training": read_training(tower),
        }
    if job.cuts():
        provenance["cuts"] = dict(job.cuts())
    return provenance


def _weights_sha256(checkpoint: Path) -> str:
    """Return a hash of the weights, those in the folders of linear layers among them."""
    dense = () if is_scorer_folder(checkpoint) else read_encoder_settings(checkpoint).dense
    files = [file for name in ("", *dense) for file in sorted((checkpoint / name).glob("*.safetensors"))]
    return json_sha256([[file.relative_to(checkpoint).as_posix(), file_sha256(file)] for file in files])
