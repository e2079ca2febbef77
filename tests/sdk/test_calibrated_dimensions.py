"""All dimensions that an encoder was trained to be cut to are calibrated from one run of the model."""

import json

import pytest

from relsdk import Embedder, Index, RelevanceScorer, Searcher
from relsdk.bundle import read_bundle
from relsdk.errors import CalibrationError, InputError
from relsdk.formats import write_pairs
from relsdk.tools.evaluation import calibrate_bundle
from relsdk_sample import generate
from tests.bundle_changes import read_description, write_description
from tests.toys import copy_bundle

DIMENSIONS = [16, 32]


@pytest.fixture(scope="module")
def world():
    return generate(seed=5, n_documents=150, n_queries=30, pairs_per_query=8)


def make_bundle(folder, *, name="encoder-bundle-v1", dimensions=(), **settings):
    copy_bundle(name, folder, variants=["fp32"])
    content = read_description(folder)
    content["settings"] |= {"matryoshka_dims": list(dimensions), **settings}
    write_description(folder, content)
    return folder


def calibrations(folder):
    (variant,) = read_bundle(folder).variants
    return dict(variant.calibrations), variant.quality["calibration"]


@pytest.mark.filterwarnings("ignore:.*does not normalise")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param("encoder-bundle-v1", {}, marks=pytest.mark.slow),
        pytest.param("encoder-bundle-v1", {"normalize": False}, marks=pytest.mark.slow),
        ("encoder-bundle-v1", {"truncate_dim": 16}),
        ("tower-bundle-v1", {}),
    ],
)
def test_they_are_those_of_one_run_each(tmp_path, world, name, settings, monkeypatch):
    runs = []
    encode = Embedder.encode
    monkeypatch.setattr(Embedder, "encode", lambda self, *a, **o: runs.append(0) or encode(self, *a, **o))
    together = make_bundle(tmp_path / "together", name=name, dimensions=DIMENSIONS, **settings)
    reports = calibrate_bundle(together, world.split("train"))
    assert len(runs) == 2  # queries and documents
    own = settings.get("truncate_dim", 32)
    assert [report.dimension for report in reports] == [own, *sorted({*DIMENSIONS} - {own}, reverse=True)]
    alone = make_bundle(tmp_path / "alone", name=name, **settings)
    for dimension in DIMENSIONS:
        calibrate_bundle(alone, world.split("train"), truncate_dim=None if dimension == own else dimension)
    assert calibrations(together) == calibrations(alone)  # to the last bit


def test_one_is_calibrated_where_it_is_asked_for(tmp_path, world):
    folder = make_bundle(tmp_path / "b", dimensions=DIMENSIONS)
    (report,) = calibrate_bundle(folder, world.split("train"), truncate_dim=16)
    assert report.dimension == 16
    assert set(calibrations(folder)[0]) == {"16"}


def test_the_command_tells_each_and_a_cut_index_has_levels(tmp_path, world, relsdk):
    folder = make_bundle(tmp_path / "b", dimensions=DIMENSIONS)
    write_pairs(tmp_path / "pairs.jsonl", world.split("train"))
    code, out, _ = relsdk("calibrate", folder, tmp_path / "pairs.jsonl", "--json")
    assert code == 0
    assert [report["dimension"] for report in json.loads(out)["calibrations"]] == [32, 16]
    short = Embedder(folder, truncate_dim=16)
    with Index.build(tmp_path / "i", world.documents[:20], short) as index:
        assert Searcher(short, index).search(world.queries[0].text)[0].level is not None


def test_the_command_names_a_dimension_that_is_not_the_usual_one(tmp_path, world):
    folder = make_bundle(tmp_path / "b", dimensions=[16])
    scorer = copy_bundle("scorer-bundle-v1", tmp_path / "scorer", variants=["fp32"])
    calibrate_bundle(folder, world.split("train"), truncate_dim=8)
    for dimension, option in ((8, " --dim 8"), (16, ""), (32, "")):
        embedder = Embedder(folder, truncate_dim=dimension, threads=1)
        with Index.build(tmp_path / f"{dimension}.idx", world.documents[:20], embedder) as index:
            searcher = Searcher(embedder, index)
            told = "PAIRS --dim 8 --target-precision 0.9 --level 2$" if dimension == 8 else f"PAIRS{option}$"
            with pytest.raises(CalibrationError, match=told):
                searcher.search("红烧肉", min_precision=0.9)
        pooled = option or ("" if dimension == 32 else f" --dim {dimension}")
        with pytest.raises(CalibrationError, match=f"PAIRS --encoder {folder}{pooled}$"):
            RelevanceScorer(scorer, encoder=embedder)


def test_what_cannot_be_promised_is_refused_before_a_model_runs(tmp_path, world, monkeypatch):
    folder = make_bundle(tmp_path / "b")
    monkeypatch.setattr(Embedder, "encode", None)
    for targets, confidence, name in (([(4, 0.9)], 0.95, "level"), ([(2, float("nan"))], 0.95, "precision")):
        with pytest.raises(InputError, match=f"{name}="):
            calibrate_bundle(folder, world.split("train"), targets=targets, confidence=confidence)
