"""A collection of relsdk's in Milvus: its fields, what is noted with it, and its rows.

Shape letters: n documents, D dimension.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus import CollectionSchema, DataType, MilvusClient

from relsdk.errors import IndexFolderError, InputError
from relsdk.index.base import IndexConfig
from relsdk.index.store import MadeBy
from relsdk.index.store_uri import StoreUri
from relsdk.records import Document
from relsdk_scale._milvus_values import TOKEN_CHARACTERS, document_tokens

__all__ = [
    "DOCUMENT_FIELDS",
    "TOKEN_FIELDS",
    "Note",
    "document_of",
    "index_of",
    "index_parameters",
    "new_schema",
    "row_batches",
    "search_settings",
]

DOCUMENT_FIELDS = ["id", "title", "text", "metadata"]
TOKEN_FIELDS = ["values", "numbers", "texts"]  # what filters ask for
_MAX_TEXT = 65_535  # bytes of a VARCHAR
_MAX_TOKENS = 4_096  # elements of an ARRAY
_MAX_DIMENSION = 32_768
_MAX_EF = 32_768
_BATCH_BYTES = 16 * 2**20  # a server takes 64 MB
_PREFIX, _FORMAT = "relsdk.", "1"
_TYPES = {
    **dict.fromkeys(DOCUMENT_FIELDS, DataType.VARCHAR),
    "vector": DataType.FLOAT_VECTOR,
    **dict.fromkeys(TOKEN_FIELDS, DataType.ARRAY),
}


@dataclass(frozen=True)
class Note:
    """What is noted with a collection, as properties.

    Attributes:
        encoder: Who made the vectors.
        dimension: D.
        config: The settings it was made with.
        complete: Whether its load came to its end.
    """

    encoder: MadeBy
    dimension: int
    config: IndexConfig
    complete: bool

    def properties(self) -> dict[str, str]:
        """Return it as properties of the collection."""
        noted = {
            "format": _FORMAT,
            "encoder_name": self.encoder.name,
            "encoder_fingerprint": self.encoder.fingerprint,
            "config": json.dumps(asdict(self.config), sort_keys=True),
            "complete": "true" if self.complete else "false",
        }
        if self.encoder.path is not None:
            noted["encoder_path"] = self.encoder.path
        return {_PREFIX + name: text for name, text in noted.items()}

    @classmethod
    def of(cls, uri: StoreUri, description: Mapping[str, Any]) -> Note:
        """Read it from what Milvus says of a collection.

        Raises:
            IndexFolderError: The collection is not relsdk's, or of a newer version, or its fields are others.
        """
        noted = {
            name.removeprefix(_PREFIX): text
            for name, text in dict(description.get("properties") or {}).items()
            if name.startswith(_PREFIX)
        }
        if "format" not in noted:
            raise IndexFolderError(
                f"{uri} is a collection that relsdk did not make; it was not touched: name another one"
            )
        if noted["format"] != _FORMAT:
            raise IndexFolderError(
                f"{uri} was made by a newer relsdk (format {noted['format']}); upgrade relsdk"
            )
        fields = {field["name"]: field for field in description["fields"]}
        types = {name: field["type"] for name, field in fields.items()}
        try:
            if types != _TYPES:
                raise ValueError(f"its fields are {', '.join(sorted(types))}")
            return cls(
                MadeBy(noted["encoder_name"], noted["encoder_fingerprint"], noted.get("encoder_path")),
                int(fields["vector"]["params"]["dim"]),
                IndexConfig.from_dict(json.loads(noted["config"])),
                noted["complete"] == "true",
            )
        except (KeyError, ValueError, TypeError, InputError) as error:
            raise IndexFolderError(
                f"{uri} is damaged ({error!s:.200}); remove the collection from Milvus, or use another name"
            ) from error


def new_schema(dimension: int) -> CollectionSchema:
    """Return the fields of a collection.

    Raises:
        InputError: Milvus has no vectors so long.
    """
    if dimension > _MAX_DIMENSION or dimension < 2:
        raise InputError(f"vectors have {dimension:,} dimensions; Milvus takes 2 to {_MAX_DIMENSION:,}")
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    for name in DOCUMENT_FIELDS:
        schema.add_field(name, DataType.VARCHAR, max_length=_MAX_TEXT, is_primary=name == "id")
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    for name in TOKEN_FIELDS:
        schema.add_field(
            name,
            DataType.ARRAY,
            element_type=DataType.VARCHAR,
            max_capacity=_MAX_TOKENS,
            max_length=TOKEN_CHARACTERS,
        )
    return schema


def index_of(config: IndexConfig, *, is_lite: bool) -> tuple[str, dict[str, Any]]:
    """Return the type of the vectors' index, and its settings.

    Raises:
        InputError: Milvus does not have it.
    """
    if config.kind == "flat":
        if config.int8:
            raise InputError("Milvus' FLAT keeps whole vectors; leave int8 out, or take kind 'hnsw'")
        return "FLAT", {}
    graph = {"M": config.M, "efConstruction": config.ef_construction}
    if not config.int8:
        return "HNSW", graph
    if is_lite:
        raise InputError(
            "milvus-lite does not refine the results of an int8 graph with whole vectors; leave int8 out, or "
            "use a Milvus server"
        )
    return "HNSW_SQ", {**graph, "sq_type": "SQ8", "refine": True, "refine_type": "FP32"}


def index_parameters(field: str, kind: str, **settings: Any) -> Any:
    """Return what pymilvus makes an index of a field from."""
    parameters = MilvusClient.prepare_index_params()
    parameters.add_index(field_name=field, index_type=kind, **settings)
    return parameters


def search_settings(config: IndexConfig, k: int, ef_search: int | None) -> dict[str, Any]:
    """Return the settings of a search for k documents."""
    if config.kind == "flat":
        return {}
    ef = min(max(ef_search or config.ef_search, k), _MAX_EF)
    return {"ef": ef, "refine_k": 2} if config.int8 else {"ef": ef}


def row_batches(
    documents: Sequence[Document], vectors: NDArray[np.float32]
) -> Iterator[list[dict[str, Any]]]:
    """Yield rows for Milvus; every document is looked at before the first batch.

    Args:
        documents: n.
        vectors: (n, D).

    Raises:
        InputError: A document is larger than Milvus takes.
    """
    rows = [_row(document) for document in documents]
    batch: list[dict[str, Any]] = []
    size = 0
    for row, vector in zip(rows, vectors, strict=True):
        large = _size(row) + vector.nbytes
        if batch and size + large > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append({**row, "vector": vector})
        size += large
    if batch:
        yield batch


def _row(document: Document) -> dict[str, Any]:
    metadata = json.dumps(dict(document.metadata), ensure_ascii=False, allow_nan=False)
    tokens = document_tokens(json.loads(metadata))
    row = {"id": document.id, "title": document.title, "text": document.text, "metadata": metadata}
    for name, text in row.items():
        if (size := len(text.encode())) > _MAX_TEXT:
            raise InputError(
                f"the {name} of document {document.id[:200]!r} has {size:,} bytes of UTF-8; a field in "
                f"Milvus has at most {_MAX_TEXT:,}: shorten it"
            )
    if (most := max(map(len, tokens.values()))) > _MAX_TOKENS:
        raise InputError(
            f"the metadata of document {document.id[:200]!r} need {most:,} entries for filters; Milvus has "
            f"at most {_MAX_TOKENS:,} (a number takes up to 20, a text 25, one that begins with a digit 65): "
            "shorten its lists"
        )
    return {**row, **tokens}


def _size(row: Mapping[str, Any]) -> int:
    tokens = sum(len(row[name]) for name in TOKEN_FIELDS)
    return sum(len(row[name].encode()) for name in DOCUMENT_FIELDS) + tokens * (TOKEN_CHARACTERS + 2)


def document_of(entity: Mapping[str, Any]) -> Document:
    """Return the document of a row."""
    return Document(entity["id"], entity["title"], entity["text"], json.loads(entity["metadata"]))
