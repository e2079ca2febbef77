"""`relsdk doctor`: the machine as relsdk sees it, and a self-test."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from relsdk.bundle import Bundle, Variant, read_bundle
from relsdk.bundle.hub import local_model
from relsdk.cli._doctor_drift import check_drift, drift_to_dict, echo_drift
from relsdk.cli._warnings import take_warnings
from relsdk.cli.options import json_option, threads_option
from relsdk.cli.output import echo, echo_json, echo_table
from relsdk.errors import RelsdkError
from relsdk.runtime.blas import blas_threads
from relsdk.runtime.hardware import choose_threads, cpu_features
from relsdk.runtime.native_engine import has_native_encoder, native_engine
from relsdk.runtime.onnx_runtime import onnxruntime, telemetry
from relsdk.runtime.variants import best_int8, choose_variant, variant_verdicts
from relsdk.runtime.verification import verified_version
from relsdk.tools.drift import read_drift
from relsdk.tools.self_test import self_test as run_self_test

__all__ = ["doctor"]

_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "arm64",
    "asimddp",
    "i8mm",
)
_PACKAGES = (
    "relsdk",
    "numpy",
    "onnxruntime",
    "tokenizers",
    "hnswlib",
    "click",
    "filelock",
    "msgspec",
    "torch",
    "transformers",
    "onnx",
)
_NEWEST_GLIBC_NEEDED = "2.28"


@click.command(epilog="Example: relsdk doctor -m bundle")
@click.option("--model", "-m", help="Bundle: show which of its files would load and why, and test it.")
@threads_option
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of relsdk serve --state: show what its searches of the last day have come to find.",
)
@click.option("--self-test/--no-self-test", default=True, show_default=True, help="Run about 2 s of tests.")
@json_option
def doctor(
    model: str | None, threads: int | None, state: Path | None, self_test: bool, as_json: bool
) -> None:
    """Show CPU features, thread choice, the file that would load, versions; test that it works.

    Exit code 2 when a test fails, or when searches have moved far from what they found.
    """
    drift = None if state is None else read_drift(state)
    bundle = None if model is None else read_bundle(local_model(model))
    content = _machine(threads)
    if bundle is not None:
        content |= _model(bundle)
    checks = run_self_test(None if bundle is None else bundle.path, threads=threads) if self_test else []
    if as_json:
        more: dict[str, object] = {} if drift is None else {"drift": drift_to_dict(drift)}
        more |= {"self_test": [asdict(check) for check in checks], "warnings": take_warnings()}
        echo_json({**content, **more})
    else:
        echo_table(["what", "found"], _rows(content))
        if checks:
            echo()
            verdict = {True: "ok", False: "FAILED", None: "-"}
            rows = [
                [verdict[check.ok], check.name, f"{check.milliseconds:.0f} ms", check.detail]
                for check in checks
            ]
            echo_table(["result", "self-test", "took", "found"], rows, right=(2,))
        if drift is not None:
            echo()
            echo_drift(drift)
    failed = [check.name for check in checks if check.ok is False]
    if failed:
        raise RelsdkError(f"the self-test failed: {', '.join(failed)}; see its rows above for what was found")
    if drift is not None:
        check_drift(drift)


def _machine(requested: int | None) -> dict[str, object]:
    threads = choose_threads(requested)
    features = cpu_features()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "glibc": " ".join(platform.libc_ver()).strip() or "not glibc",
        "glibc needed by the wheels": _NEWEST_GLIBC_NEEDED,
        "cpus of the host": os.cpu_count(),
        "cpus by affinity": threads.affinity,
        "cpus by cgroup quota": "no limit" if threads.quota is None else threads.quota,
        "threads": f"{threads.threads} ({threads.reason})",
        "RELSDK_THREADS": os.environ.get("RELSDK_THREADS", "not set"),
        "threads of numpy": blas_threads() or "not known: no OpenBLAS; what numpy chooses",
        "cpu features": " ".join(f for f in _FEATURES if f in features) or "unknown",
        "int8 file for this cpu": best_int8(),
        "native engine": native_engine()[1],
        "onnxruntime telemetry": telemetry(),
        "execution providers": ", ".join(onnxruntime.get_available_providers()),
        **{package: _version(package) for package in _PACKAGES},
    }


def _model(bundle: Bundle) -> dict[str, object]:
    variant = choose_variant(bundle)
    return {
        "model": bundle.name,
        "made with onnxruntime": f"{verified_version(bundle) or 'not noted'}, here {onnxruntime.__version__}",
        "variants": ", ".join(v.name for v in bundle.variants),
        "would load": f"{variant.name} ({variant.file})",
        "computed by": _computed_by(bundle, variant),
        "file": variant_verdicts(bundle),
        "levels": "calibrated" if variant.calibrations else "none: run relsdk calibrate",
    }


def _computed_by(bundle: Bundle, variant: Variant) -> str:
    library, state = native_engine()
    if variant.quantisation != "int8" or library is None:
        return "onnxruntime"
    if not has_native_encoder(bundle.onnx_path(variant)):
        return "onnxruntime: the file is of an earlier version, or of an architecture that the engine lacks"
    return f"the native engine ({state})"


def _rows(content: Mapping[str, object]) -> list[list[str]]:
    """Return table rows; a mapping takes a row for each of its entries."""
    rows = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            rows += [[f"{name} {entry}", str(text)] for entry, text in value.items()]
        else:
            rows.append([name, str(value)])
    return rows


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
