"""A language model behind an endpoint: what it is asked, what it is not, and what becomes of its answers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from relsdk.errors import InputError, TrainingError
from relsdk.formats import read_pairs, write_documents, write_pairs
from relsdk.records import Document
from relsdk_sample import level_of
from relsdk_training.data.text import document_text, normal_form
from tests.training.chat_server import ChatServer, choices


@pytest.fixture
def server(world, monkeypatch):
    """Grades by the sample world's oracle, one level too high; writes queries that only it knows."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    documents = {document_text(document): document for document in world.documents}

    def reply(body):
        question = body["messages"][-1]["content"]
        if question.startswith("查询："):
            query, text = (line.partition("：")[2] for line in question.split("\n", 1))
            level = min(3, level_of(query, documents[text]) + 1)
            return 200, choices(json.dumps({"level": level, "reason": "因为"}))
        return 200, choices(f"写的第{len(server.bodies)}个 {question[-9:-5]}")

    with ChatServer() as server:
        server.replies = [reply]
        yield server


@pytest.fixture
def asked(server, few_files):
    """Settings of a run with 20 unlabelled pairs and 3 documents."""
    return [
        f"data.train={few_files / 'labels.jsonl'}",
        f"data.dev={few_files / 'dev.jsonl'}",
        f'ask.unlabelled=["{few_files / "weak.jsonl"}"]',
        "ask.pairs=20",
        "ask.documents=3",
        f"endpoint.url={server.url}",
        "endpoint.name=toy",
    ]


def test_it_is_asked_and_its_mistakes_are_known_and_no_label_is_shown(train, server, asked, few_files, world):
    told = []
    result, _ = train(*asked, on_questions=told.append)
    dev = len(world.split("dev"))
    (cost,) = told
    assert cost.pairs == cost.questions == len(server.bodies) == 20 + dev + 3 * 3
    stages = Path(result.report).parent / "stages"
    grades = list(read_pairs(stages / "02-judge/grades.jsonl"))
    assert len(grades) == 20 + dev
    documents = {document.id: document for document in world.documents}
    assert all(p.level == min(3, level_of(p.query, documents[p.document.id]) + 1) for p in grades)
    # It calls every 0 a 1, every 1 a 2, every 2 and 3 a 3: so most of what it calls a 1 is a 0.
    assert result.content["opinions"]["graded_by_people_too"] == dev
    confusion = result.content["opinions"]["confusion"]
    assert confusion[1][0] > 0.9
    assert confusion[2][1] > 0.8
    written = list(read_pairs(stages / "03-write/written.jsonl"))
    assert sorted(int(pair.level) for pair in written) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    asked_of = result.content["asked"]
    assert (asked_of["judge"]["questions"], asked_of["write"]["questions"]) == (20 + dev, 9)
    assert cost.tokens_in == pytest.approx(sum(part["tokens in"] for part in asked_of.values()), abs=1)
    assert "| judge | questions | 140 |" in Path(result.report).read_text()
    # No label of what it grades is shown to it.
    shown = {normal_form(pair.query) for pair in read_pairs(few_files / "dev.jsonl")}
    for body in server.bodies:
        examples, question = body["messages"][0]["content"], body["messages"][-1]["content"]
        assert "label" not in examples + question
        assert not any(f"查询：{query}\n" in examples for query in shown)


@pytest.mark.usefixtures("without_bundle")
def test_it_is_not_asked_twice(train, server, asked, tmp_path):
    answer = server.replies[0]

    def fail_after_50(body):
        return answer(body) if len(server.bodies) <= 50 else (401, {"error": "no more credit"})

    server.replies = [fail_after_50]
    with pytest.raises(TrainingError, match="no more credit"):
        train(*asked, "endpoint.at_once=1")
    server.replies = [answer]
    told = []
    result, _ = train(*asked, on_questions=told.append)
    (cost,) = told
    assert (cost.pairs, cost.questions) == (149, 149 - 50)
    assert len(server.bodies) == 149 + 1
    assert result.content["asked"]["judge"]["questions"] == 140
    # All of it is recorded: the same run without the endpoint.
    recording = tmp_path / "run/answers.jsonl"
    offline = [setting for setting in asked if "endpoint.url" not in setting]
    train(*offline, f"endpoint.replay={recording}", output=tmp_path / "again")
    assert len(server.bodies) == 149 + 1
    for file in ("02-judge/grades.jsonl", "03-write/written.jsonl", "04-train/best/model.safetensors"):
        assert (tmp_path / "run/stages" / file).read_bytes() == (
            tmp_path / "again/stages" / file
        ).read_bytes()
    # Another training of the same answers asks nobody, and tells no cost.
    train(*asked, "run.seed=1", on_questions=told.append)
    assert len(told) == 1


def test_who_does_not_go_on_is_not_asked(train, server, asked):
    def refuse(cost):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(*asked, on_questions=refuse)
    assert not server.bodies


@pytest.mark.usefixtures("without_bundle")
def test_without_labels_documents_alone_will_do(train, server, world, tmp_path):
    documents = tmp_path / "documents.jsonl"
    write_documents(documents, world.documents[:4])
    given = [f'ask.unlabelled=["{documents}"]', f"endpoint.url={server.url}", "endpoint.name=toy"]
    result, _ = train(*given)
    assert len(server.bodies) == 4 * 3
    assert all(len(body["messages"]) == 2 for body in server.bodies)  # no examples to show
    assert result.content["pairs"]["written queries"] == [0, 4, 4, 4]
    assert result.content["opinions"] is None
    assert "Label 100 pairs" in result.content["next"][0]


@pytest.mark.usefixtures("without_bundle")
def test_pairs_of_held_out_queries_are_not_asked_about(train, server, asked, few_files):
    more = f'ask.unlabelled=["{few_files / "test.jsonl"}", "{few_files / "weak.jsonl"}"]'
    result, _ = train(*asked, more, f"data.test={few_files / 'test.jsonl'}")
    held_out = {pair.query for pair in read_pairs(few_files / "test.jsonl")}
    assert not any(
        f"查询：{query}\n" in b["messages"][-1]["content"] for b in server.bodies for query in held_out
    )
    left_out = len(list(read_pairs(few_files / "test.jsonl")))
    assert any(
        note.startswith(f"{left_out} unlabelled pairs were not asked") for note in result.content["notes"]
    )


@pytest.mark.usefixtures("without_bundle")
def test_answers_that_are_there_are_not_asked_for(train, server, asked, few_files):
    result, _ = train(*asked, f'data.weak=["{few_files / "weak.jsonl"}"]')
    assert len(server.bodies) == 3 * 3
    assert list(result.content["asked"]) == ["write"]


def test_what_cannot_be_asked_is_said_before(train, asked, tmp_path):
    for settings, message in (
        (["ask.unlabelled=[]"], "name pairs or documents with --unlabelled"),
        (["endpoint.name="], "no model is named"),
        (["endpoint.url=ftp://x"], "an http or https URL is needed"),
        (["endpoint.rubric=gone.txt"], "gone.txt cannot be read"),
        (["ask.levels=[3, 3]"], r"ask.levels \[3, 3\]; different levels"),
    ):
        with pytest.raises(InputError, match=message):
            train(*asked, *settings)
    assert not (tmp_path / "run/stages").exists()


def test_what_no_training_takes_is_said_before_it_is_asked(train, server, asked, few_files, tmp_path):
    """Neither a dev that cannot decide nor a given file with a query of dev costs a question."""
    dev = list(read_pairs(few_files / "dev.jsonl"))
    write_pairs(tmp_path / "dev.jsonl", [pair for pair in dev if pair.level < 3])
    with pytest.raises(InputError, match="dev has no pair of level 3"):
        train(*asked, f"data.dev={tmp_path / 'dev.jsonl'}")
    write_pairs(tmp_path / "written.jsonl", [replace(dev[0], document=Document("new", "another title"))])
    with pytest.raises(InputError, match="1 queries are both in written and in dev"):
        train(*asked, f'data.written=["{tmp_path / "written.jsonl"}"]')
    assert server.bodies == []


@pytest.mark.usefixtures("without_bundle")
def test_the_command_tells_the_cost(relsdk, commands, small, server, few_files, tmp_path):
    given = ["--labels", few_files / "labels.jsonl", "--unlabelled", few_files / "weak.jsonl"]
    given += ["--endpoint", server.url, "--model", "toy", "--price", 1, 2, "--output", tmp_path / "run"]
    for setting in (*small, "ask.pairs=5", "ask.documents=1"):
        given += ["--set", setting]
    code, _, err = relsdk("train", "few", *given)
    assert code == 0, err
    line = next(line for line in err.splitlines() if line.startswith("toy: "))
    assert f"toy: {len(server.bodies)} questions; estimated from characters" in line
    assert "at that price" in line
