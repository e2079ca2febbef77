"""Answers as steps that somebody else may run, in batches of their own; what searches count and keep."""

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, RelevanceScorer, Searcher
from relsdk.errors import EncoderMismatchError, InputError
from relsdk.models.cross_encoder import Judge
from relsdk.models.relevance_scorer import open_scorer
from relsdk.models.steps import Compute, Encode, run_flow
from relsdk.runtime.tokenizer import TokenizedTexts
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_sample import generate
from tests.toys import CORPUS, copy_bundle


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=200, n_queries=60)


@pytest.fixture(scope="module")
def embedder(world, tmp_path_factory):
    folder = copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("steps") / "encoder")
    calibrate_bundle(folder, world.split("train"))
    return Embedder(folder, threads=1, query_cache=4)


@pytest.fixture(scope="module")
def index(embedder, world, tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("steps") / "i", world.documents, embedder) as built:
        yield built


@pytest.fixture(scope="module")
def scorer(embedder, tmp_path_factory):
    folder = copy_bundle("scorer-bundle-v1", tmp_path_factory.mktemp("steps") / "scorer")
    return open_scorer(embedder, folder, threads=1)


def drive(flow, run):
    """Run a flow's steps by `run`; return its answer and the steps."""
    steps = []
    try:
        step = next(flow)
        while True:
            steps.append(step)
            step = flow.send(run(step))
    except StopIteration as end:
        return end.value, steps


def run_in_pieces(step):
    """Run a step as a server does: inputs tokenised one by one, batches put together at will."""
    if isinstance(step, Compute):
        return step.run()
    if isinstance(step, Encode):
        name = step.embedder.known_prompt(step.side)
        parts = [step.embedder.tokenize([text], prompt_name=name) for text in step.texts]
        return step.embedder.encode_tokens(_joined(parts), prompt_name=name)
    return step.scorer.logits_of_tokens(_joined([step.scorer.tokenize([pair]) for pair in step.pairs]))


def _joined(parts):
    return TokenizedTexts([p.ids[0] for p in parts], [p.type_ids[0] for p in parts], [])


@pytest.mark.parametrize("with_scorer", [False, True])
@pytest.mark.parametrize("options", [{}, {"mode": "hybrid"}, {"min_level": 1, "k": 3}, {"budget_ms": 1e9}])
def test_steps_run_elsewhere_give_the_same_answer(embedder, index, scorer, world, with_scorer, options):
    searcher = Searcher(embedder, index, scorer if with_scorer else None)
    queries = [query.text for query in world.queries[:5]]
    results, steps = drive(searcher.flow(queries, **options), run_in_pieces)
    expected = [searcher.search(query, **options) for query in queries]
    for result, hits in zip(results, expected, strict=True):
        assert [hit.document.id for hit in result] == [hit.document.id for hit in hits]
        assert [hit.level for hit in result] == [hit.level for hit in hits]
        assert [hit.score for hit in result] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    kinds = [type(step) for step in steps]
    assert kinds[:2] == [Encode, Compute]
    assert (Judge in kinds) is with_scorer


def test_grades_run_elsewhere_are_the_same(embedder, scorer, world):
    pairs = [(world.queries[0].text, document) for document in world.documents[:7]]
    for model in (RelevanceScorer(embedder), scorer, RelevanceScorer(scorer.model, encoder=None)):
        got, _ = drive(model.flow(pairs), run_in_pieces)
        expected = model.predict(pairs)
        np.testing.assert_array_equal(got.scores, expected.scores)
        np.testing.assert_array_equal(got.probabilities, expected.probabilities)


def test_an_error_of_a_step_leaves_the_flow():
    def flow():
        yield Compute("fail", lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run_flow(flow())


def test_tokens_of_a_cut_text_are_told(embedder):
    tokens = embedder.tokenize(["短", "红烧肉" * 400], prompt_name="query")
    assert tokens.truncated == [1]
    assert tokens.lengths[1] == embedder.max_tokens
    np.testing.assert_array_equal(
        embedder.encode_tokens(tokens, prompt_name="query"),
        embedder.encode_query(["短", "红烧肉" * 400], truncation="silent"),
    )
    with pytest.raises(InputError, match="has no prompt 'nobody'"):
        embedder.tokenize(["a"], prompt_name="nobody")


def test_pieces_have_their_places(embedder):
    text = "How to make 红烧肉"
    (pieces,) = embedder.pieces([text], special_tokens=False)
    assert [piece.id for piece in pieces] == embedder.tokenize([text]).ids[0][1:-1]
    word = next(piece for piece in pieces if piece.text.endswith("红"))
    assert text[word.start : word.end].endswith("红")
    assert [piece.end for piece in pieces] == sorted(piece.end for piece in pieces)
    assert pieces[-1].end == len(text)
    (prompted,) = embedder.pieces([text], prompt_name="query")
    assert [piece.special for piece in prompted] == [True, *[False] * (len(prompted) - 2), True]
    assert [piece.id for piece in prompted] == embedder.tokenize([text], prompt_name="query").ids[0]


def test_vectors_made_elsewhere_enter_the_query_cache(embedder):
    assert embedder.cached_query("从未见过") is None
    vector = embedder.encode("从未见过", prompt_name="query")
    embedder.cache_query("从未见过", vector)
    np.testing.assert_array_equal(embedder.cached_query("从未见过"), vector)
    np.testing.assert_array_equal(embedder.encode_query("从未见过"), vector)
    plain = Embedder(embedder.path, threads=1)
    plain.cache_query("a", vector)
    assert plain.cached_query("a") is None


def test_a_search_tells_facets_generation_and_times(embedder, index, world):
    query = world.queries[0].text
    where = {"duration": {"lt": 100}}
    result = Searcher(embedder, index).search(query, facets=["topic"], where=where)
    assert result.facets == {"topic": index.facets("topic", where)}
    assert sum(count for _, count in result.facets["topic"]) == index.count(where)
    assert result.generation == index.generation == index.info().generation
    assert set(result.steps) == {"encode", "count", "retrieve"}
    assert all(ms >= 0 for ms in result.steps.values())
    assert sum(result.steps.values()) <= result.elapsed_ms
    with pytest.raises(InputError, match="nobody"):
        Searcher(embedder, index).search(query, facets=["nobody"])


@pytest.mark.parametrize("with_scorer", [False, True])
@pytest.mark.parametrize("level", [None, 1, 3])
def test_confidence_is_of_each_hit(embedder, index, scorer, world, level, with_scorer):
    searcher = Searcher(embedder, index, scorer if with_scorer else None)
    query, least = world.queries[1].text, 2 if level is None else level
    for confidence in (0.1, 0.3, 0.6):
        hits = searcher.search(query, k=200, min_level=level, min_confidence=confidence)
        everything = searcher.search(query, k=200, min_level=level)
        share = [sum(hit.probabilities[least:]) for hit in everything]
        wanted = [hit for hit, p in zip(everything, share, strict=True) if p >= confidence]
        assert [hit.document.id for hit in hits] == [hit.document.id for hit in wanted]


@pytest.mark.parametrize("name", ["min_confidence", "min_precision"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", True])
def test_shares_are_checked(embedder, index, name, value):
    with pytest.raises(InputError, match=f"{name}=.*0.8, not 80"):
        Searcher(embedder, index).search("红烧肉", **{name: value})


def test_fields_and_their_kinds(embedder, tmp_path):
    documents = [
        Document("a", "一", metadata={"tags": ["x"], "n": 1, "shop": {"city": "北京"}}),
        Document("b", "二", metadata={"n": "1", "ok": True, "none": None}),
    ]
    with Index.build(tmp_path / "i", documents, embedder) as index:
        assert index.fields() == {
            "n": ("number", "text"),
            "none": ("null",),
            "ok": ("boolean",),
            "shop": ("object",),
            "shop.city": ("text",),
            "tags": ("text",),
        }


def test_another_encoders_generation_is_not_gone_on_with(embedder, tmp_path):
    documents = [Document(str(n), text) for n, text in enumerate(CORPUS)]
    short = Embedder(embedder.path, threads=1, truncate_dim=8)
    with Index.build(tmp_path / "i", documents, embedder) as index:
        first = index.generation
        Index.build(tmp_path / "i", documents[:3], short, overwrite=True).close()
        with pytest.raises(EncoderMismatchError, match="8 dimensions"):
            index.refresh(embedder)
        assert (index.generation, len(index)) == (first, len(CORPUS))
        assert len(Searcher(embedder, index).search("红烧肉", k=20)) == len(CORPUS)
        assert index.refresh()
        assert len(index) == 3
