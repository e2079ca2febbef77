"""`drift.json`: what a server's searches of the last day found, beside what they found before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from relsdk.calibration import SearchProfile
from relsdk.errors import InputError
from relsdk.typed_json import read_json

__all__ = [
    "DRIFT_FILE",
    "FIRST_SEARCHES",
    "LARGE_SHIFT",
    "SMALL_SHIFT",
    "DriftState",
    "SearchDrift",
    "read_drift",
]

DRIFT_FILE = "drift.json"
# Population stability indices from which a change is small, and large.
SMALL_SHIFT, LARGE_SHIFT = 0.1, 0.25
# So many of the first searches are the reference where none was recorded.
FIRST_SEARCHES = 1000

_Seconds = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class SearchDrift:
    """The searches of an index that have the same order.

    Attributes:
        source: Where the reference is from: "calibration" or "first searches".
        reference: What is compared with.
        hours: The last day, the oldest first: how many seconds ago each hour began, and its counts.
        shifts: The population stability index of each kind of count, as far as something can be said.
    """

    source: Literal["calibration", "first searches"]
    reference: SearchProfile
    hours: list[tuple[_Seconds, SearchProfile]]
    shifts: dict[str, float]

    @property
    def day(self) -> SearchProfile:
        """The counts of the last day together."""
        return SearchProfile.sum_of(profile for _, profile in self.hours)


@dataclass(frozen=True)
class DriftState:
    """The file.

    Attributes:
        format: Ours.
        version: 1.
        written: When, in seconds since 1970.
        encoders: Of each index, fingerprint and variant of the encoder that searched.
        searches: By index and by `SearchResult.order`.
    """

    format: Literal["relsdk-drift"]
    version: Literal[1]
    written: _Seconds
    encoders: dict[str, str]
    searches: dict[str, dict[str, SearchDrift]]


def read_drift(folder: Path) -> DriftState:
    """Read what a server with `--state FOLDER` wrote.

    Raises:
        InputError: There is no such file, or it is damaged.
    """
    remedy = (
        "relsdk serve INDEX --state DIR writes it each minute; delete a damaged one, and its day begins anew"
    )
    return read_json(folder / DRIFT_FILE, DriftState, error=InputError, remedy=remedy)
