"""A run as Markdown and pictures."""

import os
import re

import pytest

from relsdk.errors import InputError
from relsdk_training.ssra.run_report import write_report
from tests.training.ssra.run_folders import record, write_run, write_stage


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def test_the_page_holds_pictures_tables_and_examples(run, tmp_path):
    report = {
        "bars": [
            {
                "name": name,
                "mean_ap": 0.6,
                "mean_ap_interval": [0.55, 0.65],
                "ndcg_at_10": 0.7,
                "ndcg_at_10_interval": [0.68, 0.72],
            }
            for name in ("基线", "SSRA $x$")
        ]
    }
    report["bars"].append(
        {**report["bars"][0], "name": "unmeasured", "mean_ap": None, "mean_ap_interval": None}
    )
    write_stage(run, "08-compare", report=report)
    page = write_report(run, tmp_path / "page.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]+\]\((.+)\)", page)
    assert pictures == ["page-levels.png", "page-05-synthesise-levels.png", "page-measures.png"]
    for picture in pictures:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    for shown in ("红烧肉做法", "合成的", "正文", "基线", "0.6000 [0.5500, 0.6500]", "0.6123", "contradicts"):
        assert shown in page
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    stage, losses = (cells for cells in tables if cells[:1] == ["05-synthesise"])
    assert stage == ["05-synthesise", "8", "3", "100.0%", "0.0%", "33.3%", "50.0%", "33.3%", "1.5", "–", "–"]
    assert ["stage", "cleaning", "duplicate", "echo", "judge", "score"] in tables
    assert losses == ["05-synthesise", "1", "1", "1", "1", "1"]
    assert sorted(os.listdir(tmp_path)) == sorted([*pictures, "page.md", "run"])


def test_the_page_of_a_run_without_comparison_and_balance(tmp_path):
    write_stage(tmp_path / "run", "01-annotate", [record("q", None, 2, source="annotated")])
    page = write_report(tmp_path / "run", tmp_path / "page.md").read_text(encoding="utf-8")
    assert "No balanced training set yet" in page
    assert "![" not in page


def test_text_is_not_markup(tmp_path):
    """A picture from elsewhere would be fetched by whoever looks at the page."""
    bad = record(
        "<script>alert(1)</script>\x00", 1, 1, title="![x](http://x) | ``\n# y", judge={"verdict": "<b>"}
    )
    write_stage(tmp_path / "run<i>", "01-s", [bad])
    page = write_report(tmp_path / "run<i>", tmp_path / "page.md").read_text(encoding="utf-8")
    assert r"\<script\>alert(1)\</script\>" + "\ufffd" in page
    assert r"\!\[x\](http://x) \| \`\` \# y" in page
    assert not re.search(r"(?<!\\)<|\x00", page)


@pytest.mark.parametrize("bars", [[{"name": "x"}], 3, [3], [{"name": "x", "mean_ap": 1, "ndcg_at_10": None}]])
def test_damaged_bars_are_named(run, bars):
    write_stage(run, "08-compare", report={"bars": bars})
    with pytest.raises(InputError, match=r"08-compare/stage\.json"):
        write_report(run, run / "report.md")
    assert not (run / "report.md").exists()
