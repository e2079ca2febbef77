"""The public surface: how many functions and classes the packages show; private modules stay private."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "relsdk": "sdk",
    "relsdk_serve": "sdk",
    "relsdk_scale": "sdk",
    "relsdk_export": "export",
    "relsdk_training": "training",
    "relsdk_checkpoint": "training",
    "relsdk_sample": "examples",
}
# What they show today. More is a choice to be made: fewer concepts are easier to learn.
# H added records of segments, passages and signals, the analyser and the hybrid model; I the steps of an
# answer, which a server runs in batches, and the client; J shards and workers, stores, and parts for other
# programs; K the native engine; L the simulated annotator, opinions with their confusion, and losses of
# distributions.
# L also rubrics, graders behind an endpoint and how far they agree with people, and what goes from few labels
# to a bundle.
# M what it costs to abstain, debiased calibration errors and reliability curves, and a precision that is
# promised.
# M also which pairs to label next.
# M also shares of levels in what is not labelled, random negatives, the queries that a calibration has seen.
# M also the noise of a shift.
MOST = 718
FILES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for name, root in PACKAGES.items()
    for path in sorted((ROOT / root / name).rglob("*.py"))
}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def module_of(path):
    root = next(ROOT / root for root in set(PACKAGES.values()) if (ROOT / root) in path.parents)
    return path.relative_to(root).with_suffix("").parts


def last_part(node):
    return (node.module or "").rpartition(".")[2]


def is_command(node):
    """A command of the command line is documented in docs/cli.md and called by nobody."""
    return any(".command(" in (text := ast.unparse(one)) or ".group(" in text for one in node.decorator_list)


def shown(path):
    """Yield the functions and classes that anybody may import here, also those of private modules."""
    if any(map(is_private, module_of(path))):
        return
    for node in FILES[path].body:
        if isinstance(node, ast.ImportFrom) and path.name == "__init__.py" and is_private(last_part(node)):
            yield from (alias.name for alias in node.names if not alias.name.isupper())
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named and not node.name.startswith("_") and not is_command(node):
            yield node.name


def test_the_packages_show_no_more_than_they_did():
    counts = {path: len(list(shown(path))) for path in FILES}
    assert sum(counts.values()) <= MOST, sorted(counts.items(), key=lambda item: -item[1])[:20]


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(module_of(path)))
def test_private_modules_are_imported_by_their_own_package_alone(path):
    package = module_of(path)[:-1]
    for node in ast.walk(FILES[path]):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for dotted in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                parts = tuple(dotted.split("."))
                first = next((at for at, part in enumerate(parts) if is_private(part)), None)
                if first is not None and parts[0] in PACKAGES:
                    assert parts[:first] == package[:first], f"{dotted} is private"
