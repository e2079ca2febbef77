"""Requests as bytes, for servers whose routes differ."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Texts -> the whole request.
Encode = Callable[[Sequence[str]], bytes]
Vectors = NDArray[np.float32]


def get(path: str) -> bytes:
    """Return a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, content: Any) -> bytes:
    """Return a POST request of JSON."""
    body = json.dumps(content, ensure_ascii=False).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def embed_queries(texts: Sequence[str], encoding: str = "float") -> bytes:
    """Return a request to our server, of one text or of several."""
    content = {
        "input": texts[0] if len(texts) == 1 else list(texts),
        "input_type": "query",
        "encoding_format": encoding,
    }
    return post("/v1/embeddings", content)


def openai_vectors(body: bytes) -> Vectors:
    """Read the answer of /v1/embeddings, floats or base64."""
    found = [item["embedding"] for item in json.loads(body)["data"]]
    rows = [np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row for row in found]
    return np.array(rows, dtype=np.float32)


def list_vectors(body: bytes) -> Vectors:
    """Read an answer that is a list of vectors, or one vector."""
    return np.atleast_2d(np.array(json.loads(body), dtype=np.float32))
