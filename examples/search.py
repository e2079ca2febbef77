"""Index a file of documents and search it, with filters and levels.

Run: python examples/search.py BUNDLE docs.jsonl "红烧肉怎么做"
"""

from __future__ import annotations

import sys

from relsdk import Embedder, Index, Searcher
from relsdk.formats import read_documents


def main(bundle: str, documents: str, query: str) -> None:
    """Print the five nearest documents, each with its level where the bundle is calibrated."""
    embedder = Embedder(bundle)
    index = Index.build("search.idx", read_documents(documents), embedder, overwrite=True)
    print(f"{len(index)} documents, {embedder.dimension} dimensions, file {embedder.variant.name}")
    for hit in Searcher(embedder, index).search(query, k=5):
        level = hit.level.name if hit.relevance else "no levels: relsdk calibrate fits them"
        print(f"{hit.document.id}  {hit.score:.3f}  {level}  {hit.document.title}")


if __name__ == "__main__":
    main(*sys.argv[1:])
