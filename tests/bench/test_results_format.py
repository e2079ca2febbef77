"""Results as data: summaries against other libraries, comparison of runs, report, command line."""

import functools
import json
import sys

import numpy as np
import pytest
import scipy.stats

from bench.harness.interleave import Contender, Plan, measure
from bench.results_format import compare_results, draw_figures, markdown_report, read_results
from bench.results_format.compare import MIN_ROUNDS, differences_of_header
from bench.results_format.statistics import (
    Estimate,
    Noise,
    median_estimate,
    median_ratio,
    noise_of,
    percentiles,
)
from relsdk.errors import InputError, MissingExtraError
from tests.bench.test_interleave import FakeClock

PLAN = Plan(rounds=15, calls=8)


@functools.cache  # a second of bootstraps each, and many tests look at the same run
def rows_of(seed, ours=1.0, machine=1.0, jitter=0.03):
    """Rows of one simulated run: a build, a peer and the yardstick on a machine with jitter."""
    clock, rng = FakeClock(), np.random.default_rng(seed)

    def takes(milliseconds):
        return clock.costs(lambda _: milliseconds * 1e-3 * machine * float(rng.lognormal(0, jitter)))

    contenders = [
        Contender("relsdk int8", takes(4.0 * ours), role="ours", quality={"cosine_to_fp32": 0.999}),
        Contender("fastembed int8", takes(4.4)),
        Contender("numpy products", takes(1.0), role="yardstick"),
    ]
    return [
        row
        for tokens in (8, 16)
        for row in measure(
            "encode_query",
            f"{tokens} tokens",
            contenders,
            PLAN,
            parameters={"tokens": tokens, "cold": False},
            unit="queries",
            clock=clock,
        )
    ]


def write(path, rows, **header):
    machine = {"cpu": "a CPU", "cpus": 2, "commit": "abc", "date": "2026-01-01", "versions": {"numpy": "2"}}
    content = {
        "format": "relsdk-bench",
        "version": 1,
        "header": {"machine": machine, "threads": 1, "model": {"name": "m", "fingerprint": "f"}, **header},
        "warnings": [],
        "rows": rows,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def run_file(tmp_path):
    """Write a simulated run and return its path."""
    return lambda name, seed, **options: write(tmp_path / f"{name}.json", rows_of(seed, **options))


def verdicts(before, after, **options):
    changes = compare_results(read_results(before), read_results(after), **options)
    return {(c.case, c.contender): c.verdict for c in changes}


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).lognormal(size=997)
    found = percentiles(values)
    assert list(found) == ["p50", "p90", "p95", "p99"]
    np.testing.assert_allclose(list(found.values()), np.percentile(values, [50, 90, 95, 99]))


def test_the_median_and_its_interval_are_scipys():
    values = np.random.default_rng(1).lognormal(size=60)
    expected = scipy.stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    found = median_estimate(values)
    assert found.median == np.median(values)
    assert found.low == pytest.approx(expected.low, rel=0.05)
    assert found.high == pytest.approx(expected.high, rel=0.05)


def test_the_ratio_of_medians_and_its_interval_are_scipys():
    rng = np.random.default_rng(3)
    a, b = rng.lognormal(0.2, 0.3, size=40), rng.lognormal(0.0, 0.3, size=50)
    expected = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.median(x, axis=axis) / np.median(y, axis=axis),
        method="percentile",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(4),
    ).confidence_interval
    found = median_ratio(a, b)
    assert found.median == pytest.approx(np.median(a) / np.median(b))
    assert found.low == pytest.approx(expected.low, rel=0.03)
    assert found.high == pytest.approx(expected.high, rel=0.03)


def test_noise_by_hand():
    assert noise_of([2.0] * 6, [2.0] * 6) == Noise(1.0, 1.0, 0.0)
    found = noise_of([1.0] * 6, [1.25] * 6)
    assert (found.low, found.high) == (1.25, 1.25)
    assert found.floor == pytest.approx(0.25)
    assert found.drowns(Estimate(1.3, 1.2, 1.4))
    assert not found.drowns(Estimate(1.3, 1.26, 1.4))
    assert not found.drowns(Estimate(0.7, 0.6, 0.79))


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_samples_that_mean_nothing(values):
    with pytest.raises(InputError, match=r"no sample|NaN"):
        percentiles(values)


def test_wrong_samples_are_named():
    with pytest.raises(InputError, match="above 0"):
        median_ratio([1.0], [0.0])
    with pytest.raises(InputError, match="2 rounds of one and 1"):
        noise_of([1.0, 1.0], [1.0])


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
def test_two_runs_of_the_same_build_are_no_change(run_file, seed):
    found = verdicts(run_file("a", seed), run_file("b", seed + 100))
    assert set(found.values()) == {"noise"}
    assert len(found) == 4  # the yardstick is not judged


@pytest.mark.parametrize("factor", [1.25, 3.0])
def test_a_slower_build_is_a_regression_and_a_faster_one_an_improvement(run_file, factor):
    before, after = run_file("a", 0), run_file("b", 1, ours=factor)
    found = verdicts(before, after)
    back = verdicts(after, before)
    for tokens in (8, 16):
        assert found[f"{tokens} tokens", "relsdk int8"] == "regression"
        assert found[f"{tokens} tokens", "fastembed int8"] == "noise"
        assert back[f"{tokens} tokens", "relsdk int8"] == "improvement"


def test_a_slower_machine_is_no_regression(run_file):
    before, after = read_results(run_file("a", 0)), read_results(run_file("b", 1, machine=1.6))
    changes = compare_results(before, after)
    assert {change.verdict for change in changes} == {"noise"}
    assert changes[0].ratio.median == pytest.approx(1.6, rel=0.05)
    assert changes[0].adjusted.median == pytest.approx(1.0, rel=0.05)
    assert changes[0].reason == "the yardstick moved as well"


@pytest.mark.slow
def test_noise_of_the_run_is_the_floor(run_file):
    """10 % slower cannot be told where identical contenders differ by more."""
    quiet = verdicts(run_file("a", 0, jitter=0.01), run_file("b", 1, ours=1.15, jitter=0.01))
    loud = verdicts(run_file("c", 0, jitter=0.9), run_file("d", 1, ours=1.15, jitter=0.9))
    assert quiet["8 tokens", "relsdk int8"] == "regression"
    assert loud["8 tokens", "relsdk int8"] == "noise"
    still = verdicts(run_file("e", 0, jitter=0.01), run_file("f", 1, ours=1.15, jitter=0.01), min_floor=0.3)
    assert still["8 tokens", "relsdk int8"] == "noise"


def test_few_rounds_say_nothing(run_file):
    paths = [run_file("a", 0), run_file("b", 1, ours=9.0)]
    for path in paths:
        content = json.loads(path.read_text())
        for row in content["rows"]:
            row["round_medians_ms"] = row["round_medians_ms"][: MIN_ROUNDS - 1]
        path.write_text(json.dumps(content))
    changes = compare_results(*map(read_results, paths))
    assert {change.reason for change in changes} == {f"fewer than {MIN_ROUNDS} rounds"}


def memory_row(resident):
    times = dict.fromkeys(("p50_ms", "p90_ms", "p95_ms", "p99_ms"), 1.0)
    series = {"calls": [0, 500, 1000], "mb": [resident * 0.9, resident, resident]}
    memory = {"resident_mb": resident, "growth_percent": 0.0, "series": series}
    return {
        "suite": "memory",
        "case": "c",
        "contender": "relsdk int8",
        "role": "ours",
        **times,
        "memory": memory,
    }


@pytest.mark.parametrize(
    ("resident", "verdict"), [(120.0, "regression"), (101.0, "noise"), (80.0, "improvement")]
)
def test_memory_is_judged_by_the_floor(tmp_path, resident, verdict):
    before, after = (
        write(tmp_path / "a.json", [memory_row(100.0)]),
        write(tmp_path / "b.json", [memory_row(resident)]),
    )
    (change,) = compare_results(read_results(before), read_results(after))
    assert (change.measure, change.verdict) == ("memory", verdict)


def test_nothing_in_common_is_an_error(tmp_path, run_file):
    other = write(tmp_path / "m.json", [memory_row(100.0)])
    with pytest.raises(InputError, match="no measured row in common"):
        compare_results(read_results(run_file("a", 0)), read_results(other))
    with pytest.raises(InputError, match="min_floor"):
        compare_results(read_results(other), read_results(other), min_floor=-1)


def test_what_makes_runs_hard_to_compare_is_said(tmp_path):
    a, b = write(tmp_path / "a.json", []), write(tmp_path / "b.json", [], threads=4)
    assert differences_of_header(read_results(a), read_results(a)) == []
    assert differences_of_header(read_results(a), read_results(b)) == [
        "not the same number of threads: 1 before, 4 after"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "no result of the benchmark suites"),
        (lambda c: c.update(version=9), "version 9"),
        (lambda c: c.update(rows={}), "rows: Expected `array`, got `object`"),
        (lambda c: c["rows"][0].pop("p99_ms"), r"rows\[0\]: Object missing required field `p99_ms`"),
        (lambda c: c["rows"][1].update(p50_ms="fast"), r"rows\[1\]\.p50_ms = 'fast': Expected `float`"),
        (
            lambda c: c["rows"][0].update(role="referee"),
            "'referee': allowed are 'ours', 'peer'",
        ),
        (lambda c: c["rows"][0].update(quality=[1]), "quality: Expected `object`"),
        (lambda c: c["rows"].append(c["rows"][0]), "two rows of encode_query / 8 tokens / relsdk int8"),
        (lambda c: c["rows"].insert(0, 3), r"rows\[0\] = 3: Expected `object`"),
        (lambda c: c["rows"][0].update(p50_ms=0), "p50_ms = 0: Expected `float` > 0"),
        (
            lambda c: c["rows"][0]["round_medians_ms"].append(-1),
            r"ms\[15\] = -1: Expected `float` > 0",
        ),
        (lambda c: c["rows"][0].update(noise={"floor": "x"}), r"noise\.floor = 'x': Expected `float`"),
        (
            lambda c: c["rows"][0].update(memory={"resident_mb": -5}),
            "resident_mb = -5: Expected `float` > 0",
        ),
        (lambda c: c["rows"][0].update(ratio={"to": "x"}), "ratio: Object missing required field `median`"),
        (lambda c: c["rows"][0].update(quality={"recall": "high"}), "quality.*: Expected `float`, got `str`"),
        (lambda c: c["header"].update(machine="x"), "machine, model, versions, protocol must be objects"),
    ],
)
def test_a_wrong_file_is_named(run_file, change, message):
    path = run_file("a", 0)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_results(path)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(InputError, match="is missing; name a file that the benchmark suites wrote"):
        read_results(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="is not readable JSON"):
        read_results(tmp_path / "a.json")


def search_rows():
    times = {"p50_ms": 1.0, "p90_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0}
    return [
        {
            **times,
            "suite": "index_search",
            "case": f"ef {ef}",
            "contender": name,
            "role": "ours" if name == "relsdk Index" else "peer",
            "throughput": 1e4 / ef,
            "quality": {"recall_at_10": 1 - 1 / ef},
            "parameters": {"documents": 10_000, "dimension": 64, "ef": ef},
        }
        for ef in (16, 64)
        for name in ("relsdk Index", "hnswlib")
    ]


def test_the_report_has_every_row_and_picture(tmp_path):
    rows = [*rows_of(0), *search_rows(), memory_row(100.0)]
    results = [read_results(write(tmp_path / "all.json", rows, peers={"faiss": "absent (not importable)"}))]
    figures = draw_figures(results, tmp_path)
    assert [path.name for path in figures] == [
        "latency_distributions.png",
        "recall_against_qps.png",
        "latency_against_length.png",
        "memory_over_time.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    text = markdown_report(results, figures)
    assert "faiss absent (not importable)" in text
    assert "### Encode one query" in text
    assert "| 8 tokens | **relsdk int8** |" in text
    assert "| ef 64 | hnswlib |" in text
    assert "numpy products" not in text
    assert all(f"]({path.name})" in text for path in figures)
    assert draw_figures([read_results(write(tmp_path / "none.json", []))], tmp_path) == []


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"relsdk\[bench\]"):
        draw_figures([], tmp_path)


def command(name, *arguments):
    from click.testing import CliRunner

    from bench.results_format import __main__ as bench_results

    return CliRunner().invoke(getattr(bench_results, name), [str(argument) for argument in arguments])


def test_compare_ends_with_1_on_a_regression_only(run_file):
    same = command("compare", run_file("a", 0), run_file("b", 1))
    assert (same.exit_code, "regression: 0, improvement: 0, noise: 4" in same.stdout) == (0, True)
    slower = command("compare", run_file("a", 0), run_file("c", 2, ours=1.5))
    assert slower.exit_code == 1
    assert "regression: 2, improvement: 0, noise: 2" in slower.stdout
    own = command("compare", run_file("a", 0), run_file("c", 2, ours=1.5), "--ours", "--json")
    assert own.exit_code == 1
    assert [change["verdict"] for change in json.loads(own.stdout)] == ["regression"] * 2
    faster = command("compare", run_file("c", 2, ours=1.5), run_file("a", 0))
    assert faster.exit_code == 0


def test_a_row_that_is_not_measured_any_more_is_told(run_file, tmp_path):
    path = run_file("b", 1)
    content = json.loads(path.read_text())
    ours = next(row for row in content["rows"] if row["role"] == "ours")
    ours["round_medians_ms"] = []
    path.write_text(json.dumps(content))
    for options in ([], ["--json"]):
        found = command("compare", run_file("a", 0), path, *options)
        assert found.exit_code == 1
        assert "not measured any more: encode_query / 8 tokens / relsdk int8" in found.stderr
    content["rows"].remove(ours)
    path.write_text(json.dumps(content))
    assert command("compare", run_file("a", 0), path).exit_code == 1


def test_a_loss_that_a_faster_machine_hides_is_hinted_at(run_file):
    changes = compare_results(
        read_results(run_file("a", 0)), read_results(run_file("b", 1, ours=1.2, machine=0.83))
    )
    reasons = {change.reason for change in changes if change.contender == "relsdk int8"}
    assert any("the machine was faster; run both again" in reason for reason in reasons)


def test_report_takes_files_and_folders(tmp_path, run_file):
    run_file("a", 0)
    (tmp_path / "other.json").write_text("{}")
    done = command("report", tmp_path, "--output", tmp_path / "new" / "report", "--no-figures")
    assert done.exit_code == 0, done.output
    assert "skipped" in done.stderr
    assert [path.name for path in (tmp_path / "new/report").iterdir()] == ["report.md"]
    (tmp_path / "empty").mkdir()
    failed = command("report", tmp_path / "empty", "--output", tmp_path / "x")
    assert isinstance(failed.exception, InputError)
    assert "holds no result" in str(failed.exception)
