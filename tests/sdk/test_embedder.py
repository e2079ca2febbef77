import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relsdk import Document, Embedder
from relsdk.errors import BundleError, CalibrationError, InputError, TruncationError, TruncationWarning
from tests.bundle_changes import make_foreign


def assert_same(got, expected):
    """Equal but for the order in which float32 sums are taken, which may change with the batch."""
    np.testing.assert_allclose(got, expected, atol=1e-6)


VARIANTS = ["fp32", "int8_avx2", "int8_any"]


@pytest.fixture(scope="module")
def embedder(toy_bundle):
    return Embedder(toy_bundle, threads=1)


def test_string_gives_vector_and_list_gives_matrix(embedder, corpus):
    one, many = embedder.encode(corpus[0]), embedder.encode(corpus)
    assert one.shape == (32,)
    assert many.shape == (len(corpus), 32)
    assert one.dtype == many.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1.0, atol=1e-5)
    assert embedder.encode([]).shape == (0, 32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_vector_does_not_depend_on_its_batch(toy_bundle, corpus, variant):
    model = Embedder(toy_bundle, variant=variant, threads=1)
    texts = [*corpus, "", "的", "，".join(corpus[:2])]
    alone = np.stack([model.encode(text) for text in texts])
    for batch_size in (1, 2, 7, None):
        np.testing.assert_allclose(model.encode(texts, batch_size=batch_size), alone, atol=1e-6)
    shuffled = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_allclose(model.encode([texts[i] for i in shuffled]), alone[shuffled], atol=1e-6)


@given(texts=st.lists(st.text(max_size=40), max_size=12), batch_size=st.none() | st.integers(1, 5))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_encodes_in_order(embedder, texts, batch_size):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    vectors = embedder.encode(texts, batch_size=batch_size, truncation="silent")
    assert np.isfinite(vectors).all()
    for row, text in enumerate(texts):
        np.testing.assert_allclose(vectors[row], embedder.encode(text, truncation="silent"), atol=1e-5)


def test_prompts_are_put_before_the_text(embedder):
    plain = embedder.encode(["query: 大宅门", "passage: 大宅门"])
    assert_same(embedder.encode_query("大宅门"), plain[0])
    assert_same(embedder.encode("大宅门", prompt_name="query"), plain[0])
    assert_same(embedder.encode("大宅门", prompt="query: "), plain[0])
    assert_same(embedder.encode_document(["大宅门"])[0], plain[1])
    assert np.abs(plain[0] - plain[1]).max() > 1e-3


def test_a_document_becomes_text_by_the_template(embedder):
    document = Document(id="1", title="大宅门", text="演员表")
    expected = embedder.encode_document("大宅门 演员表")
    assert_same(embedder.encode_document(document), expected)
    assert_same(embedder.encode_document([document])[0], expected)
    assert_same(
        embedder.encode_document(Document(id="1", title="大宅门")), embedder.encode_document("大宅门")
    )


def test_truncate_dim_cuts_then_normalises(toy_bundle, embedder, corpus):
    full = embedder.encode(corpus)
    cut = Embedder(toy_bundle, threads=1, truncate_dim=8).encode(corpus)
    expected = full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-6)


def test_precisions(embedder, corpus):
    full = embedder.encode(corpus)
    small = embedder.encode(corpus, precision="int8")
    assert small.dtype == np.int8
    assert (np.abs(small).max(axis=1) == 127).all()
    unit = small / np.linalg.norm(small.astype(np.float32), axis=1, keepdims=True)
    assert (unit * full).sum(axis=1).min() > 0.999
    bits = embedder.encode(corpus, precision="ubinary")
    np.testing.assert_array_equal(bits, np.packbits(full > 0, axis=1))
    assert bits.dtype == np.uint8


def test_truncation_is_counted_and_visible(toy_bundle, corpus):
    model = Embedder(toy_bundle, threads=1)
    long = "大宅门演员表" * 200
    with pytest.warns(TruncationWarning, match="1 of 2 inputs exceed 256 tokens"):
        model.encode([corpus[0], long])
    assert model.truncated_count == 1
    with pytest.raises(TruncationError, match="first: input 1"):
        model.encode([corpus[0], long], truncation="error")
    model.encode([long], truncation="silent")
    assert model.truncated_count == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.encode(["a", 3]), "input 1 is int"),
        (lambda e: e.encode(None), "NoneType"),
        (lambda e: e.encode("a", precision="int4"), "allowed are"),
        (lambda e: e.encode("a", truncation="maybe"), "allowed are"),
        (lambda e: e.encode("a", prompt_name="title"), r"it has \['document', 'query'\]"),
        (lambda e: e.encode("a", batch_size=0), "at least 1"),
        (lambda e: e.encode("a", normalize_embeddings=False), "inside the model"),
        (lambda e: e.encode("\ud800"), "lone surrogate"),
    ],
)
def test_bad_input_is_explained(embedder, call, message):
    with pytest.raises(InputError, match=message):
        call(embedder)


def test_unknown_arguments_are_errors(embedder):
    with pytest.raises(TypeError, match="device"):
        embedder.encode("a", device="cuda")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_drawn_where_somebody_looks(embedder, corpus, monkeypatch, terminal):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    vectors = embedder.encode(corpus, show_progress_bar=True)
    np.testing.assert_array_equal(vectors, embedder.encode(corpus))
    assert ("encode 11 of 11" in stream.getvalue()) is terminal
    assert bool(stream.getvalue()) is terminal


def test_bad_models_are_explained(toy_bundle, tmp_path):
    with pytest.raises(InputError, match="it has"):
        Embedder(toy_bundle, variant="int4")
    with pytest.raises(InputError, match="truncate_dim=33"):
        Embedder(toy_bundle, truncate_dim=33)
    with pytest.raises(InputError, match="threads=0"):
        Embedder(toy_bundle, threads=0)
    with pytest.raises(InputError, match="MagicProvider"):
        Embedder(toy_bundle, providers=["MagicProvider"])
    unexported = shutil.ignore_patterns("onnx", "relsdk.json", "golden.json")
    checkpoint = shutil.copytree(toy_bundle, tmp_path / "checkpoint", ignore=unexported)
    (checkpoint / "model.safetensors").touch()
    with pytest.raises(BundleError, match="relsdk export encoder"):
        Embedder(checkpoint)
    with pytest.raises(BundleError, match="not a folder"):
        Embedder(tmp_path / "nowhere")


def test_levels_need_a_calibration(embedder):
    assert not embedder.is_calibrated
    with pytest.raises(CalibrationError, match="relsdk calibrate"):
        _ = embedder.calibration


def test_a_truncated_model_file_is_found_at_load(toy_bundle_copy):
    path = toy_bundle_copy / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"model\.onnx is not the file that was exported"):
        Embedder(toy_bundle_copy, variant="fp32")


def test_a_folder_without_relsdk_json_opens_and_has_no_levels(toy_bundle_copy, embedder, corpus):
    make_foreign(toy_bundle_copy)
    foreign = Embedder(toy_bundle_copy, threads=1)
    assert_same(foreign.encode_query(corpus), embedder.encode_query(corpus))
    assert not foreign.is_calibrated
    (toy_bundle_copy / "onnx" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(BundleError, match="not a loadable ONNX model"):
        Embedder(toy_bundle_copy, variant="fp32")  # here already, not at the first request


def test_another_file_in_the_same_place_is_never_loaded(toy_bundle_copy, tmp_path):
    """A session loaded later (after a fork, a second tower) has the weights that were checked, or none."""
    (tmp_path / "live").symlink_to(toy_bundle_copy)
    embedder = Embedder(tmp_path / "live", variant="fp32")
    before = embedder.encode("红烧肉")
    (tmp_path / "live").unlink()
    (tmp_path / "live").symlink_to(tmp_path)
    session = embedder._runner.session
    session._session = None  # as in a forked child
    np.testing.assert_array_equal(embedder.encode("红烧肉"), before)
    file = session.path
    shutil.copy(file, tmp_path / "copy.onnx")
    os.replace(tmp_path / "copy.onnx", file)
    session._session = None
    with pytest.raises(BundleError, match="no longer the file that this model was opened with"):
        embedder.encode("红烧肉")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_encodes_like_its_parent(toy_bundle):
    """In a process of its own: forking a test runner that has threads is what this test must not do."""
    program = f"""
import os, sys
import numpy as np
from relsdk import Embedder
model = Embedder({str(toy_bundle)!r}, threads=2)
expected = model.encode(["大宅门", "红烧肉"])
child = os.fork()
if child == 0:
    same = np.array_equal(model.encode(["大宅门", "红烧肉"]), expected)
    os._exit(0 if same else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run([sys.executable, "-c", program], timeout=120, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_threads_share_one_embedder(embedder, corpus):
    from concurrent.futures import ThreadPoolExecutor

    expected = embedder.encode(corpus)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: embedder.encode(corpus), range(12)):
            np.testing.assert_array_equal(found, expected)


def test_the_query_cache_gives_the_same_vectors_and_encodes_none_twice(toy_bundle, corpus, monkeypatch):
    plain, cached = Embedder(toy_bundle, threads=1), Embedder(toy_bundle, threads=1, query_cache=3)
    encoded = []
    encode = Embedder.encode

    def noted(self, inputs, **options):
        encoded.append(inputs)
        return encode(self, inputs, **options)

    monkeypatch.setattr(Embedder, "encode", noted)
    first = cached.encode_query(corpus[0])
    assert_same(first, plain.encode_query(corpus[0]))
    encoded.clear()
    again = cached.encode_query(corpus[0])
    assert encoded == []
    np.testing.assert_array_equal(again, first)
    assert (again.shape, again.dtype) == (first.shape, first.dtype)
    mixed = cached.encode_query([corpus[1], corpus[0], corpus[1]])
    assert encoded == [[corpus[1]]]
    assert_same(mixed, encode(plain, [corpus[1], corpus[0], corpus[1]], prompt_name="query"))
    assert cached.query_cache_info == (2, 2, 2, 3)
    assert cached.encode_query([]).shape == (0, 32)
    assert plain.query_cache_info == (0, 0, 0, 0)


def test_what_the_query_cache_returns_is_the_callers_own(toy_bundle, corpus):
    embedder = Embedder(toy_bundle, threads=1, query_cache=2)
    for inputs in (corpus[0], [corpus[0]]):
        expected = embedder.encode_query(inputs).copy()
        for _ in range(3):
            vectors = embedder.encode_query(inputs)
            np.testing.assert_array_equal(vectors, expected)
            vectors[:] = 0.0


def test_the_query_cache_forgets_the_least_recent(toy_bundle, corpus):
    embedder = Embedder(toy_bundle, threads=1, query_cache=2)
    a, b, c = corpus[:3]
    for text in (a, b, a, c):  # c pushes out b: a was asked for after it
        embedder.encode_query(text)
    before = embedder.query_cache_info
    embedder.encode_query(a)
    embedder.encode_query(c)
    assert embedder.query_cache_info.hits == before.hits + 2
    embedder.encode_query(b)
    assert embedder.query_cache_info.misses == before.misses + 1
    assert embedder.query_cache_info.entries == 2


def test_the_query_cache_keeps_no_cut_query_and_no_options(toy_bundle, corpus):
    embedder = Embedder(toy_bundle, threads=1, query_cache=8)
    for count in (1, 2):
        with pytest.warns(TruncationWarning):
            embedder.encode_query("大宅门" * 400)
        assert embedder.truncated_count == count
    assert embedder.query_cache_info.entries == 0
    assert embedder.encode_query(corpus[0], precision="int8").dtype == np.int8
    assert embedder.encode_query(corpus[0]).dtype == np.float32
    with pytest.raises(InputError, match="a string is needed"):
        embedder.encode_query([corpus[0], 7])


@pytest.mark.parametrize("value", [-1, 1.5, True, False, "10"])
def test_a_wrong_size_of_the_query_cache_is_an_error(toy_bundle, value):
    with pytest.raises(InputError, match="query_cache="):
        Embedder(toy_bundle, query_cache=value)


def test_the_query_cache_is_safe_in_threads(toy_bundle, corpus):
    from concurrent.futures import ThreadPoolExecutor

    embedder = Embedder(toy_bundle, threads=1, query_cache=4)
    expected = {text: embedder.encode(text, prompt_name="query") for text in corpus}
    texts = [corpus[i % len(corpus)] for i in np.random.default_rng(0).integers(0, 1000, 400)]
    with ThreadPoolExecutor(4) as pool:
        for text, vector in zip(texts, pool.map(embedder.encode_query, texts), strict=True):
            assert_same(vector, expected[text])
    info = embedder.query_cache_info
    assert (info.hits + info.misses, info.entries) == (400, 4)
