"""A score model that is a table, and the documents of the tests of stages."""

import numpy as np


class TableScorer:
    """Knows the probabilities of queries; `asked` is what it was asked."""

    def __init__(self, **table):
        self.table, self.asked = table, []

    def probabilities(self, pairs):
        self.asked += pairs
        return np.array([self.table[query] for query, _ in pairs], dtype=float).reshape(-1, 4)


def sure(level):
    return [0.9 if other == level else 0.1 / 3 for other in range(4)]


MEAT = {"id": "1", "title": "红烧肉怎么做", "text": "先焯水", "more": "not of a record"}
BREAD = {"id": "2", "title": "", "text": "how to make bread"}
TABLE = {
    "红烧肉做法": sure(3),
    "感冒药": sure(0),
    "红烧肉窍门": [0.25, 0.2, 0.2, 0.35],
    "红烧肉怎么做": sure(3),
    "bread": sure(3),
}


def fates(records):
    return [(record["query"], record["dropped_because"]) for record in records]
