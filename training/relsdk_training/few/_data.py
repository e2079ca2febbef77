"""The first stage: what people labelled, and what a language model is asked about.

It writes train.jsonl, dev.jsonl and test.jsonl (those that there are, with levels for labels), pairs.jsonl
and documents.jsonl for the language model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from relsdk.calibration import fit_calibration
from relsdk.errors import CalibrationError, InputError
from relsdk.files.folders import file_sha256
from relsdk.formats import read_documents, read_unlabelled_pairs, write_documents, write_pairs
from relsdk.levels import NUM_LEVELS, RelevanceLevel
from relsdk.records import Document, LabelledPair
from relsdk_training.config.few import FewConfig
from relsdk_training.data.pairs import check_dev, check_leaks, load_pairs, pair_arrays
from relsdk_training.data.text import document_text, normal_form

__all__ = ["DEV_LABELS", "calibrates", "data_identity", "held_out_queries", "level_counts", "make_data"]

SPLITS = ("train", "dev", "test")
# Labels from which on a fifth is set apart to decide and to calibrate: fewer are all needed to learn from.
DEV_LABELS = 100
_DEV_SHARE, _MOST_DEV = 0.2, 0.6
Pair = tuple[str, Document]


def data_identity(config: FewConfig) -> list[Any]:
    """Return what the stage depends on: its settings and the content of its files.

    Raises:
        InputError: A file is missing.
    """
    files = [getattr(config.data, name) for name in SPLITS]
    for path in (*files, *config.ask.unlabelled):
        if path and not Path(path).is_file():
            raise InputError(f"{path} is not a file")
    hashes = [file_sha256(Path(path)) if path else "" for path in (*files, *config.ask.unlabelled)]
    asked = [config.ask.pairs, config.ask.documents] if config.endpoint.is_named else []
    return [config.data.label_map, asked, hashes]


def make_data(config: FewConfig, folder: Path) -> dict[str, Any]:
    """Write the files that the other stages read.

    Returns:
        The report: pairs of each level in train and dev, what is asked about, and what was done with dev.

    Raises:
        InputError: A file is bad, a query is in two of train, dev and test, or dev cannot decide.
    """
    splits = {
        name: load_pairs(path, config.data.label_map) if (path := getattr(config.data, name)) else []
        for name in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        check_leaks(one, splits[one], other, splits[other])
    is_split = bool(splits["train"]) and not splits["dev"]
    if is_split:
        splits["train"], splits["dev"] = _set_apart(splits["train"])
    if splits["dev"]:
        check_dev(pair_arrays(splits["dev"]))
    for name, pairs in splits.items():
        if pairs:
            write_pairs(folder / f"{name}.jsonl", pairs)
    held_out = held_out_queries(folder)
    counts = {name: level_counts(splits[name]) for name in ("train", "dev")}
    report = {**counts, "dev_is_of_labels": is_split, "calibrates": calibrates(splits["dev"])}
    return {**report, **_write_unlabelled(config, folder, splits["train"], held_out)}


def calibrates(pairs: Sequence[LabelledPair]) -> bool:
    """Whether levels can be fitted on pairs, whatever the scores will be."""
    labels = [int(pair.level) for pair in pairs]
    try:
        fit_calibration(np.linspace(0, 1, len(pairs)), labels, [pair.query for pair in pairs])
    except CalibrationError:
        return False
    return True


def held_out_queries(folder: Path) -> set[str]:
    """Return the normal form of the queries that nothing may be learned of, from the stage's folder."""
    paths = [path for name in ("dev", "test") if (path := folder / f"{name}.jsonl").is_file()]
    return {normal_form(pair.query) for path in paths for pair in load_pairs(str(path))}


def _set_apart(pairs: list[LabelledPair]) -> tuple[list[LabelledPair], list[LabelledPair]]:
    """Split labels by query: what to learn from, and about a fifth to decide with, enough to calibrate on.

    Returns:
        Both; the second is empty where the labels are too few for that.
    """
    queries = list(dict.fromkeys(normal_form(pair.query) for pair in pairs))
    order = np.random.default_rng(0).permutation(len(queries)).tolist() if len(pairs) >= DEV_LABELS else []
    chosen: set[str] = set()
    for row in order:
        chosen.add(queries[row])
        dev = [pair for pair in pairs if normal_form(pair.query) in chosen]
        if len(dev) > _MOST_DEV * len(pairs):
            break
        if len(dev) >= _DEV_SHARE * len(pairs) and calibrates(dev):
            return [pair for pair in pairs if normal_form(pair.query) not in chosen], dev
    return pairs, []


def _write_unlabelled(
    config: FewConfig, folder: Path, labelled: Sequence[LabelledPair], held_out: set[str]
) -> dict[str, Any]:
    """Write what a language model is asked about; return how much that is."""
    if not config.endpoint.is_named:
        return {"pairs": 0, "documents": 0, "left_out": 0}
    known = {(normal_form(pair.query), document_text(pair.document)) for pair in labelled}
    pairs: dict[tuple[str, str], Pair] = {}
    documents: dict[str, Document] = {}
    left_out = 0
    for query, document in _unlabelled(config.ask.unlabelled):
        documents.setdefault(document_text(document), document)
        key = normal_form(query), document_text(document)
        if key[0] in held_out or key in known:
            left_out += 1
        elif query:
            pairs.setdefault(key, (query, document))
    graded = _sample(list(pairs.values()), config.ask.pairs)
    written = _sample(list(documents.values()), config.ask.documents)
    # A file of pairs has labels, which nobody reads of these.
    write_pairs(
        folder / "pairs.jsonl",
        (LabelledPair(query, document, RelevanceLevel.IRRELEVANT) for query, document in graded),
    )
    write_documents(folder / "documents.jsonl", written)
    return {"pairs": len(graded), "documents": len(written), "left_out": left_out}


def _unlabelled(paths: Iterable[str]) -> Iterator[Pair]:
    """Yield the pairs of files of pairs, and the documents of others with an empty query."""
    for path in paths:
        try:
            pairs = read_unlabelled_pairs(path, skip_empty=True)
            first = next(pairs)
        except StopIteration:
            continue
        except InputError:  # its rows have no query, or the file is bad, which is said now
            yield from (("", document) for document in read_documents(path, skip_empty=True))
            continue
        yield first
        yield from pairs


def _sample(rows: list[Any], limit: int) -> list[Any]:
    """Return at most so many rows in their order: the same ones whatever the run's seed."""
    chosen = np.random.default_rng(0).permutation(len(rows))[:limit]
    return [rows[row] for row in sorted(chosen.tolist())]


def level_counts(pairs: Iterable[LabelledPair]) -> list[int]:
    """Return how many pairs have each level."""
    levels = [int(pair.level) for pair in pairs]
    return [levels.count(level) for level in range(NUM_LEVELS)]
