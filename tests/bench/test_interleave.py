"""Blocks by turns, against a clock that tests move by hand."""

import threading

import numpy as np
import pytest

from bench.harness.interleave import COPY, Contender, Plan, measure, run_blocks, warnings_of, yardstick


class FakeClock:
    """Seconds that pass only when somebody says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def costs(self, seconds, log=None, name=""):
        def call(number):
            self.now += seconds if isinstance(seconds, float) else seconds(number)
            if log is not None:
                log.append((name, number))
            return number

        return call


def test_rounds_alternate_and_warm_up_is_not_counted():
    clock, log = FakeClock(), []
    contenders = [Contender(name, clock.costs(cost, log, name)) for name, cost in (("A", 1.0), ("B", 2.0))]
    times = run_blocks(contenders, Plan(rounds=3, calls=2, warmup=1), clock)
    blocks = [[("A", -1), ("A", 0), ("A", 1)], [("B", -1), ("B", 0), ("B", 1)]]
    blocks += [[("B", 1), ("B", 2), ("B", 3)], [("A", 1), ("A", 2), ("A", 3)]]
    blocks += [[("A", 3), ("A", 4), ("A", 5)], [("B", 3), ("B", 4), ("B", 5)]]
    assert log == [entry for block in blocks for entry in block]
    np.testing.assert_array_equal(times[0].seconds, np.full((3, 2), 1.0))
    np.testing.assert_array_equal(times[1].seconds, np.full((3, 2), 2.0))
    np.testing.assert_array_equal(times[1].walls, [4.0, 4.0, 4.0])


def test_before_and_after_are_not_timed():
    clock, seen = FakeClock(), []
    contender = Contender(
        "A",
        clock.costs(1.0),
        before=lambda: setattr(clock, "now", clock.now + 100),
        after=lambda result: seen.append(result) or setattr(clock, "now", clock.now + 100),
    )
    times = run_blocks([contender], Plan(rounds=1, calls=2, warmup=0), clock)[0]
    assert times.seconds.tolist() == [[1.0, 1.0]]
    assert seen == [0, 1]


def test_a_row_by_hand():
    """B takes twice A's time in each round, though the machine slows down from round to round."""
    clock = FakeClock()
    slow = lambda cost: lambda number: cost * (1 + max(number, 0) // 2)  # noqa: E731
    contenders = [
        Contender("A", clock.costs(slow(0.001)), role="ours", quality={"recall": 0.9}),
        Contender("B", clock.costs(slow(0.002)), items=10),
    ]
    a, b = measure("s", "c", contenders, Plan(4, 2, warmup=0), parameters={"n": 1}, unit="texts", clock=clock)
    assert [row["contender"] for row in (a, b)] == ["A", "B"]
    assert COPY not in (a["contender"], b["contender"])
    assert a["round_medians_ms"] == [1.0, 2.0, 3.0, 4.0]
    assert (a["p50_ms"], a["quality"], a["role"], a["samples"]) == (2.5, {"recall": 0.9}, "ours", 8)
    assert "ratio" not in a
    assert b["ratio"] == {"to": "A", "median": 2.0, "low": 2.0, "high": 2.0}
    assert a["throughput"] == pytest.approx(8 / 0.020)
    assert b["throughput"] == pytest.approx(80 / 0.040)
    assert b["noise"]["floor"] == pytest.approx(0.0, abs=1e-12)
    assert not b["drowned"]
    assert warnings_of([a, b]) == []


def test_noise_that_drowns_a_difference_is_warned_of():
    clock, rng = FakeClock(), np.random.default_rng(0)
    jitter = lambda cost: lambda number: cost * float(rng.uniform(0.5, 1.5))  # noqa: E731
    contenders = [
        Contender("A", clock.costs(jitter(1.0))),
        Contender("B", clock.costs(jitter(1.02))),
        Contender("C", clock.costs(jitter(9.0))),
    ]
    _, b, c = rows = measure("s", "c", contenders, Plan(10, 3), clock=clock)
    assert (b["drowned"], c["drowned"]) == (True, False)
    (warning,) = warnings_of(rows)
    assert "B against A" in warning
    assert "within the noise" in warning


def test_several_threads_call_at_the_same_time():
    """Each call waits for one of every other thread: it would hang if they came one after the other."""
    together = threading.Barrier(3, timeout=60)
    numbers, lock = [], threading.Lock()

    def call(number):
        together.wait()
        with lock:
            numbers.append(number)

    times = run_blocks([Contender("A", call)], Plan(rounds=2, calls=4, warmup=0, threads=3))[0]
    assert times.seconds.shape == (2, 12)
    assert sorted(numbers) == list(range(24))
    assert (times.round_seconds(3) > 0).all()


def test_the_yardstick_is_the_same_work_each_time():
    work = yardstick()
    assert work.role == "yardstick"
    assert work.call(0) == work.call(7)
    assert 1e-6 < abs(work.call(0)) < 1  # no denormal, no overflow: their time depends on the CPU's mode
