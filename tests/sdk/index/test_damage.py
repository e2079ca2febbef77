"""Whatever happens to the files of an index: an error of ours or the right answers, no signal, no hang."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.sdk.index import damage as damaging

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "index-v1"
BATCH = 50
# Reads what it is told to look at; writes one line for each, so that a crash shows where it was.
PROGRAM = """
import json, resource, sys, traceback
import numpy as np
from relsdk.errors import RelsdkError
from relsdk.index import Index, verify_index

resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
task = json.load(sys.stdin)
queries = np.array(task["queries"], dtype=np.float32)

def hits(found):
    return [[[hit.document.id, round(hit.score, 3)] for hit in one] for one in found]

def shown(document):
    return [document.id, document.title, document.text, document.metadata]

def answers(path, check):
    with Index.open(path, check=check) as index:
        texts = task["texts"]  # none for format 1, which holds no words
        words = index.retrieve(texts, queries[: len(texts)], 5, mode="lexical") if texts else []
        return {
            "graph": hits(index.search(queries, 5)),
            "exact": hits(index.search(queries, 5, exact=True)),
            "filter": hits(index.search(queries, 5, where=task["where"])),
            "words": hits(words),
            "get": [shown(document) for document in index.get(task["ids"])],
            "all": [shown(document) for document in index.documents()],
            "facets": [list(pair) for pair in index.facets(next(iter(task["where"])))],
        }

def attempt(work):
    try:
        return {"found": work()}
    except RelsdkError as error:
        return {"error": str(error)}
    except Exception:
        return {"traceback": traceback.format_exc()}

for path in task["paths"]:
    result = {"ok": attempt(lambda: verify_index(path).ok)}
    for check in ("hashes", "sizes"):
        result[check] = attempt(lambda: answers(path, check))
    print(json.dumps(result), flush=True)
"""


@pytest.fixture(scope="module")
def task():
    """What is asked, and the right answers: a full scan with numpy and SQLite alone."""
    vectors = np.load(FIXTURE / damaging.GENERATION / "vectors.npy")
    queries = vectors[::50]
    connection = sqlite3.connect(FIXTURE / damaging.GENERATION / "documents.sqlite")
    rows = connection.execute("SELECT id, title, text, metadata FROM documents ORDER BY row").fetchall()
    connection.close()
    documents = [
        [identifier, title, text, json.loads(metadata)] for identifier, title, text, metadata in rows
    ]
    field = next(iter(documents[0][3]))
    where = {field: documents[0][3][field]}
    allowed = np.array([document[3].get(field) == where[field] for document in documents])

    def best(mask):
        scores = np.where(mask, queries @ vectors.T, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        return [
            [[documents[row][0], float(scores[query, row])] for row in rows]
            for query, rows in enumerate(order)
        ]

    everything = best(np.ones(len(documents), dtype=bool))
    expected = {"graph": everything, "exact": everything, "filter": best(allowed), "get": documents[::30]}
    values = Counter(document[3][field] for document in documents if field in document[3])
    facets = sorted(map(list, values.items()), key=lambda pair: (-pair[1], pair[0]))
    expected |= {"words": [], "all": documents, "facets": facets}
    return {
        "queries": queries.tolist(),
        "texts": [],
        "where": where,
        "ids": [document[0] for document in documents[::30]],
        "expected": expected,
    }


def is_right(found, expected):
    if any(found[name] != expected[name] for name in ("get", "all", "facets")):
        return False
    for name in ("graph", "exact", "filter", "words"):
        for one, other in zip(found[name], expected[name], strict=True):
            scores = [[score for _, score in hits] for hits in (one, other)]
            if [i for i, _ in one] != [i for i, _ in other] or not np.allclose(*scores, atol=2e-3):
                return False
    return True


def look(task, paths):
    asked = json.dumps({**{name: task[name] for name in task if name != "expected"}, "paths": paths})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=asked, capture_output=True, text=True, timeout=600, check=False
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done


def fuzz(task, tmp_path, seeds, source=FIXTURE, damage=damaging.damage):
    refused = 0
    for first in range(0, len(seeds), BATCH):
        made = []
        for seed in seeds[first : first + BATCH]:
            path = tmp_path / f"{source.name}-{seed}"
            shutil.copytree(source, path)
            made.append((path, *damage(path, seed)))
        results, done = look(task, [str(path) for path, _, _ in made])
        if len(results) < len(made):
            pytest.fail(f"{made[len(results)][1]}: ended with {done.returncode}: {done.stderr[-2000:]}")
        assert not done.stderr, done.stderr[-2000:]
        for (path, what, agrees), result in zip(made, results, strict=True):
            for name in ("ok", "hashes", "sizes"):
                assert "traceback" not in result[name], f"{what}, {name}: {result[name]['traceback']}"
            if not agrees:
                found = result["hashes"].get("found")
                assert found is None or is_right(found, task["expected"]), f"{what}: wrong without a word"
                assert result["ok"] == {"found": False}, f"{what}: verify finds nothing"
            refused += "error" in result["hashes"]
            shutil.rmtree(path)
    return refused


def test_what_is_not_damaged_is_answered(task, tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "copy")
    results, done = look(task, [str(FIXTURE), str(tmp_path / "copy")])
    assert not done.stderr
    for result in results:
        assert result["ok"] == {"found": True}
        for check in ("hashes", "sizes"):
            assert is_right(result[check]["found"], task["expected"])


def test_damaged_indexes(task, tmp_path):
    assert fuzz(task, tmp_path, range(60)) >= 40


@pytest.mark.slow
def test_many_damaged_indexes(task, tmp_path):
    assert fuzz(task, tmp_path, range(60, 460)) >= 280
