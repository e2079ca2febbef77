"""The first stage: labelled pairs, the unlabelled text beside them, and what a language model said of it.

Its folder is called pool.
"""

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
from relsdk_training.config.ssra import SsraConfig, UnlabelledConfig
from relsdk_training.data.lessons import read_opinions
from relsdk_training.data.pairs import read_splits
from relsdk_training.data.text import document_text, normal_form
from relsdk_training.engine.identity import section_identity
from relsdk_training.ssra._shards import write_lines, write_shards
from relsdk_training.ssra.job import Job
from relsdk_training.ssra.pair_records import distinct

__all__ = ["check", "identity", "work"]

# How opinions and written queries are learned: of no concern here.
_LEARNED = ("weak_weight", "written_weight", "human_last")


def identity(config: SsraConfig) -> list[Any]:
    """Return what the stage depends on: its settings and the content of its files.

    Raises:
        InputError: A file is missing.
    """
    files = [config.data.train, config.data.dev, config.data.test]
    files += [*config.unlabelled.pairs, *config.unlabelled.documents, *config.unlabelled.queries]
    answers = {name: getattr(config.data, name) for name in ("weak", "written")}
    files += [path for of in answers.values() for path in of]
    for path in files:
        if path and not Path(path).is_file():
            raise InputError(f"{path} is not a file")
    hashes = [file_sha256(Path(path)) if path else "" for path in files]
    data = {
        name: value
        for name, value in section_identity("data", asdict(config.data)).items()
        if name not in _LEARNED
    }
    counts = [{name: len(of) for name, of in answers.items()}] if any(answers.values()) else []
    return [data, {"limit": config.unlabelled.limit}, hashes, config.run.seed, config.run.shard, *counts]


def check(config: SsraConfig) -> None:
    """Check the size of the shards."""
    if config.run.shard < 1:
        raise InputError(f"run.shard={config.run.shard}; at least 1 document is needed")


def work(job: Job) -> dict[str, Any]:
    """Write labelled pairs, dev pairs, distinct documents in shards, distinct queries, held-out queries.

    Also opinions, those on labelled and dev pairs included, and written queries in shards.

    Raises:
        InputError: A file is bad, a query leaks between splits, a level has no labelled pair, dev is too
            small to fit levels on, or there is no unlabelled document.
    """
    config, folder = job.config, job.folder
    splits = read_splits(config.data, config.run.seed)
    opinions, written = read_opinions(config.data, splits)
    labelled = splits["train"]
    counts = _counts(labelled)
    if not counts.all():
        raise InputError(
            f"labelled pairs of levels 0-3: {counts.tolist()}; at least one of each is needed to tell "
            "what the level means"
        )
    _check_dev(config.data.dev, splits["dev"])
    write_pairs(folder / "labelled.jsonl", labelled)
    write_pairs(folder / "dev.jsonl", splits["dev"])
    held_out = {normal_form(pair.query) for name in ("dev", "test") for pair in splits.get(name, [])}
    write_lines(folder / "held_out.jsonl", [{"query": query} for query in sorted(held_out)])
    chosen = _chosen_rows(config)
    documents = (
        {"id": document.id, "title": document.title, "text": document.text}
        for row, document in enumerate(_distinct_documents(config.unlabelled))
        if chosen is None or row in chosen
    )
    count = write_shards(folder, "documents", documents, config.run.shard)
    if not count:
        raise InputError("no unlabelled document; name files in unlabelled.pairs or unlabelled.documents")
    distinct_queries = _distinct_queries(labelled, config.unlabelled)
    queries = [query for same, query in distinct_queries.items() if same not in held_out]
    write_lines(folder / "queries.jsonl", ({"query": query} for query in queries))
    report: dict[str, Any] = {
        "labelled": counts.tolist(),
        "documents": count,
        "queries": len(queries),
        "held_out_queries": len(held_out),
    }
    if config.data.weak:
        write_pairs(folder / "weak.jsonl", [*opinions.twice, *opinions.pairs])
        job.on_note(opinions.describe())
        report["opinions"] = opinions.to_dict()
    if config.data.written:
        _write_queries(folder, written, config.run.shard)
        report["written"] = _counts(written).tolist()
    return report


def _write_queries(folder: Path, pairs: Sequence[LabelledPair], size: int) -> None:
    """Write what a language model wrote in shards of documents, a line for each document and level."""
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    for pair in pairs:
        document = {"id": pair.document.id, "title": pair.document.title, "text": pair.document.text}
        of_document = lines.setdefault(document_text(pair.document), {})
        new = {"document": document, "wanted": int(pair.level), "queries": []}
        of_document.setdefault(int(pair.level), new)["queries"].append(pair.query)
    documents = list(lines.values())
    for number, start in enumerate(range(0, len(documents), size)):
        some = (line for of_document in documents[start : start + size] for line in of_document.values())
        write_lines(folder / f"written-{number:05d}.jsonl", some)


def _check_dev(path: str, pairs: Sequence[LabelledPair]) -> None:
    """Raise `InputError` unless levels can be fitted on dev, whatever the scores will be."""
    labels = [int(pair.level) for pair in pairs]
    try:
        fit_calibration(np.linspace(0, 1, len(pairs)), labels, [pair.query for pair in pairs])
    except CalibrationError as error:
        raise InputError(f"{path}: {error}; the score models read their levels from dev") from error


def _chosen_rows(config: SsraConfig) -> set[int] | None:
    """Return which of the distinct documents are used; None for all of them."""
    limit = config.unlabelled.limit
    if not limit:
        return None
    count = sum(1 for _ in _distinct_documents(config.unlabelled))
    return set(np.random.default_rng(config.run.seed).permutation(count)[:limit].tolist())


def _distinct_documents(unlabelled: UnlabelledConfig) -> Iterator[Document]:
    """Yield the first document of each text."""
    return distinct(_documents(unlabelled), document_text)


def _documents(unlabelled: UnlabelledConfig) -> Iterator[Document]:
    for path in unlabelled.documents:
        yield from read_documents(Path(path))
    for path in unlabelled.pairs:
        yield from (document for _, document in read_unlabelled_pairs(Path(path), skip_empty=True))


def _distinct_queries(labelled: Sequence[LabelledPair], unlabelled: UnlabelledConfig) -> dict[str, str]:
    """Return the first query of each normal form."""
    first: dict[str, str] = {}
    for query in _queries(labelled, unlabelled):
        first.setdefault(normal_form(query), query)
    return first


def _queries(labelled: Sequence[LabelledPair], unlabelled: UnlabelledConfig) -> Iterator[str]:
    yield from (pair.query for pair in labelled)
    for path in unlabelled.pairs:
        yield from (query for query, _ in read_unlabelled_pairs(Path(path), skip_empty=True))
    for path in unlabelled.queries:
        yield from (query.text for query in read_queries(Path(path)))


def _counts(pairs: Iterable[LabelledPair]) -> NDArray[np.int64]:
    return np.bincount([int(pair.level) for pair in pairs], minlength=NUM_LEVELS)
