"""`relsdk eval` of promises: by hand, in populations whose precision is known, and on the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from relsdk import Embedder, Index, Searcher
from relsdk.bundle import read_bundle
from relsdk.calibration import Promise
from relsdk.metrics import bootstrap_interval
from relsdk.models.bi_encoder import BiEncoder
from relsdk.tools._promises import check_promise
from relsdk.tools.evaluation import calibrate_bundle, evaluate
from relsdk.tools.hybrid_calibration import calibrate_hybrid
from relsdk_sample import generate
from tests.toys import copy_bundle

PROMISE = Promise(2, 0.9, 0.95, 0.7, 0.5, 0.93, 300, 100)


def probabilities(shares):
    """Return level probabilities with P(level >= 2) as given."""
    shares = np.asarray(shares, dtype=np.float64)
    return np.stack([1 - shares, 0 * shares, shares, 0 * shares], axis=1)


def check(shares, right, queries, promise=PROMISE):
    labels = np.where(right, 2, 1)
    return check_promise(promise, probabilities(shares), labels, [f"查询{one}" for one in queries])


def test_by_hand():
    """The 40 pairs from 0.7 on, one a query: 36 are right; of all 100 pairs 40 are."""
    shares = np.repeat([0.7, 0.2], [40, 60])
    right = np.repeat([True, False, True, False], [36, 4, 4, 56])
    found = check(shares, right, range(100))
    assert (found.pairs, found.queries, found.share) == (40, 40, 0.4)
    assert (found.precision, found.recall) == (0.9, 0.9)
    low, high = found.interval
    wilson = stats.binomtest(36, 40).proportion_ci(0.95, "wilson")
    drawn = bootstrap_interval(right[:40], 0)
    # independent pairs, whose variance between queries is n / (n - 1) of the binomial
    assert low <= min(wilson.low, drawn.low)
    assert low == pytest.approx(min(wilson.low, drawn.low), abs=3e-3)
    assert high >= max(wilson.high, drawn.high)
    assert high == pytest.approx(max(wilson.high, drawn.high), abs=3e-3)
    assert found.verdict == "not distinguishable"
    assert found.to_dict() == {
        "promise": PROMISE.to_dict(),
        "pairs": 40,
        "queries": 40,
        "share": 0.4,
        "precision": 0.9,
        "interval": [low, high],
        "recall": 0.9,
        "verdict": "not distinguishable",
    }


def test_verdicts():
    shares = np.full(400, 0.8)
    assert check(shares, np.arange(400) >= 10, range(400)).verdict == "kept"
    assert check(shares, np.arange(400) >= 80, range(400)).verdict == "broken"
    # the same pairs of few queries, each of which is all right or all wrong, tell neither
    assert check(shares, np.arange(400) >= 80, np.arange(400) // 40).verdict == "not distinguishable"


def test_what_nothing_can_be_said_of():
    few = check(np.full(200, 0.8), np.ones(200, bool), np.arange(200) // 50)  # four queries
    assert (few.precision, few.interval, few.verdict) == (1.0, None, "not distinguishable")
    none = check(np.full(20, 0.1), np.zeros(20, bool), range(20))
    assert (none.pairs, none.queries, none.share) == (0, 0, 0.0)
    assert (none.precision, none.interval, none.recall) == (None, None, None)
    assert none.verdict == "not distinguishable"
    # all right, and so few that 0.9 would give as much by luck
    lucky = check(np.full(20, 0.8), np.ones(20, bool), range(20))
    assert lucky.interval[0] < 0.9
    assert lucky.verdict == "not distinguishable"
    assert check(np.full(60, 0.8), np.ones(60, bool), range(60)).verdict == "kept"


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_a_precision_at_the_promise_is_seldom_called_kept_or_broken(spread):
    """In 5 % of the draws, with the luck of 200 of them, also where pairs of one query go together."""
    rng = np.random.default_rng(0)
    shifts = rng.normal(0, spread, 100_000)
    precision = float((1 / (1 + np.exp(-2 - shifts))).mean())
    promise = replace(PROMISE, precision=precision)
    verdicts = []
    for _ in range(200):
        query = np.repeat(np.arange(150), rng.integers(1, 6, 150))
        rates = 1 / (1 + np.exp(-2 - rng.normal(0, spread, 150)))[query]
        verdicts.append(
            check(np.full(len(query), 0.8), rng.random(len(query)) < rates, query, promise).verdict
        )
    wrong = sum(one != "not distinguishable" for one in verdicts)
    assert 0 < wrong <= stats.binom.ppf(0.999, 200, 0.05)


def test_weights_make_a_mean_over_pairs():
    values, sizes = [1.0, 0.5, 0.0], [1, 2, 4]
    found = bootstrap_interval(values, 0, weights=sizes)
    assert found.mean == pytest.approx(2 / 7)
    assert (found.low, found.high) == (0.0, 1.0)
    assert bootstrap_interval(values, 0, weights=[7, 7, 7]) == pytest.approx(bootstrap_interval(values, 0))


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=200, n_queries=60)


@pytest.fixture(scope="module")
def bundle(world, tmp_path_factory):
    folder = copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("p") / "encoder", variants=["fp32"])
    calibrate_bundle(folder, world.split("train"), targets=[(1, 0.3), (1, 0.15)])
    return folder


def pairs_file(path, pairs):
    lines = [
        {"query": p.query, "title": p.document.title, "text": p.document.text, "label": int(p.level)}
        for p in pairs
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_the_command(relsdk, bundle, world, tmp_path):
    pairs = world.split("test")
    code, out, err = relsdk("eval", bundle, file := pairs_file(tmp_path / "t.jsonl", pairs), "--json")
    assert code == 0, err
    (evaluation,) = json.loads(out)
    model = BiEncoder(Embedder(bundle, variant="fp32", threads=1))
    expected = evaluate(model, pairs)
    assert evaluation["promises"] == json.loads(json.dumps([one.to_dict() for one in expected.promises]))
    assert evaluation["warnings"] == []
    shares = [
        sum(one[1:])
        for one in model.calibration.probabilities(
            model.outputs([(p.query, p.document) for p in pairs]).calibrated
        ).tolist()
    ]
    for one in evaluation["promises"]:
        chosen = [p for p, share in zip(pairs, shares, strict=True) if share >= one["promise"]["threshold"]]
        right = [p for p in chosen if p.level >= 1]
        assert one["pairs"] == len(chosen) > 0
        assert one["precision"] == pytest.approx(len(right) / len(chosen))
        assert one["recall"] == pytest.approx(len(right) / sum(p.level >= 1 for p in pairs))
        assert one["share"] == pytest.approx(len(chosen) / len(pairs))
    code, out, err = relsdk("eval", bundle, file)
    assert code == 0, err
    rows = [line for line in out.splitlines() if line.startswith("fp32  ") and "dim" not in line]
    rows = [row for row in rows if row.endswith(("kept", "broken", "not distinguishable"))]
    assert [row.split()[1:3] for row in rows] == [["1", "30.00"], ["1", "15.00"]]
    for row, one in zip(rows, evaluation["promises"], strict=True):
        assert row.endswith(one["verdict"])
        assert f"{100 * one['precision']:.2f}" in row
    # without promises there is no table
    plain = copy_bundle("encoder-bundle-v1", tmp_path / "plain", variants=["fp32"])
    calibrate_bundle(plain, world.split("train"))
    code, out, _ = relsdk("eval", plain, file)
    assert (code, "promise of" in out) == (0, False)


def test_promises_of_other_populations_are_told(relsdk, world, tmp_path):
    folder = copy_bundle("encoder-bundle-v1", tmp_path / "b", variants=["fp32"])
    pairs = world.split("train")[::2]
    calibrate_bundle(
        folder,
        pairs,
        targets=[(1, 0.05)],
        random_documents=1,
        unlabelled=[(p.query, p.document) for p in pairs],
    )
    file = pairs_file(tmp_path / "t.jsonl", pairs)
    code, out, err = relsdk("eval", folder, file, "--json")
    assert code == 0, err
    (evaluation,) = json.loads(out)
    random, shifted = evaluation["warnings"]
    assert "--random-negatives" in random
    assert "--unlabelled" in shifted
    code, _, err = relsdk("eval", folder, file)
    assert all(one in err for one in (random, shifted))


def test_hits_of_an_index_that_are_judged(relsdk, bundle, world, tmp_path):
    embedder = Embedder(bundle, variant="fp32", threads=1)
    with Index.build(tmp_path / "i", world.documents, embedder) as index:
        link, _ = calibrate_hybrid(index, embedder, world.split("train"), targets=[(1, 0.25)])
        index.store_hybrid({"fp32": link})
    ids = {one.text: one.id for one in world.queries}
    lines = [json.dumps({"_id": one.id, "text": one.text}) for one in world.queries]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    judged = {(ids[one.query], one.document.id): int(one.level) for one in world.pairs}
    rows = (f"{query} 0 {document} {level}\n" for (query, document), level in judged.items())
    (tmp_path / "qrels.txt").write_text("".join(rows))
    command = ("eval", "--index", tmp_path / "i", "--queries", tmp_path / "q.jsonl", tmp_path / "qrels.txt")
    for mode, promises in (("hybrid", link.promises), ("dense", embedder_promises(bundle))):
        with Index.open(tmp_path / "i") as index:
            searcher = Searcher(embedder, index, mode=mode)
            assert searcher.promises() == promises
            results = zip(ids, searcher.search_batch(list(ids), 100), strict=True)
            hits = [
                (sum(hit.probabilities[1:]), judged[ids[query], hit.document.id])
                for query, found in results
                for hit in found
                if (ids[query], hit.document.id) in judged
            ]
        code, out, err = relsdk(*command, "--mode", mode, "--variant", "fp32", "--json")
        assert code == 0, err
        checks = json.loads(out)["promises"]
        assert [one["promise"] for one in checks] == [one.to_dict() for one in promises]
        for one in checks:
            levels = [level for share, level in hits if share >= one["promise"]["threshold"]]
            assert abs(one["pairs"] - len(levels)) <= 1  # at the threshold itself rounding decides
            assert one["precision"] == pytest.approx(np.mean(np.array(levels) >= 1), abs=0.01)
        code, out, err = relsdk(*command, "--mode", mode, "--variant", "fp32")
        assert code == 0, err
        shown = [
            line for line in out.splitlines() if line.endswith(("kept", "broken", "not distinguishable"))
        ]
        assert len(shown) == len(promises) > 0
        assert all(line.startswith("judged hits") for line in shown)


def embedder_promises(bundle):
    (variant,) = read_bundle(bundle).variants
    return tuple(Promise(**content) for content in variant.promises["32"])
