"""Index folders: build, open, search, verify."""

from relsdk.index._info import IndexInfo, IndexStats, SegmentStats
from relsdk.index._retrieval import MODES, Mode
from relsdk.index.base import Encoder, IndexConfig
from relsdk.index.index import Index
from relsdk.index.verify import VerifyReport, verify_index

__all__ = [
    "MODES",
    "Encoder",
    "Index",
    "IndexConfig",
    "IndexInfo",
    "IndexStats",
    "Mode",
    "SegmentStats",
    "VerifyReport",
    "verify_index",
]
