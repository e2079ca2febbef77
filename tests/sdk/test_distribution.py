"""What pyproject.toml puts into the wheel: every file of the packages."""

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
