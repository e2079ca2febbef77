"""Encode the rows of a file into a folder of parts, by one worker or by many.

Shape letters: n rows, D dimension.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from relsdk.errors import InputError
from relsdk.formats import Query
from relsdk.models.embedder import Embedder
from relsdk.records import Document
from relsdk.shards._pieces import check_model, check_places, pieces, quietly, threads_of_a_worker
from relsdk.shards.folder import PartsSummary, check_parts_folder, fill_folder
from relsdk.shards.parts import Columns, PartInfo, write_part
from relsdk.shards.plan import Job, OnProgress, RowCursor, Shard, Source, open_source
from relsdk.shards.runner import LocalRunner, Runner

__all__ = ["EncodeWork", "encode_shards"]


@dataclass(frozen=True, slots=True)
class EncodeWork:
    """Encodes a shard and writes its part.

    Attributes:
        model: Folder of the bundle.
        job: What is made; its variant is what runs, on every machine.
        source: The input.
        folder: Of the parts.
        threads: Of each worker.
    """

    model: Path
    job: Job
    source: Source
    folder: Path
    threads: int

    def open(self) -> Callable[[Shard], PartInfo]:
        """Load the model; return what encodes a shard.

        Raises:
            BundleError: The folder holds another model by now.
            InputError: This machine does not compute the variant exactly.
        """
        check_places(self.model, self.source.path, self.folder)
        with quietly():
            embedder = Embedder(
                self.model, variant=self.job.variant, threads=self.threads, truncate_dim=self.job.dimension
            )
        check_model(embedder.bundle, embedder.variant, self.job)
        cursor = RowCursor(self.source)
        return lambda shard: self._encode(embedder, cursor, shard)

    def _encode(self, embedder: Embedder, cursor: RowCursor, shard: Shard) -> PartInfo:
        prompt = embedder.known_prompt(self.job.kind)
        vectors: NDArray[np.float32] = np.empty((shard.stop - shard.start, self.job.dimension), np.float32)
        ids: list[str] = []
        tokens = truncated = 0
        for piece in pieces(cursor, shard):
            with piece.named_in_errors():
                texts = [_text(embedder, row) for row in piece.rows]
                tokenized = embedder.tokenize(texts, prompt_name=prompt)
                # To unit length, as encode_query and encode_document give them.
                made = embedder.encode_tokens(tokenized, prompt_name=prompt, normalize_embeddings=True)
            vectors[len(ids) : len(ids) + len(texts)] = made
            ids += [row.id for row in piece.rows]
            tokens += sum(tokenized.lengths)
            truncated += len(tokenized.truncated)
        self.source.check_unchanged()
        columns: Columns = {"id": ids, "vector": vectors}
        return write_part(
            self.folder, shard, self.source, self.job, columns, tokens=tokens, truncated=truncated
        )


def _text(embedder: Embedder, row: Query | Document) -> str:
    return embedder.document_text(row) if isinstance(row, Document) else row.text


def encode_shards(
    model: str | os.PathLike[str],
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    kind: Literal["query", "document"] = "document",
    *,
    runner: Runner | None = None,
    variant: str = "auto",
    threads: int | None = None,
    truncate_dim: int | None = None,
    reading: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> PartsSummary:
    """Encode the rows of a file into a folder of parts.

    A part is a Parquet file with the ids and the vectors of some rows. Which rows, and its name, depend on
    the file, the model and the options alone, so a second call makes only the parts that are missing, and
    any number of workers makes the same parts.

    Args:
        model: See `Embedder`.
        source: The file; see `read_documents` and `read_queries`.
        folder: Where the parts go; made if it is not there.
        kind: What the rows are.
        runner: See `open_runner`; None works in this process.
        variant: See `Embedder`.
        threads: Of each worker; None shares this machine's among its workers, and takes 1 on a cluster.
        truncate_dim: See `Embedder`.
        reading: Arguments of the reader: `encoding`, `delimiter`, `skip_empty`.
        overwrite: Remove parts of another input or model that are in the folder.
        on_progress: Called with a stage ("read", "verify", "documents" or "queries"), the rows done, and how
            many there are, where that is known.

    Raises:
        InputError: The input is wrong or cannot be read twice, the folder is of something else, or an
            argument is out of range.
        BundleError: The model is missing or damaged.
        LockedError: Another process fills the same folder.
        MissingExtraError: pyarrow is not installed.
        RelsdkError: The disk is full, or an item ended three workers.
    """
    if kind not in ("query", "document"):
        raise InputError(f"kind={kind!r}; allowed are 'query' and 'document'")
    folder = Path(folder)
    check_parts_folder(folder)
    opened = open_source(source, kind, reading, on_progress)
    runner = runner or LocalRunner()
    embedder = Embedder(model, variant=variant, threads=threads, truncate_dim=truncate_dim)
    job = Job(embedder.name, embedder.fingerprint, embedder.variant.name, embedder.dimension, kind)
    path = embedder.path.absolute()
    del embedder  # the workers open it for themselves
    work = EncodeWork(path, job, opened, folder.absolute(), threads_of_a_worker(runner, threads))
    return fill_folder(folder, opened, job, work, runner, overwrite=overwrite, on_progress=on_progress)
