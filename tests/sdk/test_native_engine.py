"""The native engine beside the same arithmetic in numpy, and beside the operators that it replaces."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.harness.instruction_sets import INSTRUCTION_SETS, instruction_set
from relsdk import Embedder
from relsdk.bundle import read_bundle
from relsdk.errors import BundleError
from relsdk.files.folders import file_sha256
from relsdk.runtime import native_engine as native_module
from relsdk.runtime.hardware import choose_threads
from relsdk.runtime.native_engine import native_engine
from relsdk.runtime.session import ModelSession, onnxruntime
from relsdk.runtime.variants import runs_exactly
from tests.native_encoders import (
    Oracle,
    Shape,
    follows_onnxruntime,
    hidden,
    random_encoder,
    random_texts,
    session,
)
from tests.sdk.native_fuzz import check_case, check_close
from tests.toys import CORPUS

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "tests/fixtures/native-bundle-v1"
OLD_BUNDLE = ROOT / "tests/fixtures/encoder-bundle-v1"
INT8 = {variant.name: variant for variant in read_bundle(BUNDLE).variants if variant.quantisation == "int8"}


@pytest.fixture(scope="module")
def library():
    """The engine's file."""
    path, reason = native_engine()
    if path is None:
        pytest.skip(f"the native engine {reason}")
    return path


@pytest.fixture(params=sorted(INT8))
def variant(request):
    """An int8 file of the committed encoder."""
    if not runs_exactly(INT8[request.param]):
        pytest.skip(f"this CPU saturates {request.param} files")
    return INT8[request.param]


@pytest.fixture
def without_engine(monkeypatch, tmp_path):
    """The engine's file is missing."""
    monkeypatch.setattr(native_module, "_LIBRARY", tmp_path / "librelsdk.so")
    native_engine.cache_clear()
    yield tmp_path / "librelsdk.so"
    native_engine.cache_clear()


def open_session(path, *, threads=1, **options):
    return ModelSession(path, threads=choose_threads(threads), **options)


def file_of(name="int8_any"):
    return BUNDLE / INT8[name].file


def fixture_texts(seed, texts=8, length=12, kind="right"):
    return random_texts(np.random.default_rng(seed), texts, length, vocabulary=200, kind=kind)


def uses_engine(engine):
    """Whether a session leaves padding at zero, as the function does not."""
    feed = fixture_texts(0)
    return not engine.run("last_hidden_state", feed)[feed["attention_mask"] == 0].any()


@pytest.mark.parametrize("seed", range(16))
def test_random_encoders_and_texts(library, seed):
    check_case(library, seed, tokens=600)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1400, 50))
def test_many_random_encoders_and_texts(library, first):
    for seed in range(first, first + 50):
        check_case(library, seed)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("largest", [64, 127, 128])
def test_the_largest_products_do_not_saturate(library, name, largest):
    rng = np.random.default_rng(largest)
    model = random_encoder(Shape(width=96, inner=160, extreme=True, largest=largest), rng)
    feed = random_texts(rng, 6, 12, vocabulary=50)
    with instruction_set(library, name) as available:
        if not available:
            pytest.skip(f"this CPU has no {name}")
        found = hidden(session(model, library), feed)
    expected = Oracle(model)(feed["input_ids"], feed["attention_mask"])
    check_close(found, expected, feed["attention_mask"], name, few_roundings=True)


@pytest.mark.parametrize(("size", "length"), [(64, 300), (128, 200), (256, 140)])
def test_long_texts_with_wide_heads(library, size, length):
    """Attention sums their values a slice at a time."""
    rng = np.random.default_rng(size)
    model = random_encoder(Shape(width=size, heads=1, inner=16, layers=1, vocabulary=2000), rng)
    feed = random_texts(rng, 2, length, vocabulary=2000)
    expected = Oracle(model)(feed["input_ids"], feed["attention_mask"])
    for name in INSTRUCTION_SETS:
        with instruction_set(library, name) as available:
            if available:
                found = hidden(session(model, library), feed)
                check_close(found, expected, feed["attention_mask"], name, few_roundings=False)


@pytest.mark.parametrize("kind", ["right", "left", "holes"])
def test_engine_and_function_compute_what_the_file_says(library, variant, kind):
    path = BUNDLE / variant.file
    feed = fixture_texts(1, kind=kind)
    mask = feed["attention_mask"]
    expected = Oracle(onnx.load(path))(feed["input_ids"], mask)
    vectors = []
    for native in (True, False):
        opened = open_session(path, native=native)
        found = opened.run("last_hidden_state", feed)
        check_close(found, expected, mask, f"native={native}", few_roundings=True)
        vectors.append(opened.run("sentence_embedding", feed))
    assert (vectors[0] * vectors[1]).sum(axis=-1).min() > 0.9999


@pytest.mark.parametrize("threads", [1, 2])
def test_vectors_are_onnxruntimes_to_the_last_bit(library, variant, threads):
    """Of the version and the instruction set that the engine follows; others differ among each other, too."""
    if not follows_onnxruntime():
        pytest.skip("another onnxruntime, or another instruction set")
    engine, function = (open_session(BUNDLE / variant.file, threads=threads, native=n) for n in (True, False))
    for seed, length in enumerate((1, 2, 15, 16, 17, 33, 64, 100, 129, 250)):
        for kind in ("right", "left", "holes"):
            feed = fixture_texts(seed, texts=3, length=length, kind=kind)
            real = feed["attention_mask"].astype(bool)
            found, expected = (one.run("last_hidden_state", feed)[real] for one in (engine, function))
            np.testing.assert_array_equal(found, expected)


def test_without_the_engine_a_file_gives_the_same_vectors(library, variant, without_engine, monkeypatch):
    slow = Embedder(BUNDLE, variant=variant.name)
    found = slow.encode(CORPUS)
    assert not uses_engine(open_session(BUNDLE / variant.file))
    monkeypatch.setattr(native_module, "_LIBRARY", library)
    native_engine.cache_clear()
    fast = Embedder(BUNDLE, variant=variant.name)
    assert uses_engine(open_session(BUNDLE / variant.file))
    assert (fast.encode(CORPUS) * found).sum(axis=-1).min() > 0.9999
    assert fast.verify().passed
    assert slow.verify().passed


def test_doctor_tells_why_the_engine_is_not_used(without_engine, relsdk):
    assert "not built" in relsdk("doctor", "-m", BUNDLE)[1]
    without_engine.write_bytes(b"no library")
    native_engine.cache_clear()
    code, out, _ = relsdk("doctor", "-m", BUNDLE)
    assert code == 0
    assert "does not load" in out


def test_doctor_tells_the_instruction_set(library, relsdk):
    assert native_engine()[1] in INSTRUCTION_SETS
    code, out, _ = relsdk("doctor", "-m", BUNDLE)
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("native engine"))
    assert line.split()[-1] == native_engine()[1]
    assert f"the native engine ({native_engine()[1]})" in out
    assert "onnxruntime: the file is of an earlier version" in relsdk("doctor", "-m", OLD_BUNDLE)[1]


def test_an_engine_of_another_version_is_not_used(library, monkeypatch):
    monkeypatch.setattr(native_module, "_VERSION", 0)
    native_engine.cache_clear()
    try:
        assert native_engine() == (None, "of another version of relsdk (1, not 0); install relsdk again")
    finally:
        native_engine.cache_clear()


def test_other_providers_run_the_function(library):
    providers = onnxruntime.get_available_providers()
    if len(providers) < 2:
        pytest.skip("this build of onnxruntime knows the CPU only")
    assert not uses_engine(open_session(file_of(), providers=[*providers[:-1], "CPUExecutionProvider"]))
    assert uses_engine(open_session(file_of(), providers=["CPUExecutionProvider"]))


def test_a_text_is_the_same_alone_and_in_any_batch(library, variant):
    """The engine's vectors of tokens to the last bit; onnxruntime takes their mean in an order of its own."""
    opened = open_session(BUNDLE / variant.file, threads=2)
    feed = fixture_texts(2, texts=70, length=40)
    together = opened.run("last_hidden_state", feed)
    for text in range(70):
        alone = {
            name: values[text : text + 1, : feed["attention_mask"][text].sum()]
            for name, values in feed.items()
        }
        (found,) = opened.run("last_hidden_state", alone)
        np.testing.assert_array_equal(found, together[text, : len(found)])
    texts = [*CORPUS, *(text * 7 for text in CORPUS)]
    embedder = Embedder(BUNDLE, variant=variant.name, threads=2)
    alone = np.stack([embedder.encode(text) for text in texts])
    for batch in (1, 5, 64):
        np.testing.assert_allclose(embedder.encode(texts, batch_size=batch), alone, atol=1e-6)


def test_threads_that_share_a_session(library):
    opened = open_session(file_of(), threads=2)
    feeds = [fixture_texts(seed, texts=1 + seed % 5, length=1 + 5 * seed) for seed in range(20)]
    expected = [opened.run("last_hidden_state", feed) for feed in feeds]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda feed: opened.run("last_hidden_state", feed), feeds * 10))
    for place, values in enumerate(found):
        np.testing.assert_array_equal(values, expected[place % len(feeds)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_computes_the_same(library):
    opened = open_session(file_of(), threads=2)
    feed = fixture_texts(3)
    expected = opened.run("sentence_embedding", feed)
    child = os.fork()
    if not child:
        same = np.array_equal(opened.run("sentence_embedding", feed), expected)
        os._exit(0 if same else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("number", [-1, 50, 2**40, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("name", ["input_ids", "token_type_ids"])
@pytest.mark.parametrize("texts", [1, 130])
def test_a_number_that_no_table_has_is_an_error(library, tmp_path, number, name, texts):
    onnx.save(random_encoder(Shape(typed=True), np.random.default_rng(0)), tmp_path / "m.onnx")
    opened = open_session(tmp_path / "m.onnx", threads=2)
    feed = random_texts(np.random.default_rng(0), texts, 3, vocabulary=50)
    feed[name][-1, 0] = number
    with pytest.raises(BundleError, match=rf"{name} holds {number}; there are rows 0 to (49|1)$"):
        opened.run("last_hidden_state", feed)
    feed["attention_mask"][-1, 0] = 0  # what is padding is not read
    opened.run("last_hidden_state", feed)


def test_a_text_longer_than_the_positions_is_an_error(library, tmp_path):
    onnx.save(random_encoder(Shape(positions=9), np.random.default_rng(0)), tmp_path / "m.onnx")
    opened = open_session(tmp_path / "m.onnx")
    feed = {name: np.ones((2, 9), np.int64) for name in ("input_ids", "attention_mask")}
    assert opened.run("last_hidden_state", feed).shape == (2, 9, 32)
    longer = {name: np.ones((2, 10), np.int64) for name in feed}
    with pytest.raises(BundleError, match="positions holds 9; there are rows 0 to 8"):
        opened.run("last_hidden_state", longer)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_no_text_and_no_token(library, shape):
    opened = session(random_encoder(Shape(), np.random.default_rng(0)), library, threads=2)
    feed = {name: np.ones(shape, np.int64) for name in ("input_ids", "attention_mask")}
    assert hidden(opened, feed).shape == (*shape, 32)


def test_inputs_of_different_shapes_are_an_error(library, tmp_path):
    onnx.save(random_encoder(Shape(typed=True), np.random.default_rng(0)), tmp_path / "m.onnx")
    opened = open_session(tmp_path / "m.onnx")
    for name in ("attention_mask", "token_type_ids"):
        feed = random_texts(np.random.default_rng(0), 3, 4, vocabulary=50)
        feed[name] = feed[name].reshape(4, 3)
        with pytest.raises(BundleError, match=f"{name}.* not of one shape"):
            opened.run("last_hidden_state", feed)


def _setting(name, value):
    def change(model):
        (node,) = model.graph.node
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend(kept if value is None else [*kept, helper.make_attribute(name, value)])

    return change


def _weight(number, convert):
    def change(model):
        name = model.graph.node[0].input[3 + number]
        (tensor,) = (item for item in model.graph.initializer if item.name == name)
        tensor.CopyFrom(numpy_helper.from_array(convert(numpy_helper.to_array(tensor)), name))

    return change


def _input(number, name):
    def change(model):
        model.graph.node[0].input[number] = name

    return change


def _keep(count):
    def change(model):
        del model.graph.node[0].input[count:]

    return change


def _input_type(number, kind):
    def change(model):
        model.graph.input[number].type.tensor_type.elem_type = kind

    return change


DAMAGES = {
    **{f"no {name}": (_setting(name, None), name) for name in ("width", "layers", "epsilon", "relu")},
    **{f"heads {value}": (_setting("heads", value), "heads|16") for value in (-1, 0, 3, 4, 64, 2**40)},
    **{f"width {value}": (_setting("width", value), "width|16|shape") for value in (0, 16, 40, 2**40)},
    **{f"inner {value}": (_setting("inner", value), "inner|16|shape") for value in (0, 72, 80, 2**40)},
    **{f"layers {value}": (_setting("layers", value), "layers|inputs|shape") for value in (0, 1, 3, 2**40)},
    "a real number of heads": (_setting("heads", 2.0), "Attribute name and type"),
    "a word for a number": (_setting("width", "wide"), "Attribute name and type"),
    **{f"without input {number}": (_input(number, ""), "absent") for number in (0, 1, 2, 3, 20)},
    **{f"only {count} inputs": (_keep(count), "constant|few|size") for count in (0, 2, 3, 4, 20, 48)},
    "an input more": (lambda model: model.graph.node[0].input.append("w0"), "too many inputs"),
    "a weight that is given": (_input(17, "input_ids"), "input 17 is not constant"),
    **{
        f"weight {number} {name}": (
            _weight(number, convert),
            rf"input {number + 3} is of another|input {number + 4} is of",
        )
        for number in (0, 1, 3, 6, 10, 11, 12, 24, 49)
        for name, convert in {
            "of another rank": lambda x: x[None],
            "shorter": lambda x: x[:-1],
            "empty": lambda x: x[:0],
            "of another type": lambda x: x.astype(np.float64),
            "of words": lambda x: np.full(x.shape, "x", dtype=object),
        }.items()
    },
    **{
        f"input {number} of type {kind}": (_input_type(number, kind), "to be int64")
        for number in range(3)
        for kind in (TensorProto.INT32, TensorProto.FLOAT)
    },
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_graph_is_an_error(library, tmp_path, name):
    model = random_encoder(Shape(typed=True), np.random.default_rng(0))
    damage, told = DAMAGES[name]
    damage(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(BundleError, match=told):
        open_session(tmp_path / "m.onnx").run(
            "last_hidden_state", random_texts(np.random.default_rng(0), 2, 3, vocabulary=50)
        )


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-4096])


def exchange(path):
    """Another file's weights: of the same size and form."""
    shutil.copy(path.with_name("model_qint8_avx2.onnx_data"), path)


@pytest.mark.parametrize("change", [damage, shorten, exchange, Path.unlink])
def test_weights_beside_the_graph_are_checked(tmp_path, relsdk, change):
    folder = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    change(folder / "onnx/model_qint8_any.onnx_data")
    told = r"model_qint8_any\.onnx_data is (not the file that was exported|missing)"
    with pytest.raises(BundleError, match=told):
        Embedder(folder, variant="int8_any")
    code, out, error = relsdk("model", "verify", folder)
    assert code == 2
    assert re.search(told, out + error)
    assert Embedder(folder, variant="int8_avx2").encode("红烧肉").shape == (32,)


@pytest.mark.parametrize("native", [True, False])
def test_weights_that_are_written_over_while_a_model_is_open(library, tmp_path, native):
    """The model is mapped from the file; another that takes its place by renaming is not this model's."""
    folder = Path(shutil.copytree(BUNDLE / "onnx", tmp_path / "onnx"))
    path = folder / "model_qint8_any.onnx"
    data = folder / f"{path.name}_data"
    session = open_session(path, weights=[data], native=native)
    before = session.run("sentence_embedding", fixture_texts(0))
    shutil.copy(data, folder / "other")
    (folder / "other").replace(data)
    np.testing.assert_array_equal(session.run("sentence_embedding", fixture_texts(0)), before)
    session = open_session(path, weights=[data], native=native)
    session.load()
    exchange(data)
    with pytest.raises(BundleError, match=r"model_qint8_any\.onnx_data was written over while"):
        session.run("sentence_embedding", fixture_texts(0))


@pytest.mark.parametrize("damaged", ["shorten", "unlink"])
@pytest.mark.parametrize("native", [True, False])
def test_weights_that_are_cut_off_are_an_error_without_hashes(tmp_path, damaged, native):
    folder = Path(shutil.copytree(BUNDLE / "onnx", tmp_path / "onnx"))
    path = folder / "model_qint8_any.onnx"
    (shorten if damaged == "shorten" else Path.unlink)(folder / f"{path.name}_data")
    with pytest.raises(BundleError, match="is not a loadable ONNX model"):
        open_session(path, native=native).load()


def test_a_copy_and_the_hubs_layout(tmp_path):
    """The hub's cache has files by their hashes, and folders of links to them."""
    expected = Embedder(BUNDLE, variant="int8_any").encode(CORPUS)
    copy = Path(shutil.copytree(BUNDLE, tmp_path / "copy"))
    np.testing.assert_array_equal(Embedder(copy, variant="int8_any").encode(CORPUS), expected)
    snapshot = tmp_path / "models--a--b/snapshots/c0ffee"
    blobs = tmp_path / "models--a--b/blobs"
    blobs.mkdir(parents=True)
    for path in (path for path in BUNDLE.rglob("*") if path.is_file()):
        blob = blobs / file_sha256(path)
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(BUNDLE)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    np.testing.assert_array_equal(Embedder(snapshot, variant="int8_any").encode(CORPUS), expected)


FLIPS = """
import random, sys
from pathlib import Path
from relsdk.errors import BundleError
from tests.sdk.test_native_engine import fixture_texts, open_session
path = Path(sys.argv[1])
whole, feed, answers = path.read_bytes(), fixture_texts(0), 0
for seed in range(500):
    rng = random.Random(seed)
    content = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content[: rng.choice([len(content), len(content), rng.randrange(len(content))])])
    print(seed, file=sys.stderr)
    try:
        open_session(path).run("last_hidden_state", feed)
        answers += 1
    except BundleError:
        pass
print(answers)
"""


@pytest.mark.slow
def test_damaged_files_without_hashes_end_in_an_error_or_an_answer(library, tmp_path):
    """In a process of its own, which would end with the first one that it does not survive."""
    folder = Path(shutil.copytree(BUNDLE / "onnx", tmp_path / "onnx"))
    path = folder / "model_qint8_any.onnx"
    command = [sys.executable, "-c", FLIPS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 50 < int(done.stdout) < 450


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_does_not_grow(library, threads):
    program = """
import sys
import numpy as np
import psutil
from tests.sdk.test_native_engine import file_of, fixture_texts, open_session
opened = open_session(file_of(), threads=int(sys.argv[1]))
feeds = [fixture_texts(seed, texts=1 + seed % 7, length=1 + seed % 60) for seed in range(100)]
memory = []
for turn in range(100_000):
    opened.run("sentence_embedding", feeds[turn % 100])
    if turn in (5_000, 99_999):
        memory.append(psutil.Process().memory_info().rss)
print(memory[1] / memory[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(threads)], capture_output=True, text=True, timeout=1200, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.05
