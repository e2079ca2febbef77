"""A seeded corpus of Chinese short-video search with an exact relevance oracle: `relsdk demo`'s data."""

from relsdk.sample_world.files import write
from relsdk.sample_world.oracle import level_of
from relsdk.sample_world.queries import SampleQuery
from relsdk.sample_world.world import SampleWorld, generate

__all__ = ["SampleQuery", "SampleWorld", "generate", "level_of", "write"]
