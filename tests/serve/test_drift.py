"""The drift watch: what it counts, compares and keeps over a restart, and clocks that jump."""

import json
import logging
import os
import stat
import time

import numpy as np
import pytest

from relsdk.calibration import SearchProfile
from relsdk.levels import RelevanceLevel
from relsdk.records import Document, Hit, Relevance, SearchResult
from relsdk.tools.drift import read_drift
from relsdk_serve._drift import DriftWatch, WatchedIndex

UNKNOWN = 0
KINDS = {"level", "cosine", "tokens", "unknown"}


class Clock:
    """Seconds since the start, and the wall's beside them."""

    def __init__(self, now=100.0, wall=1.8e9):
        self.now, self.wall = now, wall

    def pass_by(self, seconds):
        self.now += seconds
        self.wall += seconds


@pytest.fixture
def clock():
    return Clock()


def watched(profiles=None, encoder="e fp32"):
    return WatchedIndex(
        encoder, lambda query: [UNKNOWN if c == "?" else 1 for c in query], UNKNOWN, profiles or {}
    )


def watch_of(clock, **indexes):
    return DriftWatch(indexes or {"shop": watched()}, clock=lambda: clock.now, wall_clock=lambda: clock.wall)


def result(level=3, cosine=0.8, order="cosine"):
    relevance = Relevance(RelevanceLevel(level), tuple(np.eye(4)[level].tolist()), float(level), cosine)
    best = Hit(Document("d", "t"), cosine, relevance)
    return SearchResult([best], order=order, candidates=1, best=best)


def search(watch, clock, count, *, rng=None, mean=0.8, query="红烧肉", filtered=False, every=0.06, **options):
    """Make searches, far enough from each other that each query is tokenised."""
    rng = rng or np.random.default_rng(count)
    for _ in range(count):
        clock.pass_by(every)
        level = int(rng.choice(4, p=[0.1, 0.2, 0.3, 0.4]))
        found = result(level, float(rng.normal(mean, 0.03)), **options)
        watch.observe("shop", query[: rng.integers(1, len(query) + 1)], found, filtered=filtered)


def drift(watch, order="cosine"):
    return watch.state().searches["shop"][order]


def recorded(mean=0.8, count=3000):
    """What calibrate would have stored of such searches."""
    clock = Clock()
    watch = watch_of(clock)
    search(watch, clock, count, mean=mean, every=0.06)
    return drift(watch).day


def test_the_first_thousand_are_the_reference(clock):
    watch = watch_of(clock)
    search(watch, clock, 999)
    assert drift(watch).source == "first searches"
    assert drift(watch).shifts == {}
    search(watch, clock, 1)
    reference = drift(watch).reference
    assert all(reference.searches(kind) == 1000 for kind in KINDS)
    search(watch, clock, 500)
    now = drift(watch)
    assert now.reference == reference
    assert now.day.searches("level") == 1500
    assert set(now.shifts) == KINDS
    assert max(now.shifts.values()) < 0.1
    search(watch, clock, 4000, mean=0.75)
    assert drift(watch).shifts["cosine"] > 0.25
    assert drift(watch).shifts["level"] < 0.1


def test_what_was_recorded_is_the_reference(clock):
    profile = recorded(mean=0.85)
    watch = watch_of(clock, shop=watched({"cosine": profile}))
    search(watch, clock, 300)
    assert drift(watch).source == "calibration"
    assert drift(watch).reference == profile
    assert drift(watch).shifts == {}  # of 300 beside 3,000 nothing can be said
    search(watch, clock, 100)
    assert drift(watch).shifts["cosine"] > 0.25


def test_searches_with_a_filter_are_compared_with_such_only(clock):
    watch = watch_of(clock, shop=watched({"cosine": recorded()}))
    search(watch, clock, 10, filtered=True)
    search(watch, clock, 10, filtered=True, order="hybrid")  # of those nothing was recorded
    assert drift(watch).day.searches("level") == 0
    assert drift(watch, "hybrid").day.searches("level") == 10


def test_orders_are_counted_apart(clock):
    watch = watch_of(clock)
    search(watch, clock, 5)
    search(watch, clock, 7, order="hybrid")
    assert drift(watch).day.searches("cosine") == 5
    assert drift(watch, "hybrid").day.searches("cosine") == 7


def test_a_day_is_24_hours(clock):
    watch = watch_of(clock)
    for hour in range(30):
        search(watch, clock, 10, every=1.0)
        clock.pass_by(3600 - 10)
        assert drift(watch).day.searches("level") == 10 * min(hour + 1, 24)
    clock.pass_by(86400)
    assert drift(watch).hours == []
    search(watch, clock, 1)
    assert len(drift(watch).hours) == 1


def test_under_load_some_queries_are_tokenised(clock):
    watch = watch_of(clock)
    search(watch, clock, 2000, every=0.001)
    assert drift(watch).day.searches("level") == 2000
    assert 35 <= drift(watch).day.searches("tokens") <= 45
    assert drift(watch).reference.searches("level") == drift(watch).reference.searches("tokens")


def test_unknown_tokens(clock):
    watch = watch_of(clock)
    watch.observe("shop", "红烧肉？", result(), filtered=False)
    clock.pass_by(1)
    watch.observe("shop", "????", result(), filtered=False)
    assert drift(watch).day.unknown == [1, 0, 0, 0, 1]


def test_a_restart_keeps_the_day_and_the_reference(clock, tmp_path):
    watch = watch_of(clock)
    search(watch, clock, 1200, every=30.0)
    watch.write(tmp_path / "state", watch.state())
    before = drift(watch)
    later = Clock(now=5.0, wall=clock.wall + 7200)
    again = watch_of(later)
    again.read(tmp_path / "state")
    after = drift(again)
    assert (after.source, after.reference, after.shifts) == (before.source, before.reference, before.shifts)
    assert after.day == before.day
    assert [age for age, _ in after.hours] == pytest.approx([age + 7200 for age, _ in before.hours])
    later.pass_by(86400 - 7200 - before.hours[0][0] + 1)
    assert len(drift(again).hours) == len(before.hours) - 1


def test_learning_goes_on_after_a_restart(clock, tmp_path):
    watch = watch_of(clock)
    search(watch, clock, 600)
    watch.write(tmp_path, watch.state())
    again = watch_of(clock)
    again.read(tmp_path)
    search(again, clock, 399)
    assert drift(again).shifts == {}
    search(again, clock, 1)
    assert drift(again).shifts


@pytest.mark.parametrize("wall", [0.0, -5.0, 1.7e9])
def test_a_clock_that_is_set_back_loses_nothing(clock, tmp_path, wall):
    watch = watch_of(clock)
    search(watch, clock, 50)
    clock.wall = wall
    search(watch, clock, 50)
    assert drift(watch).day.searches("level") == 100
    watch.write(tmp_path, watch.state())
    later = Clock(now=1.0, wall=wall - 1000)
    again = watch_of(later)
    again.read(tmp_path)
    assert drift(again).day.searches("level") == 100
    search(again, later, 1)
    assert drift(again).day.searches("level") == 101


def test_a_day_that_is_over_is_not_taken_up(clock, tmp_path):
    watch = watch_of(clock)
    search(watch, clock, 1000)
    watch.write(tmp_path, watch.state())
    again = watch_of(Clock(wall=clock.wall + 90_000))
    again.read(tmp_path)
    assert drift(again).hours == []
    assert drift(again).reference == drift(watch).reference


def test_another_encoder_begins_anew(clock, tmp_path):
    watch = watch_of(clock)
    search(watch, clock, 50)
    watch.write(tmp_path, watch.state())
    other = watch_of(clock, shop=watched(encoder="e int8_any"))
    other.read(tmp_path)
    assert other.state().searches == {}
    gone = watch_of(clock, wiki=watched())
    gone.read(tmp_path)
    assert gone.state().searches == {}


def test_an_index_that_is_opened_anew(clock):
    watch = watch_of(clock)
    search(watch, clock, 50)
    profile = recorded()
    watch.replace("shop", watched({"cosine": profile}))  # relsdk calibrate --queries meanwhile
    assert drift(watch).day.searches("level") == 50
    assert drift(watch).reference == profile
    watch.replace("shop", watched(encoder="another"))
    assert watch.state().searches == {}


def test_a_record_wins_over_what_was_learnt(clock, tmp_path):
    watch = watch_of(clock)
    search(watch, clock, 1000)
    watch.write(tmp_path, watch.state())
    profile = recorded(mean=0.9)
    again = watch_of(clock, shop=watched({"cosine": profile}))
    again.read(tmp_path)
    assert drift(again).reference == profile
    assert drift(again).day == drift(watch).day


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "relsdk-drift", "version": 2}', "\x00" * 100])
def test_a_damaged_file_is_warned_of_and_the_day_begins_anew(clock, tmp_path, caplog, content):
    (tmp_path / "drift.json").write_text(content)
    watch = watch_of(clock)
    with caplog.at_level(logging.WARNING):
        watch.read(tmp_path)
    assert "drift.json" in caplog.text
    assert watch.state().searches == {}
    watch.write(tmp_path, watch.state())
    assert read_drift(tmp_path).searches == {}


def test_no_file_is_no_warning(clock, tmp_path, caplog):
    watch_of(clock).read(tmp_path / "absent")
    assert not caplog.text


def test_the_file_has_no_text(clock, tmp_path):
    watch = watch_of(clock)
    search(watch, clock, 3, query="秘密的询问")
    watch.write(tmp_path, watch.state())
    text = (tmp_path / "drift.json").read_text(encoding="utf-8")
    assert text.isascii()
    assert set(json.loads(text)["searches"]["shop"]["cosine"]) == {"source", "reference", "hours", "shifts"}
    assert os.listdir(tmp_path) == ["drift.json"]


def test_a_disk_that_refuses_is_warned_of_once(clock, tmp_path, caplog):
    (tmp_path / "file").touch()
    watch = watch_of(clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watch.write(tmp_path / "file" / "state", watch.state())
    assert caplog.text.count("cannot write") == 1


def test_a_reader_sees_a_whole_file(clock, tmp_path):
    watch = watch_of(clock)
    search(watch, clock, 10)
    watch.write(tmp_path, watch.state())
    inode = os.stat(tmp_path / "drift.json").st_ino
    watch.write(tmp_path, watch.state())
    assert os.stat(tmp_path / "drift.json").st_ino != inode  # replaced, not written over
    assert stat.S_ISREG(os.stat(tmp_path / "drift.json").st_mode)


def test_watching_costs_microseconds(clock):
    watch = watch_of(clock)
    found = result()
    started = time.thread_time()
    for _ in range(10_000):
        watch.observe("shop", "红烧肉", found, filtered=False)
    assert (time.thread_time() - started) / 10_000 < 30e-6  # 2 where nobody else computes


def test_false_alarms_of_a_month():
    """A quiet month, looked at each 500 searches: nothing above 0.1, nor after a reference of 1,000."""
    worst = 0.0
    for seed in range(3):
        clock, rng = Clock(), np.random.default_rng(seed)
        watch = watch_of(clock)
        search(watch, clock, 1000, rng=rng)
        for _ in range(20):
            search(watch, clock, 500, rng=rng, every=80.0)
            worst = max(worst, *drift(watch).shifts.values())
    assert 0 < worst < 0.1


def test_what_an_encoder_and_an_index_give(toy_bundle, tmp_path, caplog):
    """Tokens are those of `encode_query`, its prompt included."""
    from relsdk import Embedder, Index

    embedder = Embedder(toy_bundle, variant="fp32", threads=1)
    documents = [Document(str(number), f"标题 {number}") for number in range(5)]
    with Index.build(tmp_path / "i", documents, embedder) as index:
        watched = WatchedIndex.of(index, embedder)
        assert watched.profiles == {}
        profile = SearchProfile()
        profile.level[2] = 7
        index.store_profiles({"fp32": {"cosine": profile}, "int8_any": {}})
        watched = WatchedIndex.of(index, embedder)
        assert watched.profiles == {"cosine": profile}
        assert watched.encoder == f"{embedder.fingerprint} fp32"
        expected = embedder.tokenize(["红烧肉"], prompt_name=embedder.known_prompt("query")).ids[0]
        assert list(watched.tokenize("红烧肉")) == expected
        (index.path / "profiles.json").write_text("{")
        assert WatchedIndex.of(index, embedder).profiles == {}
        assert "the first searches are compared with instead" in caplog.text
