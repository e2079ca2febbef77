"""28,000 real titles: every store finds what an index folder does."""

import functools
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from relsdk.calibration.fitting import fit_spline_link
from relsdk.errors import IndexFolderError
from relsdk.formats import read_pairs
from tests.scale.engines import NEEDS, NOISE, Engine
from tests.scale.titles import TokenMeans, read_titles, title_filters

pytestmark = [pytest.mark.slow, pytest.mark.shared, *(pytest.mark.filterwarnings(noise) for noise in NOISE)]
ENGINES = [name for name in NEEDS if name != "toy"]
TIE = 1e-6  # of cosines
QUERIES = 200


class Titles:
    """Documents, vectors and queries, made once; and the engines that hold them, loaded when needed."""

    def __init__(self, shared, folder):
        self.encoder = TokenMeans(shared / "models" / "me5-small-zh")
        self.documents, texts = read_titles(shared / "data")
        self.vectors = self.encoder.encode_document(self.documents)  # (N, D)
        self.queries = self.encoder.encode(texts[:QUERIES])  # (Q, D)
        self.cosines = self.queries @ self.vectors.T  # (Q, N)
        pairs = list(read_pairs(shared / "data" / "kuake_qtr" / "dev.jsonl"))
        left = self.encoder.encode([pair.query for pair in pairs])
        right = self.encoder.encode_document([pair.document for pair in pairs])
        labels = np.array([int(pair.level) for pair in pairs])
        self.levels = fit_spline_link(np.einsum("nd,nd->n", left, right).astype(np.float64), labels)
        self.folder = folder
        self.engines = {}

    def store(self, name):
        if name not in self.engines:
            engine = Engine(name, self.folder)
            self.engines[name] = engine, engine.build(self.documents, self.encoder, vectors=self.vectors)
        return self.engines[name][1]

    def close(self):
        for engine, _ in self.engines.values():
            engine.close()


@pytest.fixture(scope="module")
def titles(shared, _fast_folder):
    made = Titles(shared, _fast_folder)
    yield made
    made.close()


@pytest.fixture
def _quick_paths(monkeypatch):
    """Let Qdrant's local mode read each path once, not once a document; it is the same reading."""
    if "qdrant_client" in sys.modules:
        from qdrant_client.local import payload_value_extractor as extractor

        monkeypatch.setattr(extractor, "parse_json_path", functools.cache(extractor.parse_json_path))


def same_up_to_ties(hits, expected):
    """Tell whether hits are the expected ones, or have their scores where scores are equal."""
    scores, wanted = ([hit.score for hit in some] for some in (hits, expected))
    if len(scores) != len(wanted) or not np.allclose(scores, wanted, atol=TIE, rtol=0):
        return False
    others = {hit.document.id for hit in hits} ^ {hit.document.id for hit in expected}
    tied = [hit for some in (hits, expected) for hit in some if abs(hit.score - wanted[-1]) <= TIE]
    return others <= {hit.document.id for hit in tied}


@pytest.mark.parametrize("name", ENGINES)
def test_exact_search_has_the_same_ten(titles, name):
    queries = titles.queries[:50]
    best = -np.sort(-titles.cosines[:50], axis=1)[:, :10]
    expected = titles.store("index").search(queries, 10, exact=True)
    found = titles.store(name).search(queries, 10, exact=True)
    for hits, wanted, cosines in zip(found, expected, best, strict=True):
        np.testing.assert_allclose([hit.score for hit in hits], cosines, atol=TIE, rtol=0)
        assert same_up_to_ties(hits, wanted)
        ours, others = (titles.levels.probabilities([hit.score for hit in some]) for some in (hits, wanted))
        np.testing.assert_allclose(ours, others, atol=1e-6, rtol=0)
        assert ours.argmax(axis=1).tolist() == others.argmax(axis=1).tolist()


@pytest.mark.parametrize("name", ENGINES)
def test_the_graph_finds_nearly_all(titles, name):
    tenth = -np.sort(-titles.cosines, axis=1)[:, 9]
    found = titles.store(name).search(titles.queries, 10)
    right = [hit.score >= least - TIE for hits, least in zip(found, tenth, strict=True) for hit in hits]
    assert len(right) == QUERIES * 10
    assert np.mean(right) >= 0.98


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("part", range(8))
@pytest.mark.usefixtures("_quick_paths")
def test_filters_allow_the_same(titles, name, part):
    filters = title_filters(titles.documents, 200)[25 * part :][:25]
    counts = []
    for number, where in enumerate(filters):
        query = titles.queries[number]
        expected = titles.store("index").search(query, 10, where=where, exact=True)
        hits = titles.store(name).search(query, 10, where=where, exact=True)
        assert same_up_to_ties(hits, expected), where
        counts.append(len(hits))
    assert np.mean(np.array(counts) == 10) > 0.5  # filters that leave something to choose from


LOAD = """
import sys, time
from pathlib import Path
from tests.scale.engines import Engine
from tests.scale.titles import TokenMeans, read_titles

name, folder, place, shared, count = sys.argv[1:]
shared = Path(shared)
documents = read_titles(shared / "data")[0][: int(count)]
def progress(stage, done):
    print(stage, done, flush=True)
store = Engine(name, folder).build(
    documents, TokenMeans(shared / "models" / "me5-small-zh"), place, chunk_size=250, on_progress=progress
)
print("done", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("name", ENGINES)
def test_a_load_that_was_killed_goes_on(titles, shared, name):
    count = 2500
    folder = tempfile.mkdtemp(dir=titles.folder)
    engine = Engine(name, folder)
    place = engine.place()
    arguments = [sys.executable, "-c", LOAD, name, folder, place, shared, count]
    with subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, text=True) as loading:
        for line in loading.stdout:
            stage, done = line.split()
            if int(done) >= 1000:
                break
        loading.kill()
    assert stage == "encode"
    with pytest.raises(IndexFolderError):
        engine.open(place)
    documents = titles.documents[:count]
    store = engine.build(documents, titles.encoder, place, vectors=titles.vectors[:count])
    assert store.count() == count
    hits = store.search(titles.queries[0], count, exact=True)
    assert sorted(hit.document.id for hit in hits) == sorted(document.id for document in documents)
    engine.close()
