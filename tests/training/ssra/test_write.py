"""Stage 2, write and try: every document for every level, and how often the level is right."""

from relsdk_training.query_models.base import QueryRequest
from relsdk_training.ssra.pair_records import document_of
from relsdk_training.ssra.stages.attempt import agreement
from relsdk_training.ssra.stages.write import write
from tests.training.ssra.table_scorer import BREAD, MEAT, TABLE, TableScorer


def test_every_document_is_asked_for_every_level():
    class Model:
        def write(self, requests, *, samples, seed):
            self.requests = list(requests)
            return [[f"{request.level}-{number}-{seed}" for number in range(samples)] for request in requests]

    model = Model()
    lines = write([MEAT, BREAD], model, levels=(3, 0), samples=2, seed=5)
    assert model.requests == [
        QueryRequest("红烧肉怎么做 先焯水", 3),
        QueryRequest("红烧肉怎么做 先焯水", 0),
        QueryRequest("how to make bread", 3),
        QueryRequest("how to make bread", 0),
    ]
    assert lines[1] == {"document": MEAT, "wanted": 0, "queries": ["0-0-5", "0-1-5"]}
    assert [line["wanted"] for line in lines] == [3, 0, 3, 0]
    assert document_of(BREAD) == "how to make bread"


def test_what_has_a_query_needs_no_other():
    class Model:
        def write(self, requests, *, samples, seed):
            assert [(request.document, request.level) for request in requests] == [("how to make bread", 0)]
            return [["bread"]]

    given = {("红烧肉怎么做 先焯水", 3), ("红烧肉怎么做 先焯水", 0), ("how to make bread", 3)}
    lines = write([MEAT, BREAD], Model(), levels=(3, 0), samples=1, seed=5, given=given)
    assert lines == [{"document": BREAD, "wanted": 0, "queries": ["bread"]}]
    assert write([MEAT], None, levels=(3, 0), samples=1, seed=5, given=given) == []  # nobody is asked


def test_agreement_is_of_the_wanted_levels():
    class Model:
        def write(self, requests, *, samples, seed):
            return [["红烧肉做法" if request.level == 3 else "感冒药"] for request in requests]

    found = agreement(Model(), TableScorer(**TABLE), ["肉", "面包"], levels=(1, 3), seed=0)
    assert found == {"levels": {"1": 0.0, "3": 1.0}, "mean": 0.5, "duplicate_rate": 0.5, "usable": 1.0}
