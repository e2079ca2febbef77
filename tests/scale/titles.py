"""28,000 real titles, with vectors that are quick to make: the mean of a real model's token vectors."""

import json
import random
import re

import numpy as np

from relsdk.records import Document
from tests.scale.engines import unit

COUNT = 28_000
PARTS = ["kuake_qtr/train", "kuake_qtr/dev", "kuake_qtr/test", "kuake_qtr/unlabelled", "qbqtc/train"]
WORDS = ["怎么", "如何", "什么", "多少", "小说", "电影", "手机", "视频", "孩子", "原因", "的"]


class TokenMeans:
    """An encoder without layers, from the folder of a model in Hugging Face's layout."""

    name, fingerprint = "token means", "token-means-1"

    def __init__(self, folder):
        from safetensors import safe_open
        from tokenizers import Tokenizer

        with safe_open(folder / "model.safetensors", "np") as tensors:
            vectors = tensors.get_tensor("embeddings.word_embeddings.weight").astype(np.float32)
        # The first 128 of random directions: what is tested is the machinery.
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((vectors.shape[1],) * 2))[0][:, :128]
        self._vectors = (vectors - vectors.mean(axis=0)) @ turn.astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.dimension = self._vectors.shape[1]

    def encode(self, texts):
        tokens = [one.ids or [3] for one in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        starts = np.cumsum([0, *map(len, tokens[:-1])])
        return unit(np.add.reduceat(self._vectors[np.concatenate(tokens)], starts, axis=0))

    def encode_document(self, inputs):
        return self.encode([one.title for one in inputs])


def read_titles(data):
    """Return the documents, whose metadata say what is true of a title, and the queries of the dev part."""
    pairs = {}
    queries = {}
    for part in PARTS:
        for line in (data / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["title"].strip():
                pairs.setdefault(row["doc_id"], []).append((part, row))
            if part == "kuake_qtr/dev":
                queries.setdefault(row["query"], None)
    documents = [_document(identifier, rows) for identifier, rows in list(pairs.items())[:COUNT]]
    return documents, list(queries)


def _document(identifier, rows):
    part, first = rows[0]
    title = first["title"]
    metadata = {
        "part": part,
        "length": len(title),
        "words": [word for word in WORDS if word in title],
        "share": round(len(set(title)) / max(1, len(title)), 3),
        "question": title.endswith(("?", "？", "吗", "呢")),
        "query": {"count": len(rows), "first": first["query"]},
        "levels": sorted(row["label"] for _, row in rows if "label" in row),
    }
    if year := re.search(r"(?:19|20)\d\d", title):
        metadata["date"] = f"{year[0]}-01-01"
    return Document(identifier, title, "", metadata)


def title_filters(documents, count, seed=0):
    """Return filters at random with values that documents have, none of them empty for all documents."""
    chance = random.Random(seed)
    return [_filter(documents, chance) for _ in range(count)]


def _filter(documents, chance):
    one = chance.choice(documents)
    simple = [
        lambda: {"part": {chance.choice(["eq", "ne"]): one.metadata["part"]}},
        lambda: {"length": {chance.choice(["lt", "gte"]): len(one.title), "gt": 3}},
        lambda: {"words": {chance.choice(["in", "nin"]): chance.sample(WORDS, 2)}},
        lambda: {"share": {chance.choice(["gt", "lte"]): one.metadata["share"]}},
        lambda: {"question": chance.random() < 0.5},
        lambda: {"query.count": {"gte": chance.randint(1, 4)}},
        lambda: {"query.first": one.metadata["query"]["first"]},
        lambda: {"levels": {chance.choice(["eq", "gte"]): chance.randint(0, 3)}},
        lambda: {"date": chance.choice([None, {"exists": True}, {"gte": "2010", "lt": "2019-06-30"}])},
        lambda: {"_id": {"in": [each.id for each in chance.sample(documents, 30)]}},
        lambda: {"title": one.title},
    ]
    first, second = (chance.choice(simple)() for _ in range(2))
    forms = [{"or": [first, second]}, {"and": [first, second]}, {"not": first}]
    return first if chance.random() < 0.7 else chance.choice(forms)
