"""Several questions at the same time: the order of the results, what is kept, what goes wrong."""

import json
import re
import threading
import time
from collections import Counter
from contextlib import closing

import pytest

from relsdk.errors import TrainingError
from relsdk.records import Document
from relsdk_training.judge.grader import EndpointGrader
from relsdk_training.judge.grades import grade_pairs
from relsdk_training.query_models._in_order import map_in_order
from relsdk_training.query_models.base import QueryRequest
from relsdk_training.query_models.chat_endpoint import ChatEndpoint
from relsdk_training.query_models.endpoint import EndpointQueryModel
from relsdk_training.ssra.judges import EndpointJudge, Group
from tests.threads import PATIENCE, wait_for
from tests.training.chat_server import ChatServer, choices


@pytest.fixture
def server(monkeypatch):
    """Answers with the last characters of a question; of two, the one that comes later is often faster."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def reply(body):
        said = body["messages"][-1]["content"]
        time.sleep((sum(map(ord, said)) % 5) / 100)
        return 200, choices(*(f"{said[-9:]} {body['seed'] + n}" for n in range(body["n"])))

    with ChatServer() as server:
        server.replies = [reply]
        yield server


def each(endpoint, texts):
    def work(text):
        return endpoint.ask([{"role": "user", "content": text}], temperature=0.5, seed=3)[0]

    return endpoint.each(work, texts)


def kept(file):
    """The questions that a recording holds."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [line["messages"][-1]["content"] for line in lines]


def test_results_are_in_the_order_of_the_items(server, tmp_path):
    file, texts = tmp_path / "answers.jsonl", [f"问题{n}" for n in range(60)]
    want = [f"{text} 3" for text in texts]
    assert list(each(ChatEndpoint(server.url, "qwen", at_once=8, record=file), texts)) == want
    assert sorted(kept(file)) == sorted(texts)
    assert list(each(ChatEndpoint("", "qwen", replay=file), texts)) == want
    assert len(server.bodies) == 60


def test_so_many_are_asked_at_once_and_no_more(server):
    """The server answers none before it has three questions; a fourth would be there, too."""
    gate, lock = threading.Barrier(3), threading.Lock()
    under_way = [0, 0]

    def reply(body):
        with lock:
            under_way[0] += 1
            under_way[1] = max(under_way)
        gate.wait(PATIENCE)
        time.sleep(0.01)
        with lock:
            under_way[0] -= 1
        return 200, choices("ok")

    server.replies = [reply]
    assert list(each(ChatEndpoint(server.url, "qwen", at_once=3), map(str, range(12)))) == ["ok"] * 12
    assert under_way == [0, 3]


def test_what_is_asked_twice_at_once_is_paid_once(server, tmp_path):
    file = tmp_path / "answers.jsonl"
    server.replies = [lambda body: (time.sleep(0.05), (200, choices(f"{len(server.bodies)}")))[1]]
    answers = list(each(ChatEndpoint(server.url, "qwen", at_once=8, record=file), ["甲", "乙"] * 20))
    assert len(server.bodies) == len(kept(file)) == 2
    assert answers == answers[:2] * 20
    assert list(each(ChatEndpoint("", "qwen", replay=file), ["甲", "乙"] * 20)) == answers


def test_of_several_errors_the_first_question_has_its_own(server, tmp_path):
    """3 and 5 are refused, 5 before: what comes before 3 is there, and what had begun is kept.

    Between the refusal of 5 and its arrival, a thread that has its answer takes one more question.
    """
    file, after_5, reply = tmp_path / "answers.jsonl", threading.Event(), server.replies[0]

    def refuse(body):
        said = body["messages"][-1]["content"]
        if said == "5":
            after_5.set()
            return 401, b"five"
        after_5.wait(PATIENCE)
        return (401, b"three") if said == "3" else reply(body)

    server.replies = [refuse]
    answers = each(ChatEndpoint(server.url, "qwen", at_once=6, record=file), map(str, range(100)))
    assert [next(answers) for _ in range(3)] == ["0 3", "1 3", "2 3"]
    with pytest.raises(TrainingError, match="three"):
        next(answers)
    asked = {body["messages"][-1]["content"] for body in server.bodies}
    assert set(kept(file)) == asked - {"3", "5"} >= {"0", "1", "2", "4"}
    assert len(server.bodies) == len(asked) < 20


def test_who_stops_listening_keeps_what_is_on_its_way(server, tmp_path):
    file, reply = tmp_path / "answers.jsonl", server.replies[0]
    slow = threading.Event()
    server.replies = [
        lambda body: (body["messages"][-1]["content"] != "0" and slow.wait(PATIENCE), reply(body))[1]
    ]
    with closing(each(ChatEndpoint(server.url, "qwen", at_once=4, record=file), map(str, range(50)))) as some:
        assert next(some) == "0 3"
        wait_for(lambda: len(server.bodies) == 5)
        slow.set()
    assert len(kept(file)) == len(server.bodies) >= 5


def test_what_never_comes_is_not_waited_for(server, tmp_path, caplog):
    file, slow, reply = tmp_path / "answers.jsonl", threading.Event(), server.replies[0]

    def hold(body):
        if body["messages"][-1]["content"] != "0":
            slow.wait(PATIENCE)
        return reply(body)

    server.replies = [hold]
    endpoint = ChatEndpoint(server.url, "qwen", record=file, timeout=PATIENCE)

    def work(text):
        return endpoint.ask([{"role": "user", "content": text}], temperature=0.0, seed=0)

    with closing(map_in_order(work, ["0", "1", "2"], at_once=2, patience=0.2)) as some:
        assert next(some) == ["0 0"]
        wait_for(lambda: len(server.bodies) == 3)
    assert kept(file) == ["0"]
    assert "waiting at most 0.2 seconds for 2 answers" in caplog.text
    slow.set()
    wait_for(lambda: len(kept(file)) == 3)  # they came after all, and were kept


def test_a_busy_endpoint_is_asked_again_once_for_each_question(server):
    """A 429 for each question: the waits are those of one question, and no question is sent a third time."""
    seen, lock = Counter(), threading.Lock()

    def reply(body):
        said = body["messages"][-1]["content"]
        with lock:
            seen[said] += 1
            first = seen[said] == 1
        return (429, b"later", ("Retry-After-Ms", "1")) if first else (200, choices(said))

    server.replies = [reply]
    texts = [str(n) for n in range(30)]
    assert list(each(ChatEndpoint(server.url, "qwen", at_once=8, retries=1), texts)) == texts
    assert set(seen.values()) == {2}


def test_grades_are_the_same_bytes(server, tmp_path):
    def reply(body):
        said = body["messages"][-1]["content"]
        time.sleep((sum(map(ord, said)) % 5) / 200)
        return 200, choices(*(json.dumps({"level": (sum(map(ord, said)) + n) % 4}) for n in range(body["n"])))

    server.replies = [reply]
    pairs = [(f"查询{n % 7}", Document(f"d{n}", f"文档{n % 11}")) for n in range(60)]

    def grade(name, **where):
        grader = EndpointGrader(ChatEndpoint(model="qwen", **where), samples=3)
        done = []
        grade_pairs(grader, pairs, tmp_path / name, on_progress=lambda number, total: done.append(number))
        assert done == list(range(1, 61))
        return (tmp_path / name).read_bytes()

    file = tmp_path / "answers.jsonl"
    one, eight = (grade(f"{n}", url=server.url, at_once=n) for n in (1, 8))
    recorded = grade("recorded", url=server.url, at_once=8, record=file)
    assert one == eight == recorded == grade("again", url="", replay=file)


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_model_with_one_query_for_everything_is_stopped_at_the_same_question(server, at_once):
    """Queries are compared with the latest in the order of the requests, whenever they came."""

    def reply(body):
        number = int(re.search(r"文档：文档(\d+)", body["messages"][-1]["content"])[1])
        time.sleep(number % 3 / 100)
        return 200, choices(f"新{number}" if number < 10 else "同")

    server.replies = [reply]
    model = EndpointQueryModel(ChatEndpoint(server.url, "qwen", at_once=at_once), [])
    written = model.write_each((QueryRequest(f"文档{n}", 1) for n in range(500)), seed=0)
    # 10 that are new, the first 同, 89 again; of the latest 100, four are new when seven have left.
    assert [next(written) for _ in range(106)] == [*([f"新{n}"] for n in range(10)), *[["同"]] * 96]
    with pytest.raises(TrainingError, match="hardly any answer of qwen is a new query"):
        next(written)
    assert len(server.bodies) < 500


def test_a_judge_asks_both_ways_round(server):
    """It likes the longer query better."""

    def reply(body):
        lines = body["messages"][-1]["content"].split("\n")
        one, other = (line[2:] for line in lines[1:3])
        time.sleep(len(one) % 3 / 100)
        return 200, choices("A" if len(one) > len(other) else "B")

    server.replies = [reply]
    groups = [Group(f"文档{n}", ["字" * 3, "字" * (n % 6 + 1), "字"], [3, 1, 0]) for n in range(12)]
    one, eight = (
        EndpointJudge(ChatEndpoint(server.url, "qwen", at_once=n)).contradictions(groups) for n in (1, 8)
    )
    for number, (wrong, same) in enumerate(zip(one, eight, strict=True)):
        assert (wrong == same).all()
        assert wrong[0].tolist() == [False, number % 6 + 1 > 3, False]
