"""What a run starts from: labelled pairs, and the text beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from relsdk.calibration import fit_calibration
from relsdk.errors import CalibrationError, InputError
from relsdk.files.folders import file_sha256
from relsdk.formats import read_documents, read_queries, read_unlabelled_pairs, write_pairs
from relsdk.levels import NUM_LEVELS
from relsdk.records import Document, LabelledPair
from relsdk_training.config.ssra import PoolConfig, SsraConfig
from relsdk_training.data.pairs import read_splits
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.ssra.records import distinct
from relsdk_training.ssra.stage_runner import write_lines, write_shards

__all__ = ["pool_identity", "write_pool"]


def write_pool(work: Path, config: SsraConfig) -> dict[str, Any]:
    """Write labelled pairs, dev pairs, distinct documents in shards, distinct queries, held-out queries.

    Args:
        work: Folder of the stage.
        config: Names the files.

    Returns:
        Counts.

    Raises:
        InputError: A file is missing or bad, a query leaks between splits, a level has no labelled pair, dev
            is too small to fit levels on, or there is no unlabelled document.
    """
    splits = read_splits(config.data, config.run.seed)
    labelled = splits["train"]
    counts = _counts(labelled)
    if not counts.all():
        raise InputError(
            f"labelled pairs of levels 0-3: {counts.tolist()}; at least one of each is needed to tell "
            "what the level means"
        )
    _check_dev(config.data.dev, splits["dev"])
    write_pairs(work / "labelled.jsonl", labelled)
    write_pairs(work / "dev.jsonl", splits["dev"])
    held_out = {normal_form(pair.query) for name in ("dev", "test") for pair in splits.get(name, [])}
    write_lines(work / "held_out.jsonl", [{"query": query} for query in sorted(held_out)])
    chosen = _chosen_rows(config)
    documents = (
        {"id": document.id, "title": document.title, "text": document.text}
        for row, document in enumerate(_distinct_documents(config.pool))
        if chosen is None or row in chosen
    )
    count = write_shards(work, "documents", documents, config.run.shard)
    if not count:
        raise InputError("no unlabelled document; name files in pool.unlabelled or pool.documents")
    found = _distinct_queries(labelled, config.pool)
    queries = [query for same, query in found.items() if same not in held_out]
    write_lines(work / "queries.jsonl", ({"query": query} for query in queries))
    return {
        "labelled": counts.tolist(),
        "documents": count,
        "queries": len(queries),
        "held_out_queries": len(held_out),
    }


def _check_dev(path: str, pairs: Sequence[LabelledPair]) -> None:
    """Raise `InputError` unless levels can be fitted on dev, whatever the scores will be."""
    labels = [int(pair.level) for pair in pairs]
    try:
        fit_calibration(np.linspace(0, 1, len(pairs)), labels, [pair.query for pair in pairs])
    except CalibrationError as error:
        raise InputError(f"{path}: {error}; the score models read their levels from dev") from error


def _chosen_rows(config: SsraConfig) -> set[int] | None:
    """Return which of the distinct documents are used; None for all of them."""
    limit = config.pool.limit
    if not limit:
        return None
    count = sum(1 for _ in _distinct_documents(config.pool))
    return set(np.random.default_rng(config.run.seed).permutation(count)[:limit].tolist())


def _distinct_documents(pool: PoolConfig) -> Iterator[Document]:
    """Yield the first document of each text."""
    return distinct(_documents(pool), document_text)


def _documents(pool: PoolConfig) -> Iterator[Document]:
    for path in pool.documents:
        yield from read_documents(Path(path))
    for path in pool.unlabelled:
        yield from (document for _, document in read_unlabelled_pairs(Path(path), skip_empty=True))


def _distinct_queries(labelled: Sequence[LabelledPair], pool: PoolConfig) -> dict[str, str]:
    """Return the first query of each normal form."""
    distinct: dict[str, str] = {}
    for query in _queries(labelled, pool):
        distinct.setdefault(normal_form(query), query)
    return distinct


def _queries(labelled: Sequence[LabelledPair], pool: PoolConfig) -> Iterator[str]:
    yield from (pair.query for pair in labelled)
    for path in pool.unlabelled:
        yield from (query for query, _ in read_unlabelled_pairs(Path(path), skip_empty=True))
    for path in pool.queries:
        yield from (query.text for query in read_queries(Path(path)))


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


def _counts(pairs: Iterable[LabelledPair]) -> NDArray[np.int64]:
    return np.bincount([int(pair.level) for pair in pairs], minlength=NUM_LEVELS)
