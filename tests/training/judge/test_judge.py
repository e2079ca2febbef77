"""`relsdk judge`: a file of pairs becomes a file of grades."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from relsdk.formats import read_pairs
from relsdk.records import Document
from relsdk_training.cli import judge as cli
from relsdk_training.judge.grader import EndpointGrader, Opinion
from relsdk_training.judge.grades import count_cost, grade_pairs
from relsdk_training.query_models.chat_endpoint import ChatEndpoint
from tests.default_signals import WITH_DEFAULT_SIGNALS
from tests.threads import PATIENCE, wait_for
from tests.training.chat_server import ChatServer, choices

ROWS = [
    {"query": "感冒药", "doc_id": "d1", "title": "感冒吃什么药", "label": 3, "source": "log"},
    {"query": "感冒药", "doc_id": "d2", "title": "发烧", "text": "怎么办", "human_label": 1, "label": 3},
    {
        "query": "牙疼",
        "doc_id": "d3",
        "title": "牙疼偏方",
        "label": 0,
        "probabilities": [1, 0, 0, 0],
        "reason": "",
    },
    {"query": "牙疼", "title": "牙疼怎么办"},
    {"query": "牙疼", "title": "二手车", "label": "good"},
]


@pytest.fixture
def server(monkeypatch):
    """Gives the level that is the number of characters that query and document share, at most 3."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def reply(body):
        query, document = (line.partition("：")[2] for line in body["messages"][-1]["content"].split("\n", 1))
        level = min(3, len({*query} & {*document}))
        return 200, choices(json.dumps({"level": level, "reason": f"{len(server.bodies)}"}))

    with ChatServer() as server:
        server.replies = [reply]
        yield server


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def judge(relsdk, pairs, tmp_path):
    def judge(*arguments):
        return relsdk("judge", pairs, "--model", "qwen", "-o", tmp_path / "grades.jsonl", *arguments)

    return judge


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_grades_are_pairs(server, judge, tmp_path):
    code, out, err = judge("--endpoint", server.url, "--at-once", 1)
    assert code == 0, err
    levels = "2 with level 0, 0 with level 1, 2 with level 2, 1 with level 3"
    assert out.startswith(f"graded 5 of 5 pairs: {levels}; ")
    rows = lines(tmp_path / "grades.jsonl")
    assert rows[0] == {
        "query": "感冒药",
        "doc_id": "d1",
        "title": "感冒吃什么药",
        "text": "",
        "label": 3,
        "metadata": {"probabilities": [0, 0, 0, 1], "reason": "1", "source": "log", "human_label": 3},
    }
    assert [row["label"] for row in rows] == [3, 0, 2, 2, 0]
    assert [row["metadata"].get("human_label") for row in rows] == [3, 1, None, None, None]
    assert rows[1]["text"] == "怎么办"
    read = list(read_pairs(tmp_path / "grades.jsonl"))
    assert [pair.level for pair in read] == [row["label"] for row in rows]
    assert read[3].document.id.startswith("d")
    shown = json.dumps(server.bodies, ensure_ascii=False)
    for word in ("label", "log", "human", "good"):
        assert word not in shown


def test_what_it_takes_is_said_before(server, judge, pairs):
    _, _, err = judge("--endpoint", server.url, "--price", 1_000_000, 2_000_000, "--samples", 2, "--limit", 2)
    grader = EndpointGrader(ChatEndpoint(server.url, "qwen"), samples=2)
    cost = count_cost(
        grader, [("感冒药", Document("d1", "感冒吃什么药")), ("感冒药", Document("d2", "发烧", "怎么办"))]
    )
    assert (cost.pairs, cost.questions, cost.tokens_out) == (2, 2, 2 * 2 * 60)
    text = "".join(m["content"] for m in grader.messages("感冒药", "感冒吃什么药"))
    text += "".join(m["content"] for m in grader.messages("感冒药", "发烧 怎么办"))
    plain = sum(character.isascii() for character in text)
    assert cost.tokens_in == round(2 * (len(text) - plain + plain / 4))
    assert err.startswith(
        f"qwen: 2 questions, 2 answers each; estimated from characters, {cost.tokens_in:,} tokens in and "
        f"240 out, about {cost.tokens_in + 2 * 240:,.2f} at that price\n"
    )


def test_it_asks_on_a_terminal(server, judge, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "is_interactive", lambda: True)
    monkeypatch.setattr("click.confirm", lambda question, err: False)
    code, out, err = judge("--endpoint", server.url)
    assert (code, out) == (0, "")
    assert "nothing was asked" in err
    assert server.bodies == []
    assert not list(tmp_path.glob("grades*"))
    assert judge("--endpoint", server.url, "--yes")[0] == 0


def test_what_was_answered_is_not_asked_again(server, judge, tmp_path):
    reply = server.replies[0]
    server.replies = [lambda body: (401, b"no credit") if len(server.bodies) == 3 else reply(body)]
    code, _, err = judge("--endpoint", server.url, "--at-once", 1)
    assert code == 2
    assert "401" in err
    assert {path.name for path in tmp_path.iterdir()} == {"pairs.jsonl", "grades.recording.jsonl"}
    code, _, err = judge("--endpoint", server.url, "--json")
    assert code == 0
    assert "qwen: 3 questions (2 of 5 need none)" in err
    assert len(server.bodies) == 6
    first = (tmp_path / "grades.jsonl").read_bytes()
    code, _, err = judge("--endpoint", server.url)
    assert "grades.jsonl exists; pass --overwrite" in err
    code, out, err = judge("--replay", tmp_path / "grades.recording.jsonl", "--overwrite", "--json")
    assert code == 0, err
    assert "questions" not in err
    assert json.loads(out) == {
        "grades": str(tmp_path / "grades.jsonl"),
        "recording": str(tmp_path / "grades.recording.jsonl"),
        "pairs": 5,
        "levels": [2, 0, 2, 1],
        "without_opinion": 0,
        "human_labels": 2,
    }
    assert (tmp_path / "grades.jsonl").read_bytes() == first
    assert len(server.bodies) == 6
    code, _, err = judge("--replay", tmp_path / "grades.recording.jsonl", "--overwrite", "--samples", 2)
    assert code == 2
    assert "holds 5 answered questions and not '查询：感冒药 文档：感冒吃什么药'" in err
    assert (tmp_path / "grades.jsonl").read_bytes() == first


def test_a_stopped_command_keeps_what_was_paid(server, pairs, tmp_path):
    """Ctrl-C while four answers are waited for: of those that are on their way, all that come are kept."""
    reply, go_on = server.replies[0], threading.Event()

    def hold(body):
        go_on.wait(PATIENCE)
        return reply(body)

    server.replies = [reply, hold]
    command = [
        *WITH_DEFAULT_SIGNALS,
        sys.executable,
        "-m",
        "relsdk",
        "judge",
        str(pairs),
        "--endpoint",
        server.url,
        "--model",
        "qwen",
    ]
    command += ["-o", str(tmp_path / "grades.jsonl")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        recording = tmp_path / "grades.recording.jsonl"
        wait_for(lambda: process.poll() is not None or len(server.bodies) == 5)
        process.send_signal(signal.SIGINT)
        told = process.stderr.readline()
        while told and "waiting at most 60 seconds for 4 answers" not in told:
            told = process.stderr.readline()
        assert told
        go_on.set()
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert len(lines(recording)) == 5
    assert not (tmp_path / "grades.jsonl").exists()


def test_a_second_interrupt_does_not_wait(server, pairs, tmp_path):
    server.replies = ["hold"]
    command = [*WITH_DEFAULT_SIGNALS, sys.executable, "-m", "relsdk", "judge", str(pairs)]
    command += ["--endpoint", server.url]
    command += ["--model", "qwen", "-o", str(tmp_path / "grades.jsonl"), "--timeout", str(100 * PATIENCE)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: process.poll() is not None or len(server.bodies) == 4)
        process.send_signal(signal.SIGINT)
        while "does not wait" not in (line := process.stderr.readline()) and line:
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert len(server.bodies) == 4


def test_pairs_without_an_opinion_are_left_out_and_told(server, judge, tmp_path):
    reply = server.replies[0]
    server.replies = [
        lambda body: (400, b"content_filter") if "发烧" in str(body["messages"]) else reply(body)
    ]
    code, out, err = judge("--endpoint", server.url)
    assert code == 0
    assert out.startswith("graded 4 of 5 pairs")
    assert "left out, as no answer names one level: 1 pair\n" in err
    assert [row["doc_id"] for row in lines(tmp_path / "grades.jsonl")][:2] == ["d1", "d3"]


def test_no_opinion_at_all_makes_no_file(server, judge, tmp_path):
    server.replies = [(200, choices("看情况"))]
    code, out, err = judge("--endpoint", server.url)
    assert (code, out) == (2, "")
    assert "no answer about 5 pairs names a level, so" in err
    assert not (tmp_path / "grades.jsonl").exists()
    assert len(lines(tmp_path / "grades.recording.jsonl")) == 5


def test_examples_are_no_pairs_to_grade(server, judge, pairs, tmp_path):
    examples = tmp_path / "examples.jsonl"
    rows = [ROWS[0], {"query": "肚子疼", "title": "胃疼吃什么", "label": 1}]
    examples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert judge("--endpoint", server.url, "--examples", examples)[0] == 0
    for body in server.bodies:
        system = body["messages"][0]["content"]
        assert "查询：肚子疼\n文档：胃疼吃什么\n等级：1" in system
        assert "感冒" not in system
    examples.write_text(json.dumps(ROWS[0]) + "\n")
    code, _, err = judge("--endpoint", server.url, "--examples", examples, "--overwrite")
    assert code == 2
    assert "are among the pairs to grade; name others" in err


def test_what_cannot_be(server, judge, tmp_path, pairs):
    for arguments, message in (
        ([], "no endpoint is named; give its URL, such as"),
        (["--endpoint", server.url, "--samples", "0"], "samples is 0"),
        (["--endpoint", server.url, "--at-once", "65"], "65 is not in the range 1<=x<=64"),
        (["--endpoint", server.url, "--rubric", tmp_path / "none"], "the rubric"),
        (["--endpoint", server.url, "--record", "a", "--replay", "b"], "name one"),
        (["--endpoint", server.url, "--record", pairs], "damaged"),
        (["--endpoint", server.url, "-o", tmp_path], "is a folder; name a file"),
    ):
        code, _, err = judge(*arguments)
        assert code == 2, arguments
        assert message in err
    assert server.bodies == []


def test_the_disk_is_full(server, pairs, tmp_path, relsdk_on_small_disk):
    """The second answer does not fit: the first is kept."""
    arguments = ["judge", pairs, "--endpoint", server.url, "--model", "qwen", "-o", tmp_path / "grades.jsonl"]
    code, _, err = relsdk_on_small_disk(2500, *arguments)
    assert code == 2
    assert "grades.recording.jsonl cannot be written (File too large); make room" in err
    kept = lines(tmp_path / "grades.recording.jsonl")
    assert 0 < len(kept) < 5
    assert os.path.getsize(tmp_path / "grades.recording.jsonl") <= 2500


def test_grades_take_no_other_file_s_place(server, judge, pairs, tmp_path):
    """A recording was paid for, and pairs hold what people said."""
    recording, output = tmp_path / "paid.jsonl", tmp_path / "grades.jsonl"
    assert judge("--endpoint", server.url, "--record", recording)[0] == 0
    paid, labels = recording.read_bytes(), pairs.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(recording)
    for arguments, message in (
        (["-o", recording, "--record", recording], "is --record too"),
        (["-o", link, "--record", recording], "is --record too"),
        (["-o", recording, "--replay", recording], "is --replay too"),
        (["-o", pairs], "is PAIRS too"),
        (["-o", tmp_path / "g.csv"], "grades are JSON lines; end their name with .jsonl"),
        (["-o", "-"], "grades are JSON lines"),
        (["-o", "/dev/null"], "is no regular file; say with --record"),
        (["-o", output, "--price", "-1", "2"], "two numbers from 0 on"),
        (["-o", output, "--price", "nan", "2"], "two numbers from 0 on"),
        (["-o", output, "--timeout", "inf"], "a timeout above 0 and of at most a day"),
    ):
        code, _, err = judge("--endpoint", server.url, "--overwrite", *arguments)
        assert code == 2, arguments
        assert message in err
        assert (recording.read_bytes(), pairs.read_bytes()) == (paid, labels)
    assert len(server.bodies) == 5


def test_fields_named_like_our_own_replace_nothing(server, relsdk, tmp_path):
    pairs, output = tmp_path / "pairs.jsonl", tmp_path / "grades.jsonl.gz"
    inner = {"query": "二手车", "title": "二手房", "doc_id": "x", "text": "y", "label": 3, "source": "log"}
    pairs.write_text(json.dumps({"query": "牙疼", "title": "牙疼怎么办", "metadata": inner}))
    code, _, err = relsdk("judge", pairs, "--endpoint", server.url, "--model", "qwen", "-o", output)
    assert code == 0, err
    (row,) = read_pairs(output)  # is compressed, as its name says
    assert (row.query, row.document.title, row.document.text, row.level) == ("牙疼", "牙疼怎么办", "", 2)
    kept = {name: row.document.metadata.get(name) for name in ("query", "title", "source", "human_label")}
    assert kept == {"query": "二手车", "title": "二手房", "source": "log", "human_label": 3}


def test_labels_that_are_no_levels_are_told(server, judge):
    code, _, err = judge("--endpoint", server.url)
    assert code == 0
    assert "pairs.jsonl: 1 labels are no level 0-3, the first is 'good'; they are not kept" in err


def test_an_opinion_takes_the_place_of_another_models(tmp_path):
    class Grader:
        def grade(self, pairs):
            yield from (Opinion(1, (0.0, 1.0, 0.0, 0.0), "mine") for _ in pairs)

    old = {"probabilities": [0, 0, 0, 1], "reason": "theirs", "source": "log"}
    grade_pairs(Grader(), [("牙疼", Document("d", "牙疼怎么办", "", old))], tmp_path / "grades.jsonl")
    (pair,) = read_pairs(tmp_path / "grades.jsonl")
    assert pair.document.metadata == {"probabilities": [0, 1, 0, 0], "reason": "mine", "source": "log"}
