"""Promised precisions over HTTP, of several indexes in one server: each has those of its own model."""

import shutil

import pytest

from relsdk import Embedder, Index, Searcher
from relsdk.client import Client
from relsdk.tools.evaluation import calibrate_bundle
from relsdk.tools.hybrid_calibration import calibrate_hybrid
from relsdk_sample import generate
from relsdk_serve._catalogue import open_catalogue
from relsdk_serve._settings import Settings
from tests.serve.servers import documents, post, served
from tests.toys import copy_bundle

ASKED = {"query": "红烧肉怎么做", "k": 40, "min_level": 1}


@pytest.fixture(scope="module")
def folders(encoder, index_folder, tmp_path_factory):
    """Indexes of the same documents: of a promise of 0.2, of one of 0.1, and with a hybrid model of 0.15."""
    folder = tmp_path_factory.mktemp("promises")
    pairs = generate(seed=5, n_documents=200, n_queries=60).split("train")
    other = copy_bundle("encoder-bundle-v1", folder / "other")
    calibrate_bundle(other, pairs[::2], targets=[(1, 0.1)])
    Index.build(folder / "other.idx", documents(), Embedder(other)).close()
    embedder = Embedder(encoder)
    with Index.build(folder / "hybrid.idx", documents(), embedder) as index:
        link, _ = calibrate_hybrid(index, embedder, pairs, targets=[(1, 0.15)])
        index.store_hybrid({embedder.variant.name: link})
    return {"toy": index_folder, "other": folder / "other.idx", "hybrid": folder / "hybrid.idx"}, other


@pytest.mark.parametrize("named", [True, False])
def test_each_index_keeps_the_promise_of_its_own_model(encoder, folders, named):
    """Also of copies of one model that were calibrated apart, whether they are named or found."""
    paths, other = folders
    settings = Settings(
        models={"encoder": str(encoder), "other": str(other)} if named else {},
        indexes={name: str(path) for name, path in paths.items()},
        workers=2,
    )
    with served(settings) as server:
        for name, mode, precision in (
            ("toy", "dense", 0.2),
            ("other", "dense", 0.1),
            ("hybrid", "dense", 0.2),
            ("hybrid", "hybrid", 0.15),
        ):
            with Index.open(paths[name]) as index:
                searcher = Searcher(Embedder(other if name == "other" else encoder), index)
                expected = searcher.search(
                    ASKED["query"], 40, min_level=1, min_precision=precision, mode=mode
                )
            answer = post(
                server.http,
                "/v1/search",
                {**ASKED, "index": name, "mode": mode, "min_precision": precision},
            )
            assert answer["promise"] == expected.promise.to_dict()
            assert answer["promise"]["precision"] == precision
            (result,) = answer["results"]
            assert [hit["id"] for hit in result["hits"]] == [hit.document.id for hit in expected]
            assert answer["model"] == ("other" if name == "other" else "encoder")
        with Client(server.url) as client:
            told = client.info()
        made = {one.name: [promise.precision for promise in one.promises] for one in told.indexes}
        assert made == {"toy": [], "other": [], "hybrid": [0.15]}
        made = {one.id: [promise.precision for promise in one.promises] for one in told.models}
        assert made == {"encoder": [0.2], "other": [0.1]}
        body = {"queries": [ASKED["query"], "红烧肉" * 60], "min_level": 1, "index": "toy"}
        for asked in ({}, {"min_precision": 0.2}):
            inside, outside = post(server.http, "/v1/search", {**body, **asked})["results"]
            assert inside["warnings"] == inside["outside"] == []
            (told,) = outside["warnings"]
            assert outside["outside"][0] in told
            assert ("the promised precision does not hold for it" in told) == bool(asked)
        refused = post(server.http, "/v1/search", {**ASKED, "index": "other", "min_precision": 0.2}, 400)[
            "message"
        ]
        assert "promised are: 0.1 for level >= 1" in refused
        told = "other PAIRS --target-precision 0.2 --target-precision 0.1 --level 1; then restart the server"
        assert refused.endswith(told)
        percent = post(server.http, "/v1/search", {**ASKED, "index": "toy", "min_precision": 80}, 400)
        assert "min_precision" in percent["message"]
        assert "0.8, not 80" in percent["message"]
        body = {**ASKED, "index": "hybrid", "mode": "hybrid", "min_precision": 0.2}
        refused = post(server.http, "/v1/search", body, 400)["message"]
        assert "promised are: 0.15 for level >= 1" in refused
        # a new generation of an index is seen without a restart
        assert refused.endswith("--index hybrid --target-precision 0.2 --target-precision 0.15 --level 1")


def test_an_index_whose_bundle_is_gone_takes_a_copy(encoder, tmp_path):
    """The noted one comes first, then one that is named; folders of one name are told apart."""
    places = [tmp_path / name / "model" for name in "abc"]
    for place in places:
        copy_bundle("encoder-bundle-v1", place, variants=["fp32"])
        Index.build(place.parent / "i", documents(5), Embedder(place)).close()
    indexes = {place.parent.name: str(place.parent / "i") for place in places}

    def models(**named):
        found = open_catalogue(Settings(models=named, indexes=indexes)).indexes
        return {name: (one.model.name, one.model.encoder.path) for name, one in found.items()}

    a, b, c = places
    assert models() == {"a": ("model", a), "b": ("model-32", b), "c": ("model-32-2", c)}
    assert models(x=str(a), y=str(b)) == {"a": ("x", a), "b": ("y", b), "c": ("x", a)}
    shutil.rmtree(b)
    assert models() == {"a": ("model", a), "b": ("model", a), "c": ("model-32", c)}
    assert models(y=str(c)) == {"a": ("y", c), "b": ("y", c), "c": ("y", c)}
