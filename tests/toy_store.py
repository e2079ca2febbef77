"""A vector store of a few lines, a file that is searched by brute force: for what every engine has."""

import operator
import pickle
from pathlib import Path

import numpy as np

from relsdk.errors import StoreError
from relsdk.index import opening
from relsdk.index._filter_tree import And, Equals, Exists, Not, Or
from relsdk.index.store import Store, StoreInfo


def use_toy_stores(monkeypatch):
    """Let milvus-lite:FILE#COLLECTION be a toy store."""
    monkeypatch.setitem(opening._ENGINES, "milvus", (__name__, "ToyStore"))


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one, two):
    return one == two if _number(one) and _number(two) else type(one) is type(two) and one == two


def _within(value, bounds):
    order = {"lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge}
    return all(
        _number(value) == _number(bound)
        and (_number(bound) or isinstance(value, str))
        and order[name](value, bound)
        for name, bound in bounds
    )


def allows(condition, document):
    """Whether a parsed filter allows a document."""
    if condition is None:
        return True
    if isinstance(condition, And | Or):
        return (all if isinstance(condition, And) else any)(allows(one, document) for one in condition.parts)
    if isinstance(condition, Not):
        return not allows(condition.part, document)
    value = condition.field.of(document)
    missing = value is None or (value == "" and condition.field.column is not None)
    if isinstance(condition, Exists):
        return not missing
    items = [] if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if isinstance(condition, Equals):
        found = any(_same(item, one) for item in items for one in condition.values)
        return found or (missing and None in condition.values)
    return any(_within(item, condition.bounds) for item in items)


class ToyStore(Store):
    """Keeps a collection in a file: its description, and by id a document and its vector."""

    @classmethod
    def connect(cls, uri):
        store = cls(uri)
        store.file = Path(f"{uri.address}.{uri.collection}")
        return store

    def _state(self):
        if not self.file.exists():
            raise StoreError(f"{self.uri} does not answer")
        return pickle.loads(self.file.read_bytes())

    def _save(self, state):
        aside = self.file.with_name(f"{self.file.name}.new")  # others read meanwhile
        aside.write_bytes(pickle.dumps(state))
        aside.replace(self.file)

    def describe(self, *, counts=True):
        if not self.file.exists():
            return None
        note, _ = self._state()
        return StoreInfo(path=str(self.uri), count=self._count(None) if counts else 0, **note)

    def create(self, encoder, dimension, config):
        note = {"kind": f"toy {config.kind}", "dimension": dimension, "complete": False, "config": config}
        note |= {"encoder_name": encoder.name, "encoder_fingerprint": encoder.fingerprint}
        self._save(({**note, "encoder_path": encoder.path}, {}))

    def drop(self):
        self.file.unlink()

    def finish(self):
        note, rows = self._state()
        self._save(({**note, "complete": True}, rows))

    def close(self):
        pass

    def _write(self, documents, vectors):
        note, rows = self._state()
        self._save(
            (note, rows | {one.id: (one, vector) for one, vector in zip(documents, vectors, strict=True)})
        )

    def _remove_ids(self, ids):
        note, rows = self._state()
        found = set(ids) & set(rows)
        self._save((note, {id_: row for id_, row in rows.items() if id_ not in found}))
        return len(found)

    def _remove_where(self, condition):
        return self._remove_ids([one.id for one, _ in self._state()[1].values() if allows(condition, one)])

    def _nearest(self, queries, k, condition, ef_search, exact):
        rows = [row for row in self._state()[1].values() if allows(condition, row[0])]
        if not rows:
            return [[] for _ in queries]
        cosines = queries @ np.stack([vector for _, vector in rows]).T
        return [[rows[at] for at in np.argsort(-row)[:k]] for row in cosines]

    def _count(self, condition):
        return sum(allows(condition, one) for one, _ in self._state()[1].values())

    def _read(self, ids):
        rows = self._state()[1]
        return [rows[id_][0] for id_ in ids if id_ in rows]
