"""Fixtures of the benchmarks: a real encoder, the sample corpus, queries. Made once, kept in .bench/."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relsdk import Embedder
from relsdk_export.backbones.pull import pull
from relsdk_export.encoder import EncoderCuts, export_encoder
from relsdk_sample import generate

CACHE = Path(__file__).resolve().parent.parent / ".bench"
VARIANTS = ("fp32", "int8")


@pytest.fixture(scope="session")
def world():
    return generate()


@pytest.fixture(scope="session")
def bundle(world):
    """multilingual-e5-small, its vocabulary cut to the sample corpus; RELSDK_BENCH_BUNDLE names another."""
    given = os.environ.get("RELSDK_BENCH_BUNDLE")
    if given:
        return Path(given)
    path = CACHE / "bundle"
    if not (path / "relsdk.json").is_file():
        texts = (f"{document.title} {document.text}" for document in world.documents)
        export_encoder(
            pull("multilingual-e5-small").path, path, cuts=EncoderCuts(vocabulary_from=texts), overwrite=True
        )
    return path


@pytest.fixture(scope="session")
def embedders(bundle):
    """One thread, warmed up: "fp32", and "int8" as this CPU would load it."""
    made = {
        "fp32": Embedder(bundle, variant="fp32", threads=1),
        "int8": Embedder(bundle, variant="auto", threads=1),
    }
    for embedder in made.values():
        embedder.warmup()
    return made


@pytest.fixture(scope="session")
def queries(world):
    return [query.text for query in world.queries]


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param
