"""Searches with a promised precision: what is stored, what is kept, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.bundle import read_bundle
from relsdk.calibration import HybridLink, Promise
from relsdk.cli._promises import warn_of_promises
from relsdk.errors import BundleError, CalibrationError, IndexFolderError, InputError
from relsdk.formats import write_documents
from relsdk.index.opening import open_store
from relsdk.models.bi_encoder import BiEncoder
from relsdk.models.relevance_scorer import grade
from relsdk.search._promised import choose_promise, promises_of_model
from relsdk.tools.evaluation import calibrate_bundle
from relsdk.tools.hybrid_calibration import calibrate_hybrid
from relsdk_sample import generate
from tests.toy_store import use_toy_stores
from tests.toys import copy_bundle, read_description, write_description

TARGETS = [(1, 0.3), (1, 0.15), (3, 0.9)]


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=200, n_queries=60)


@pytest.fixture(scope="module")
def calibration(world, tmp_path_factory):
    """A bundle with promises, and the report."""
    folder = copy_bundle("encoder-bundle-v1", tmp_path_factory.mktemp("p") / "encoder", variants=["fp32"])
    (report,) = calibrate_bundle(folder, world.split("train"), targets=TARGETS)
    return folder, report


@pytest.fixture(scope="module")
def embedder(calibration):
    return Embedder(calibration[0], variant="fp32", threads=1)


@pytest.fixture(scope="module")
def index(embedder, world, tmp_path_factory):
    with Index.build(tmp_path_factory.mktemp("p") / "i", world.documents, embedder) as built:
        yield built


def above(hits, level, share):
    return [hit.document.id for hit in hits if sum(hit.probabilities[level:]) >= share]


def ids(hits):
    return [hit.document.id for hit in hits]


def test_what_is_promised_is_stored_and_is_so_on_the_pairs(calibration, embedder, world):
    folder, report = calibration
    strict, loose = report.promises
    assert [(one.level, one.precision, one.confidence) for one in report.promises] == [
        (1, 0.3, 0.95),
        (1, 0.15, 0.95),
    ]
    assert strict.threshold > loose.threshold
    (refusal,) = report.refusals
    assert "cannot show a precision of 0.9 for level >= 3" in refusal
    (variant,) = read_bundle(folder).variants
    assert variant.promises == {str(embedder.dimension): tuple(one.to_dict() for one in report.promises)}
    assert "promises" not in variant.quality["calibration"][str(embedder.dimension)]
    pairs = world.split("train")
    outputs = BiEncoder(embedder).outputs([(pair.query, pair.document) for pair in pairs])
    shares = grade(outputs, embedder.calibration).probabilities[:, 1:].sum(axis=1)
    right = np.array([pair.level >= 1 for pair in pairs])
    for one in report.promises:
        chosen = shares >= one.threshold
        assert one.pairs == chosen.sum()
        assert one.reached == pytest.approx(right[chosen].mean())
        assert one.recall == pytest.approx(right[chosen].sum() / right.sum())


def test_a_search_keeps_the_threshold(calibration, embedder, index, world):
    strict, loose = calibration[1].promises
    searcher = Searcher(embedder, index)
    shown = 0
    for query in world.queries[:10]:
        everything = searcher.search(query.text, k=200)
        for asked, promise in ((0.3, strict), (0.2, strict), (0.15, loose), (0.01, loose)):
            hits = searcher.search(query.text, k=200, min_level=1, min_precision=asked)
            assert ids(hits) == above(everything, 1, promise.threshold)
            assert hits.promise == promise
            shown += 0 < len(hits) < 200
        assert everything.promise is None
    assert shown > 10
    lexical = searcher.search(world.queries[0].text, k=200, mode="lexical", min_level=1, min_precision=0.3)
    found = searcher.search(world.queries[0].text, k=200, mode="lexical")
    assert ids(lexical) == above(found, 1, strict.threshold)


def test_what_is_not_promised_is_refused(calibration, embedder, index):
    searcher = Searcher(embedder, index)
    told = rf"promised are: 0\.3 for level >= 1, .*{calibration[0].name} PAIRS --target-precision"
    stay = "--target-precision 0.3 --target-precision 0.15"
    with pytest.raises(CalibrationError, match=f"{told} 0.5 {stay} --level 1$"):
        searcher.search("红烧肉", min_level=1, min_precision=0.5)
    with pytest.raises(CalibrationError, match=f"{told} 0.1 {stay} --level 2 --level 1$"):
        searcher.search("红烧肉", min_precision=0.1)
    with pytest.raises(InputError, match="min_level is 0"):
        searcher.search("红烧肉", min_level=0, min_precision=0.1)
    name = embedder.variant.name
    with pytest.raises(CalibrationError, match=f"is promised by {name} "):
        searcher.search("红烧肉", min_precision=0.1)
    for precision in (0.0, 1.0):
        with pytest.raises(InputError, match=f"min_precision={precision}; promises are of more than 0"):
            searcher.search("红烧肉", min_level=1, min_precision=precision)


def test_a_store_is_searched_by_the_encoders_promise(embedder, world, relsdk, tmp_path, monkeypatch):
    use_toy_stores(monkeypatch)
    write_documents(tmp_path / "d.jsonl", world.documents)
    uri, folder = f"milvus-lite:{tmp_path}/store#d", embedder.bundle.path
    code, _, err = relsdk(
        "index", "build", uri, "-m", folder, "--variant", "fp32", "-i", tmp_path / "d.jsonl"
    )
    assert code == 0, err
    store = open_store(uri)
    searcher, query = Searcher(embedder, store), world.queries[0].text
    promised = choose_promise(promises_of_model(embedder), 1, 0.3).threshold
    found = searcher.search(query, k=50, min_level=1, min_precision=0.3)
    assert ids(found) == above(searcher.search(query, k=50), 1, promised)
    assert 0 < len(found) < 50
    with pytest.raises(CalibrationError, match=r"--target-precision 0\.9 .* --level 2 --level 1$"):
        searcher.search(query, min_precision=0.9)
    store.close()


def test_to_calibrate_again_takes_promises_back(world, tmp_path):
    folder = copy_bundle("encoder-bundle-v1", tmp_path / "b", variants=["fp32"])
    pairs = world.split("train")
    calibrate_bundle(folder, pairs, targets=TARGETS[:1], truncate_dim=16)
    calibrate_bundle(folder, pairs, targets=TARGETS[:1], confidence=0.8)
    assert set(read_bundle(folder).variants[0].promises) == {"16", "32"}
    assert read_bundle(folder).variants[0].promises["32"][0]["confidence"] == 0.8
    calibrate_bundle(folder, pairs)
    assert set(read_bundle(folder).variants[0].promises) == {"16"}
    calibrate_bundle(folder, pairs, truncate_dim=16)
    assert "promises" not in read_description(folder)["variants"][0]  # as versions that know of none write it


def test_a_pool_has_its_own(world, embedder, index, tmp_path):
    bundle = copy_bundle("scorer-bundle-v1", tmp_path / "scorer", variants=["fp32"])
    (report,) = calibrate_bundle(bundle, world.split("train"), encoder=embedder, targets=[(1, 0.2)])
    searcher = Searcher(embedder, index, RelevanceScorer(bundle, encoder=embedder))
    query = world.queries[3].text
    (promise,) = report.promises
    assert searcher.search(query, min_level=1, min_precision=0.1).promise == promise
    everything = searcher.search(query, k=40)
    assert ids(searcher.search(query, k=40, min_level=1, min_precision=0.2)) == above(
        everything, 1, promise.threshold
    )
    hits = searcher.search(query, k=40, min_level=1, min_precision=0.2, budget_ms=1e-3)
    assert (list(hits), hits.scored) == ([], 0)  # what the scorer did not see is left out
    with pytest.raises(CalibrationError, match=r"--encoder .*encoder --target-precision 0\.9 .* --level 2"):
        searcher.search(query, min_precision=0.9)
    alone = Searcher(embedder, index, RelevanceScorer(bundle))
    with pytest.raises(CalibrationError, match=r"promised are: none.*scorer PAIRS --target-precision"):
        alone.search(query, min_precision=0.9)


@pytest.mark.parametrize("mode", ["hybrid", "lexical"])
def test_a_hybrid_model_has_its_own(world, embedder, index, tmp_path, mode):
    with Index.build(tmp_path / "i", world.documents, embedder) as own:
        link, report = calibrate_hybrid(own, embedder, world.split("train"), targets=[(1, 0.3), (3, 0.99)])
        (promise,) = link.promises
        assert "0.99 for level >= 3" in report.refusals[0]
        own.store_hybrid({"fp32": link})
        assert own.hybrid_models == {"fp32": link}
        searcher = Searcher(embedder, own, mode=mode)
        query = world.queries[1].text
        hits = searcher.search(query, k=200, min_level=1, min_precision=0.3)
        assert ids(hits) == above(searcher.search(query, k=200), 1, promise.threshold)
        assert hits.promise == promise
        with pytest.raises(CalibrationError, match=rf"PAIRS --index {own.path} --target-precision 0\.4"):
            searcher.search(query, min_level=1, min_precision=0.4)


PROMISE = Promise(2, 0.9, 0.95, 0.7, 0.5, 0.93, 300, 100).to_dict()


@pytest.mark.parametrize(
    ("promises", "message"),
    [
        ({"32": [{**PROMISE, "threshold": 1.5}]}, r"promises\.32.*threshold"),
        ({"32": [{**PROMISE, "level": 0}]}, r"promises\.32.*level"),
        ({"32": [{**PROMISE, "more": 1}]}, "unknown key 'more'"),
        ({"32": [{key: PROMISE[key] for key in list(PROMISE)[:3]}]}, r"promises\.32.*threshold"),
        ({"32": 3}, "promises"),
        ({"16": [PROMISE]}, r"promises\.16 has no calibration"),
    ],
)
def test_a_damaged_bundle_is_refused(world, tmp_path, promises, message):
    folder = copy_bundle("encoder-bundle-v1", tmp_path / "b", variants=["fp32"])
    content = read_description(folder)
    link = {"method": "cumulative_link", "transform": "identity", "slope": 1.0, "cuts": [0.0, 1.0, 2.0]}
    content["variants"][0] |= {"calibrations": {"32": link}, "promises": {"32": [PROMISE]}}
    write_description(folder, content)
    assert read_bundle(folder).variants[0].promises == {"32": (PROMISE,)}
    content["variants"][0]["promises"] = promises
    write_description(folder, content)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


def test_a_damaged_index_is_refused(world, embedder, tmp_path):
    from relsdk.index._hybrid_file import load_hybrid

    with Index.build(tmp_path / "i", world.documents[:20], embedder) as index:
        index.store_hybrid({"fp32": HybridLink(8.0, 2.0, (2.0, 4.0, 6.0), (Promise(**PROMISE),))})
        (path,) = (tmp_path / "i").rglob("hybrid.json")
        content = json.loads(path.read_text())
        content["models"]["fp32"]["promises"][0]["threshold"] = -1
        path.write_text(json.dumps(content))
        with pytest.raises(IndexFolderError, match=r"promises\[0\]\.threshold.*relsdk calibrate"):
            load_hybrid(path.parent, index._open().manifest)


def test_the_command_line(relsdk, world, calibration, index, tmp_path):
    folder = copy_bundle("encoder-bundle-v1", tmp_path / "b", variants=["fp32"])
    lines = [
        {"query": p.query, "title": p.document.title, "text": p.document.text, "label": int(p.level)}
        for p in world.split("train")
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = ("query", index.path, world.queries[1].text, "--model", folder)
    ask = (*asked, "-k", "50", "--min-precision", "0.3")
    wanted = ("--target-precision", "0.3", "--target-precision", "0.15", "--level", "1", "--level", "3")
    arguments = ("calibrate", folder, tmp_path / "pairs.jsonl", *wanted)
    code, _, err = relsdk(*arguments[:3])
    assert code == 0, err
    code, _, err = relsdk(*ask, "--min-level", "1")
    assert code == 2
    assert f"run: relsdk calibrate {folder} PAIRS --target-precision 0.3 --level 1" in err
    code, out, err = relsdk(*arguments, "--json")
    assert code == 0, err
    (report,) = json.loads(out)["calibrations"]
    assert report["promises"] == [one.to_dict() for one in calibration[1].promises]
    assert len(report["refusals"]) == 2
    assert "fp32, 32 dim: 672 labelled pairs cannot show a precision of 0.3 for level >= 3" in err
    code, out, err = relsdk(*arguments)
    following = '"..." --min-level 1 --min-precision 0.3'
    assert f"next: relsdk query INDEX {following}, or relsdk eval {folder} PAIRS" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("fp32, 32 dim")]
    assert [row[3:6] for row in rows] == [["1", "30.00", "95.00"], ["1", "15.00", "95.00"]]
    code, out, _ = relsdk("model", "info", folder)
    assert [line.split() for line in out.splitlines() if line.startswith("fp32, 32 dim")] == rows
    code, out, err = relsdk(*ask, "--min-level", "1", "--json")
    assert code == 0, err
    found = Searcher(Embedder(folder, variant="fp32"), index).search(
        world.queries[1].text, k=50, min_level=1, min_precision=0.3
    )
    assert [hit["id"] for hit in json.loads(out)["hits"]] == ids(found)
    assert json.loads(out)["promise"] == calibration[1].promises[0].to_dict()
    for bad in (["--confidence", "1"], ["--target-precision", "1"]):
        code, _, err = relsdk(*arguments, *bad)
        assert code == 2
        assert "is not in the range" in err
    code, _, err = relsdk("calibrate", folder, tmp_path / "pairs.jsonl", "--level", "1")
    assert code == 2
    assert "go together" in err
    code, _, err = relsdk("calibrate", folder, tmp_path / "pairs.jsonl", "--confidence", "0.9")
    assert code == 2
    assert "add, say, --target-precision 0.9 --level 2" in err
    code, _, err = relsdk(*ask, "--min-level", "1", "--mode", "hybrid")
    following = f"--index {index.path} --target-precision 0.3 --target-precision 0.15 --level 1"
    assert f"run: relsdk calibrate BUNDLE PAIRS {following}\n" in err
    code, out, err = relsdk(*arguments[:3], "--index", index.path)
    assert code == 0, err
    lost = "what the bundle promises (0.3 for level >= 1, 0.15 for level >= 1) does not hold any more"
    assert lost in err
    assert f"run: relsdk calibrate {folder} PAIRS {following}\n" in err
    code, out, err = relsdk(*arguments, "--index", index.path, "--json")
    assert "the bundle promises" not in err
    assert code == 0, err
    (report,) = json.loads(out)["calibrations"]
    made = [(one["level"], one["precision"]) for one in report["model"]["promises"]]
    assert made[:2] == [(1, 0.3), (1, 0.15)]
    assert len(made) + len(report["refusals"]) == 4
    code, out, err = relsdk(*ask, "--min-level", "1", "--mode", "hybrid")
    assert code == 0, err
    assert "promised to be 30% of level 1 or above" in out


def test_the_promise_that_was_used_is_named_and_said_not_to_hold_outside(
    relsdk, calibration, index, world, tmp_path
):
    folder, report = calibration
    strict, loose = report.promises
    long = "红烧肉" * 60
    (tmp_path / "q.txt").write_text(f"{world.queries[1].text}\n{long}\n")
    ask = ("query", index.path, "-i", tmp_path / "q.txt", "-m", folder, "--min-level", "1")
    code, out, err = relsdk(*ask, "--min-precision", "0.2", "--json")
    assert code == 0, err
    inside, outside = map(json.loads, out.splitlines())
    assert inside["promise"] == outside["promise"] == strict.to_dict()
    assert (inside["outside"] == [], outside["outside"] == []) == (True, False)
    code, out, err = relsdk(*ask, "--min-precision", "0.1")
    assert code == 0, err
    above = f"P(level >= 1) >= {loose.threshold:.4f}"
    first, second = (line for line in out.splitlines() if line.startswith(("1  ", "2  ")) and " ms" in line)
    assert f"promised to be 15% of level 1 or above, with confidence 0.95: {above}, " in first
    assert f" with {above}, without a promise for this query, " in second
    assert "promised to be" not in second
    told = f"this query, and the promised precision does not hold for it: {outside['outside'][0]}"
    assert told in err
    code, _, err = relsdk(*ask, "--min-precision", "0.1", "--format", "trec")
    assert [line.partition(":")[0] for line in err.splitlines() if told in line] == ["2"]
    assert relsdk(*ask, "--format", "trec")[2] == ""
    code, out, err = relsdk(*ask, "--json")
    assert [json.loads(line)["promise"] for line in out.splitlines()] == [None, None]


def test_a_threshold_that_leaves_hardly_any_out_is_told(capsys):
    promise = Promise(2, 0.6, 0.95, 0.05, 0.99, 0.62, 900, 200)
    warn_of_promises([("fp32", promise), ("int8_any", replace(promise, recall=0.9))])
    told = capsys.readouterr().err
    assert "fp32: the pairs have 0.6 for level >= 2 by themselves" in told
    assert "int8_any" not in told


def test_a_corrected_calibration_promises_for_what_is_not_labelled(world, tmp_path):
    """Each labelled pair counts by how frequent its level is there."""
    folder = copy_bundle("encoder-bundle-v1", tmp_path / "b", variants=["fp32"])
    pairs = world.split("train")
    traffic = [(p.query, p.document) for p in pairs if p.level < 2 or p.query < pairs[0].query]
    (report,) = calibrate_bundle(folder, pairs, targets=[(1, 0.05)], unlabelled=traffic)
    (promise,) = report.promises
    model = BiEncoder(Embedder(folder, variant="fp32", threads=1))
    outputs = model.outputs([(pair.query, pair.document) for pair in pairs])
    chosen = grade(outputs, model.calibration).probabilities[:, 1:].sum(axis=1) >= promise.threshold
    levels = np.array([int(pair.level) for pair in pairs])
    weights = (np.array(report.level_shares.after) / np.array(report.level_shares.labelled))[levels]
    right = levels >= 1
    assert promise.pairs == chosen.sum()
    assert promise.reached == pytest.approx((weights * right)[chosen].sum() / weights[chosen].sum())
    assert promise.recall == pytest.approx((weights * right)[chosen].sum() / (weights * right).sum())
