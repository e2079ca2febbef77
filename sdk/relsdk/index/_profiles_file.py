"""`profiles.json` of an index: what its searches found when it was calibrated.

It is beside the generations and not in one: what is compared with it is what has changed since, be it by
commits or by a new build. So earlier versions, which know nothing of it, open the index and keep it, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relsdk.calibration import SearchProfile
from relsdk.errors import IndexFolderError
from relsdk.files.folders import write_file_atomically
from relsdk.typed_json import read_json

__all__ = ["PROFILES_FILE", "Profiles", "read_profiles", "write_profiles"]

PROFILES_FILE = "profiles.json"
_FORMAT = "relsdk-search-profiles"
_REMEDY = "record it again with: relsdk calibrate BUNDLE PAIRS --index INDEX --queries FILE"
# By variant of the encoder, whose cosines differ a little, and by the order of the hits.
Profiles = Mapping[str, Mapping[str, SearchProfile]]


@dataclass(frozen=True)
class _Content:
    """The file.

    Attributes:
        format: Ours.
        version: 1.
        encoder_fingerprint: Of the encoder that searched.
        profiles: See `Profiles`.
    """

    format: str
    version: int
    encoder_fingerprint: str
    profiles: dict[str, dict[str, SearchProfile]]


def write_profiles(path: Path, encoder_fingerprint: str, profiles: Profiles) -> None:
    """Write the file of the index at a path.

    Raises:
        RelsdkError: The file system refused.
    """
    content = {
        "format": _FORMAT,
        "version": 1,
        "encoder_fingerprint": encoder_fingerprint,
        "profiles": {
            variant: {order: profile.to_dict() for order, profile in by_order.items()}
            for variant, by_order in profiles.items()
        },
    }
    write_file_atomically(path / PROFILES_FILE, json.dumps(content) + "\n")


def read_profiles(path: Path, encoder_fingerprint: str) -> dict[str, dict[str, SearchProfile]]:
    """Read the file of the index at a path; empty where there is none, or one of another encoder's searches.

    Raises:
        IndexFolderError: It is damaged or of another version.
    """
    file = path / PROFILES_FILE
    if not file.exists():
        return {}
    content = read_json(file, _Content, error=IndexFolderError, remedy=_REMEDY)
    if (content.format, content.version) != (_FORMAT, 1):
        raise IndexFolderError(f"{file} is of another format or version; {_REMEDY}")
    return content.profiles if content.encoder_fingerprint == encoder_fingerprint else {}
