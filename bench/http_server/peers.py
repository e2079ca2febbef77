"""Other servers of the same weights, each in a virtual environment of its own.

Each gets the prompt of a query with the text where it does not put it there itself. All have one thread on
one CPU, and write no line for each request.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click

from bench.http_server.api import Encode, Vectors, list_vectors, openai_vectors, post
from bench.http_server.models import Folders
from bench.http_server.processes import Server
from bench.serving.weights import FILE
from relsdk.bundle import read_bundle

_APPS = Path(__file__).resolve().parent / "peer_apps"
_QUIET = ("--no-access-log", "--log-level", "warning")
_TORCH = "torch==2.13.0"
# Not a Python package: a Rust program, which no registry of Python packages carries.
NOT_HERE = {"text-embeddings-inference": "a Rust program that is not on PyPI"}


class AbsentError(Exception):
    """A peer cannot run here; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A server to compare with.

    Attributes:
        name: In results.
        environment: Folder of the virtual environment; peers may share one.
        packages: What is installed there; the first is the one whose version is told.
        command: From the environment's `bin` folder on; "{port}" stands for the port.
        variables: Of the process.
        health: Answers 200 when it is ready.
        message: Texts -> a request.
        vectors: The body of an answer -> (N, D).
    """

    name: str
    environment: str
    packages: Sequence[str]
    command: Sequence[str]
    message: Encode
    variables: Mapping[str, str] = field(default_factory=dict)
    health: str = "/health"
    vectors: Callable[[bytes], Vectors] = openai_vectors


def peers(folders: Folders, work: Path) -> list[Peer]:
    """Return all peers; nothing is installed yet."""
    bundle = read_bundle(folders.encoder)
    prompt = bundle.encoder_settings.prompts.get("query", "")
    dimension = str(bundle.encoder_settings.dimension)
    web = ("fastapi", "uvicorn[standard]")
    openai = partial(_openai, prompt, "/v1/embeddings")
    checkpoint = str(folders.checkpoint32.resolve())
    served = {
        "FastAPI + fastembed, relsdk's int8 file": (folders.encoder, _served_file(folders.encoder)),
        "FastAPI + fastembed, dynamic int8": (folders.unfused, FILE),
    }
    found = [
        Peer(
            name,
            "fastembed",
            ("fastembed==0.9.1", *web),
            _uvicorn("fastembed_app:app"),
            openai,
            {"MODEL": str(folder.resolve()), "MODEL_FILE": file, "DIMENSION": dimension},
        )
        for name, (folder, file) in served.items()
    ]
    return [
        *found,
        Peer(
            "FastAPI + sentence-transformers",
            "sentence-transformers",
            ("sentence-transformers==6.2.0", _TORCH, *web),
            _uvicorn("sentence_transformers_app:app"),
            openai,
            {"MODEL": checkpoint},
        ),
        Peer(
            "infinity",
            "infinity",
            ("infinity-emb[torch,server]==0.0.78", _TORCH),
            (
                *("infinity_emb", "v2", "--model-id", checkpoint, "--engine", "torch", "--device", "cpu"),
                *("--dtype", "float32", "--no-bettertransformer", "--no-model-warmup"),
                *("--served-model-name", "served", "--host", "127.0.0.1", "--port", "{port}"),
                *("--log-level", "error"),
            ),
            partial(_openai, prompt, "/embeddings"),
            {"DO_NOT_TRACK": "1"},
        ),
        Peer(
            "txtai API",
            "txtai",
            ("txtai[api]==9.14.0", "sentence-transformers==6.2.0", _TORCH),
            _uvicorn("txtai.api:app"),
            lambda texts: post("/batchtransform?category=query", list(texts)),  # it knows prompts
            {"CONFIG": str(_txtai_settings(checkpoint, work))},
            health="/transform?text=a",
            vectors=list_vectors,
        ),
    ]


def start(peer: Peer, work: Path, cpu: int) -> Server:
    """Install a peer where it is not there yet, and start it.

    Raises:
        AbsentError: It cannot be installed, or does not start.
    """
    folder = install(peer, work)
    program, *arguments = peer.command
    try:
        return Server(
            peer.name,
            [str(folder / "bin" / program), *arguments],
            cpu,
            work / "logs" / f"{peer.name.replace(' ', '_')}.log",
            health=peer.health,
            environment={**peer.variables, "PYTHONPATH": ""},
        )
    except RuntimeError as error:
        raise AbsentError(str(error)) from error


def install(peer: Peer, work: Path) -> Path:
    """Make a peer's environment, and return its folder."""
    folder = (work / "environments" / peer.environment).resolve()
    finished = folder / "installed.json"
    if finished.is_file() and json.loads(finished.read_text()) == list(peer.packages):
        return folder
    click.echo(f"install {peer.environment}", err=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *peer.packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise AbsentError(f"not installable: {' | '.join(errors or done.stderr.splitlines()[-1:])}")
    finished.write_text(json.dumps(list(peer.packages)))
    return folder


def version_of(peer: Peer, work: Path) -> str:
    """Return the version of a peer's first package."""
    package = peer.packages[0].split("[")[0].split("=")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    python = work / "environments" / peer.environment / "bin/python"
    done = subprocess.run([str(python.absolute()), "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _uvicorn(app: str) -> tuple[str, ...]:
    return ("uvicorn", app, "--app-dir", str(_APPS), "--host", "127.0.0.1", "--port", "{port}", *_QUIET)


def _openai(prompt: str, path: str, texts: Sequence[str]) -> bytes:
    return post(path, {"model": "served", "input": [prompt + text for text in texts]})


def _served_file(bundle: Path) -> str:
    """Return the file that relsdk would load here."""
    from relsdk import Embedder

    return Embedder(bundle).variant.file


def _txtai_settings(checkpoint: str, work: Path) -> Path:
    path = (work / "txtai.yml").resolve()
    path.write_text(f"embeddings:\n  path: {checkpoint}\n  method: sentence-transformers\n  gpu: false\n")
    return path
