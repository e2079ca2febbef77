"""`relsdk eval --plot`: reliability diagrams."""

import json
import sys

import numpy as np
import pytest

from relsdk.cli._reliability_plot import plot_reliability
from relsdk.metrics import ranking_report, reliability_curves
from relsdk.tools.evaluation import Evaluation
from relsdk_sample import generate, write


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write(
        generate(seed=3, n_documents=100, n_queries=40, pairs_per_query=8),
        tmp_path_factory.mktemp("world") / "w",
    )


def test_diagrams_and_their_numbers(relsdk, fails, toy_bundle_copy, world, tmp_path):
    pytest.importorskip("matplotlib")
    pairs, picture = world / "pairs_train.jsonl", tmp_path / "levels.png"
    options = [toy_bundle_copy, pairs, "--variant", "fp32"]
    refused = fails("eval", *options, "--plot", picture)
    assert "fp32 has no levels to plot" in refused
    assert not picture.exists()
    assert relsdk("calibrate", *options)[0] == 0
    code, out, _ = relsdk("eval", *options, "--plot", picture, "--json")
    assert code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    (evaluated,) = json.loads(out)
    assert len(evaluated["reliability"]) == 4
    grading = evaluated["grading"]
    errors = [grading["debiased_ece"], *grading["debiased_ece_at_least"]]
    for curve, error in zip(evaluated["reliability"], errors, strict=True):
        assert sum(one["pairs"] for one in curve) == grading["pairs"]
        gaps = [one["pairs"] * abs(one["share"] - one["confidence"]) for one in curve]
        assert sum(gaps) / grading["pairs"] == pytest.approx(error["ece"])


@pytest.mark.parametrize(("ending", "start"), [("pdf", b"%PDF"), ("SVG", b"<?xml"), ("", b"\x89PNG")])
def test_the_ending_names_the_format(tmp_path, ending, start):
    pytest.importorskip("matplotlib")
    levels = np.arange(40) % 4
    probabilities = np.full((40, 4), 0.25)
    curves = reliability_curves(levels, probabilities, list(range(40)))
    ranking = ranking_report(list(range(40)), levels, levels)
    target = tmp_path / f"levels.{ending}".rstrip(".")
    plot_reliability([Evaluation("m", "fp32", 8, ranking, None, reliability=curves)], target)
    assert target.read_bytes().startswith(start)


def test_a_format_that_is_not_drawn_is_refused(fails, toy_bundle_copy, tmp_path):
    error = fails("eval", toy_bundle_copy, "pairs.jsonl", "--plot", tmp_path / "p.xyz")
    assert ".xyz is not the format that is written; end the name with .png, .pdf, .svg" in error


def test_what_does_not_go_together(fails, toy_bundle_copy, tmp_path):
    target = tmp_path / "p.png"
    assert "leave out --run" in fails("eval", "--run", "run.txt", "qrels.txt", "--plot", target)
    absent = tmp_path / "no" / "p.png"
    assert "is no folder" in fails("eval", toy_bundle_copy, "pairs.jsonl", "--plot", absent)


def test_without_matplotlib_the_error_says_what_to_install(relsdk, toy_bundle_copy, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = relsdk("eval", toy_bundle_copy, "pairs.jsonl", "--plot", tmp_path / "p.png")
    assert code != 0
    assert "pip install 'relsdk[bench]'" in err
