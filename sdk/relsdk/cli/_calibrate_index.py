"""`relsdk calibrate --index`: the model of meaning and words of an index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relsdk.bundle import read_bundle
from relsdk.bundle.hub import local_model
from relsdk.calibration import Promise, SearchProfile
from relsdk.cli._calibration_error import echo_calibration_errors
from relsdk.cli._cells import figure
from relsdk.cli._promises import echo_promises, promised_options, warn_of_promises
from relsdk.cli._warnings import take_warnings, warn
from relsdk.cli.output import echo, echo_json, echo_next, echo_table
from relsdk.errors import InputError
from relsdk.index import Index
from relsdk.models.embedder import Embedder
from relsdk.records import LabelledPair
from relsdk.runtime.variants import runs_exactly
from relsdk.search.opening import open_encoder
from relsdk.tools.hybrid_calibration import HybridReport, calibrate_hybrid
from relsdk.tools.search_profiles import check_queries, profile_searches

__all__ = ["calibrate_index"]


def calibrate_index(
    index: Path,
    bundle: Path,
    pairs: Sequence[LabelledPair],
    variants: Sequence[str],
    threads: int | None,
    as_json: bool,
    queries: Sequence[str] | None = None,
    *,
    targets: Sequence[tuple[int, float]] = (),
    confidence: float = 0.95,
) -> None:
    """Fit a model for each variant, store them in the index, and print how good they are.

    With queries, store what searches for them find, too.
    """
    if queries is not None:
        check_queries(queries)
    names = list(variants) or [
        variant.name for variant in read_bundle(local_model(str(bundle))).variants if runs_exactly(variant)
    ]
    if not names:
        raise InputError(f"{bundle} has no ONNX file that this CPU runs exactly; name one with --variant")
    models, reports, lost = {}, [], []
    with Index.open(index) as opened:
        for name in names:
            echo(f"{name}: encode and fit", err=True)
            embedder = open_encoder(opened.info(), str(bundle), name, threads)
            models[name], report = calibrate_hybrid(
                opened, embedder, pairs, targets=targets, confidence=confidence, show_progress_bar=True
            )
            reports.append(report)
            lost += _lost(index, embedder, targets)
        opened.store_hybrid(models)
        if queries is not None:
            opened.store_profiles({name: _profiles(opened, bundle, name, threads, queries) for name in names})
    promises = [(name, promise) for name, model in models.items() for promise in model.promises]
    warn_of_promises(promises, ((one.variant, refusal) for one in reports for refusal in one.refusals))
    for told in lost:
        warn(told)
    if as_json:
        calibrations = [{**report.to_dict(), "model": models[report.variant].to_dict()} for report in reports]
        content = {"index": str(index), "calibrations": calibrations, "searches": len(queries or ())}
        echo_json({**content, "warnings": take_warnings()})
        return
    _echo_reports(reports)
    echo_promises(promises)
    if queries is not None:
        echo(f"noted what {len(queries):,} searches find; relsdk serve {index} compares later ones with them")
    promised = promised_options([model.promises for model in models.values()])
    echo_next("query", index, f'"..." --mode hybrid {promised or "--min-level 2"}')


def _lost(index: Path, embedder: Embedder, targets: Sequence[tuple[int, float]]) -> list[str]:
    """Say which promises of the bundle do not hold for the searches that the model of the index grades."""
    promises = embedder.variant.promises_of(embedder.calibration_key)
    lost = [
        f"{one.precision:g} for level >= {one.level}"
        for one in promises
        if not any(level == one.level and precision >= one.precision for level, precision in targets)
    ]
    if not lost:
        return []
    kept = Promise.calibrate_options(promises)
    return [
        f"{embedder.variant.name}: what the bundle promises ({', '.join(lost)}) does not hold any more for "
        f"hybrid and lexical searches of {index}, which its own model grades now; to promise it there, too, "
        f"run: relsdk calibrate {embedder.bundle.path} PAIRS --index {index} {kept}"
    ]


def _profiles(
    index: Index, bundle: Path, variant: str, threads: int | None, queries: Sequence[str]
) -> dict[str, SearchProfile]:
    """Search, now that the index has its model."""
    echo(f"{variant}: search for {len(queries):,} queries", err=True)
    embedder = open_encoder(index.info(), str(bundle), variant, threads)
    return profile_searches(index, embedder, queries)


def _echo_reports(reports: Sequence[HybridReport]) -> None:
    """Print held-out metrics, one row a variant."""
    rows = []
    for report in reports:
        levels = report.grading
        cells = [report.variant, f"{levels.pairs:,}", f"{report.random_pairs:,}"]
        cells += [figure(one.mean_ap * 100, 2) for one in (report.cosine_ranking, report.ranking)]
        cells += [figure(value, 3) for value in (levels.accuracy, levels.qwk, levels.ece, levels.log_loss)]
        rows.append(cells)
    header = ["variant", "pairs", "random", "mean AP, cosine", "mean AP, hybrid"]
    echo_table([*header, "accuracy", "QWK", "ECE", "log loss"], rows, right=tuple(range(1, 9)))
    echo_calibration_errors((report.variant, report.grading) for report in reports)
