"""The rows of one collection in Milvus: read with strong consistency, by expression or all in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relsdk_scale._milvus_client import Connection
from relsdk_scale._milvus_filter import quote

__all__ = ["Rows"]


class Rows:
    """Calls Milvus about one collection, which is loaded when rows are first read.

    Args:
        connection: To the server, or to milvus-lite.
        collection: Its name.

    Raises:
        StoreError: From every method, when Milvus does not answer, or refuses.
    """

    def __init__(self, connection: Connection, collection: str) -> None:
        self.connection = connection
        self._collection = collection
        self._is_loaded = False

    def call(self, method: str, *, slow: bool = False, **options: Any) -> Any:
        """Call a method of pymilvus' client; `slow` lets it take as long as it takes."""
        return self.connection.call(method, self._collection, slow=slow, **options)

    def load(self, *, again: bool = False) -> None:
        """Have Milvus read the collection into memory: it searches no other."""
        if again:
            self.call("release_collection", slow=True)
            self._is_loaded = False
        if not self._is_loaded:
            self.call("load_collection", slow=True)
            self._is_loaded = True

    def query(self, expression: str, fields: list[str], **options: Any) -> list[dict[str, Any]]:
        """Return the rows that an expression allows."""
        self.load()
        options = {"filter": expression, "output_fields": fields, "consistency_level": "Strong", **options}
        return list(self.call("query", **options))

    def count(self, expression: str) -> int:
        """Return how many rows an expression allows; "" allows all."""
        (row,) = self.query(expression, ["count(*)"])
        return int(row["count(*)"])

    def pages(self, expression: str, fields: list[str], rows: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows that an expression allows, many at a time, in the order of their ids.

        Not by pymilvus' iterator: it does not quote the id that it goes on after.
        """
        condition = expression
        while True:
            page = self.query(condition, fields, limit=rows, iterator="True", reduce_stop_for_best="True")
            if page:
                yield page
            if len(page) < rows:
                return
            condition = f"id > {quote(max(row['id'] for row in page))} and {expression}"

    def search(
        self, queries: list[Any], k: int, expression: str, fields: list[str], settings: dict[str, Any]
    ) -> list[list[dict[str, Any]]]:
        """Return the k rows nearest to each query."""
        self.load()
        found = self.call(
            "search",
            data=queries,
            anns_field="vector",
            limit=k,
            filter=expression,
            output_fields=fields,
            search_params={"metric_type": "IP", "params": settings},
            consistency_level="Strong",
        )
        return [[hit["entity"] for hit in hits] for hits in found]

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
