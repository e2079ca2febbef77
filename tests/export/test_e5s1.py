import struct

import numpy as np
import pytest

from relsdk.errors import BundleError
from relsdk_export.backbones._e5s1 import read_e5s1

SIZES = {
    "hidden": 64,
    "layers": 1,
    "heads": 2,
    "feed_forward": 96,
    "vocabulary": 10,
    "positions": 6,
    "types": 2,
}


def q4_0(values):
    """Quantise as the format says: blocks of 32, fp16 scale, low nibbles first."""
    blocks = values.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1) / 7).astype(np.float16)
    quantised = np.clip(np.rint(blocks / scale[:, None].astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    packed = quantised[:, :16] | (quantised[:, 16:] << 4)
    raw = b"".join(s.tobytes() + row.tobytes() for s, row in zip(scale, packed, strict=True))
    return raw, ((quantised.astype(np.float32) - 8) * scale[:, None].astype(np.float32)).reshape(values.shape)


def make_file(path, *, version=1, block=32, drop=None):
    """Write a container; return the values that a reader must find."""
    rng = np.random.default_rng(0)
    wide, inner = SIZES["hidden"], SIZES["feed_forward"]
    shapes = {
        "emb.word": (SIZES["vocabulary"], wide),
        "emb.pos": (SIZES["positions"], wide),
        "emb.type": (SIZES["types"], wide),
        "emb.ln.w": (wide,),
        "emb.ln.b": (wide,),
    }
    for short in ("q", "k", "v", "ao"):
        shapes[f"l0.{short}.w"], shapes[f"l0.{short}.b"] = (wide, wide), (wide,)
    shapes["l0.fi.w"], shapes["l0.fi.b"] = (inner, wide), (inner,)
    shapes["l0.fo.w"], shapes["l0.fo.b"] = (wide, inner), (wide,)
    for short in ("aln", "oln"):
        shapes[f"l0.{short}.w"] = shapes[f"l0.{short}.b"] = (wide,)
    blobs, truth = {}, {}
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 2 and name not in ("emb.pos", "emb.type"):
            raw, truth[name] = q4_0(values)
            blobs[name] = (1, values.size, raw)
        else:
            truth[name] = values
            blobs[name] = (0, values.size, values.tobytes())
    if drop:
        del blobs[drop]
    head = b"E5S1" + struct.pack("<8i", version, *SIZES.values()) + struct.pack("<fi", 1e-12, block)
    pieces = [b"<s>", b"a"]
    head += (
        struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, 4)
        + struct.pack("<3I", 0, 3, 4)
        + struct.pack("<2f", 0, -1)
    )
    head += b"".join(pieces) + struct.pack("<iI", 1, 9) + b"\0" * 9
    size = 4 + sum(2 + len(name) + 21 for name in blobs)
    offset = len(head) + size
    directory, body = struct.pack("<i", len(blobs)), b""
    for name, (kind, count, raw) in blobs.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, count, offset + len(body), len(raw))
        body += raw
    path.write_bytes(head + directory + body)
    return truth


def test_values_and_names(tmp_path):
    truth = make_file(tmp_path / "m.bin")
    header, weights = read_e5s1(tmp_path / "m.bin")
    assert (header.hidden, header.layers, header.feed_forward, header.vocabulary) == (64, 1, 96, 10)
    np.testing.assert_array_equal(weights["embeddings.word_embeddings.weight"], truth["emb.word"])
    np.testing.assert_array_equal(weights["encoder.layer.0.intermediate.dense.weight"], truth["l0.fi.w"])
    np.testing.assert_array_equal(weights["encoder.layer.0.output.dense.weight"], truth["l0.fo.w"])
    np.testing.assert_array_equal(weights["encoder.layer.0.attention.self.key.bias"], truth["l0.k.b"])
    np.testing.assert_array_equal(weights["encoder.layer.0.output.LayerNorm.weight"], truth["l0.oln.w"])
    assert len(weights) == len(truth)
    assert all(values.dtype == np.float32 for values in weights.values())


def test_the_names_are_those_of_bert(tmp_path):
    transformers = pytest.importorskip("transformers")
    make_file(tmp_path / "m.bin")
    _, weights = read_e5s1(tmp_path / "m.bin")
    config = transformers.BertConfig(
        vocab_size=10, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=96,
        max_position_embeddings=6,
    )  # fmt: skip
    state = transformers.BertModel(config, add_pooling_layer=False).state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items() if value.dim()}
    expected.pop("embeddings.position_ids", None)
    assert {name: value.shape for name, value in weights.items()} == expected


def test_every_truncation_is_an_error(tmp_path):
    make_file(tmp_path / "m.bin")
    content = (tmp_path / "m.bin").read_bytes()
    for end in [0, 3, 10, 40, 60, 90, 200, 500, len(content) // 2, len(content) - 1]:
        (tmp_path / "cut.bin").write_bytes(content[:end])
        with pytest.raises(BundleError, match=r"cut\.bin"):
            read_e5s1(tmp_path / "cut.bin")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"block": 64}, "blocks of 64"),
        ({"drop": "l0.fo.w"}, "no tensor 'l0.fo.w'"),
    ],
)
def test_other_versions_and_models_are_refused(tmp_path, options, message):
    make_file(tmp_path / "m.bin", **options)
    with pytest.raises(BundleError, match=message):
        read_e5s1(tmp_path / "m.bin")


def test_foreign_and_missing_files(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(BundleError, match="not an E5S1 container"):
        read_e5s1(tmp_path / "x.bin")
    with pytest.raises(BundleError, match="cannot read"):
        read_e5s1(tmp_path / "none.bin")
