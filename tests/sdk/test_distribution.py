"""The wheel holds every file of the packages, and `make dist` sees when an archive lacks one."""

import importlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")
ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
PACKAGES = [
    package.parent
    for root in SETUPTOOLS["packages"]["find"]["where"]
    for package in ROOT.glob(f"{root}/*/__init__.py")
]


def test_the_packages_are_found():
    assert {"relsdk", "relsdk_export", "relsdk_training"} <= {package.name for package in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_file_of_a_package_is_in_the_wheel(package):
    data = {path for glob in SETUPTOOLS["package-data"][package.name] for path in package.glob(glob)}
    assert package / "py.typed" in data
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    files = {path for path in files if path.suffix != ".so"}  # the native engine, which is compiled
    modules = {path for path in files if path.suffix == ".py"}
    assert files - modules == data
    assert all(
        (path.parent / "__init__.py").is_file() for path in modules
    )  # else it is no package that is found


def test_the_metadata_is_complete():
    project = PROJECT["project"]
    for name in ("authors", "classifiers", "description", "keywords", "license", "license-files", "readme"):
        assert project[name]
    assert all((ROOT / file).is_file() for file in project["license-files"])
    assert set(project["optional-dependencies"]["all"][0].split("[")[1].rstrip("]").split(",")) <= set(
        project["optional-dependencies"]
    )


@pytest.fixture
def dist(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    return importlib.import_module("dist")


def archives(folder, members, contents):
    """Write an sdist and a wheel of empty files."""
    with tarfile.open(folder / "p-1.tar.gz", "w:gz") as sdist:
        for name in members:
            sdist.addfile(tarfile.TarInfo(f"p-1/{name}"), io.BytesIO())
    with zipfile.ZipFile(folder / "p-1-py3-none-any.whl", "w") as wheel:
        for name in contents:
            wheel.writestr(name, "")
    return folder / "p-1.tar.gz", folder / "p-1-py3-none-any.whl"


TRACKED = {"Makefile", "sdk/p/__init__.py", "sdk/p/py.typed", "examples/program.py"}
INNER = ["p/__init__.py", "p/py.typed", "p-1.dist-info/METADATA"]


def test_archives_that_hold_everything_pass(dist, tmp_path):
    dist.check_files(*archives(tmp_path, [*TRACKED, "PKG-INFO", "p.egg-info/SOURCES.txt"], INNER), TRACKED)


@pytest.mark.parametrize(("members", "contents", "reason"), [
    (TRACKED - {"Makefile"}, INNER, r"p-1.tar.gz lacks \['Makefile'\]"),
    (TRACKED, INNER[:1], r"none-any.whl lacks \['p/py.typed'\]"),
    (TRACKED, [*INNER, "tests/conftest.py"], r"has \['tests/conftest.py'\] beside it"),
])  # fmt: skip
def test_archives_that_lack_a_file_or_have_one_more_are_refused(dist, tmp_path, members, contents, reason):
    with pytest.raises(dist.TrialError, match=reason):
        dist.check_files(*archives(tmp_path, members, contents), TRACKED)


def test_an_engine_that_cannot_be_built_leaves_no_earlier_one(tmp_path):
    pytest.importorskip(
        "setuptools", minversion="77", reason="setup.py needs setuptools 77, as pyproject.toml says"
    )
    old = tmp_path / "relsdk/runtime/librelsdk.so"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of an earlier version")
    command = [
        sys.executable,
        "setup.py",
        "build_ext",
        "--build-lib",
        tmp_path,
        "--build-temp",
        tmp_path / "temp",
    ]
    environment = {**os.environ, "CC": "false", "CXX": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "relsdk works without its native engine" in done.stdout + done.stderr
    assert not old.exists()
