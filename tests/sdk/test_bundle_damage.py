"""Damaged bundles: each ends in one of our errors or in the right answer, whatever was damaged, and how."""

import copy
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from relsdk.bundle import read_bundle
from relsdk.bundle._description import description
from relsdk.errors import BundleError, RelsdkError
from relsdk.runtime.tokenizer import TextTokenizer
from relsdk.typed_json import convert_json
from tests.bundle_changes import make_foreign, read_description, write_description

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
KINDS = ("encoder", "scorer", "tower")
WRONG = [
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**70, 10**12, -(2**63), 0.5, 1e308, -5e-324),
    *("", "32", "x" * 2000, "../x", "/etc/passwd", "\0", "{0}", "{title.__class__}", "\u202e", "fp32"),
    *([], [None], [[]], {}, {"a": None}, {"": ""}, json.loads("[" * 50 + "]" * 50)),
]


class Opener:
    """A process that opens bundles; a new one where it died."""

    def __init__(self):
        self._process = None

    def __call__(self, folder, kind):
        if self._process is None:
            program = [sys.executable, str(Path(__file__).with_name("bundle_answers.py"))]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._process = subprocess.Popen(program, **pipes)
        self._process.stdin.write(json.dumps({"folder": str(folder), "kind": kind}) + "\n")
        self._process.stdin.flush()
        lines = queue.Queue()
        threading.Thread(target=lambda: lines.put(self._process.stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=120)
        except queue.Empty:
            self.close()
            return {"hang": True}
        if not line:
            signal = self._process.wait()
            self._process = None
            return {"signal": signal}
        return json.loads(line)

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def opener():
    made = Opener()
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(opener):
    """What the whole bundles answer: the vectors and levels that the first version gave."""
    expected = json.loads((FIXTURES / "expected-v1.json").read_text(encoding="utf-8"))
    answers = {kind: opener(FIXTURES / f"{kind}-bundle-v1", kind) for kind in KINDS}
    assert [answers[kind]["problems"] for kind in KINDS] == [[], [], []]
    for kind, names in (
        ("encoder", ("query_vectors", "document_vectors")),
        ("tower", ("tower_query_vectors", "document_vectors")),
        ("scorer", ("pair_probabilities",)),
    ):
        for name, values in zip(names, answers[kind]["values"], strict=False):
            np.testing.assert_allclose(values, expected[name], atol=1e-4)
    return {kind: answers[kind]["values"] for kind in KINDS}


def flip(path, rng):
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def replaced(make):
    def damage(path, rng):
        path.unlink()
        make(path, rng)

    return damage


DAMAGES = {
    "flipped": flip,
    "truncated": lambda path, rng: os.truncate(path, rng.randrange(path.stat().st_size)),
    "longer": lambda path, rng: path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 9))),
    "emptied": lambda path, rng: path.write_bytes(b""),
    "removed": lambda path, rng: path.unlink(),
    "folder": replaced(lambda path, rng: path.mkdir()),
    "nowhere": replaced(lambda path, rng: path.symlink_to("gone")),
    "ring": replaced(lambda path, rng: path.symlink_to(path.name)),
    "pipe": replaced(lambda path, rng: os.mkfifo(path)),
    "device": replaced(lambda path, rng: path.symlink_to("/dev/zero")),
    "noise": lambda path, rng: path.write_bytes(rng.randbytes(rng.randint(1, 5000))),
    "another": lambda path, rng: shutil.copyfile(rng.choice(_others(path)), path),
}


def _others(path):
    return [other for other in path.parent.iterdir() if other.is_file() and other != path]


def damaged(folder, rng):
    """Damage one file of a bundle; return what was done, and whether nothing was lost by it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    name = rng.choice(sorted(DAMAGES))
    path = rng.choice([*files, *[folder / "relsdk.json"] * 4, folder / "tokenizer.json"])
    if name == "another" and not _others(path):
        name = "flipped"
    before = path.read_bytes()
    DAMAGES[name](path, rng)
    unchanged = path.is_file() and not path.is_symlink() and path.read_bytes() == before
    unchanged = unchanged or path.name == "relsdk.json"  # such as a blank after the end
    return f"{path.relative_to(folder)} {name}", unchanged


def check_damages(folder, seeds, opener, whole):
    outcomes = {"refused": 0, "right": 0}
    for seed in seeds:
        rng = random.Random(seed)
        kind = rng.choice(KINDS)
        target = Path(shutil.copytree(FIXTURES / f"{kind}-bundle-v1", folder / str(seed)))
        write_description(target, read_description(target))
        what, unchanged = damaged(target, rng)
        found = opener(target, kind)
        case = f"seed {seed}: {kind} {what}: {str(found)[:500]}"
        assert "values" in found or "error" in found, case
        if "error" in found:
            assert "\n" not in found["message"], case
            outcomes["refused"] += 1
        else:
            for values, right in zip(found["values"], whole[kind], strict=True):
                np.testing.assert_allclose(values, right, atol=1e-5, err_msg=case)
            assert found["problems"] or unchanged, case  # verify finds what opening need not look at
            outcomes["right"] += 1
        shutil.rmtree(target)
    return outcomes


def test_damaged_bundles_end_in_an_error_or_the_right_answer(tmp_path, opener, whole):
    outcomes = check_damages(tmp_path, range(60), opener, whole)
    assert min(outcomes.values()) > 5


@pytest.mark.slow
def test_450_damaged_bundles(tmp_path, opener, whole):
    assert sum(check_damages(tmp_path, range(1000, 1450), opener, whole).values()) == 450


def paths(value, at=()):
    """Yield the path of every value, but of one variant and one file only: the others are alike."""
    yield at
    if isinstance(value, dict):
        keys = list(value)[:1] if at in {("files",)} or at[-1:] == ("operators",) else list(value)
        for key in keys:
            yield from paths(value[key], (*at, key))
    elif isinstance(value, list):
        for position, item in list(enumerate(value))[: 1 if at == ("variants",) else None]:
            yield from paths(item, (*at, position))


def changed(content, path, value):
    if not path:
        return value
    content = copy.deepcopy(content)
    parent = content
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return content


def refusal(folder):
    """Return the message with which a bundle is refused, or None."""
    try:
        read_bundle(folder)
    except BundleError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_values_of_a_description_are_refused_or_kept(tmp_path, kind):
    check_wrong_values(tmp_path, kind, share=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_wrong_value_of_a_description_is_refused_or_kept(tmp_path, kind):
    check_wrong_values(tmp_path, kind, share=1.0)


def check_wrong_values(tmp_path, kind, share):
    """With a checksum that is right: what is read is what is written, or there is an error."""
    rng = random.Random(kind)
    folder = Path(shutil.copytree(FIXTURES / f"{kind}-bundle-v1", tmp_path / "b"))
    write_description(folder, read_description(folder))
    whole = read_description(folder)
    refused = tried = 0
    for path in paths(whole):
        for value in WRONG:
            if rng.random() >= share:
                continue
            tried += 1
            content = changed(whole, path, value)
            if isinstance(content, dict):
                write_description(folder, content)
            else:
                (folder / "relsdk.json").write_text(json.dumps(content))
            message = refusal(folder)
            if message is None:
                assert description(read_bundle(folder)) == read_description(folder), (path, value)
            else:
                assert "relsdk.json" in message or "missing" in message, (path, value)
                assert len(message) < len(str(folder)) + 500, (path, value)
                assert "\n" not in message
                refused += 1
    assert tried / 3 < refused < tried


@pytest.mark.parametrize("seed", range(40))
def test_without_the_checksum_no_value_can_be_changed(tmp_path, seed):
    rng = random.Random(seed)
    folder = Path(shutil.copytree(FIXTURES / f"{rng.choice(KINDS)}-bundle-v1", tmp_path / "b"))
    write_description(folder, read_description(folder))
    whole = read_description(folder)
    path, value = rng.choice([path for path in paths(whole) if path]), rng.choice(WRONG)
    content = changed(whole, path, value)
    (folder / "relsdk.json").write_text(json.dumps(content))
    if path == ("checksum",) and value is None:
        content.pop("checksum")
    if content == whole and repr(content) == repr(whole):
        return
    with pytest.raises(BundleError):
        read_bundle(folder)


def settings_that_open(folder, kind, rng):
    """Write a description whose types are right and whose values are not what the model was made with."""
    content = read_description(folder)
    settings = content["settings"]
    changes = {
        "max_tokens": rng.choice([1, 2, 3, 7, 1_000_000]),
        "pad_token": rng.choice(["<s>", "nothing", "", "\0"]),
        "document_template": rng.choice(["{text}", "{{{title}}}", "x" * 900 + "{title}"]),
    }
    if kind != "scorer":
        changes |= {
            "dimension": rng.choice([1, 31, 33, 65_536]),
            "prompts": rng.choice([{}, {"query": "x" * 10_000}, {"document": "\0"}]),
            "pooling": "cls",
            "normalize": False,
        }
    name = rng.choice(sorted(changes))
    settings[name] = changes[name]
    write_description(folder, content)
    return f"{name} = {str(changes[name])[:40]!r}"


def test_other_settings_end_in_an_error_or_are_told_by_verify(tmp_path, opener, whole):
    for seed in range(40):
        rng = random.Random(seed)
        kind = rng.choice(KINDS)
        target = Path(shutil.copytree(FIXTURES / f"{kind}-bundle-v1", tmp_path / str(seed)))
        what = settings_that_open(target, kind, rng)
        found = opener(target, kind)
        case = f"seed {seed}: {kind} {what}: {str(found)[:500]}"
        assert "values" in found or "error" in found, case
        if "values" in found:
            assert all(np.isfinite(values).all() for values in found["values"]), case
            same = all(
                np.allclose(a, b, atol=1e-5) for a, b in zip(found["values"], whole[kind], strict=True)
            )
            assert same or found["problems"], case


@pytest.fixture
def tokenizer(tmp_path):
    """Return a function that writes the toy's tokenizer with some parts replaced."""

    def write(**parts):
        content = json.loads((FIXTURES / "encoder-bundle-v1/tokenizer.json").read_text(encoding="utf-8"))
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps({**content, **parts}), encoding="utf-8")
        return path

    return write


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize("pattern", ["[", "(", "(?<=a", r"\p{Foo}"])
def test_a_tokenizer_that_cannot_be_read_is_told(tokenizer, pattern):
    path = tokenizer(pre_tokenizer=split(pattern))
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a readable tokenizer: .*copy the model"):
        TextTokenizer(path, max_tokens=16, pad_token="<pad>")


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
def test_a_regular_expression_without_end_is_told(tokenizer, part, count):
    """The library stops after ten million steps, by a panic of Rust, which is no `Exception`."""
    replace = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": " "}
    path = tokenizer(**{part: split("(a+)+$") if part == "pre_tokenizer" else replace})
    found = TextTokenizer(path, max_tokens=16, pad_token="<pad>")
    with pytest.raises(
        BundleError, match=r"tokenizer\.json fails at an input: .*retry-limit.*copy the model"
    ):
        found.tokenize(["a" * 40 + "b"] * count)
    assert found.tokenize(["b"]).ids  # goes on


def test_a_tokenizer_of_another_model_is_told(tmp_path, opener):
    """Its ids are beyond the model's vocabulary."""
    folder = make_foreign(Path(shutil.copytree(FIXTURES / "encoder-bundle-v1", tmp_path / "b")))
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"].append(
        {**content["added_tokens"][0], "id": 10_000_000, "content": "大宅门", "special": False}
    )
    path.write_text(json.dumps(content), encoding="utf-8")
    found = opener(folder, "encoder")
    assert found.get("error") == "BundleError", found
    assert RelsdkError.__name__ not in found["message"]


CONFIGURATIONS = [
    *("config.json", "config_sentence_transformers.json", "modules.json", "sentence_bert_config.json"),
    *("tokenizer_config.json", "1_Pooling/config.json", "special_tokens_map.json", "2_Dense/config.json"),
]


@pytest.fixture(params=["encoder", "scorer"])
def foreign(request, tmp_path):
    """A folder as others write it, with all files that are read of it; return it and its kind."""
    folder = make_foreign(Path(shutil.copytree(FIXTURES / f"{request.param}-bundle-v1", tmp_path / "b")))
    (folder / "special_tokens_map.json").write_text('{"pad_token": {"content": "<pad>", "lstrip": false}}')
    if request.param == "encoder":
        path = folder / "config_sentence_transformers.json"
        more = {"matryoshka_dims": [16], "truncate_dim": 16, "default_prompt_name": "query"}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return folder


@pytest.mark.parametrize("share", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_wrong_values_in_the_files_of_others_are_told(foreign, share):
    """They may mean something else, but never end in a traceback, and never in settings of a wrong type."""
    rng = random.Random(str(foreign.name))
    right = read_bundle(foreign)
    for name in CONFIGURATIONS:
        path = foreign / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        whole = json.loads(text)
        for at in paths(whole):
            for value in WRONG:
                if rng.random() >= share:
                    continue
                path.write_text(json.dumps(changed(whole, at, value)), encoding="utf-8")
                try:
                    settings = read_bundle(foreign).settings
                except BundleError:
                    continue
                convert_json(
                    json.loads(json.dumps(asdict(settings))),
                    type(settings),
                    where=f"{name} {at} {value!r}",
                    error=RelsdkError,
                    remedy="",
                )
        path.write_text(text, encoding="utf-8")
        assert read_bundle(foreign) == right


@pytest.mark.parametrize("damage", sorted(set(DAMAGES) - {"another"}))
def test_damaged_files_of_others_are_told(foreign, damage):
    """A file that is left out, or a letter that is another one, may be somebody's intention."""
    right = read_bundle(foreign)
    for seed, name in enumerate(CONFIGURATIONS):
        path = foreign / name
        if not path.is_file():
            continue
        content = path.read_bytes()
        DAMAGES[damage](path, random.Random(seed))
        try:
            assert read_bundle(foreign).settings == right.settings or damage in ("flipped", "removed"), name
        except BundleError as error:
            assert path.name in str(error) or "does not say" in str(error)  # noqa: PT017
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(content)
