"""Write a bundle's model card: its contents, measurements and use, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relsdk.bundle import Bundle, ScorerSettings

__all__ = ["model_card"]


def model_card(bundle: Bundle, *, source: str = "this/folder") -> str:
    """Describe a finished bundle.

    Args:
        bundle: With what was measured in its variants' `quality`.
        source: What its users open: a folder or a hub id.

    Returns:
        Markdown.
    """
    sections = [
        _heading(bundle),
        _usage(bundle, source),
        _parity(bundle),
        _gate(bundle),
        _levels(bundle),
        _cuts(bundle),
        _origin(bundle),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _heading(bundle: Bundle) -> str:
    settings = bundle.settings
    if isinstance(settings, ScorerSettings):
        what = f"A cross-encoder with a {settings.head} head; at most {settings.max_tokens} tokens a pair."
    else:
        prompts = ", ".join(f"`{name}`: {text!r}" for name, text in settings.prompts.items()) or "none"
        what = (
            f"An encoder: {settings.dimension} dimensions, {settings.pooling} pooling, at most "
            f"{settings.max_tokens} tokens a text. Prompts: {prompts}."
        )
        if "query_tower" in bundle.provenance:
            what += f"\nQueries have an encoder of their own, `{bundle.provenance['query_tower']}`."
    return f"# {bundle.name}\n\n{what}\nMade by relsdk; fingerprint `{bundle.fingerprint}`."


def _usage(bundle: Bundle, source: str) -> str:
    if bundle.kind == "scorer":
        code = f'RelevanceScorer("{source}").predict([("query", "document")])'
        name = "RelevanceScorer"
    else:
        code, name = f'Embedder("{source}").encode_query("query")', "Embedder"
    example = f"```python\nfrom relsdk import {name}\n\n{code}\n```"
    return f"{example}\n\nCheck it on a new machine: `relsdk model verify {source}`."


def _parity(bundle: Bundle) -> str:
    rows = []
    for variant in bundle.variants:
        parity = variant.quality["parity"]
        if bundle.kind == "scorer":
            close = f"logits within {parity['max_logit_difference']:.1e}, "
            close += f"probabilities {parity['mean_variation']:.4f}"
        else:
            close = f"cosine mean {parity['mean_cosine']:.4f}, worst {parity['min_cosine']:.4f}"
        size = f"{variant.quality['bytes'] / 1e6:.1f}"
        rows.append([variant.name, size, close, f"{parity['batch_difference']:.0e}"])
    header = ["variant", "MB", "against the checkpoint", "alone against in a batch"]
    return "## Variants\n\n" + _table(header, rows)


def _gate(bundle: Bundle) -> str:
    gates: list[tuple[str, Mapping[str, Any]]] = [
        (variant.name, variant.quality["gate"]) for variant in bundle.variants if "gate" in variant.quality
    ]
    if not gates:
        return ""
    measures = ("ap_1", "ap_2", "ap_3", "mean_ap", "ndcg_at_10")
    rows = []
    for name, gate in gates:
        ranking = [_percent(gate[key]) for key in measures]
        rows.append([name, *ranking, f"{gate['qwk']:.3f}", f"{gate['level_changes']:.2%}"])
    header = ["variant", "AP>=1", "AP>=2", "AP=3", "mean AP", "nDCG@10", "QWK", "levels unlike fp32's"]
    text = f"## On {gates[0][1]['pairs']:,} labelled pairs\n\n" + _table(header, rows)
    for name, reasons in bundle.provenance.get("left_out", {}).items():
        text += f"\n\n`{name}` was left out: {'; '.join(reasons)}."
    return text


def _levels(bundle: Bundle) -> str:
    rows = [
        [variant.name, *_calibrated(key, report)]
        for variant in bundle.variants
        for key, report in variant.quality.get("calibration", {}).items()
        if "grading" in report
    ]
    header = ["variant", "for", "pairs", "accuracy", "QWK", "ECE", "Brier"]
    return "## Levels, cross-validated on labelled pairs\n\n" + _table(header, rows) if rows else ""


def _calibrated(key: str, report: Mapping[str, Any]) -> list[str]:
    """Return a calibration's cells: what it is for, and what was measured of it."""
    grading = report["grading"]
    measures = [grading[name] for name in ("accuracy", "qwk", "ece", "brier")]
    return [key, f"{grading['pairs']:,}"] + ["-" if v is None else f"{v:.3f}" for v in measures]


def _cuts(bundle: Bundle) -> str:
    cuts = bundle.provenance.get("cuts")
    if not cuts:
        return ""
    lines = []
    if "vocabulary" in cuts:
        vocabulary = cuts["vocabulary"]
        lines.append(
            f"- vocabulary: {vocabulary['pieces_before']:,} pieces to {vocabulary['pieces']:,}; "
            f"{vocabulary['unknown_share']:.4%} of the corpus's tokens are unknown"
        )
    if "layers" in cuts:
        lines.append(f"- layers kept: {', '.join(str(number) for number in cuts['layers'])}")
    if "dimension" in cuts:
        lines.append(f"- dimensions: {cuts['dimension']['before']} to {cuts['dimension']['after']}")
    if "before" in cuts:
        rows = [
            [name, f"{cuts[key]['bytes'] / 1e6:.1f}"]
            + [_percent(cuts[key][measure]) for measure in ("mean_ap", "ndcg_at_10")]
            for name, key in (("whole", "before"), ("cut", "after"))
        ]
        lines += ["", _table(["fp32", "MB", "mean AP", "nDCG@10"], rows)]
    return "## Cut\n\n" + "\n".join(lines)


def _origin(bundle: Bundle) -> str:
    origin = bundle.provenance
    versions = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
    return (
        f"## Origin\n\nCheckpoint `{origin['checkpoint']}`, weights SHA-256 `{origin['checkpoint_sha256']}`. "
        f"Made with {versions}."
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
