import logging
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from relsdk.errors import InputError, MissingExtraError, TrainingError
from relsdk_training.query_models.base import QueryExample, QueryRequest
from relsdk_training.query_models.chat_endpoint import ChatEndpoint
from relsdk_training.query_models.endpoint import EndpointQueryModel
from tests.training.chat_server import ChatServer, choices

# openai waits so long instead of half a second and more.
AT_ONCE = ("Retry-After-Ms", "1")
ASK = [{"role": "user", "content": "你好"}]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer() as server:
        yield server


@pytest.fixture
def endpoint(server):
    return ChatEndpoint(server.url + "/", "qwen", retries=1, at_once=1)


def ask(endpoint, samples=1, seed=7):
    return endpoint.ask(ASK, temperature=0.5, seed=seed, samples=samples)


def test_asks_for_all_samples_at_once(server, endpoint):
    server.replies = [(200, choices("一", "二", "三"))]
    assert ask(endpoint, samples=3) == ["一", "二", "三"]
    assert server.paths == ["/v1/chat/completions"]
    assert server.bodies == [{"model": "qwen", "messages": ASK, "temperature": 0.5, "seed": 7, "n": 3}]
    assert "Authorization" not in server.headers[0]
    assert ask(endpoint, samples=2) == ["一", "二"]  # more than asked for


def test_a_server_that_ignores_n_is_asked_with_the_next_seeds(server, endpoint):
    server.replies = [lambda body: (200, choices(f"answer {body['seed']}"))]
    assert ask(endpoint, samples=3) == ["answer 7", "answer 8", "answer 9"]
    assert [body["n"] for body in server.bodies] == [3, 2, 1]


def test_a_choice_without_text_is_an_empty_answer(server, endpoint):
    """A content filter took it back, or the model refused: the same seed would give the same."""
    server.replies = [(200, {"choices": [*choices("one", None)["choices"], {"message": {"refusal": "no"}}]})]
    assert ask(endpoint, samples=3) == ["one", "", ""]
    assert len(server.bodies) == 1


@pytest.mark.parametrize("name", ["content_filter", "data_inspection_failed"])
def test_a_filtered_conversation_has_empty_answers(server, endpoint, name):
    server.replies = [(400, {"error": {"code": name}})]
    assert ask(endpoint, samples=2) == ["", ""]
    model = EndpointQueryModel(endpoint, EXAMPLES)
    assert model.write([QueryRequest("甲", 3)], samples=2, seed=0) == [[]]


def test_an_endpoint_that_gives_one_answer_at_a_time(server, endpoint):
    server.replies = [
        lambda body: (200, choices(f"answer {body['seed']}")) if body["n"] == 1 else (400, b"n must be 1")
    ]
    assert ask(endpoint, samples=2) == ["answer 8", "answer 9"]
    assert [body["n"] for body in server.bodies] == [2, 1, 1]


def test_half_a_character_is_replaced(server, endpoint):
    server.replies = [(200, b'{"choices": [{"message": {"content": "\\u5927\\u7406\\ud83d"}}]}')]
    assert ask(endpoint) == ["大理\ufffd"]


@pytest.mark.parametrize("status", [429, 500])
def test_what_may_pass_is_retried(server, endpoint, status):
    server.replies = [(status, b"later", AT_ONCE), (200, choices("ok"))]
    assert ask(endpoint) == ["ok"]
    assert server.bodies[0] == server.bodies[1]


def test_server_errors_until_the_last_retry(server, endpoint):
    server.replies = [(500, "首页\n".encode() * 100, AT_ONCE)]
    with pytest.raises(TrainingError, match=r"1 retries.*status 500: '首页.*finished work is kept") as caught:
        ask(endpoint)
    assert "\n" not in str(caught.value)
    assert len(server.bodies) == 2


def test_how_long_the_server_wants_to_be_left_alone(server):
    server.replies = [(429, b"slow down", ("Retry-After", "600"))]
    with pytest.raises(TrainingError, match="status 429: 'slow down', Retry-After 600;"):
        ask(ChatEndpoint(server.url, "qwen", retries=0))


def test_timeouts_are_retried(server):
    endpoint = ChatEndpoint(server.url, "qwen", timeout=1.0, retries=1)
    server.replies = ["hold", (200, choices("ok"))]
    assert ask(endpoint) == ["ok"]
    server.replies = ["hold"]
    with pytest.raises(TrainingError, match=r"ReadTimeout.*the same command goes on from there"):
        ask(endpoint)


def test_a_server_that_hangs_up_is_retried(server, endpoint):
    server.replies = ["hang up", (200, choices("ok"))]
    assert ask(endpoint) == ["ok"]


def test_nobody_listens():
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_port
    with pytest.raises(TrainingError, match=r"ConnectError: .*the same command goes on from there"):
        ask(ChatEndpoint(f"http://127.0.0.1:{port}", "qwen", retries=0))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>nonsense",
        b"\xff\xfe",
        b"[" * 100_000,
        [],
        {"choices": []},
        {"choices": None},
        {"choices": [1]},
    ],
)
def test_a_body_without_answers(server, body):
    server.replies = [(200, body)]
    with pytest.raises(TrainingError, match=r"without choices\[\]") as caught:
        ask(ChatEndpoint(server.url, "qwen", retries=0))
    assert len(str(caught.value)) < 1500


def test_a_body_without_answers_is_retried_and_shown(server, endpoint):
    """Gateways answer so, with status 200, while the model behind them is busy."""
    server.replies = [(200, b"<html>nonsense"), (200, choices("ok"))]
    assert ask(endpoint) == ["ok"]
    server.replies = [(200, b"<html>nonsense")]
    with pytest.raises(TrainingError, match="'<html>nonsense'"):
        ask(endpoint)


@pytest.mark.parametrize("status", [400, 401, 302])
def test_a_refusal_is_not_retried(server, endpoint, status):
    server.replies = [(status, b"x" * 200 + b"y" * 200, ("Location", "/elsewhere"))]
    with pytest.raises(TrainingError, match=f"status {status}: 'x{{200}}';"):
        ask(endpoint)
    assert len(server.bodies) == 1


def test_the_key_is_sent_and_not_logged(server, monkeypatch, caplog):
    monkeypatch.setenv("SOME_KEY", " sk-secret\n")
    server.replies = [(429, b"later", AT_ONCE), (200, choices("ok"))]
    with caplog.at_level(logging.DEBUG):
        ask(ChatEndpoint(server.url, "qwen", api_key_env="SOME_KEY"))
    assert server.headers[1]["Authorization"] == "Bearer sk-secret"
    assert "secret" not in caplog.text


def test_what_is_meant_for_openai_is_not_sent_to_others(server, endpoint, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "secret")
    server.replies = [(200, choices("ok"))]
    ask(ChatEndpoint(server.url, "qwen"))
    assert "secret" not in str(server.headers[0])
    assert "Authorization" not in server.headers[0]


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'relsdk\[llm\]'"):
        ChatEndpoint("http://localhost", "qwen")


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_key_that_is_sent_back_is_not_shown(server, monkeypatch, status):
    monkeypatch.setenv("SOME_KEY", "sk-secret-123")
    server.replies = [(status, b"Received API Key = Bearer sk-secret-123")]
    with pytest.raises(TrainingError, match=r"Bearer \*\*\*") as caught:
        ask(ChatEndpoint(server.url, "qwen", api_key_env="SOME_KEY", retries=0))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "is not set"), (" ", "is not set"), ("se\ncret", "characters"), ("密", "characters")],
)
def test_a_missing_or_broken_key(monkeypatch, value, message):
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(InputError, match=f"SOME_KEY.*{message}") as caught:
        ChatEndpoint("http://localhost", "qwen", api_key_env="SOME_KEY")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/v1",
        "localhost:8000/v1",
        "http://",
        "http://[::1/v1",
        "http://host:port/v1",
        "http://me:secret@host/v1",
        "http://ho st/v1",
        "http://host/v1?key=secret",
    ],
)
def test_a_bad_url(url):
    with pytest.raises(InputError, match="http or https") as caught:
        ChatEndpoint(url, "qwen")
    assert "secret" not in str(caught.value)


def test_no_url():
    with pytest.raises(InputError, match=r"no endpoint is named; give its URL.*or a recording to replay"):
        ChatEndpoint("", "qwen")


@pytest.mark.parametrize(
    "numbers", [{"timeout": 0}, {"timeout": float("nan")}, {"retries": -1}, {"at_once": 0}, {"at_once": 65}]
)
def test_bad_numbers(numbers):
    with pytest.raises(InputError, match=next(iter(numbers))):
        ChatEndpoint("http://localhost", "qwen", **numbers)


EXAMPLES = [
    QueryExample(f"文档{level}-{number}。", level, f"查询{level}-{number}")
    for level in range(4)
    for number in range(6)
]


def prompt(server):
    """The last conversation: (system text, [(question, answer)], last question)."""
    system, *turns = server.bodies[-1]["messages"]
    *shown, question = turns
    assert [turn["role"] for turn in shown] == ["user", "assistant"] * (len(shown) // 2)
    contents = [turn["content"] for turn in shown]
    return system["content"], list(zip(contents[::2], contents[1::2], strict=True)), question["content"]


def test_the_prompt_has_examples_of_all_levels_the_wanted_last(server, endpoint):
    server.replies = [(200, choices("好"))]
    model = EndpointQueryModel(endpoint, EXAMPLES, examples_per_level=3)
    assert model.write([QueryRequest("新文档", 1)], samples=1, seed=0) == [["好"]]
    system, shown, question = prompt(server)
    assert all(f"\n{level}：" in system for level in range(4))
    assert [answer[2] for _, answer in shown] == [*"000222333111"]
    for asked, answer in shown:
        assert answer.replace("查询", "文档") + "。" in asked
        assert f"相关性等级：{answer[2]}" in asked
    assert len({answer for _, answer in shown}) == 12
    assert "新文档" in question
    assert "相关性等级：1" in question
    assert "新文档" not in system + str(shown)
    assert server.bodies[0]["temperature"] == 1
    assert server.bodies[0]["seed"] == 0


def test_examples_of_the_document_itself_are_not_shown(server, endpoint):
    server.replies = [(200, choices("好"))]
    examples = [*EXAMPLES, *(QueryExample("新文档", level, "泄漏") for level in range(4))]
    model = EndpointQueryModel(endpoint, examples, examples_per_level=100)
    model.write([QueryRequest("新文档", 2)], samples=1, seed=0)
    _, shown, _ = prompt(server)
    assert len(shown) == len(EXAMPLES)
    assert "泄漏" not in str(shown)
    model.write([QueryRequest("另一篇", 2)], samples=1, seed=0)
    assert "泄漏" in str(prompt(server))


def test_the_seed_decides_the_prompt(server, endpoint):
    server.replies = [(200, choices("好"))]
    model = EndpointQueryModel(endpoint, EXAMPLES, examples_per_level=2)
    one, other = QueryRequest("甲", 3), QueryRequest("乙", 0)
    model.write([one, other], samples=1, seed=5)
    model.write([other], samples=1, seed=5)
    EndpointQueryModel(endpoint, EXAMPLES, examples_per_level=2).write([one], samples=1, seed=5)
    model.write([one], samples=1, seed=6)
    first, second, second_alone, first_again, first_reseeded = server.bodies
    assert first == first_again
    assert second == second_alone
    assert first["messages"] != first_reseeded["messages"]


def test_an_own_rubric_replaces_the_words_for_the_levels(server, endpoint):
    server.replies = [(200, choices("好"))]
    EndpointQueryModel(endpoint, EXAMPLES, rubric="3: {ours}, 0: not ours.", temperature=0.0).write(
        [QueryRequest("甲", 3)], samples=1, seed=5
    )
    system = prompt(server)[0]
    assert "\n\n3: {ours}, 0: not ours.\n\n" in system
    assert "完全相关" not in system


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("红烧肉怎么做", "红烧肉怎么做"),
        ("\n \n  红烧肉怎么做 \n解释：……", "红烧肉怎么做"),
        ('"红烧肉怎么做"', "红烧肉怎么做"),
        ("1. “红烧肉怎么做”", "红烧肉怎么做"),
        ("「1、红烧肉怎么做」", "红烧肉怎么做"),
        ("（2）红烧肉怎么做", "红烧肉怎么做"),
        ("- `红烧肉怎么做`", "红烧肉怎么做"),
        ("查询：红烧肉怎么做", "红烧肉怎么做"),
        ("Query: 'red'", "red"),
        ("<think>\n嗯，\n</think>\n\n红烧肉怎么做", "红烧肉怎么做"),
        ("3.5寸硬盘", "3.5寸硬盘"),
        ("2024年日历", "2024年日历"),
        ('"红楼梦"和"西游记"', '"红楼梦"和"西游记"'),
        ("《三体》", "《三体》"),
        ("mysql查询: 慢", "mysql查询: 慢"),
    ],
)
def test_answers_are_cleaned(server, endpoint, answer, query):
    server.replies = [(200, choices(answer))]
    assert EndpointQueryModel(endpoint, EXAMPLES).write([QueryRequest("甲", 3)], samples=1, seed=0) == [
        [query]
    ]


def test_empty_answers_are_left_out(server, endpoint):
    server.replies = [(200, choices("", "一", ' \n""\n', "<think>没有写完"))]
    model = EndpointQueryModel(endpoint, EXAMPLES)
    assert model.write([QueryRequest("甲", 3)], samples=4, seed=0) == [["一"]]
    assert model.write([], samples=4, seed=0) == []


@pytest.mark.parametrize(("answer", "requests"), [("", 20), ("抱歉，我无法完成这个请求。", 100)])
def test_a_model_that_writes_nothing_new_is_stopped(server, endpoint, answer, requests):
    model = EndpointQueryModel(endpoint, EXAMPLES)
    server.replies = [(200, choices(answer))]
    documents = [QueryRequest(f"文档{number}", 3) for number in range(requests)]
    model.write(documents[:-1], samples=1, seed=0)
    with pytest.raises(TrainingError, match=r"hardly any answer of qwen is a new query.*endpoint\.name"):
        model.write(documents[-1:], samples=1, seed=0)


def test_a_model_that_writes_is_not_stopped(server, endpoint):
    server.replies = [lambda body: (200, choices(body["messages"][-1]["content"][:8]))]
    requests = [QueryRequest(f"文档{number}", 3) for number in range(110)]
    written = EndpointQueryModel(endpoint, EXAMPLES).write(requests, samples=1, seed=0)
    assert len(written) == 110


def test_a_missing_level_is_named(endpoint):
    with pytest.raises(InputError, match="no examples of level 1, 3"):
        EndpointQueryModel(endpoint, [example for example in EXAMPLES if example.level in (0, 2)])


def test_bad_levels_and_numbers(server, endpoint):
    with pytest.raises(InputError, match="4"):
        EndpointQueryModel(endpoint, [*EXAMPLES, QueryExample("文", 4, "查")])
    with pytest.raises(InputError, match="examples_per_level"):
        EndpointQueryModel(endpoint, EXAMPLES, examples_per_level=0)
    with pytest.raises(InputError, match="-1"):
        EndpointQueryModel(endpoint, EXAMPLES).write(
            [QueryRequest("甲", 3), QueryRequest("乙", -1)], samples=1, seed=0
        )
    assert server.bodies == []  # a bad request costs nothing
