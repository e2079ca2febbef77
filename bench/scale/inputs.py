"""As many documents as are wanted, with their vectors; their titles are real where ../shared is there."""

from __future__ import annotations

import json
from pathlib import Path

from bench.living_index.corpus import Corpus, Size, prepare

__all__ = ["open_corpus"]

_TITLES = "data/kuake_qtr"
_FILES = ("train", "dev", "test", "unlabelled")


def open_corpus(work: Path, shared: Path, documents: int, dimension: int, queries: int) -> Corpus:
    """Return documents, their vectors and queries; made in `work` if they are not there.

    Args:
        work: Where.
        shared: Has the real titles; where they are absent, those of the sample corpus stand for them.
        documents: How many.
        dimension: Of the vectors.
        queries: How many.
    """
    size = Size(documents=documents, dimension=dimension, spare=0, change=0, queries=queries)
    folder = work / f"{documents}x{dimension}x{queries}"
    if not (shared / _TITLES).is_dir():
        shared = _write_sample(work / "sample")
    prepare(folder, size, shared)
    return Corpus(folder, size)


def _write_sample(folder: Path) -> Path:
    """Write titles and queries of the sample corpus in the form of the real ones."""
    from relsdk_sample import generate

    world = generate(n_documents=300, n_queries=40)
    titles = [document.title for document in world.documents]
    queries = [query.text for query in world.queries]
    lines = [
        json.dumps({"query": queries[at % len(queries)], "title": title}, ensure_ascii=False)
        for at, title in enumerate(titles)
    ]
    target = folder / _TITLES
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (target / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
