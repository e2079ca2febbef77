"""`relsdk doctor`: what this machine offers and what relsdk makes of it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import click

from relsdk.bundle import read_bundle
from relsdk.cli.output import echo_json, echo_table
from relsdk.hardware import choose_threads, cpu_features
from relsdk.hub import local_model
from relsdk.session import choose_variant

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
    "torch",
    "transformers",
    "onnx",
)
_NEWEST_GLIBC_NEEDED = "2.28"


@click.command()
@click.option("--model", "-m", help="Bundle: show which of its files would load.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(model: str | None, as_json: bool) -> None:
    """Show CPU features, thread choice, the file that would load, versions."""
    threads = choose_threads()
    features = cpu_features()
    content: dict[str, object] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "glibc": " ".join(platform.libc_ver()).strip() or "not glibc",
        "glibc needed by the wheels": _NEWEST_GLIBC_NEEDED,
        "cpus of the host": os.cpu_count(),
        "cpus by affinity": threads.affinity,
        "cpus by cgroup quota": "no limit" if threads.quota is None else threads.quota,
        "threads": f"{threads.threads} ({threads.reason})",
        "cpu features": " ".join(f for f in _FEATURES if f in features) or "unknown",
        **{package: _version(package) for package in _PACKAGES},
    }
    if model is not None:
        bundle = read_bundle(local_model(model))
        variant = choose_variant(bundle)
        content["model"] = bundle.name
        content["variants"] = ", ".join(v.name for v in bundle.variants)
        content["would load"] = f"{variant.name} ({variant.file})"
        content["levels"] = "calibrated" if variant.calibrations else "none: run relsdk calibrate"
    if as_json:
        echo_json(content)
    else:
        echo_table(["what", "found"], [[name, str(value)] for name, value in content.items()])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
