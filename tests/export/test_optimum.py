"""The optional exporter: refused in words where it is missing, equal to torch where it is installed."""

import importlib.util

import numpy as np
import pytest

from relsdk import Embedder
from relsdk.cli import main
from relsdk.errors import InputError, MissingExtraError
from relsdk_export.encoder import EncoderCuts, export_encoder

INSTALLED = importlib.util.find_spec("optimum") is not None


@pytest.fixture
def missing():
    if INSTALLED:
        pytest.skip("Optimum is installed here")


def test_a_missing_optimum_names_the_pip_line(missing, toy_checkpoint, tmp_path, capsys):
    with pytest.raises(MissingExtraError, match=r"environment of its own.*pip install 'relsdk\[optimum\]'"):
        export_encoder(toy_checkpoint, tmp_path / "out", exporter="optimum")
    with pytest.raises(SystemExit) as stop:
        main(["export", "encoder", str(toy_checkpoint), str(tmp_path / "out"), "--exporter", "optimum"])
    assert stop.value.code == 2
    assert "relsdk[optimum]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.peers
def test_optimums_graph_gives_the_same_vectors(toy_checkpoint, toy_bundle, corpus, tmp_path):
    pytest.importorskip("optimum.exporters.onnx")
    bundle = export_encoder(toy_checkpoint, tmp_path / "out", exporter="optimum")
    for variant in bundle.variants:
        ours, theirs = (Embedder(p, variant=variant.name, threads=1) for p in (toy_bundle, bundle.path))
        tolerance = 1e-4 if variant.name == "fp32" else 0.05
        np.testing.assert_allclose(theirs.encode(corpus), ours.encode(corpus), atol=tolerance)
        assert theirs.verify().passed
    with pytest.raises(InputError, match="--exporter torch"):
        export_encoder(
            toy_checkpoint, tmp_path / "cut", exporter="optimum", cuts=EncoderCuts(vocabulary_from=corpus)
        )
