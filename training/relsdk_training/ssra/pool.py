"""What a run starts from: labelled pairs, and the text beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.folders import file_sha256
from relsdk.formats import read_documents, read_queries, read_unlabelled_pairs, write_pairs
from relsdk.records import Document, LabelledPair
from relsdk_training.config import SsraConfig
from relsdk_training.data import check_disjoint, document_text, load_pairs, thin_out
from relsdk_training.ssra.cleaning import normal
from relsdk_training.ssra.stages import write_lines

__all__ = ["counts_of", "pool_identity", "write_pool"]


def write_pool(work: Path, config: SsraConfig) -> dict[str, Any]:
    """Write labelled pairs, dev pairs, distinct documents in shards, distinct queries, held-out queries.

    Args:
        work: Folder of the stage.
        config: Names the files.

    Returns:
        Counts.

    Raises:
        InputError: A file is missing or bad, a query leaks between splits, a level has no labelled pair, or
            there is no unlabelled document.
    """
    data = config.data
    splits = {
        "train": load_pairs(data.train, data.label_map),
        "dev": load_pairs(data.dev, data.label_map),
    }
    if data.test:
        splits["test"] = load_pairs(data.test, data.label_map)
    check_disjoint(**splits)
    labelled = splits["train"]
    if data.rare_share:
        labelled = thin_out(labelled, data.rare_levels, data.rare_share, config.run.seed)
    if data.limit:
        labelled = labelled[: data.limit]
    counts = counts_of(labelled)
    if not counts.all():
        raise InputError(
            f"labelled pairs of levels 0-3: {counts.tolist()}; at least one of each is needed to tell "
            "what the level means"
        )
    write_pairs(work / "labelled.jsonl", labelled)
    write_pairs(work / "dev.jsonl", splits["dev"])
    held_out = {normal(pair.query) for name in ("dev", "test") for pair in splits.get(name, [])}
    write_lines(work / "held_out.jsonl", [{"query": query} for query in sorted(held_out)])
    documents, queries = _unlabelled(labelled, config)
    queries = [query for query in queries if normal(query) not in held_out]
    write_lines(work / "queries.jsonl", [{"query": query} for query in queries])
    size = config.run.shard
    for start in range(0, len(documents), size):
        shard = documents[start : start + size]
        write_lines(
            work / f"documents-{start // size:05d}.jsonl",
            [{"id": d.id, "title": d.title, "text": d.text} for d in shard],
        )
    return {
        "labelled": counts.tolist(),
        "documents": len(documents),
        "queries": len(queries),
        "held_out_queries": len(held_out),
    }


def _unlabelled(labelled: list[LabelledPair], config: SsraConfig) -> tuple[list[Document], list[str]]:
    """Read distinct documents, by text, and distinct queries."""
    pool = config.pool
    documents: dict[str, Document] = {}
    queries: dict[str, None] = dict.fromkeys(pair.query for pair in labelled)
    for path in pool.documents:
        for document in read_documents(Path(path)):
            documents.setdefault(document_text(document), document)
    for path in pool.unlabelled:
        for query, document in read_unlabelled_pairs(Path(path), skip_empty=True):
            documents.setdefault(document_text(document), document)
            queries[query] = None
    for path in pool.queries:
        queries.update((query.text, None) for query in read_queries(Path(path)))
    found = list(documents.values())
    if pool.limit and len(found) > pool.limit:
        rows = np.random.default_rng(config.run.seed).permutation(len(found))[: pool.limit]
        found = [found[row] for row in np.sort(rows)]
    if not found:
        raise InputError("no unlabelled document; name files in pool.unlabelled or pool.documents")
    return found, list(queries)


def pool_identity(config: SsraConfig) -> Any:
    """Return what the pool depends on: its settings and the content of its files."""
    data = asdict(config.data)
    files = [data.pop(name) for name in ("train", "dev", "test")]
    pool = asdict(config.pool)
    files += [path for name in ("unlabelled", "documents", "queries") for path in pool.pop(name)]
    for path in files:
        if path and not Path(path).is_file():
            raise InputError(f"{path} is not a file")
    hashes = [file_sha256(Path(path)) if path else "" for path in files]
    return [data, pool, hashes, config.run.seed, config.run.shard]


def counts_of(pairs: Iterable[LabelledPair]) -> NDArray[np.int64]:
    """Return how many pairs have each level: (4,)."""
    return np.bincount([int(pair.level) for pair in pairs], minlength=4)
