"""URIs of collections in vector stores, which stand where the path of an index does."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from relsdk.errors import InputError

__all__ = ["StoreUri", "is_store_uri", "parse_store_uri"]

_SCHEMES = ("milvus", "milvus-lite", "qdrant", "qdrant-local")
_PORTS = {"milvus": 19530, "qdrant": 6333}
_URI = re.compile(f"({'|'.join(_SCHEMES)}):", re.IGNORECASE)
_FORMS = (
    "milvus://HOST[:PORT]/COLLECTION, milvus-lite:FILE#COLLECTION, qdrant://HOST[:PORT]/COLLECTION or "
    "qdrant-local:FOLDER#COLLECTION, of servers also with ?tls=true"
)


@dataclass(frozen=True, slots=True)
class StoreUri:
    """Where a collection is.

    Attributes:
        text: As it was written.
        engine: "milvus" or "qdrant".
        address: http(s)://HOST:PORT of a server, else the absolute path of a file or folder.
        is_local: Whether it is a file or folder.
        collection: Its name.
    """

    text: str
    engine: str
    address: str
    is_local: bool
    collection: str

    def __str__(self) -> str:
        return self.text


def is_store_uri(text: object) -> bool:
    """Tell whether a text is the URI of a store, not the path of an index."""
    return isinstance(text, str) and _URI.match(text) is not None


def parse_store_uri(text: str) -> StoreUri:
    """Return the parts of a URI.

    Raises:
        InputError: It has another form, or holds a password.
    """
    if not is_store_uri(text):
        raise InputError(f"{text!r:.200} is no URI of a store; write {_FORMS}")
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    engine = scheme.partition("-")[0]
    if rest.startswith("//") and "@" in rest:  # looked for first: no message repeats it
        variable = "MILVUS_TOKEN" if engine == "milvus" else "QDRANT_API_KEY"
        raise InputError(
            f"a URI of {engine} holds a name or password, which logs would show; set {variable} in the "
            "environment"
        )
    if scheme in _PORTS:
        return _server(text, scheme)
    path, sign, collection = rest.rpartition("#")
    if not sign or not path or not collection or path.startswith("//"):
        raise InputError(f"{text!r:.200} names no file and collection; write {_FORMS}")
    address = str(Path(os.path.expanduser(path)).absolute())
    return StoreUri(text, engine, address, True, collection)


def _server(text: str, engine: str) -> StoreUri:
    shown = text.partition("?")[0]  # somebody may have put a key behind
    try:
        parts = urlsplit(text)
        port = _PORTS[engine] if parts.port is None else parts.port
    except ValueError as error:
        raise InputError(f"{shown!r:.200} cannot be read ({error}); write {_FORMS}") from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    tls = options.pop("tls", "false")
    collection = parts.path.strip("/")
    if not parts.hostname or not collection or "/" in collection or parts.fragment:
        raise InputError(f"{shown!r:.200} names no host and collection; write {_FORMS}")
    if options or tls not in ("true", "false"):
        got = next(iter(options), f"tls={tls}")
        raise InputError(f"{shown!r:.200} has {got!r:.80}; allowed is tls=true or tls=false")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    protocol = "https" if tls == "true" else "http"
    return StoreUri(text, engine, f"{protocol}://{host}:{port}", False, collection)
