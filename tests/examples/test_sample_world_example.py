import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "sample_world.py"


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(EXAMPLE))["main"]


def test_writes_the_corpus_and_shows_levels(main, tmp_path, capsys):
    main([str(tmp_path / "world"), "--documents", "600", "--queries", "40", "--show", "2"])
    shown = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "world").iterdir()) == [
        "documents.jsonl",
        "pairs_dev.jsonl",
        "pairs_test.jsonl",
        "pairs_train.jsonl",
        "queries.jsonl",
    ]
    assert shown.startswith("600 documents, 40 queries, 640 pairs in ")
    for level in ("3 FULL", "2 MOSTLY", "1 PARTIAL", "0 IRRELEVANT"):
        assert shown.count(level) == 2


def test_a_full_folder_is_refused_in_one_line(main, tmp_path, capsys):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), "--documents", "200", "--queries", "10"])
    assert stop.value.code == 2
    assert "is a folder with other things in it (no documents.jsonl)" in capsys.readouterr().err
    assert (tmp_path / "kept").read_text() == "mine"
