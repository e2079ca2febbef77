"""The engine: whose turn it is, what is refused, and that nothing is lost whatever fails.

Most tests run one worker by a clock that only the work moves: a token takes a millisecond, and the order of
the batches is exact.
"""

import asyncio
import math
import threading
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.runtime.tokenizer import TokenizedTexts
from relsdk_serve._engine import Engine, InputFailedError, OverloadedError
from relsdk_serve._jobs import Lane
from tests.threads import PATIENCE

NOW, BULK = Lane.INTERACTIVE, Lane.BULK
A_TOKEN = 1e-3


class Clock:
    """Seconds that only `pass_by` moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


class World:
    """An engine whose batches take a millisecond a token, and what they were."""

    def __init__(self, engine, clock):
        self.engine, self.clock = engine, clock
        self.batches = []  # of each: the names of its rows' jobs
        self.lengths = []
        self.ended = {}  # when the last row of a job ran
        self.before_batch = lambda: None

    def run(self, tokens):
        """A model: the vector of a text is its first token and its length."""
        self.before_batch()
        self.batches.append([ids[0] for ids in tokens.ids])
        self.lengths.append([len(ids) for ids in tokens.ids])
        self.clock.pass_by(A_TOKEN * sum(map(len, tokens.ids)))
        self.ended.update((ids[0], self.clock()) for ids in tokens.ids)
        return np.array([[ids[0], len(ids)] for ids in tokens.ids], dtype=np.float32)

    async def submit(self, name, lengths, lane=NOW, key="model", run=None):
        """Run texts of these lengths; their first token is the job's name, a number."""
        return await self.engine.rows(key, texts(name, lengths), run or self.run, lane)

    @contextmanager
    def held(self):
        """Keep the only worker busy until the body ends, so that what is submitted waits."""
        began, go_on = threading.Event(), threading.Event()
        gate = asyncio.ensure_future(self.engine.call("gate", lambda: (began.set(), go_on.wait(10))))
        self.gates = gate
        try:
            yield began
        finally:
            go_on.set()


def texts(name, lengths):
    ids = [[name] * length for length in lengths]
    return TokenizedTexts(ids, [[0] * length for length in lengths], [])


def simulate(work, **options):
    """Run `work(world)` on an event loop with an engine of one worker; return the world."""

    async def main():
        clock = Clock()
        engine = Engine(1, clock=clock, **options)
        world = World(engine, clock)
        try:
            await asyncio.wait_for(work(world), 20)
            assert engine.waiting == {NOW: 0, BULK: 0}
        finally:
            engine.stop()
        return world

    return asyncio.run(main())


async def submitted(world, *jobs):
    """Submit jobs while the worker is held, in order; return their tasks."""
    with world.held() as began:
        await asyncio.to_thread(began.wait, 10)
        tasks = [asyncio.ensure_future(world.submit(*job)) for job in jobs]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await world.gates
    return tasks


def test_interactive_goes_before_bulk():
    async def work(world):
        await asyncio.gather(*await submitted(world, (1, [10] * 4, BULK), (2, [10], NOW), (3, [10], NOW)))

    world = simulate(work)
    assert world.batches[0] == [2, 3]
    assert world.ended[2] == world.ended[3] < world.ended[1]


def test_a_bulk_request_gives_way_between_slices():
    async def work(world):
        await world.submit(9, [20])  # the price of a token is known, and somebody came lately
        loop, tasks = asyncio.get_running_loop(), []

        async def come():
            tasks.append(asyncio.ensure_future(world.submit(2, [20])))
            await asyncio.sleep(0)

        def before_batch():
            if len(world.batches) == 5:
                asyncio.run_coroutine_threadsafe(come(), loop).result(10)

        world.before_batch = before_batch
        await world.submit(1, [20] * 50, BULK)
        await asyncio.gather(*tasks)

    world = simulate(work)
    assert world.batches.index([2]) == 6, "it had to wait for more than one slice"
    # A slice is about 20 ms, or the least batch of 32 tokens where a token is dear.
    assert max(map(sum, world.lengths[:40])) <= 32


def test_bulk_runs_in_large_batches_where_nobody_waits():
    async def work(world):
        await world.submit(9, [20] * 60, BULK)

    assert simulate(work).lengths == [[20] * 51, [20] * 9]


def test_bulk_has_its_share_while_interactive_requests_never_end():
    async def work(world):
        await world.submit(9, [20])
        enough = asyncio.Event()
        world.before_batch = lambda: time.sleep(0.002)  # the clients come again meanwhile

        async def client(name):
            while not enough.is_set():
                await world.submit(name, [20])

        clients = [asyncio.ensure_future(client(name)) for name in range(2, 8)]
        await asyncio.sleep(0.01)
        began = world.clock()
        await world.submit(1, [20] * 20, BULK)
        world.took = world.clock() - began
        enough.set()
        await asyncio.gather(*clients)

    world = simulate(work)
    share = 20 * 20 * A_TOKEN / world.took
    assert 0.05 <= share <= 0.3, share


def test_jobs_of_a_lane_take_turns():
    async def work(world):
        for name in (1, 2, 3):
            await world.submit(9, [20], NOW, f"model {name}")
        # Of different keys, so that they cannot share a batch.
        jobs = [(name, [20] * 10, BULK, f"model {name}") for name in (1, 2, 3)]
        await asyncio.gather(*await submitted(world, (8, [20], NOW), *jobs))

    world = simulate(work)
    order = [batch[0] for batch in world.batches if batch[0] in (1, 2, 3)]
    first = {name: order.index(name) for name in (1, 2, 3)}
    assert max(first.values()) <= 2, order
    ends = sorted(world.ended[name] for name in (1, 2, 3))
    assert ends[2] - ends[0] <= 2 * 0.02 + 1e-9, ends


def test_a_short_job_does_not_wait_for_a_long_one_of_its_lane():
    async def work(world):
        await world.submit(9, [20])
        await asyncio.gather(*await submitted(world, (1, [20] * 100, NOW), (2, [20], NOW)))

    world = simulate(work)
    assert world.ended[2] < world.ended[1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 700), min_size=1, max_size=40), st.sampled_from([NOW, BULK])),
        min_size=1,
        max_size=6,
    )
)
def test_batches_keep_within_the_budget_and_answers_are_those_of_each_text_alone(jobs):
    async def work(world):
        numbered = [(name, lengths, lane) for name, (lengths, lane) in enumerate(jobs, 1)]
        world.jobs = await asyncio.gather(*await submitted(world, *numbered))

    world = simulate(work)
    for name, (job, (lengths, _)) in enumerate(zip(world.jobs, jobs, strict=True), 1):
        assert job.result.tolist() == [[name, length] for length in lengths]
    assert sum(map(len, world.batches)) == sum(len(lengths) for lengths, _ in jobs)
    for lengths in world.lengths:
        assert len(lengths) == 1 or len(lengths) * max(lengths) <= 1024


def test_jobs_of_other_keys_share_no_batch():
    async def work(world):
        jobs = [(name, [5], NOW, f"model {name % 2}") for name in range(1, 9)]
        await asyncio.gather(*await submitted(world, *jobs))

    for batch in simulate(work).batches:
        assert len({name % 2 for name in batch}) == 1


def test_twenty_requests_may_wait_for_each_worker():
    async def check(world):
        engine = world.engine
        assert engine.limit(NOW) == math.inf
        engine.admit(NOW)
        engine.admit(BULK)
        more = asyncio.ensure_future(world.submit(21, [100], NOW))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as error:
            engine.admit(NOW)
        assert error.value.reason == "queue"
        assert error.value.retry_after == pytest.approx(2.0 - engine.limit(NOW) / 2, rel=0.01)
        engine.admit(BULK)
        world.more = more

    async def work(world):
        await world.submit(50, [100])  # 0.1 s
        await submitted_and(world, [(name, [100], NOW) for name in range(1, 20)], check)
        await world.more

    simulate(work)


def test_many_requests_that_take_no_time_are_not_refused():
    async def check(world):
        world.engine.admit(NOW)

    async def work(world):
        await world.submit(50, [100])
        await submitted_and(world, [(name, [1], NOW) for name in range(1, 18)], check)

    simulate(work)


async def submitted_and(world, jobs, check):
    """Submit jobs, check while they wait, and wait for them."""
    with world.held() as began:
        await asyncio.to_thread(began.wait, 10)
        tasks = [asyncio.ensure_future(world.submit(*job)) for job in jobs]
        await asyncio.sleep(0)
        await check(world)
    await asyncio.gather(world.gates, *tasks)
    return tasks


def test_bulk_that_waits_refuses_no_interactive_request():
    async def check(world):
        world.engine.admit(NOW)
        with pytest.raises(OverloadedError):
            world.engine.admit(BULK)

    async def work(world):
        await world.submit(9, [100])
        await submitted_and(world, [(name, [100], BULK) for name in range(1, 21)], check)

    simulate(work)


def test_a_deadline_that_cannot_be_met_is_refused_at_once():
    async def check(world):
        world.engine.admit(NOW, 0.3)
        with pytest.raises(OverloadedError) as error:
            world.engine.admit(NOW, 0.1)
        assert error.value.reason == "deadline"

    async def work(world):
        await world.submit(9, [100])
        await submitted_and(world, [(name, [100], NOW) for name in range(1, 13)], check)

    simulate(work, max_wait=10.0)


def test_the_limit_is_what_the_server_was_told():
    async def check(world):
        with pytest.raises(OverloadedError):
            world.engine.admit(NOW)

    async def work(world):
        await world.submit(9, [100])
        await submitted_and(world, [(1, [51], NOW)], check)
        world.engine.admit(NOW)

    simulate(work, max_wait=0.05)


def test_a_cancelled_job_leaves_its_lane_and_the_estimate():
    async def work(world):
        await world.submit(9, [100])
        with world.held() as began:
            await asyncio.to_thread(began.wait, 10)
            tasks = [asyncio.ensure_future(world.submit(n, [100] * 50, BULK)) for n in (1, 2)]
            await asyncio.sleep(0)
            assert world.engine.wait(BULK) == pytest.approx(10)
            tasks[0].cancel()
            await asyncio.wait(tasks[:1])
            assert world.engine.waiting == {NOW: 0, BULK: 5000}
        await tasks[1]
        await world.gates

    world = simulate(work)
    assert not any(1 in batch for batch in world.batches)


class Died(BaseException):
    """Ends a thread."""


def test_a_text_that_fails_fails_alone():
    def poisoned(tokens):
        if any(len(ids) == 13 for ids in tokens.ids):
            raise RuntimeError("13")
        return np.array([[ids[0], len(ids)] for ids in tokens.ids], dtype=np.float32)

    async def work(world):
        jobs = [
            (1, [5, 6, 13, 7, 13], NOW, "m", poisoned),
            (2, [5, 12], NOW, "m", poisoned),
            (3, [14] * 20, NOW, "m", poisoned),
        ]
        bad, *good = await asyncio.gather(*await submitted(world, *jobs), return_exceptions=True)
        assert isinstance(bad, InputFailedError)
        assert bad.row in (2, 4)
        assert [job.result.tolist() for job in good] == [[[2, 5], [2, 12]], [[3, 14]] * 20]

    simulate(work)


@pytest.mark.parametrize(
    "error", [ValueError("no"), Died("no"), SystemExit(3), StopIteration(), MemoryError()]
)
def test_a_call_that_fails_ends_no_worker(error):
    def fails():
        raise error

    async def work(world):
        (raised,) = await asyncio.gather(world.engine.call("fails", fails), return_exceptions=True)
        ours = isinstance(error, Exception) and not isinstance(error, StopIteration)
        assert raised is error if ours else isinstance(raised, RuntimeError)
        assert (await world.submit(1, [3])).result.tolist() == [[1, 3]]
        assert world.engine.alive == 1

    simulate(work)


class Deaf:
    """An observer that fails, and counts restarts."""

    def __init__(self):
        self.restarts = 0

    def batch(self, *_):
        raise RuntimeError("a metric is broken")

    def worker_restarted(self):
        self.restarts += 1


def test_an_observer_that_fails_costs_no_answer(caplog):
    observer = Deaf()

    async def work(world):
        for name in range(3):
            assert (await world.submit(name, [3])).result.tolist() == [[name, 3]]

    simulate(work, observer=observer)
    assert observer.restarts == 0
    assert "a metric is broken" in caplog.text


@pytest.mark.parametrize("part", ["_take", "_measure", "_resolve", "_run", "_neighbours"])
def test_a_worker_that_dies_is_replaced_and_nobody_waits_for_ever(part, caplog):
    observer = Deaf()

    async def work(world):
        before = getattr(world.engine, part)
        calls = []

        def dies(*arguments):
            calls.append(part)
            # What is called after a batch ran is called for the gate, too.
            if len(calls) == (2 if part in ("_measure", "_resolve") else 1):
                raise Died("the worker's own loop")
            return before(*arguments)

        tasks = []
        with world.held() as began:
            await asyncio.to_thread(began.wait, 10)
            tasks = [asyncio.ensure_future(world.submit(n, [n] * 4, NOW, f"m{n}")) for n in (1, 2, 3)]
            await asyncio.sleep(0)
            setattr(world.engine, part, dies)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(failed) <= 1, failed
        assert all("own loop" in str(error) for error in failed)
        assert (await world.submit(5, [3])).result.tolist() == [[5, 3]]
        assert world.engine.alive == 1

    simulate(work, observer=observer)
    assert observer.restarts == 1
    assert "another one takes its place" in caplog.text


def test_a_model_that_returns_too_few_rows_is_told_and_keeps_no_one_waiting():
    async def work(world):
        tasks = await submitted(world, (1, [3, 3], NOW, "m", lambda tokens: np.zeros((1, 2), np.float32)))
        (error,) = await asyncio.gather(*tasks, return_exceptions=True)
        assert error is None or not isinstance(error, BaseException) or isinstance(error, InputFailedError)

    simulate(work)


def test_stop_cancels_what_waits_and_what_hangs():
    async def main():
        engine = Engine(1)
        hangs = threading.Event()
        running = asyncio.ensure_future(engine.call("hangs", lambda: hangs.wait(PATIENCE)))
        waiting = asyncio.ensure_future(engine.call("waits", lambda: None))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        engine.stop(0.2)
        assert time.monotonic() - began < 15
        for task in (running, waiting, asyncio.ensure_future(engine.call("late", lambda: None))):
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, PATIENCE)
        hangs.set()

    asyncio.run(main())


def test_a_worker_whose_successor_ends_at_once_is_alive_in_the_next_one(monkeypatch):
    """Each thread here goes on only when the one that it started has ended, or lives."""
    deaths, living = [1, 2], []
    start, next_batch = threading.Thread.start, Engine._next_batch

    def start_and_wait(thread):
        start(thread)
        while thread.name.startswith("relsdk-worker") and thread.is_alive() and thread not in living:
            time.sleep(0.01)

    def dies(engine):
        if deaths:
            raise RuntimeError(f"death {deaths.pop(0)}")
        living.append(threading.current_thread())
        return next_batch(engine)

    monkeypatch.setattr(threading.Thread, "start", start_and_wait)
    monkeypatch.setattr(Engine, "_next_batch", dies)

    async def main():
        engine = Engine(1)
        assert (await engine.call("answers", lambda: 7)).result == 7
        assert engine.alive == 1
        engine.stop()

    asyncio.run(main())


def test_a_worker_that_hangs_is_told_by_its_age():
    async def main():
        clock = Clock()
        engine = Engine(2, clock=clock)
        go_on = threading.Event()
        hangs = asyncio.ensure_future(engine.call("hangs", lambda: go_on.wait(20)))
        while engine.oldest_batch() == 0.0 and not any(state.busy_since for state in engine.workers):
            await asyncio.sleep(0.001)
        clock.pass_by(61)
        assert engine.oldest_batch() == pytest.approx(61)
        assert (await engine.call("other", lambda: 7)).result == 7  # the other worker answers
        go_on.set()
        await hangs
        while any(state.busy_since for state in engine.workers):
            await asyncio.sleep(0.001)
        assert engine.oldest_batch() == 0.0
        engine.stop()

    asyncio.run(main())


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.lists(st.integers(1, 60), min_size=1, max_size=12),
            st.sampled_from([NOW, BULK]),
            st.sampled_from(["fine", "poisoned", "broken", "dies"]),
        ),
        st.tuples(st.just("call"), st.sampled_from(["fine", "broken", "dies"])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("breathe"), st.integers(0, 3)),
    ),
    max_size=25,
)


def run_of(kind):
    """Return a model that works, or fails in its own way."""

    def run(tokens):
        if kind == "dies" or (kind == "poisoned" and any(len(ids) > 50 for ids in tokens.ids)):
            raise Died(kind)
        if kind == "broken":
            raise ValueError(kind)
        return np.array([[len(ids)] for ids in tokens.ids], dtype=np.float32)

    return run


async def take_steps(engine, steps):
    """Submit, cancel and wait as the steps say; return (task, lengths of its texts or None, kind)."""
    tasks = []
    for step, *rest in steps:
        if step == "submit":
            lengths, lane, kind = rest
            work = engine.rows(kind, texts(1, lengths), run_of(kind), lane)
            tasks.append((asyncio.ensure_future(work), lengths, kind))
        elif step == "call":
            work = engine.call("call", partial(run_of(rest[0]), texts(1, [1])))
            tasks.append((asyncio.ensure_future(work), None, rest[0]))
        elif step == "cancel" and tasks:
            tasks[rest[0] % len(tasks)][0].cancel()
        else:
            for _ in range(rest[0]):
                await asyncio.sleep(0.0005)
    return tasks


def check_outcome(task, lengths, kind):
    fails = kind in ("broken", "dies") or (kind == "poisoned" and lengths is not None and max(lengths) > 50)
    assert (task.exception() is not None) == fails, (kind, lengths, task)
    if not fails and lengths is not None:
        assert task.result().result[:, 0].tolist() == lengths


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(1, 3))
def test_after_any_interleaving_nothing_waits_and_every_future_is_settled(steps, workers):
    async def main():
        engine = Engine(workers)
        tasks = await take_steps(engine, steps)
        if tasks:
            _, pending = await asyncio.wait([task for task, _, _ in tasks], timeout=PATIENCE)
            assert not pending
        for task, lengths, kind in tasks:
            if not task.cancelled():
                check_outcome(task, lengths, kind)
        assert engine.waiting == {NOW: 0, BULK: 0}
        assert not any(engine._lanes.values())
        assert engine.alive == workers
        engine.stop()
        assert engine.alive == 0

    asyncio.run(main())
