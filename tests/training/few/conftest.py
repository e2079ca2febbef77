"""Few labels, opinions and written queries of the sample world, and a run of seconds on them."""

import contextlib
import io
import json

import pytest

from relsdk.formats import write_pairs
from relsdk_sample import generate
from relsdk_sample.annotator import annotate, write_queries
from relsdk_training.config.few import FewConfig
from relsdk_training.config.files import load_config
from relsdk_training.few import _bundle as bundle
from relsdk_training.few import recipe
from relsdk_training.few.recipe import train_few


@pytest.fixture(scope="session")
def world():
    return generate(seed=12, n_documents=400, n_queries=150, pairs_per_query=8)


@pytest.fixture(scope="session")
def few_files(world, tmp_path_factory):
    """labels, dev, test; weak (opinions on other pairs), check (on those of dev), written."""
    folder = tmp_path_factory.mktemp("few_files")
    train, test = world.split("train"), world.split("test")
    labels, others = train[:160], train[160:]
    held_out = {pair.query for pair in (*world.split("dev"), *test)}
    written = [pair for pair in write_queries(world.documents[:20]) if pair.query not in held_out]
    files = {
        "labels": labels,
        "few": train[:32],
        "dev": world.split("dev"),
        "test": test,
        "weak": annotate(others),
        "check": annotate(world.split("dev")),
        "written": written,
    }
    for name, pairs in files.items():
        write_pairs(folder / f"{name}.jsonl", pairs)
    return folder


@pytest.fixture(scope="session")
def small(toy_checkpoint):
    """Settings of a run of seconds."""
    return [
        f"model.checkpoint={toy_checkpoint}",
        "model.max_tokens=128",  # reads all of a document: none is cut, which is a warning
        "run.max_steps=3",
        "run.batch_size=16",
        "run.evaluate_every=3",
        'bundle.variants=["fp32"]',
    ]


def run_here(ran):
    """Return what runs relsdk's commands in this process, where torch is loaded; it lists what it ran."""
    from relsdk.cli import main

    def run(*arguments, on_note):
        on_note(f"relsdk {' '.join(arguments)}")
        ran.append(arguments)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            main([*arguments, "--json"])
        return json.loads(out.getvalue())

    return run


@pytest.fixture
def commands(monkeypatch):
    """Let the stages run relsdk's commands in this process; return what was run."""
    ran = []
    monkeypatch.setattr(bundle, "_run", run_here(ran))
    return ran


@pytest.fixture
def without_bundle(monkeypatch):
    """Leave the bundle and its measures out of runs: for tests of the stages before them."""
    monkeypatch.setattr(recipe, "make_bundle", lambda *_: {"bytes": {"fp32": 1}, "calibrations": []})
    monkeypatch.setattr(recipe, "measure_bundle", lambda *_: {})


def train_here(small, output, *settings, **callbacks):
    """Run with settings; return the result and the notes."""
    notes = []
    config = load_config(FewConfig, None, [*small, f"run.output={output}", *settings])
    return train_few(config, on_note=notes.append, **callbacks), notes


@pytest.fixture
def train(commands, small, tmp_path):
    """Run with settings in this process; return the result and the notes."""

    def run(*settings, output=tmp_path / "run", **callbacks):
        return train_here(small, output, *settings, **callbacks)

    return run
