"""A wrong argument of a model ends in one `InputError`: never in a traceback of numpy's, or in numbers."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from relsdk import Document, Embedder, RelevanceScorer
from relsdk.errors import InputError

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    copies = tmp_path_factory.mktemp("fixtures")
    return {
        kind: shutil.copytree(FIXTURES / f"{kind}-bundle-v1", copies / kind) for kind in ("encoder", "scorer")
    }


@pytest.fixture(scope="module")
def models(folders):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no checksum
        return Embedder(folders["encoder"]), RelevanceScorer(folders["scorer"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.encode({"title": "a", "text": "b"}), "inputs is dict"),
        (lambda e: e.encode({"a", "b"}), "inputs is set"),
        (lambda e: e.encode_document({"title": "a", "text": "b"}), "inputs is dict"),
        (lambda e: e.encode_document(None), "inputs is NoneType"),
        (
            lambda e: e.encode_document([{"title": "a"}]),
            "a document is dict; a string or a Document is needed",
        ),
        (lambda e: e.encode_document(Document("7", None, "b")), "title of document '7' is None"),
        (lambda e: e.encode("a", prompt=5), "prompt is int"),
        (lambda e: e.encode("a", prompt_name=["query"]), "has no prompt"),
        (lambda e: e.encode(["a", "b"], batch_size=1.5), "batch_size=1.5; a whole number"),
        (lambda e: e.encode(["a", "b"], batch_size="2"), "batch_size='2'; a whole number"),
        (lambda e: e.encode("a", batch_size=True), "batch_size=True; a whole number"),
    ],
)
def test_of_an_embedder(models, call, message):
    with pytest.raises(InputError, match=message):
        call(models[0])


@pytest.mark.parametrize("value", [0, 33, 2.5, "4", True])
def test_of_a_cut(folders, models, value):
    with pytest.raises(InputError, match=r"truncate_dim=.*; allowed are 1 to 32"):
        Embedder(folders["encoder"], truncate_dim=value)


@pytest.mark.parametrize("pair", ["ab", ("a",), ("a", "b", "c"), (None, "b"), ("a", None), (["a"], "b")])
def test_of_a_pair(models, pair):
    """None as a second text was no pair for the tokenizer, and text of two characters was one."""
    embedder, scorer = models
    for judge in (scorer, RelevanceScorer(embedder)):
        with pytest.raises(InputError, match=r"pair 1 is|a document is NoneType"):
            judge.predict([("a", "b"), pair])


def test_of_a_ranking(models):
    _, scorer = models
    with pytest.raises(InputError, match="documents is one string"):
        scorer.rank("a", "documents")
    for top_k in (0, 1.5, True):
        with pytest.raises(InputError, match="a whole number from 1 on"):
            scorer.rank("a", ["b"], top_k=top_k)


def test_numbers_of_numpy_are_whole_numbers(models):
    embedder, scorer = models
    np.testing.assert_array_equal(embedder.encode(["a"], batch_size=np.int64(1)), embedder.encode(["a"]))
    assert len(scorer.rank("a", ["b", "c"], top_k=np.int64(1))) == 1
