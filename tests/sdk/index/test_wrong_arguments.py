"""Wrong types and values: one line that says what was given, nothing changed, nothing left over."""

import numpy as np
import pytest

from relsdk.calibration import HybridLink
from relsdk.errors import InputError
from relsdk.index import Index
from relsdk.records import Document

LINK = HybridLink(1.0, 1.0, (1.0, 2.0, 3.0))
NEW = [Document("new1", "一"), Document("new2", "二")]
VECTOR = np.eye(1, 16, dtype=np.float32)
RAGGED = [[1.0], [1.0, 2.0]]


def add(**options):
    return lambda index, encoder: index.add(NEW, **options)


def retrieve(texts=("红烧肉",), vectors=VECTOR, **options):
    return lambda index, encoder: index.retrieve(texts, vectors, **options)


def store(models):
    return lambda index, encoder: index.store_hybrid(models)


def build(**options):
    return lambda index, encoder: Index.build(index.path, NEW, encoder, overwrite=True, **options)


CALLS = {
    "documents": (lambda index, encoder: index.add(5, encoder), "documents is a int; an iterable"),
    "no documents": (lambda index, encoder: index.upsert(None, encoder), "documents is a NoneType"),
    "encoder": (add(encoder="bundle"), "the encoder is a str without 'name'; an Embedder is needed"),
    "ragged": (add(vectors=RAGGED), "rows of different lengths; numbers of shape .documents, 16. are needed"),
    "ids": (lambda index, encoder: index.delete(5), "ids is a int; pass a list of ids"),
    "ids as bytes": (lambda index, encoder: index.delete(b"d1"), "ids is a bytes"),
    "ids of a dict": (lambda index, encoder: index.get({"d1": 1}), "ids is a dict"),
    "where": (lambda index, encoder: index.delete(where=np.zeros(3)), "where is array.*; write a mapping"),
    "texts": (retrieve(texts=5), "there are 1 vectors; as many texts are needed, in a list"),
    "dense texts": (retrieve(texts=["a", "b"], mode="dense"), "there are 1 vectors; as many texts"),
    "a text": (retrieve(texts="红"), "there are 1 vectors; as many texts"),
    "a text of another type": (retrieve(texts=[5]), "a query is a int; text is needed"),
    "half a text": (retrieve(texts=["\ud800"]), "a query holds half of a surrogate pair"),
    "query vectors": (retrieve(vectors=None, mode="dense"), "the query vectors are no matrix|have shape"),
    "model": (retrieve(model={}), "model is a dict; a HybridLink of hybrid_models is needed"),
    "effort": (retrieve(ef_search=0), "ef_search=0; a whole number at least 1"),
    "effort of words": (retrieve(ef_search="x", mode="lexical"), "ef_search='x'"),
    "mode": (retrieve(mode=np.zeros(2)), "mode=array.*; allowed are 'dense', 'lexical', 'hybrid'"),
    "models": (store(5), "models is 5; a mapping of variants to models"),
    "no models": (store({}), "models is {}; a mapping"),
    "a model": (store({"fp32": 5}), "models has 'fp32': int; the name of a variant and a HybridLink"),
    "a variant": (store({5: LINK}), "models has 5: HybridLink"),
    "config": (build(config=5), "config is a int; an IndexConfig is needed"),
    "lexical": (build(lexical="no"), "lexical='no'; True, False or an analyser is needed"),
    "lexical as None": (build(lexical=None), "lexical=None"),
    "encoder of a build": (
        lambda index, encoder: Index.build(index.path, NEW, None, overwrite=True),
        "the encoder is a NoneType without 'name'",
    ),
    "analyser": (lambda index, encoder: Index.open(index.path, analyser=5), "the analyser is 5; an object"),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_line_says_what_is_wrong(built, encoder, name):
    call, message = CALLS[name]
    before = sorted(built.path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        call(built, encoder)
    assert "\n" not in str(caught.value)
    assert sorted(built.path.rglob("*")) == before
    assert len(built) == 200


def test_dense_retrieval_answers_like_the_others(built):
    """A list of hits for each query, also for one vector and for none."""
    for mode in ("dense", "lexical", "hybrid"):
        (hits,) = built.retrieve(["标题"], VECTOR[0], 3, mode=mode)
        assert len(hits) == 3
        assert built.retrieve([], np.empty((0, 16), np.float32), mode=mode) == []


class Cutter:
    """An analyser of the caller's own."""

    name, version = "own", 1

    def __init__(self, tokens):
        self.tokens = tokens


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (lambda text: None, "the analyser own returned a NoneType; a list of tokens"),
        (lambda text: text, "the analyser own returned a str"),
        (lambda text: [1], "the analyser own returned the token 1, a int; tokens are text"),
        (lambda text: [None], "the token None, a NoneType"),
        (lambda text: [b"x"], "the token b'x', a bytes"),
        (lambda text: [["x"]], "a list; tokens are text"),
    ],
)
def test_an_analyser_that_returns_no_tokens(tmp_path, encoder, tokens, message):
    with pytest.raises(InputError, match=message):
        Index.build(tmp_path / "i", NEW, encoder, lexical=Cutter(tokens))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "tokens", [lambda text: [], str.split, lambda text: ("长" * 100_000, text, "", "\ud800")]
)
def test_an_analyser_may_return_odd_tokens(tmp_path, encoder, tokens):
    with Index.build(tmp_path / "i", NEW, encoder, lexical=Cutter(tokens)) as index:
        index.add([Document("new3", "三")], encoder)
        assert len(index.retrieve(["一"], VECTOR, 5, mode="hybrid")[0]) == 3
        assert [hit.document.id for hit in index.retrieve(["一"], VECTOR, 1, mode="lexical")[0]] in (
            [],
            ["new1"],
        )
        assert index.compact(full=True)
        assert index.verify().ok
