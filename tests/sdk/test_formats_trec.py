"""TREC qrels and runs there and back, and as ir_measures understands them."""

from __future__ import annotations

import gzip
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

    def test_there_and_back(self, tmp_path):
        with gzip.open(tmp_path / "r.trec.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in formats.run_lines(self.run))
        assert formats.read_run(tmp_path / "r.trec.gz") == self.run

    def test_qrels(self, write):
        path = write("q.txt", "q1 0 a 3\nq1 0 b 0\n问题 0\tc -2\n")
        assert formats.read_qrels(path) == {"q1": {"a": 3, "b": 0}, "问题": {"c": -2}}

    def test_ranks_descend_and_ties_go_as_in_trec_eval(self):
        lines = list(formats.run_lines(self.run, tag="t"))
        assert lines[0] == "q1 Q0 a 1 0.3333333333333333 t"
        assert [line.split()[2:4] for line in lines] == [["a", "1"], ["c", "2"], ["b", "3"], ["a", "1"]]
        assert ir_measures.calc_aggregate([ir_measures.RR], {"q1": {"c": 1}}, self.run) == {
            ir_measures.RR: 0.5
        }

    def test_numpy_scores(self, write):
        path = write("run", "\n".join(formats.run_lines({"q": {"a": np.float32(0.1)}})))
        assert np.float32(formats.read_run(path)["q"]["a"]) == np.float32(0.1)

    def test_ir_measures_reads_what_we_write(self, write):
        path = write("run", "".join(f"{line}\n" for line in formats.run_lines(self.run)))
        assert {(d.query_id, d.doc_id): d.score for d in ir_measures.read_trec_run(str(path))} == {
            (query, document): score for query, row in self.run.items() for document, score in row.items()
        }

    def test_beir_qrels(self, write):
        path = write("test.tsv", "query-id\tcorpus-id\tscore\r\n1\td 1\t2\r\n\r\n1\td2\t0\r\n")
        assert formats.read_qrels(path) == {"1": {"d 1": 2, "d2": 0}}

    @pytest.mark.parametrize("bad", ["a b", "a\t", "全\u3000角", "", "a\n", 5])
    def test_ids_that_would_break_the_columns(self, bad):
        for run in ({bad: {"d": 1}}, {"q": {bad: 1}}):
            with pytest.raises(InputError, match="without white space"):
                list(formats.run_lines(run))

    def test_numbers_that_cannot_be_written(self):
        for score in (float("nan"), float("inf"), "1"):
            with pytest.raises(InputError, match="no finite number"):
                list(formats.run_lines({"q": {"d": score}}))
