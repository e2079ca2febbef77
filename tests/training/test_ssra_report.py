"""What an SSRA run made: counted by hand, damaged, sampled, on a page and on the terminal."""

import json
import os
import re
import sys
from collections import Counter

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from relsdk.errors import InputError, MissingExtraError
from relsdk_training.cli.synth import synth
from relsdk_training.ssra.html import write_html
from relsdk_training.ssra.records import has_records, read_records
from relsdk_training.ssra.report import sample_records, stage_report
from relsdk_training.ssra.stage_runner import read_stages


def record(query, wanted, predicted, dropped=None, *, title="标题", source="synthesised", **changed):
    probabilities = [] if predicted is None else [0.1 + 0.6 * (level == predicted) for level in range(4)]
    return {
        "query": query,
        "document": {"id": "d1", "title": title, "text": "正文"},
        "wanted": wanted,
        "predicted": predicted,
        "probabilities": probabilities,
        "judge": None,
        "kept": dropped is None,
        "dropped_because": dropped,
        "round": 1,
        "model": None,
        "source": source,
        **changed,
    }


# Levels: 3 twice (one kept), 2 three times (one kept), 1 once, 0 once, and one with no level at all.
SYNTHESISED = [
    record("红烧肉做法", 3, 3),
    record("红烧肉 Recipe 2", 2, 1, "score"),
    record("红烧肉 RECIPE ２", 2, 2),  # a duplicate, up to case and width
    record("标题", 3, None, "echo"),
    record("abc", 1, 1, "judge", judge={"verdict": "contradicts", "expected_level": 2.5}),
    record("abc", None, 0, source="annotated"),  # a duplicate
    record("abc", 2, None, "duplicate", source="labelled"),  # seen before, but not made here
    record("  ", None, None, "cleaning"),
]
BALANCED = [
    record("原有一", None, 3, source="labelled"),
    record("原有二", None, 3, source="labelled"),
    record("合成", 1, 1),
    record("合成的", 2, 2),
]


def write_stage(run, name, records=None, *, report=None, seconds=1.5, per_shard=3):
    folder = run / "stages" / name
    folder.mkdir(parents=True)
    shards = [] if records is None else range(0, len(records), per_shard)
    for number, start in enumerate(shards):
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in records[start : start + per_shard]]
        (folder / f"records-{number:05d}.jsonl").write_text("".join(lines), encoding="utf-8")
    stage = {"stage": name, "identity": "0" * 64, "outputs": {}, "seconds": seconds, "report": report or {}}
    (folder / "stage.json").write_text(json.dumps(stage))
    row = run / "row.json"
    names = json.loads(row.read_text())["stages"] if row.exists() else []
    row.write_text(json.dumps({"stages": [*names, name]}))
    return folder


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    write_stage(folder, "05-synthesise", SYNTHESISED)
    write_stage(folder, "06-balance", BALANCED)
    write_stage(folder, "07-embed", report={"dev": {"mean_ap": 0.61234, "ndcg_at_10": 0.7}})
    return folder


def test_a_report_has_the_numbers_counted_by_hand():
    report = stage_report(SYNTHESISED)
    assert (report["total"], report["kept"], report["without_level"]) == (8, 3, 1)
    assert [(row["level"], row["total"], row["kept"], row["kept_share"]) for row in report["levels"]] == [
        (0, 1, 1, 1.0),
        (1, 1, 0, 0.0),
        (2, 3, 1, 1 / 3),
        (3, 2, 1, 0.5),
    ]
    assert report["dropped_because"] == {"cleaning": 1, "duplicate": 1, "echo": 1, "judge": 1, "score": 1}
    assert report["sources"] == {
        "synthesised": [0, 1, 2, 2],
        "annotated": [1, 0, 0, 0],
        "labelled": [0, 0, 1, 0],
    }
    assert report["queries"] == 7
    assert report["duplicate_rate"] == 2 / 6
    assert report["echo_share"] == 1 / 7
    assert report["query_length"] == {"mean": (5 + 12 + 12 + 2 + 3 + 3 + 3) / 7, "p50": 3, "p95": 12}
    assert report["scripts"] == {"han": 4 / 7, "latin": 5 / 7, "digit": 2 / 7}
    assert report["confusion"] == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    assert report["agreement"] == [None, 1.0, 0.5, 1.0]
    assert report["examples"][2] == {
        "kept": [SYNTHESISED[2]],
        "dropped": [SYNTHESISED[1], SYNTHESISED[6]],
    }
    assert json.loads(json.dumps(report)) == report


def test_a_report_of_nothing_has_no_shares():
    report = stage_report([])
    assert report["total"] == 0
    assert report["duplicate_rate"] is None
    assert report["query_length"] == {"mean": None, "p50": None, "p95": None}
    assert [row["kept_share"] for row in report["levels"]] == [None] * 4


@pytest.mark.parametrize(
    ("query", "scripts"),
    [
        ("ＡＢ", {"latin"}),
        ("𠮷", {"han"}),
        ("３", {"digit"}),
        ("カナ×÷", set()),
        ("é々1", {"latin", "han", "digit"}),
    ],
)
def test_scripts(query, scripts):
    assert stage_report([record(query, 1, 1)])["scripts"] == {
        name: float(name in scripts) for name in ("han", "latin", "digit")
    }


_LEVELS = st.none() | st.integers(0, 3)
_RECORDS = st.lists(
    st.builds(
        record,
        st.text(max_size=4),
        _LEVELS,
        _LEVELS,
        st.sampled_from([None, "cleaning", "duplicate", "score", "judge", "echo"]),
        title=st.text(max_size=2),
        source=st.sampled_from(["labelled", "annotated", "synthesised"]),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(_RECORDS, st.integers(0, 3))
def test_counts_sum_up(records, examples):
    report = stage_report(iter(records), examples=examples)
    assert report["total"] == len(records)
    assert report["kept"] + sum(report["dropped_because"].values()) == len(records)
    assert sum(row["total"] for row in report["levels"]) + report["without_level"] == len(records)
    assert sum(map(sum, report["sources"].values())) + report["without_level"] == len(records)
    assert all(0 <= row["kept"] <= row["total"] for row in report["levels"])
    scored = [one for one in records if None not in (one["wanted"], one["predicted"])]
    assert sum(map(sum, report["confusion"])) == len(scored)
    shares = [report["duplicate_rate"], report["echo_share"], *report["scripts"].values()]
    assert all(share is None or 0 <= share <= 1 for share in [*shares, *report["agreement"]])
    length = report["query_length"]
    assert not report["queries"] or 1 <= length["p50"] <= length["p95"] <= 4
    for row, samples in zip(report["levels"], report["examples"], strict=True):
        assert len(samples["kept"]) == min(examples, row["kept"])
        assert len(samples["dropped"]) == min(examples, row["total"] - row["kept"])


def test_records_come_in_the_order_of_the_shards(run):
    assert list(read_records(run / "stages" / "05-synthesise")) == SYNTHESISED
    assert list(read_records(run / "stages" / "07-embed")) == []


GOOD = json.dumps(record("q", 1, 1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD[:-9], "damaged record"),
        ("[]", "list where an object should be"),
        ("", "damaged record"),
        (GOOD.replace('"wanted": 1', '"wanted": 4'), "'wanted' is '4'"),
        (GOOD.replace('"wanted": 1', '"wanted": true'), "'wanted' is 'True'"),
        (GOOD.replace('"predicted"', '"predict"'), "no 'predicted'"),
        (GOOD.replace('"kept": true', '"kept": false'), "either 'kept' or 'dropped_because' is wrong"),
        (GOOD.replace("0.7", "7"), "'probabilities' is"),
        (GOOD.replace("0.7", "NaN"), "NaN is not JSON"),
        (GOOD.replace('"q"', r'"\ud800"'), "'query' is"),
        (GOOD.replace('"title"', '"titel"'), "'document' is"),
        (GOOD.replace('"judge": null', '"judge": {}'), "'judge' is"),
        (b"\xff".decode("latin-1"), "damaged record"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    folder = write_stage(tmp_path, "01-x", [record("a", 1, 1), record("b", 1, 1)])
    path = folder / "records-00000.jsonl"
    first = path.read_bytes().split(b"\n")[0]
    path.write_bytes(first + b"\n" + line.encode("latin-1") + b"\n")
    records = read_records(folder)
    assert next(records)["query"] == "a"
    with pytest.raises(InputError, match=r"records-00000\.jsonl:2: .*" + re.escape(message)):
        next(records)


def test_a_lost_shard_is_named(run):
    folder = run / "stages" / "05-synthesise"
    (folder / "records-00001.jsonl").unlink()
    with pytest.raises(InputError, match=r"has records-00002\.jsonl where records-00001\.jsonl should be"):
        list(read_records(folder))
    with pytest.raises(InputError, match="no stage folder"):
        list(read_records(run / "stages" / "99-none"))


def test_stages(run, tmp_path):
    (run / "stages" / "08-of-another-configuration").mkdir()
    stages = read_stages(run)
    assert [(stage.name, has_records(stage.folder)) for stage in stages] == [
        ("05-synthesise", True),
        ("06-balance", True),
        ("07-embed", False),
    ]
    (run / "stages" / "07-embed" / "stage.json").write_text('{"seconds": "long", "report": {}}')
    with pytest.raises(InputError, match="identity, outputs, seconds missing or wrong"):
        read_stages(run)
    (run / "stages" / "07-embed" / "stage.json").write_text('{"seco')
    with pytest.raises(InputError, match=r"stage\.json: damaged"):
        read_stages(run)


def test_a_sample_is_the_same_for_the_same_seed(tmp_path):
    many = [record(f"查询{i}", i % 4, i % 4, None if i % 3 else "score") for i in range(240)]
    folder = write_stage(tmp_path, "01-x", many, per_shard=100)
    sample = sample_records(folder, 5, 0)
    assert sample == sample_records(folder, 5, 0)
    assert sample != sample_records(folder, 5, 1)
    for level in range(4):
        for fate in ("kept", "dropped"):
            chosen = sample[level][fate]
            assert len(chosen) == 5
            assert all(one["wanted"] == level and one["kept"] == (fate == "kept") for one in chosen)
            numbers = [many.index(one) for one in chosen]
            assert numbers == sorted(set(numbers))
    assert stage_report(many, examples=5)["examples"] == list(sample.values())
    # What one level gets does not depend on the others.
    alone = stage_report([one for one in many if one["wanted"] == 2], examples=5)["examples"][2]
    assert alone == sample[2]
    with pytest.raises(InputError, match="-1 examples"):
        sample_records(folder, -1, 0)


def test_every_record_is_as_likely():
    records = [record(str(i), 1, 1) for i in range(6)]
    chosen = Counter(
        one["query"]
        for seed in range(600)
        for one in stage_report(records, examples=2, seed=seed)["examples"][1]["kept"]
    )
    # Each is expected 200 times, with a standard deviation of 11.5.
    assert all(140 < chosen[str(i)] < 260 for i in range(6))


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
    page = write_html(run, tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,iVBOR', page)) == 3
    for shown in ("红烧肉做法", "合成的", "正文", "基线", "0.6000 [0.5500, 0.6500]", "0.6123", "contradicts"):
        assert shown in page
    row = re.search(r"<tr><td>05-synthesise.*</tr>", page).group()
    cells = re.findall(r">([^<>]+)<", row)
    assert cells == [
        *("05-synthesise", "8", "3", "100.0%", "0.0%", "33.3%", "50.0%", "33.3%", "1.5", "–", "–"),
    ]
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert sorted(os.listdir(tmp_path)) == ["page.html", "run"]


def test_the_page_of_a_run_without_comparison_and_balance(tmp_path):
    write_stage(tmp_path / "run", "01-annotate", [record("q", None, 2, source="annotated")])
    page = write_html(tmp_path / "run", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No balanced training set yet" in page
    assert "<img" not in page


def test_text_is_not_markup(tmp_path):
    bad = record("<script>alert(1)</script>\x00", 1, 1, title='" onload="x', judge={"verdict": "<b>"})
    write_stage(tmp_path / "run<i>", "01-s", [bad])
    page = write_html(tmp_path / "run<i>", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\ufffd" in page
    assert "&quot; onload=&quot;x" in page
    assert not re.search("<script|<b>|<i>|\x00", page)


@pytest.mark.parametrize("bars", [[{"name": "x"}], 3, [3], [{"name": "x", "mean_ap": 1, "ndcg_at_10": None}]])
def test_damaged_bars_are_named(run, bars):
    write_stage(run, "08-compare", report={"bars": bars})
    with pytest.raises(InputError, match=r"08-compare/stage\.json"):
        write_html(run, run / "report.html")
    assert not (run / "report.html").exists()


def call(*arguments):
    return CliRunner().invoke(synth, [str(argument) for argument in arguments])


def test_inspect_shows_the_last_stage_with_records(run):
    done = call("inspect", run)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("06-balance: 4 records, 4 kept, dropped: none; 1.5 s\n")
    assert "合成的 → 标题 | 正文" in done.output


def test_inspect_shows_a_named_stage(run):
    done = call("inspect", run, "--stage", "synthesise", "--per-level", 1)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == (
        "05-synthesise: 8 records, 3 kept, dropped: cleaning 1, duplicate 1, echo 1, judge 1, score 1; 1.5 s"
    )
    assert lines[1].startswith("queries: 7, duplicates 33.3%, equal to the title 14.3%, with han 57.1%")
    assert "2 3 1 33.3% 50.0% 0 1 1 0".split() in [line.split() for line in lines]
    examples = [line.split() for line in lines[lines.index("", 4) + 2 :]]
    # Level 3: one kept; one dropped of the one that was never scored.
    assert [(cells[0], cells[1]) for cells in examples if cells[0] == "3"] == [("3", "kept"), ("3", "echo")]
    assert "0.10 0.10 0.10 0.70" in done.output


def test_inspect_prints_json(run):
    done = call("inspect", run, "--stage", "05-synthesise", "--json")
    value = json.loads(done.output)
    assert value == {"stage": "05-synthesise", "seconds": 1.5, **stage_report(SYNTHESISED, examples=5)}


def test_inspect_without_examples_and_with_control_characters(tmp_path):
    write_stage(tmp_path, "01-s", [record("\x1b[2Jq", 1, 1)])
    shown = call("inspect", tmp_path).output
    assert "\\x1b[2Jq" in shown  # as text
    assert chr(27) not in shown
    assert "[2Jq" not in call("inspect", tmp_path, "--per-level", 0).output
    empty = write_stage(tmp_path / "empty", "01-s", [record("q", 1, 1)])
    (empty / "records-00000.jsonl").write_text("")
    assert "0 records, 0 kept" in call("inspect", tmp_path / "empty").output


def test_the_report_command_prints_the_path(run, tmp_path):
    done = call("report", run)
    assert done.output == f"{run / 'report.html'}\n"
    assert (run / "report.html").is_file()
    assert call("report", run, "--output", tmp_path / "x.html").output == f"{tmp_path / 'x.html'}\n"


def test_the_report_needs_matplotlib(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    error = call("report", run).exception
    assert isinstance(error, MissingExtraError)
    assert "relsdk synth report needs" in str(error)
    assert call("inspect", run).exit_code == 0


@pytest.mark.parametrize("command", ["inspect", "report"])
def test_a_missing_run_says_what_to_do(tmp_path, command):
    for folder, message in ((tmp_path / "none", "there is no run folder"), (tmp_path, "no finished stage")):
        error = call(command, folder).exception
        assert isinstance(error, InputError)
        assert message in str(error)
        assert "relsdk train ssra CONFIG.toml" in str(error)


def test_a_wrong_stage_lists_the_right_ones(run, tmp_path):
    error = call("inspect", run, "--stage", "embed").exception
    assert str(error) == (
        "no stage with records of this run is named 'embed'; choose one of 05-synthesise, 06-balance"
    )
    write_stage(run, "08-synthesise", SYNTHESISED)
    error = call("inspect", run, "--stage", "synthesise").exception
    assert "several stages" in str(error)
    assert str(error).endswith("choose one of 05-synthesise, 08-synthesise")
    write_stage(tmp_path / "other", "01-embed")
    assert "no stage has made records yet" in str(call("inspect", tmp_path / "other").exception)
