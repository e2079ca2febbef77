"""Who may import whom, proved by running and by reading."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "relsdk": "sdk",
    "relsdk_serve": "sdk",
    "relsdk_scale": "sdk",
    "relsdk_sample": "examples",
    "relsdk_checkpoint": "training",
    "relsdk_training": "training",
    "relsdk_export": "export",
}
# Which of ours a package may import; training and export meet in a checkpoint folder on disk.
MAY_IMPORT: dict[str, set[str]] = {
    "relsdk": set(),
    "relsdk_serve": {"relsdk"},
    "relsdk_scale": {"relsdk"},
    "relsdk_sample": {"relsdk"},
    "relsdk_checkpoint": {"relsdk"},
    "relsdk_training": {"relsdk", "relsdk_checkpoint"},
    "relsdk_export": {"relsdk", "relsdk_checkpoint", "relsdk_sample"},
}
STANDARD = set(sys.stdlib_module_names)
BASE = {"numpy", "onnxruntime", "tokenizers", "hnswlib", "click", "msgspec", "relsdk"}
# Imported inside a function only, with an error that names the extra.
LAZY = {"httpx", "huggingface_hub", "matplotlib", "pyarrow"}
# Each module of relsdk.integrations is imported by whoever has the program that it is for.
INTEGRATIONS = {"langchain_core", "llama_index", "haystack", "mteb", "pydantic"}
# What training shares with serving: pure modules, the model folder, what the CPU has, the tokenizer.
FOR_TRAINING = {
    *("relsdk.errors", "relsdk.levels", "relsdk.records", "relsdk.files", "relsdk.typed_json"),
    *("relsdk.metrics", "relsdk.formats", "relsdk.calibration", "relsdk.bundle"),
    *("relsdk.runtime.batching", "relsdk.runtime.hardware", "relsdk.runtime.tokenizer"),
    "relsdk.shards.runner",
}
# The rooms of relsdk, from the ground up: a room imports those below it, and none beside it.
ORDER = [
    {"errors"},
    {"levels"},
    {"records"},
    {"files"},
    {"typed_json"},
    {"progress"},
    {"formats"},
    {"metrics"},
    {"calibration"},
    {"bundle"},
    {"runtime"},
    {"models"},
    {"shards"},
    {"index"},
    {"search"},
    {"client"},
    {"tools"},
    {"integrations"},
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
    own = {module.removeprefix("relsdk.cli.") for module in loaded if module.startswith("relsdk.cli.")}
    assert own == {"_cells", "_warnings", "ending", "output"}
    assert not loaded & {"numpy", "onnxruntime"}


def test_import_has_no_side_effects():
    program = """
import logging, os, warnings
before = dict(os.environ), logging.root.level, list(warnings.filters)
import relsdk
assert (dict(os.environ), logging.root.level) == before[:2]
"""
    assert run(program).returncode == 0


@cache
def imports(path):
    """Return (top package, dotted name, whether at module level) of every import in a file."""
    return tuple(_imports(path))


@cache
def _tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path):
    tree = _tree(path)
    inside = {
        id(child)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for child in ast.walk(function)
    }
    for_checkers = {
        id(child)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for child in ast.walk(branch)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if id(node) in for_checkers and top in LAZY | {"typing_extensions"}:
                continue  # nothing but a type checker reads it
            yield top, name, id(node) not in inside


def files(package):
    return sorted((ROOT / PACKAGES[package] / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package):
    forbidden = set(PACKAGES) - {package} - MAY_IMPORT[package]
    for path in files(package):
        in_cli = path.parent.name == "cli"
        for top, name, at_top in imports(path):
            assert top not in forbidden, f"{path}: {name}"
            if package == "relsdk":
                others = INTEGRATIONS if path.parent.name == "integrations" else set()
                assert top in STANDARD | BASE | others | (set() if at_top else LAZY), f"{path}: {name}"
            elif not in_cli:
                assert top != "click", f"{path}: {name}"
                assert not name.startswith("relsdk.cli"), f"{path}: {name}"
                if package in {"relsdk_training", "relsdk_checkpoint"} and top == "relsdk":
                    assert any(f"{name}.".startswith(f"{allowed}.") for allowed in FOR_TRAINING), (
                        f"{path}: {name}"
                    )


@pytest.mark.parametrize(
    "package", ["relsdk", "relsdk_serve", "relsdk_scale", "relsdk_export", "relsdk_training"]
)
def test_commands_are_known_without_their_extras(package):
    """`relsdk train --help` works without torch: a command imports what is heavy when it runs."""
    light = STANDARD | BASE | set(PACKAGES)
    for path in files(package):
        if path.parent.name == "cli":
            for top, name, at_top in imports(path):
                assert not at_top or top in light, f"{path}: {name}"
                heavy = ("relsdk_serve.", "relsdk_export.", "relsdk_training.")
                ours = name.startswith(heavy) and ".cli" not in name
                assert not at_top or not ours, f"{path}: {name}"


def _modules():
    """Return every module of the packages and of bench: dotted name -> file."""
    found = {}
    for root in [*(ROOT / folder / package for package, folder in PACKAGES.items()), ROOT / "bench"]:
        for path in root.rglob("*.py"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def test_no_module_imports_itself_by_way_of_others():
    modules = _modules()
    graph = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ImportFrom):
                parts = [f"{node.module}.{alias.name}" for alias in node.names]
                targets |= {part if part in modules else node.module for part in parts}
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
        # A package's own page of names is no step: each of its modules loads it first.
        graph[name] = {
            target for target in targets if target in modules and not name.startswith(f"{target}.")
        }
    with_order = TopologicalSorter(graph)
    try:
        with_order.prepare()
    except CycleError as error:
        pytest.fail(f"imports run in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_onnxruntime_is_imported_in_one_place(package):
    """The one that turns its telemetry off."""
    for path in files(package):
        for top, name, _ in imports(path):
            assert top != "onnxruntime" or path.name == "onnx_runtime.py", f"{path}: {name}"


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
