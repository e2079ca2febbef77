"""The generated world: exact labels, mix, splits, determinism, difficulty, files."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest

from relsdk.errors import InputError
from relsdk.records import Document
from relsdk_sample import generate, level_of, write
from relsdk_sample.catalogue import load_catalogue
from relsdk_sample.draws import Draws
from relsdk_sample.oracle import DocumentFacts, facts_of
from relsdk_sample.parse import QueryFacts, parse
from relsdk_sample.queries import make_queries, word_query

# Of the JSONL files of seed 0; changes only when the sample world changes on purpose.
GOLDEN_SHA256 = "93c06c98b5b7e1fbae82795ff83e0dcf4f05b71833ecb35bc4a2e850aa41ff42"


@pytest.fixture(scope="module")
def world():
    return generate()


@pytest.fixture(scope="module", params=[1, 2, 3])
def small_world(request):
    return generate(request.param, 1500, 150)


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_sizes_and_unique_names(world):
    assert (len(world.documents), len(world.queries), len(world.pairs)) == (5000, 500, 8000)
    assert len({document.id for document in world.documents}) == 5000
    assert len({query.id for query in world.queries}) == 500
    assert len({query.text for query in world.queries}) == 500
    assert len({(pair.query, pair.document.id) for pair in world.pairs}) == 8000
    assert len({document.title for document in world.documents}) > 4500


def test_metadata(world):
    for document in world.documents:
        assert set(document.metadata) == {"topic", "tags", "author", "duration", "facts"}
        assert document.metadata["topic"] == document.metadata["facts"]["topic"]
        assert isinstance(document.metadata["duration"], int)
        assert document.title
        assert 20 < len(document.text) < 400
    assert len({document.metadata["topic"] for document in world.documents}) == 12


def test_every_label_is_the_oracles(world):
    assert all(level_of(pair.query, pair.document) is pair.level for pair in world.pairs)


def test_labels_of_other_seeds(small_world):
    assert all(level_of(pair.query, pair.document) is pair.level for pair in small_world.pairs)
    assert all(len(parse(query.text)) == 1 for query in small_world.queries)


@pytest.mark.parametrize("seed", range(8))
def test_every_query_reads_back_as_what_it_was_made_from(seed):
    # One document only: a query may ask for nothing that this document does not offer.
    source = DocumentFacts(
        "travel", "大理", frozenset({"food", "photo"}), frozenset({"one_day", "self_drive"})
    )
    for query in make_queries(seed, 60, [source]):
        (wanted,) = parse(query.text)
        assert wanted.topic == "travel"
        assert wanted.entities <= {source.entity}
        assert wanted.aspects <= source.aspects
        assert wanted.constraints <= source.constraints


@pytest.mark.parametrize("seed", range(5))
def test_wordings_hardly_ever_read_as_something_else(seed):
    draws = Draws(seed, "test")
    misread = []
    for _ in range(600):
        topic = draws.pick(load_catalogue())
        wanted = QueryFacts(
            topic.name,
            frozenset(entity.name for entity in draws.sample(topic.entities, 1)),
            frozenset(aspect.key for aspect in draws.sample(topic.aspects, draws.below(2))),
            frozenset(constraint.key for constraint in draws.sample(topic.constraints, draws.below(3))),
        )
        text = word_query(draws, topic, wanted)
        if parse(text) != (wanted,):
            misread.append(text)
    assert len(misread) <= 3, misread


def test_level_mix(world):
    for name in ("train", "test"):
        counts = Counter(int(pair.level) for pair in world.split(name))
        shares = {level: counts[level] / sum(counts.values()) for level in range(4)}
        assert min(shares.values()) >= 0.15, (name, shares)


def test_splits_are_by_query(world):
    parts = {name: {pair.query for pair in world.split(name)} for name in ("train", "dev", "test")}
    assert {name: len(queries) for name, queries in parts.items()} == {"train": 350, "dev": 50, "test": 100}
    assert len(set.union(*parts.values())) == 500
    assert sum(len(world.split(name)) for name in parts) == len(world.pairs)


def test_unknown_split(world):
    with pytest.raises(InputError, match=r"'valid'.*train, dev, test"):
        world.split("valid")


def test_same_seed_same_world_and_other_seed_another():
    assert generate(5, 300, 30) == generate(5, 300, 30)
    assert generate(5, 300, 30).queries != generate(6, 300, 30).queries


def test_golden_content(world, tmp_path):
    digest = hashlib.sha256()
    for path in sorted(write(world, tmp_path / "world").iterdir()):
        digest.update(path.read_bytes())
    assert digest.hexdigest() == GOLDEN_SHA256


def bigrams(text):
    return {text[start : start + 2] for start in range(len(text) - 1)}


@pytest.mark.parametrize("with_text", [False, True], ids=["title", "title and text"])
def test_lexical_overlap_is_clearly_imperfect(world, with_text):
    pairs = world.split("test")
    shown = [p.document.title + (p.document.text if with_text else "") for p in pairs]
    score = np.array(
        [
            len(bigrams(p.query) & bigrams(t)) / len(bigrams(p.query))
            for p, t in zip(pairs, shown, strict=True)
        ]
    )
    level = np.array([int(pair.level) for pair in pairs])
    ranks = [np.unique(values, return_inverse=True)[1] for values in (score, level)]
    mean_ranks = [
        np.array([(r < v).sum() + (r == v).sum() / 2 for v in range(r.max() + 1)])[r] for r in ranks
    ]
    spearman = np.corrcoef(*mean_ranks)[0, 1]
    assert 0.2 < spearman < 0.65
    # Levels by the best-matching quantiles: as many of each as there are.
    edges = np.quantile(score, np.cumsum(np.bincount(level, minlength=4))[:-1] / len(level))
    guess = np.searchsorted(edges, score)
    observed = ((guess - level) ** 2).mean()
    expected = ((guess[:, None] - level[None, :]) ** 2).mean()
    assert 1 - observed / expected < 0.6  # quadratic weighted kappa (Cohen, 1968)


def test_distractors_name_the_entity_without_being_about_it(world):
    misleading = [
        pair
        for pair in world.pairs
        if pair.level == 0
        and any(name in pair.document.metadata["tags"] for name in parse(pair.query)[0].entities)
    ]
    assert len(misleading) > 300


def test_written_files_round_trip(world, tmp_path):
    folder = write(world, tmp_path / "new" / "world")
    documents = {}
    for record in read_lines(folder / "documents.jsonl"):
        known = {name: record.pop(name) for name in ("_id", "title", "text")}
        documents[known["_id"]] = Document(known["_id"], known["title"], known["text"], record)
    assert list(documents.values()) == list(world.documents)
    assert read_lines(folder / "queries.jsonl")[0] == {
        "_id": world.queries[0].id,
        "text": world.queries[0].text,
    }
    for name in ("train", "dev", "test"):
        records = read_lines(folder / f"pairs_{name}.jsonl")
        assert len(records) == len(world.split(name))
        for record in records:
            document = documents[record["doc_id"]]
            assert record["title"] == document.title
            assert record["text"] == document.text
            assert record["label"] == level_of(record["query"], document)
            assert list(record) == ["query", "doc_id", "title", "text", "label"]


def test_write_refuses_a_full_folder_unless_told(tmp_path):
    world = generate(0, 100, 10)
    (tmp_path / "kept").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="other things in it"):
            write(world, tmp_path, overwrite=overwrite)
    assert (tmp_path / "kept").read_text() == "mine"
    folder = tmp_path / "world"
    write(world, folder)
    with pytest.raises(InputError, match="--overwrite"):
        write(world, folder)
    (folder / "stale").write_text("old")
    write(world, folder, overwrite=True)
    assert not (folder / "stale").exists()
    assert len(read_lines(folder / "documents.jsonl")) == 100


def test_write_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        write(generate(0, 100, 10), tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_documents": 99}, "n_documents is 99; it must be at least 100"),
        ({"n_queries": 9}, "n_queries is 9"),
        ({"pairs_per_query": 3}, "pairs_per_query is 3"),
    ],
)
def test_bad_numbers(arguments, message):
    with pytest.raises(InputError, match=message):
        generate(**arguments)


@pytest.mark.slow
def test_more_queries_than_the_documents_support():
    source = DocumentFacts("travel", "大理", frozenset({"food"}), frozenset())
    with pytest.raises(InputError, match=r"1 documents support only .* fewer queries or more documents"):
        make_queries(0, 5000, [source])


def test_small_worlds_fill_the_pairs():
    world = generate(1, 200, 50, 16)
    assert len(world.pairs) == 50 * 16
    assert all(facts_of(pair.document) for pair in world.pairs)


def test_draws_repeat_and_stay_in_bounds():
    # From the documented random() of Random("7/stream"); a change here changes every world.
    assert Draws(7, "stream").below(1000) == 730
    draws = Draws(0, "x")
    assert {draws.between(2, 4) for _ in range(100)} == {2, 3, 4}
    assert sorted(draws.sample([1, 2, 3], 9)) == [1, 2, 3]
    assert {draws.pick("ab") for _ in range(50)} == {"a", "b"}
    early = Counter(draws.pick_early(range(4)) for _ in range(4000))
    assert [round(early[position] / 4000, 1) for position in range(4)] == [0.5, 0.2, 0.2, 0.1]
