"""TREC qrels and runs there and back, and as ir_measures understands them."""

from __future__ import annotations

from typing import ClassVar

import ir_measures
import numpy as np
import pytest

from relsdk import formats
from relsdk.errors import InputError


@pytest.fixture
def write(tmp_path):
    """Write a text file and return its path."""

    def _write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode())
        return path

    return _write


class TestTrec:
    run: ClassVar[dict[str, dict[str, float]]] = {"q1": {"b": 0.1, "a": 1 / 3, "c": 0.1}, "q2": {"a": -2e-17}}
    qrels: ClassVar[dict[str, dict[str, int]]] = {"q1": {"a": 3, "b": 0}, "问题": {"c": -2}}

    def test_there_and_back(self, tmp_path):
        assert formats.write_run(tmp_path / "r.trec.gz", self.run) == 4
        assert formats.read_run(tmp_path / "r.trec.gz") == self.run
        assert formats.write_qrels(tmp_path / "q.txt", self.qrels) == 3
        assert formats.read_qrels(tmp_path / "q.txt") == self.qrels

    def test_ranks_descend_and_ties_go_as_in_trec_eval(self, tmp_path):
        path = tmp_path / "run"
        formats.write_run(path, self.run, tag="t")
        lines = path.read_text().splitlines()
        assert lines[0] == "q1 Q0 a 1 0.3333333333333333 t"
        assert [line.split()[2:4] for line in lines] == [["a", "1"], ["c", "2"], ["b", "3"], ["a", "1"]]
        assert ir_measures.calc_aggregate([ir_measures.RR], {"q1": {"c": 1}}, self.run) == {
            ir_measures.RR: 0.5
        }

    def test_numpy_scores(self, tmp_path):
        formats.write_run(tmp_path / "run", {"q": {"a": np.float32(0.1)}})
        assert np.float32(formats.read_run(tmp_path / "run")["q"]["a"]) == np.float32(0.1)

    def test_ir_measures_reads_what_we_write(self, tmp_path):
        formats.write_run(tmp_path / "run", self.run)
        formats.write_qrels(tmp_path / "qrels", self.qrels)
        found = ir_measures.read_trec_run(str(tmp_path / "run"))
        judged = ir_measures.read_trec_qrels(str(tmp_path / "qrels"))
        assert {(d.query_id, d.doc_id): d.score for d in found} == {
            (query, document): score for query, row in self.run.items() for document, score in row.items()
        }
        assert {(j.query_id, j.doc_id, j.relevance) for j in judged} == {
            ("q1", "a", 3),
            ("q1", "b", 0),
            ("问题", "c", -2),
        }

    def test_beir_qrels(self, write):
        path = write("test.tsv", "query-id\tcorpus-id\tscore\r\n1\td 1\t2\r\n\r\n1\td2\t0\r\n")
        assert formats.read_qrels(path) == {"1": {"d 1": 2, "d2": 0}}

    @pytest.mark.parametrize("bad", ["a b", "a\t", "全\u3000角", "", "a\n", 5])
    def test_ids_that_would_break_the_columns(self, tmp_path, bad):
        for write, table in [(formats.write_run, {bad: {"d": 1}}), (formats.write_qrels, {"q": {bad: 1}})]:
            with pytest.raises(InputError, match="without white space"):
                write(tmp_path / "f", table)
        assert list(tmp_path.iterdir()) == []

    def test_numbers_that_cannot_be_written(self, tmp_path):
        for score in (float("nan"), float("inf"), "1"):
            with pytest.raises(InputError, match="no finite number"):
                formats.write_run(tmp_path / "f", {"q": {"d": score}})
        for label in (0.5, "1", None, float("inf")):
            with pytest.raises(InputError, match="not an integer"):
                formats.write_qrels(tmp_path / "f", {"q": {"d": label}})
