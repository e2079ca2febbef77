"""A grader behind a chat endpoint: what it asks, and what it makes of the answers."""

import json

import pytest

from relsdk.errors import InputError, TrainingError
from relsdk.records import Document, LabelledPair
from relsdk_training.judge.grader import EndpointGrader
from relsdk_training.query_models.chat_endpoint import ChatEndpoint
from relsdk_training.query_models.rubric import BUILT_IN, read_rubric
from tests.training.chat_server import ChatServer, choices


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer() as server:
        yield server


def opinion(level, reason=""):
    return json.dumps({"level": level, "reason": reason}, ensure_ascii=False)


def pair(query, title, level):
    return LabelledPair(query, Document("d", title), level)


EXAMPLES = [pair(f"问{level}-{n}", f"题{level}-{n}", level) for level in range(4) for n in range(9)]


def test_the_question(server):
    server.replies = [(200, choices(opinion(2, "缺少剂量")))]
    grader = EndpointGrader(ChatEndpoint(server.url, "qwen"), examples=EXAMPLES)
    (graded,) = grader.grade([("感冒药", "感冒吃什么药")])
    assert (graded.level, graded.probabilities, graded.reason) == (2, (0, 0, 1, 0), "缺少剂量")
    (body,) = server.bodies
    assert (body["temperature"], body["seed"], body["n"]) == (0, 0, 1)
    system, question = (message["content"] for message in body["messages"])
    assert BUILT_IN in system
    assert question == "查询：感冒药\n文档：感冒吃什么药"
    for level in range(4):
        shown = [n for n in range(9) if f"查询：问{level}-{n}\n文档：题{level}-{n}\n等级：{level}" in system]
        assert len(shown) == 4
    without = EndpointGrader(ChatEndpoint(server.url, "qwen")).messages("感冒药", "感")
    assert "例子" not in without[0]["content"]


def test_the_same_examples_in_the_same_order_each_time(server):
    endpoint = ChatEndpoint(server.url, "qwen")
    one, other = (EndpointGrader(endpoint, examples=EXAMPLES) for _ in range(2))
    assert one.messages("甲", "乙")[0] == other.messages("丙", "丁")[0]  # a server can keep what it read


def test_nothing_of_the_pair_itself_is_shown(server):
    examples = [pair("感冒 药", "别的", 3), pair("别的", "感冒吃什么药", 1), pair("甲", "乙", 0)]
    grader = EndpointGrader(ChatEndpoint(server.url, "qwen"), examples=examples)
    system = grader.messages("感冒　药", "感冒吃什么药")[0]["content"]
    assert "查询：甲" in system
    assert system.count("查询：") == 1


def test_several_samples_become_probabilities(server):
    answers = [opinion(1, "a"), opinion(2, "b"), "抱歉", opinion(2, "c"), opinion(3), opinion(2)]
    server.replies = [(200, choices(*answers))]
    (graded,) = EndpointGrader(ChatEndpoint(server.url, "qwen"), samples=6).grade([("甲", "乙")])
    assert graded.probabilities == pytest.approx((0, 0.2, 0.6, 0.2))
    assert (graded.level, graded.reason) == (2, "b")
    assert server.bodies[0]["temperature"] == 1
    assert server.bodies[0]["n"] == 6
    with pytest.raises(InputError, match="samples is 0"):
        EndpointGrader(ChatEndpoint(server.url, "qwen"), samples=0)


def test_an_own_rubric(server, tmp_path):
    (tmp_path / "rubric.txt").write_text("\ufeff3：我们的规则 {level}\n", encoding="utf-8")
    rubric = read_rubric(tmp_path / "rubric.txt")
    assert rubric == "3：我们的规则 {level}"
    grader = EndpointGrader(ChatEndpoint(server.url, "qwen"), rubric=rubric)
    system = grader.messages("甲", "乙")[0]["content"]
    assert rubric in system
    assert BUILT_IN not in system


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"\xff\xfe", "utf-8"), (b" \n", "no text"), (b"3\0", "no text")],
)
def test_a_rubric_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "rubric.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"rubric .*rubric\.txt .*{message}"):
        read_rubric(path)
    assert read_rubric("") == BUILT_IN


def test_a_model_that_names_no_level(server):
    server.replies = [(200, choices("抱歉，我无法判断。"))]
    grader = EndpointGrader(ChatEndpoint(server.url, "qwen"))
    opinions = grader.grade(("甲", str(number)) for number in range(100))
    assert [next(opinions) for _ in range(19)] == [None] * 19
    with pytest.raises(
        TrainingError, match=r"hardly any answer of qwen names a level.*无法判断.*rubric.*recording"
    ):
        next(opinions)
