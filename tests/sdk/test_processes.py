"""Other processes: forked while threads search, spawned with a pickle."""

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.errors import BundleError
from relsdk.models.open import open_pair_model

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
QUERY = "红烧肉怎么做"

FORKS = """
import os, signal, sys, threading, time
from relsdk import Embedder, Index, Searcher

folder, forks, ending = sys.argv[1], int(sys.argv[2]), sys.argv[3]
embedder = Embedder(f"{folder}/tower-bundle-v1", threads=2, query_cache=20)
encoder = Embedder(f"{folder}/encoder-bundle-v1", threads=2, query_cache=20)
searcher = Searcher(encoder, Index.open(f"{folder}/index-v1"))
expected = [hit.document.id for hit in searcher.search("红烧肉怎么做", k=3)]
embedder.encode_document("红烧肉")

def load(number):
    for turn in range(10**9):
        searcher.search(f"红烧肉 {number} {turn % 30}", k=5)
        embedder.encode_document(["红烧肉怎么做"] * 3 + [str(turn)])

for number in range(4):
    threading.Thread(target=load, args=(number,), daemon=True).start()
results = []
for fork in range(forks):
    child = os.fork()
    if not child:
        right = [hit.document.id for hit in searcher.search("红烧肉怎么做", k=3)] == expected
        if fork % 2:
            embedder.encode_document(["红烧肉", "大理"])
        if ending == "destroy":
            del embedder, encoder, searcher
            import gc
            gc.collect()
        os._exit(0 if right else 3)
    signal.alarm(60)  # ends this process: nobody waits for ever
    results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    signal.alarm(0)
print(len(results), set(results), flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["exit", "destroy"])
def test_forks_while_threads_search(ending):
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(FIXTURES), "60", ending]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "60 {0}\n"), done.stderr


@pytest.mark.slow
def test_a_forked_child_that_ends_as_programs_do():
    """The interpreter tears everything down: what was inherited must outlive it."""
    program = FORKS.replace("os._exit(0 if right else 3)", "sys.exit(0 if right else 3)")
    command = [sys.executable, "-W", "ignore", "-c", program, str(FIXTURES), "8", "exit"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "8 {0}\n"), done.stderr


def embed(embedder, text):
    return embedder.encode_query(text)


def found(searcher, query):
    return [(hit.document.id, hit.score) for hit in searcher.search(query, k=5)]


def graded(scorer, pairs):
    return scorer.predict(pairs).probabilities


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_what_is_pickled_works_in_another_process(method):
    embedder = Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32", threads=1, truncate_dim=32)
    scorer = RelevanceScorer(FIXTURES / "scorer-bundle-v1", variant="fp32", threads=1)
    pairs = [(QUERY, "红烧肉的家常做法"), (QUERY, "大理旅游")]
    context = multiprocessing.get_context(method)
    with Index.open(FIXTURES / "index-v1") as index:
        searcher = Searcher(embedder, index)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            vector = pool.submit(embed, embedder, QUERY).result(timeout=120)
            hits = pool.submit(found, searcher, QUERY).result(timeout=120)
            probabilities = pool.submit(graded, scorer, pairs).result(timeout=120)
        np.testing.assert_array_equal(vector, embedder.encode_query(QUERY))
        assert hits == found(searcher, QUERY)
        np.testing.assert_array_equal(probabilities, graded(scorer, pairs))


def test_a_pickle_keeps_the_arguments(monkeypatch, tmp_path):
    monkeypatch.chdir(FIXTURES)
    embedder = Embedder("encoder-bundle-v1", variant="int8_any", threads=3, truncate_dim=8, query_cache=7)
    data = pickle.dumps(embedder)
    assert len(data) < 2000
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(data)
    assert (again.variant.name, again.threads, again.dimension) == ("int8_any", 3, 8)
    assert again.query_cache_info.limit == 7
    np.testing.assert_array_equal(again.encode_query(QUERY), embedder.encode_query(QUERY))


def test_a_searcher_and_its_scorer_share_the_embedder_again():
    embedder = Embedder(FIXTURES / "encoder-bundle-v1", variant="fp32")
    with Index.open(FIXTURES / "index-v1") as index:
        searcher = Searcher(embedder, index, RelevanceScorer(embedder))
        again = pickle.loads(pickle.dumps(searcher))
        assert again.scorer.model.embedder is again.embedder
        assert found(again, QUERY) == found(searcher, QUERY)
        again.index.close()


@pytest.mark.parametrize("name", ["encoder", "scorer"])
def test_another_model_at_the_same_place_is_refused(name, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(FIXTURES / f"{name}-bundle-v1", folder)
    model = open_pair_model(folder)
    data = pickle.dumps(getattr(model, "embedder", model))
    assert pickle.loads(data).bundle.fingerprint == model.bundle.fingerprint
    shutil.rmtree(folder)
    other = "tower" if name == "encoder" else "encoder"
    shutil.copytree(FIXTURES / f"{other}-bundle-v1", folder)
    with pytest.raises(BundleError, match="holds another model"):
        pickle.loads(data)
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match=r"bundle"):
        pickle.loads(data)
