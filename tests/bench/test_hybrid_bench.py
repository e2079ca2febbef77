"""The comparison of hybrid retrieval, run whole at toy size."""

import json

import numpy as np
import pytest

from bench.experiments.hybrid import Asked, Candidates, best, contenders, recalls, retrieved
from relsdk.calibration import HybridLink
from relsdk.formats import write_documents
from relsdk_sample import generate
from tests.bench.test_bench import call, toy_shared

LINK = HybridLink(10.0, 5.0, (5.0, 6.0, 7.0))
FOUND = Candidates(
    ids=["a", "b", "c"],
    cosines=np.array([0.9, 0.8, 0.5]),
    bm25=np.array([0.0, 5.0, 10.0]),
    best_possible=10.0,
    ranks=np.array([[1, 2, np.inf], [np.inf, 2, 1]]),
)


def test_a_side_alone_does_not_find_what_the_other_found():
    scores = {name: retrieved(name, score, FOUND) for name, score in contenders(LINK).items()}
    np.testing.assert_allclose(scores["dense"], [0.9, 0.8, -np.inf])
    np.testing.assert_allclose(scores["lexical"], [-np.inf, 5.0, 10.0])
    np.testing.assert_allclose(scores["hybrid"], [0.9, 0.8 + 0.5 * 0.25, 0.5 + 0.5])
    np.testing.assert_allclose(scores["reciprocal rank fusion"], [1 / 61, 2 / 62, 1 / 61])
    assert scores["standardised sum"].sum() == pytest.approx(0.0)
    assert best(FOUND, scores["dense"]) == "a"
    assert best(FOUND, np.full(3, -np.inf)) == ""
    asked = [Asked("p1", "q", {"c": 3, "a": 2, "missing": 2, "b": 1})]
    found = recalls(asked, [FOUND], lambda one: retrieved("dense", contenders(LINK)["dense"], one))
    assert found == {"recall_at_10": pytest.approx(1 / 3), "recall_at_100": pytest.approx(1 / 3)}


@pytest.mark.slow
def test_hybrid_at_toy_size(toy_checkpoint, tmp_path):
    shared = toy_shared(tmp_path / "shared", toy_checkpoint)
    world = generate(seed=8, n_documents=120, n_queries=30)
    names = shared / "data" / "names"
    names.mkdir()
    write_documents(names / "documents.jsonl", world.documents)
    rows = [
        {"_id": f"p{90 + number:03}", "text": pair.query, "qrels": {pair.document.id: int(pair.level)}}
        for number, pair in enumerate(world.pairs[:20])
    ]
    (names / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "hybrid.json"
    arguments = ["--shared", shared, "--output", output, "--fp32"]
    done = call("bench.experiments.hybrid", *arguments, "--checkpoint", toy_checkpoint)
    assert done.exit_code == 0, done.output
    result = json.loads(output.read_text())
    assert result["untrained"] == result["trained"]
    figures = result["trained"]
    assert set(figures["kuake_test"]) == set(figures["names"]) == set(contenders(LINK))
    for values in figures["kuake_test"].values():
        assert 0 < values["recall_at_10"] <= values["recall_at_100"] <= 1
        assert 0 < values["mean_ap"] <= 1
    assert figures["kuake_test"]["hybrid"]["ece"] < 0.5
    missing = call("bench.experiments.hybrid", *arguments, "--checkpoint", tmp_path / "none")
    assert "run: make train-real" in missing.output
