"""The drift watch: whether searches still find what they found when the levels were fitted.

Counts of the last 24 hours, an hour at a time, are compared with those that `relsdk calibrate --queries`
recorded, or else with the first 1,000 searches. No text is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from relsdk.calibration import SearchProfile
from relsdk.errors import IndexFolderError, InputError
from relsdk.files.atomic import replaced_file
from relsdk.index import Index
from relsdk.models.embedder import Embedder
from relsdk.records import SearchResult
from relsdk.search.store_reader import StoreReader
from relsdk.tools.drift import DRIFT_FILE, FIRST_SEARCHES, DriftState, SearchDrift, read_drift

__all__ = ["DriftWatch", "WatchedIndex"]

_LOGGER = logging.getLogger(__name__)
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
# Queries are tokenised again, since a cached one never was; so many a second at most, whatever the load.
_TOKENISED_A_SECOND = 20.0

Clock = Callable[[], float]


class WatchedIndex:
    """What the watch needs of an index.

    Args:
        encoder: Names the encoder and its variant, whose cosines are compared.
        tokenize: Returns the tokens of a query.
        unknown_id: The token of what the vocabulary lacks.
        profiles: What was recorded, by `SearchResult.order`.
    """

    def __init__(
        self,
        encoder: str,
        tokenize: Callable[[str], Sequence[int]],
        unknown_id: int | None,
        profiles: Mapping[str, SearchProfile],
    ) -> None:
        self.encoder = encoder
        self.tokenize = tokenize
        self.unknown_id = unknown_id
        self.profiles = profiles

    @classmethod
    def of(cls, index: Index | StoreReader, embedder: Embedder) -> WatchedIndex:
        """Read what is needed; a damaged record is warned of and not taken."""
        prompt, variant = embedder.known_prompt("query"), embedder.variant.name
        profiles: Mapping[str, SearchProfile] = {}
        try:
            profiles = index.profiles(variant)
        except IndexFolderError as error:
            _warn_once(f"{error}; the first searches are compared with instead")
        return cls(
            f"{embedder.fingerprint} {variant}",
            lambda query: embedder.tokenize([query], prompt_name=prompt).ids[0],
            embedder.unknown_id,
            profiles,
        )


@lru_cache(maxsize=16)
def _warn_once(message: str) -> None:
    _LOGGER.warning("%s", message)


class _Searches:
    """Searches of one index and one order.

    Args:
        recorded: What was recorded; None learns from the first searches.
    """

    def __init__(self, recorded: SearchProfile | None) -> None:
        self.recorded = recorded
        self.first = SearchProfile()
        self.learnt = 0  # searches in `first`
        self.hours: deque[tuple[float, SearchProfile]] = deque()  # when each began

    def hour(self, now: float) -> SearchProfile:
        """Return the counts of this hour, and forget those of the day before."""
        if not self.hours or now - self.hours[-1][0] >= _HOUR:
            self.hours.append((now, SearchProfile()))
        while now - self.hours[0][0] >= _DAY:
            self.hours.popleft()
        return self.hours[-1][1]

    def state(self, now: float) -> SearchDrift:
        """Return what is known."""
        hours = [(now - began, profile) for began, profile in self.hours if now - began < _DAY]
        day = SearchProfile.sum_of(profile for _, profile in hours)
        if self.recorded is not None:
            return SearchDrift("calibration", self.recorded, hours, day.shifts_from(self.recorded))
        shifts = day.shifts_from(self.first) if self.learnt >= FIRST_SEARCHES else {}
        return SearchDrift("first searches", self.first, hours, shifts)


class DriftWatch:
    """Counts searches; used from one thread.

    Args:
        indexes: What is watched, by name.
        clock: Seconds that never go back: the windows go by it.
        wall_clock: Seconds since 1970: looked at to tell how long the server was away.
    """

    def __init__(
        self,
        indexes: Mapping[str, WatchedIndex],
        *,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self._indexes = dict(indexes)
        self._clock, self._wall_clock = clock, wall_clock
        self._searches: dict[tuple[str, str], _Searches] = {}
        self._next_tokenised = 0.0
        self._warned = False

    def replace(self, name: str, index: WatchedIndex) -> None:
        """Go on with an index that was opened anew: by another encoder, or with another record."""
        before, self._indexes[name] = self._indexes[name], index
        for watched, order in list(self._searches):
            if watched == name and index.encoder != before.encoder:
                del self._searches[watched, order]
            elif watched == name:
                self._searches[watched, order].recorded = index.profiles.get(order)

    def observe(self, name: str, query: str, result: SearchResult, *, filtered: bool) -> None:
        """Count a search.

        Args:
            name: The index.
            query: What was searched for.
            result: The first page of its hits; later ones would count the same search again.
            filtered: Whether the search allowed some documents only. What was recorded had all of them, so
                such a search is only counted where the first searches are the reference.
        """
        now, index = self._clock(), self._indexes[name]
        searches = self._known(name, result.order)
        if filtered and searches.recorded is not None:
            return
        hour = searches.hour(now)
        hour.note_search(result)
        if now < self._next_tokenised:
            return
        self._next_tokenised = now + 1 / _TOKENISED_A_SECOND
        ids = index.tokenize(query)
        hour.note_query(ids, index.unknown_id)
        if searches.recorded is None and searches.learnt < FIRST_SEARCHES:
            searches.first.note_search(result)
            searches.first.note_query(ids, index.unknown_id)
            searches.learnt += 1

    def state(self) -> DriftState:
        """Return everything that is known."""
        now = self._clock()
        searches: dict[str, dict[str, SearchDrift]] = {}
        for (name, order), one in self._searches.items():
            searches.setdefault(name, {})[order] = one.state(now)
        encoders = {name: index.encoder for name, index in self._indexes.items()}
        return DriftState("relsdk-drift", 1, max(self._wall_clock(), 0.0), encoders, searches)

    def read(self, folder: Path) -> None:
        """Go on from what an earlier server wrote; what is a day old, or of another encoder, is left out.

        A file that is damaged is warned of.
        """
        if not (folder / DRIFT_FILE).exists():
            return
        try:
            state = read_drift(folder)
        except InputError as error:
            _LOGGER.warning("%s", error)
            return
        now, away = self._clock(), max(self._wall_clock() - state.written, 0.0)  # the clock may be set back
        for name, orders in state.searches.items():
            if name not in self._indexes or state.encoders.get(name) != self._indexes[name].encoder:
                continue
            for order, drift in orders.items():
                own = self._known(name, order)
                own.hours = deque((now - age - away, profile) for age, profile in drift.hours)
                if drift.source == "first searches":
                    own.first, own.learnt = drift.reference, drift.reference.searches("tokens")

    def write(self, folder: Path, state: DriftState) -> None:
        """Write the file of a state, from any thread; a failure is warned of once and changes nothing."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replaced_file(folder / DRIFT_FILE, durable=False) as stream:
                stream.write(msgspec.json.encode(state) + b"\n")
            self._warned = False
        except OSError as error:
            if not self._warned:
                self._warned = True
                _LOGGER.warning("cannot write %s: %s", folder / DRIFT_FILE, error.strerror or error)

    async def run(
        self,
        folder: Path | None,
        open_indexes: Callable[[], Mapping[str, WatchedIndex]],
        publish: Callable[[DriftState], None],
    ) -> None:
        """Each minute, look for new records, publish what is known, and write it; until it is cancelled.

        Args:
            folder: Where to; None writes nothing.
            open_indexes: Called in a thread.
            publish: Takes what is known.
        """
        while True:
            await asyncio.sleep(_MINUTE)
            for name, index in (await asyncio.to_thread(open_indexes)).items():
                self.replace(name, index)
            state = self.state()
            publish(state)
            if folder is not None:
                await asyncio.to_thread(self.write, folder, state)

    def _known(self, name: str, order: str) -> _Searches:
        searches = self._searches.get((name, order))
        if searches is None:
            searches = _Searches(self._indexes[name].profiles.get(order))
            self._searches[name, order] = searches
        return searches
