"""Data that the training runs read beside KUAKE-QTR's own splits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from relsdk.files.folders import write_file_atomically
from relsdk.formats import read_pairs, read_unlabelled_pairs
from relsdk_checkpoint.pair_scores import TextEmbedder

SPLITS = ("train", "dev", "test")
_NEAR = 12


def split_qbqtc(path: Path, folder: Path) -> dict[str, Path]:
    """Split QBQTC by query, 8 : 1 : 1: its own test labels are not public. Labels stay 0-2."""
    files = {name: folder / f"{name}.jsonl" for name in SPLITS}
    if not all(file.is_file() for file in files.values()):
        lines: dict[str, list[str]] = {name: [] for name in SPLITS}
        for line in path.read_text(encoding="utf-8").splitlines():
            lines[_split_of(json.loads(line)["query"])].append(line)
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            write_file_atomically(file, "\n".join(lines[name]) + "\n")
    return files


def query_texts(shared: Path, path: Path) -> Path:
    """Write what a query tower learns on: queries and titles of train and of the unlabelled pairs."""
    if not path.is_file():
        kuake = shared / "data/kuake_qtr"
        texts: dict[str, None] = {}
        for pair in read_pairs(kuake / "train.jsonl"):
            texts |= {pair.query: None, pair.document.title: None}
        for query, document in read_unlabelled_pairs(kuake / "unlabelled.jsonl", skip_empty=True):
            texts |= {query: None, document.title: None}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (" ".join(text.split()) for text in texts)
        write_file_atomically(path, "".join(f"{line}\n" for line in lines if line))
    return path


def near_pairs(shared: Path, encoder: Path, path: Path) -> Path:
    """Write pairs for teachers to grade: each query, labelled or not, and a title near it.

    One of the twelve nearest, at random: for pairs of all levels, not of the most relevant alone.
    """
    if not path.is_file():
        kuake = shared / "data/kuake_qtr"
        pairs = [(pair.query, pair.document.title) for pair in read_pairs(kuake / "train.jsonl")]
        unlabelled = read_unlabelled_pairs(kuake / "unlabelled.jsonl", skip_empty=True)
        pairs += [(query, document.title) for query, document in unlabelled]
        queries, titles = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
        embedder = TextEmbedder(encoder)
        rng = np.random.default_rng(0)
        vectors, of_titles = embedder.queries(queries), embedder.documents(titles)
        rows = [int(rng.choice(np.argpartition(-(of_titles @ vector), _NEAR)[:_NEAR])) for vector in vectors]
        lines = (
            json.dumps({"query": query, "title": titles[row]}, ensure_ascii=False)
            for query, row in zip(queries, rows, strict=True)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file_atomically(path, "".join(f"{line}\n" for line in lines))
    return path


def _split_of(query: str) -> str:
    number = int(hashlib.sha256(query.strip().encode()).hexdigest(), 16) % 10
    return "dev" if number == 0 else "test" if number == 1 else "train"
