"""Who may import whom, proved by running and by reading."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"relsdk": "sdk", "relsdk_export": "export", "relsdk_training": "training"}
STANDARD = set(sys.stdlib_module_names)
BASE = {"numpy", "onnxruntime", "tokenizers", "hnswlib", "click", "msgspec", "relsdk"}
# Imported inside a function only, with an error that names the extra.
LAZY = {"huggingface_hub", "matplotlib", "pyarrow"}
# What training shares with serving: pure modules, the model folder, what the CPU has, the tokenizer.
FOR_TRAINING = {
    *("levels", "records", "metrics", "errors", "formats", "files", "folders", "batching", "calibration"),
    *("bundle", "hardware", "tokenizer", "typed_json"),
}
ORDER = [
    {
        "errors",
        "levels",
        "records",
        "metrics",
        "formats",
        "batching",
        "blas",
        "bench_results",
        "calibration",
        "deadline",
        "files",
        "folders",
        "hardware",
        "hub",
        "intact",
        "pooling",
        "progress",
        "query_cache",
        "runtime",
        "sample_world",
        "typed_json",
    },
    {"bundle"},
    {"tokenizer", "session", "verification"},
    {"runner"},
    {"embedder", "index"},
    {"pair_models"},
    {"pooled_model"},
    {"scorer"},
    {"searcher", "evaluation", "mining", "selftest"},
    {"benchmark"},
    {"cli", "__init__", "__main__"},
]


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_import_relsdk_loads_nothing_heavy():
    done = run("import sys; from relsdk import *; print(*{name.partition('.')[0] for name in sys.modules})")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    heavy = {"torch", "transformers", "onnx", "onnxscript", "pyarrow", "sklearn", "scipy", "huggingface_hub"}
    assert not loaded & heavy
    assert not loaded & {"relsdk_export", "relsdk_training"}


def test_an_encoder_loads_neither_index_nor_database_nor_calibration():
    done = run("import sys; from relsdk import Embedder; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"onnxruntime", "tokenizers"} <= loaded
    assert not loaded & {"hnswlib", "sqlite3", "filelock", "click", "relsdk.calibration"}


def test_public_names_are_what_they_say():
    import relsdk
    from relsdk.index import Index
    from relsdk.records import Document

    assert set(relsdk.__all__) <= set(dir(relsdk))
    assert (relsdk.Index, relsdk.Document) == (Index, Document)
    for name in relsdk.__all__:
        assert getattr(relsdk, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'relsdk' has no attribute 'Indexx'"):
        _ = relsdk.Indexx


def test_the_command_line_imports_groups_when_called():
    done = run("import sys, relsdk.cli; print(*sys.modules)")
    loaded = set(done.stdout.split())
    assert {m for m in loaded if m.startswith("relsdk.cli.")} == {"relsdk.cli.ending", "relsdk.cli.output"}
    assert not loaded & {"numpy", "onnxruntime"}


def test_import_has_no_side_effects():
    program = """
import logging, os, warnings
before = dict(os.environ), logging.root.level, list(warnings.filters)
import relsdk
assert (dict(os.environ), logging.root.level) == before[:2]
"""
    assert run(program).returncode == 0


def imports(path):
    """Yield (top package, dotted name, whether at module level) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(child)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for child in ast.walk(function)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        for name in names:
            yield name.partition(".")[0], name, id(node) not in inside


def files(package):
    return sorted((ROOT / PACKAGES[package] / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package):
    others = set(PACKAGES) - {package}
    for path in files(package):
        in_cli = path.parent.name == "cli"
        for top, name, at_top in imports(path):
            if package == "relsdk":
                if in_cli and not at_top:
                    assert top in STANDARD | BASE | {"relsdk_export", "relsdk_training"}, f"{path}: {name}"
                else:
                    assert top in STANDARD | BASE | (set() if at_top else LAZY), f"{path}: {name}"
            else:
                assert top not in others - {"relsdk"}, f"{path}: {name}"
                if package == "relsdk_training" and top == "relsdk":
                    assert name.split(".")[1] in FOR_TRAINING, f"{path}: {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_onnxruntime_is_imported_in_one_place(package):
    """The one that turns its telemetry off."""
    for path in files(package):
        for top, name, _ in imports(path):
            assert top != "onnxruntime" or path.name == "runtime.py", f"{path}: {name}"


def layer(module):
    found = [number for number, names in enumerate(ORDER) if module in names]
    assert found, f"{module} has no place in the order; put it into ORDER"
    return found[0]


def test_inside_relsdk_imports_go_downwards():
    folder = ROOT / "sdk" / "relsdk"
    for path in files("relsdk"):
        part = path.relative_to(folder).parts[0].removesuffix(".py")
        for top, name, _ in imports(path):
            if top == "relsdk" and "." in name:
                other = name.split(".")[1]
                assert layer(other) <= layer(part), f"{path} imports {name}, which is above it"


def test_import_relsdk_loads_no_package_beyond_its_dependencies():
    program = """
import numpy, onnxruntime, tokenizers, hnswlib, click, msgspec, sqlite3
import sys
before = set(sys.modules)
import relsdk
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
"""
    done = run(program)
    assert set(done.stdout.split()) <= {"relsdk", "numpy"}, done.stdout
