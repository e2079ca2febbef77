"""What is sent: addresses, bodies, and long lists in parts that a server takes."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from relsdk.client._answers import Limits
from relsdk.errors import InputError
from relsdk.formats import document_from_mapping
from relsdk.records import Document

__all__ = [
    "body_of",
    "check_key",
    "check_url",
    "document_fields",
    "document_path",
    "item_list",
    "pair_fields",
    "parts_of",
    "text_list",
    "to_json",
]


def check_url(url: str) -> str:
    """Return an address without a slash at its end.

    Raises:
        InputError: It is none of HTTP, or holds more than a server's address.
    """
    example = "needed is one as http://127.0.0.1:8080, or with the path at which a gateway has the server"
    if not isinstance(url, str):
        raise InputError(f"url is a {type(url).__name__}; {example}")
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is none
        whole = False
    if "@" in url.partition("://")[2].partition("/")[0]:  # not shown: it may be a password
        raise InputError("url holds a user before the host; pass the server's key as key= instead")
    if not whole or not url.isprintable() or " " in url or parts.query or parts.fragment:
        raise InputError(f"url={url!r} is no address of a server; {example}")
    return url.rstrip("/")


def check_key(key: str | None) -> str | None:
    """Return a key, if a header can hold it; it is in no message.

    Raises:
        InputError: It cannot.
    """
    if key is None or (
        isinstance(key, str) and key.isascii() and key.isprintable() and " " not in key and key
    ):
        return key
    raise InputError(
        "the key (key=, or RELSDK_KEY) is empty or holds spaces, line ends or characters beyond ASCII, as no "
        "key does; copy it again"
    )


def to_json(value: Any) -> bytes:
    """Write a part of a request.

    Raises:
        InputError: JSON cannot hold it.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as problem:  # also half of a surrogate pair
        raise InputError(f"the request cannot be written as JSON: {problem}") from problem


def _plain(value: object) -> Any:
    """Return what JSON has for a value that it does not have."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r:.80} is a {type(value).__name__}")


def body_of(fields: Mapping[str, Any], name: str = "", parts: Iterable[bytes] = ()) -> bytes:
    """Return the JSON of a request: the fields that are not None, and a list that is JSON already."""
    given = {field: value for field, value in fields.items() if value is not None}
    body = to_json(given)
    if not name:
        return body
    return b'{"%b":[%b]%b%b' % (name.encode(), b",".join(parts), b"," if given else b"", body[1:])


def parts_of(items: Iterable[bytes], most: int, limits: Limits, fields: int) -> Iterator[list[bytes]]:
    """Yield consecutive items, in lists that fit into one request each, or of a single item.

    Args:
        items: JSON of each.
        most: How many a request may hold.
        limits: For the bytes of a request.
        fields: Bytes that the rest of the request takes.
    """
    part: list[bytes] = []
    size = fields
    for item in items:
        if part and (len(part) == most or size + len(item) + 1 > limits.max_body_bytes):
            yield part
            part, size = [], fields
        part.append(item)
        size += len(item) + 1
    if part:
        yield part


def item_list(inputs: Any, what: str) -> list[Any]:
    """Return inputs as a list.

    Raises:
        InputError: They are one text, or have no order.
    """
    if isinstance(inputs, str | bytes | Mapping | Set) or not isinstance(inputs, Iterable):
        raise InputError(f"{what} is {type(inputs).__name__}; a list is needed")
    return list(inputs)


def text_list(inputs: Any, what: str) -> list[str]:
    """Return one text, or several, as a list.

    Raises:
        InputError: They are something else.
    """
    texts = [inputs] if isinstance(inputs, str) else item_list(inputs, what)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{what} {position} is {type(text).__name__}; a string is needed")
    return texts


def document_fields(item: Any, position: int) -> dict[str, Any]:
    """Return the JSON form of a document to write.

    Args:
        item: A `Document`, or a mapping that describes one.
        position: In the input, from 1.

    Raises:
        InputError: It is neither.
    """
    if isinstance(item, Mapping):
        try:
            item = document_from_mapping(item)
        except InputError as error:
            raise InputError(f"document {position:,} of the input: {error}") from error
    if not isinstance(item, Document):
        kind = type(item).__name__
        raise InputError(f"document {position:,} of the input is a {kind}; a Document or a mapping is needed")
    return {"_id": item.id, "title": item.title, "text": item.text, "metadata": item.metadata}


def pair_fields(pair: Any, position: int) -> dict[str, Any]:
    """Return the JSON form of a pair to grade.

    Raises:
        InputError: It is no pair of a query and a document.
    """
    if isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str):
        query, document = pair
        if isinstance(document, str):
            return {"query": query, "document": document}
        if isinstance(document, Document):
            return {"query": query, "document": {"title": document.title, "text": document.text}}
    raise InputError(f"pair {position} is {reprlib.repr(pair)}; (query, document) is needed")


def document_path(identifier: str, index: str | None) -> str:
    """Return where a document is; a name of dots alone would be taken for a folder on the way.

    Raises:
        InputError: The name holds half of a surrogate pair, or is empty: of no document.
    """
    if not identifier:
        raise InputError("an id is empty, as none in an index is")
    try:
        name = quote(identifier, safe="")
    except UnicodeEncodeError:
        raise InputError(f"id {identifier!r} holds half of a surrogate pair; remove it") from None
    if not identifier.strip("."):
        name = name.replace(".", "%2E")
    return f"/v1/documents/{name}" + ("" if index is None else f"?index={quote(index, safe='')}")
