"""Write the sample corpus to a folder and show documents of each relevance level for a few queries.

Run: python examples/sample_world.py FOLDER [--seed 0] [--documents 5000] [--queries 500] [--show 3]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from relsdk.errors import RelsdkError
from relsdk.levels import RelevanceLevel
from relsdk_sample import SampleWorld, generate, write


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate, write and show a sample world."""
    parser = argparse.ArgumentParser(
        description="Write a Chinese short-video search corpus with exact levels."
    )
    parser.add_argument("folder", help="where the JSONL files go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--show", type=int, default=3, help="how many queries to show")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that is not empty")
    options = parser.parse_args(arguments)
    try:
        world = generate(options.seed, options.documents, options.queries)
        folder = write(world, options.folder, overwrite=options.overwrite)
    except RelsdkError as error:
        parser.error(str(error))
    sizes = f"{len(world.documents)} documents, {len(world.queries)} queries, {len(world.pairs)} pairs"
    print(f"{sizes} in {folder}")
    show(world, options.show)


def show(world: SampleWorld, count: int) -> None:
    """Print, for test queries with documents of every level, the title of one document each."""
    for query in world.split_queries("test"):
        examples = {pair.level: pair.document for pair in reversed(world.pairs) if pair.query == query.text}
        if len(examples) < len(RelevanceLevel) or count == 0:
            continue
        count -= 1
        print(f"\n{query.id}  {query.text}")
        for level in sorted(RelevanceLevel, reverse=True):
            print(f"  {level.value} {level.name:<10}  {examples[level].title}")


if __name__ == "__main__":
    main()
