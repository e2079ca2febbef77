"""The programs of `examples/` do what their first lines say."""

import runpy
import shutil
from pathlib import Path

import pytest

from relsdk.formats import write_documents, write_pairs
from relsdk_sample import generate

ROOT = Path(__file__).resolve().parents[2]


def program(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A bundle and a small sample corpus in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "tests/fixtures/encoder-bundle-v1", "bundle")
    world = generate(seed=1, n_documents=200, n_queries=60, pairs_per_query=10)
    write_documents("docs.jsonl", world.documents)
    for name in ("train", "dev", "test"):
        queries = {query.text for query in world.split_queries(name)}
        write_pairs(f"{name}.jsonl", [pair for pair in world.pairs if pair.query in queries])
    return world


def test_search(files, capsys):
    program("search")("bundle", "docs.jsonl", files.documents[7].title)
    first, *hits = capsys.readouterr().out.splitlines()
    assert first.startswith("200 documents, 32 dimensions")
    assert len(hits) == 5
    titles = {document.id: document.title for document in files.documents}
    for hit in hits:
        name, score, *_ = hit.split("  ")
        assert hit.endswith(titles[name])
        assert -1 <= float(score) <= 1


def test_levels(files, capsys):
    program("levels")("bundle", "train.jsonl", "test.jsonl")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("nDCG@10 0.")
    assert lines[1].startswith("levels right")
    assert len(lines) == 5
    assert lines[2].startswith(next(p.query for p in files.pairs if p.query in lines[2]))


@pytest.mark.filterwarnings("ignore::relsdk.runtime.batch_runner.TruncationWarning")
def test_train_and_export(files, toy_checkpoint, capsys):
    small = ("run.max_steps=5", "run.batch_size=16", "loss.matryoshka_dims=[]")
    program("train_and_export")(str(toy_checkpoint), "train.jsonl", "dev.jsonl", "out", *small)
    assert "is best: mean AP" in capsys.readouterr().out
    program("search")("out/bundle", "docs.jsonl", "红烧肉")
    assert "no levels" not in capsys.readouterr().out
