"""The range of the queries that a calibration was fitted on, and searches outside it."""

import json

import numpy as np
import pytest

from relsdk import Document, Embedder, Index, Searcher
from relsdk.calibration import QueryRange
from relsdk.errors import BundleError, InputError
from relsdk.formats import read_pairs
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_sample import generate, write


def test_percentiles_by_hand():
    tokens = [[5] * (1 + number // 10) for number in range(200)]  # 1 to 20 tokens, ten queries each
    tokens[0] = [7] * 90  # one in two hundred
    tokens[1] = [0, 0, 5, 5]
    tokens[2] = tokens[3] = [0, 5, 5, 5]
    found = QueryRange.of(tokens, 0, np.linspace(0.5, 0.9, 200))
    assert (found.fewest_tokens, found.most_tokens, found.most_unknown) == (1, 20, 0.25)
    assert found.least_cosine == pytest.approx(0.5 + 0.4 * 1.5 / 199, abs=0.4 / 199)


def test_what_is_outside_is_said_in_words():
    seen = QueryRange(3, 10, 0.2, 0.6)
    assert seen.outside([5] * 3, 0, 0.6) == seen.outside([5] * 10, None, None) == ()
    assert seen.outside([5, 5], 0, 0.9) == ("2 tokens, where the calibration had 3 to 10",)
    assert seen.outside([0] * 5 + [5] * 6, 0, 0.5) == (
        "11 tokens, where the calibration had 3 to 10",
        "45% of the tokens are not in the vocabulary, where the calibration had at most 20%",
        "the best cosine is 0.500, where the calibration had at least 0.600",
    )
    assert seen.outside([0] * 5, None, 0.7) == ()  # a vocabulary without a token for what it lacks


def test_one_cosine_for_each_query():
    with pytest.raises(InputError, match="one each"):
        QueryRange.of([[1], [2]], 0, [0.5])
    with pytest.raises(InputError, match="0 queries"):
        QueryRange.of([], 0, [])


@pytest.fixture(scope="module")
def calibrated(toy_bundle, tmp_path_factory):
    """A toy encoder with levels and an index; the range of its queries."""
    import shutil

    folder = tmp_path_factory.mktemp("range")
    bundle = shutil.copytree(toy_bundle, folder / "bundle")
    world = write(generate(seed=3, n_documents=100, n_queries=40, pairs_per_query=8), folder / "world")
    (report,) = calibrate_bundle(bundle, list(read_pairs(world / "pairs_train.jsonl")), variants=["fp32"])
    documents = [Document(f"d{number}", f"红烧肉的做法 {number}") for number in range(20)]
    Index.build(folder / "index", documents, Embedder(bundle, variant="fp32"))
    return bundle, folder / "index", report.query_range


def test_calibrate_records_it_and_searches_tell(calibrated):
    bundle, path, seen = calibrated
    embedder = Embedder(bundle, variant="fp32")
    assert embedder.query_range == seen
    searcher = Searcher(embedder, Index.open(path))
    short, long = searcher.search_batch(["红烧肉怎么做", "红烧肉" * 60])
    assert not any("tokens, where" in one for one in short.outside)
    assert any("tokens, where the calibration had" in one for one in long.outside)
    assert long.outside == searcher.search("红烧肉" * 60).outside
    assert searcher.search("红烧肉" * 60, mode="lexical").outside == ()


def test_without_levels_nothing_is_said(toy_bundle, calibrated):
    searcher = Searcher(Embedder(toy_bundle, variant="fp32"), Index.open(calibrated[1]))
    assert searcher.embedder.query_range is None
    assert searcher.search("红烧肉" * 60).outside == ()


def test_query_says_it(relsdk, calibrated):
    bundle, path, _ = calibrated
    options = ["query", path, "红烧肉" * 60, "-m", bundle, "--variant", "fp32"]
    code, _, err = relsdk(*options)
    assert code == 0
    assert "levels are less to be trusted for this query: " in err
    assert "label pairs of such queries and calibrate again" in err
    answer = json.loads(relsdk(*options, "--json")[1])
    assert answer["outside"]
    assert all(one in err for one in answer["outside"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"most_unknown": 1.5}, "query_range.most_unknown"),
        ({"fewest_tokens": "x"}, "query_range.fewest_tokens"),
        (None, "query_range"),
    ],
)
def test_damaged_content_is_refused(calibrated, tmp_path, change, reason):
    import shutil

    bundle = shutil.copytree(calibrated[0], tmp_path / "bundle")
    content = json.loads((bundle / "relsdk.json").read_text())
    content.pop("checksum", None)
    (variant,) = [one for one in content["variants"] if one["name"] == "fp32"]
    (report,) = variant["quality"]["calibration"].values()
    report["query_range"] = [] if change is None else {**report["query_range"], **change}
    (bundle / "relsdk.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=reason):
        Embedder(bundle, variant="fp32")
