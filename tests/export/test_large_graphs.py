"""Models past the size of one protobuf file, at toy size: the limit is what is small."""

import numpy as np
import onnx
import pytest

from relsdk import Embedder
from relsdk.bundle import read_bundle
from relsdk.errors import BundleError
from relsdk.runtime.variants import runs_exactly
from relsdk_export.encoder import export_encoder

FILES = {"model.onnx", "model_qint8_avx512_vnni.onnx", "model_qint8_avx2.onnx", "model_qint8_any.onnx"}


@pytest.fixture
def large(toy_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("relsdk_export.onnx.graphs._EXTERNAL_ABOVE", 1000)
    return export_encoder(toy_checkpoint, tmp_path / "large").path


def test_weights_go_beside_the_graph_and_stay_in_the_folder(large, toy_bundle, corpus):
    names = {path.name for path in (large / "onnx").iterdir()}
    assert names == FILES | {f"{name}_data" for name in FILES}
    bundle = read_bundle(large)
    bundle.check_hashes()
    for variant in bundle.variants:
        assert set(bundle.variant_files(variant)) <= set(bundle.files)
        assert len(bundle.variant_files(variant)) == 2
        sizes = sum((large / name).stat().st_size for name in bundle.variant_files(variant))
        assert variant.quality["bytes"] == sizes
        model = onnx.load(large / variant.file, load_external_data=False)
        places = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
        assert places == {f"{variant.file.rpartition('/')[2]}_data"}
        one_file = Embedder(toy_bundle, variant=variant.name, threads=1)
        two_files = Embedder(large, variant=variant.name, threads=1)
        np.testing.assert_allclose(two_files.encode(corpus), one_file.encode(corpus), atol=1e-6)
        assert not runs_exactly(variant) or two_files.verify().passed
        assert two_files.fingerprint == one_file.fingerprint


def test_a_changed_data_file_is_found(large, toy_bundle_copy):
    path = large / "onnx/model.onnx_data"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx_data is not the file that was exported"):
        Embedder(large, variant="fp32")
    (toy_bundle_copy / "onnx/model.onnx_data").write_bytes(b"x")  # that no graph reads
    Embedder(toy_bundle_copy, variant="fp32")


def test_a_variant_that_is_not_kept_takes_its_data_along(toy_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("relsdk_export.onnx.graphs._EXTERNAL_ABOVE", 1000)
    bundle = export_encoder(toy_checkpoint, tmp_path / "out", variants=["int8_avx2"])
    assert {path.name for path in (bundle.path / "onnx").iterdir()} == {
        "model_qint8_avx2.onnx",
        "model_qint8_avx2.onnx_data",
    }
