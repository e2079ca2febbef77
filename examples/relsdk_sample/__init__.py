"""A seeded corpus of Chinese short-video search with an exact relevance oracle: `relsdk demo`'s data."""

from relsdk_sample.files import write
from relsdk_sample.oracle import level_of
from relsdk_sample.queries import SampleQuery
from relsdk_sample.world import SampleWorld, generate

__all__ = ["SampleQuery", "SampleWorld", "generate", "level_of", "write"]
