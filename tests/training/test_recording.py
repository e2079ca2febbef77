"""Recording what a chat model answers, and answering from the recording."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from relsdk.errors import InputError, LockedError, TrainingError
from relsdk_training.query_models import _recording
from relsdk_training.query_models.chat_endpoint import ChatEndpoint
from relsdk_training.query_models.rubric import read_rubric
from tests.training.chat_server import ChatServer, choices

ASK = [{"role": "system", "content": "规则"}, {"role": "user", "content": "你好"}]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer() as server:
        server.replies = [
            lambda body: (200, choices(*(f"{len(server.bodies)}-{n}" for n in range(body["n"]))))
        ]
        yield server


@pytest.fixture
def file(tmp_path):
    return tmp_path / "answers.jsonl"


def ask(endpoint, text="你好", temperature=0.5, seed=7, samples=1):
    messages = [ASK[0], {"role": "user", "content": text}]
    return endpoint.ask(messages, temperature=temperature, seed=seed, samples=samples)


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_each_answer_is_a_line(server, file):
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    assert ask(endpoint, samples=2) == ["1-0", "1-1"]
    assert lines(file) == [
        {
            "model": "qwen",
            "messages": ASK,
            "temperature": 0.5,
            "seed": 7,
            "samples": 2,
            "answers": ["1-0", "1-1"],
        }
    ]
    ask(endpoint, "再见")
    assert [line["answers"] for line in lines(file)] == [["1-0", "1-1"], ["2-0"]]


def test_what_was_answered_is_not_asked_again(server, file):
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    first = ask(endpoint), ask(endpoint, "再见"), ask(endpoint, seed=8)
    content = file.read_bytes()
    assert (ask(endpoint), ask(endpoint, "再见"), ask(endpoint, seed=8)) == first
    del endpoint
    other = ChatEndpoint("http://127.0.0.1:9/another", "qwen", record=file)  # where it is does not count
    assert (ask(other), ask(other, "再见"), ask(other, seed=8)) == first
    assert len(server.bodies) == 3
    assert file.read_bytes() == content


def test_a_replay_needs_nobody(server, file, monkeypatch):
    asked = ChatEndpoint(server.url, "qwen", record=file)
    answers = ask(asked, samples=3)
    content = file.read_bytes()
    monkeypatch.setitem(sys.modules, "openai", None)
    for url in ("", server.url):
        replay = ChatEndpoint(url, "qwen", api_key_env="NO_SUCH_KEY", replay=str(file))
        assert ask(replay, samples=3) == answers
    assert len(server.bodies) == 1
    assert file.read_bytes() == content


def test_each_answer_of_an_endpoint_that_gives_one_at_a_time_is_kept(server, file):
    """It refuses the third sample: two are paid for, and the next run asks for one."""
    refuse_at = 4  # the first request is that for several

    def reply(body):
        if body["n"] > 1:
            return 400, b"n must be 1"
        return (401, b"no credit") if len(server.bodies) == refuse_at else (200, choices(f"{body['seed']}"))

    server.replies = [reply]
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    with pytest.raises(TrainingError, match="401"):
        ask(endpoint, samples=3)
    assert [line["answers"] for line in lines(file)] == [[], ["8"], ["9"]]
    assert ask(endpoint, samples=3) == ["8", "9", "10"]
    assert [body["seed"] for body in server.bodies] == [7, 8, 9, 10, 10]
    assert ask(ChatEndpoint("", "qwen", replay=file), samples=3) == ["8", "9", "10"]


def test_what_a_filter_holds_back_is_recorded(server, file):
    server.replies = [(400, b"content_filter")]
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    assert ask(endpoint, samples=2) == ask(endpoint, samples=2) == ["", ""]
    assert len(server.bodies) == 1
    assert ask(ChatEndpoint("", "qwen", replay=file), samples=2) == ["", ""]


def test_what_is_recorded_can_be_looked_up(server, file):
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    answers = ask(endpoint, samples=2)
    assert endpoint.recorded(ASK, temperature=0.5, seed=7, samples=2) == answers
    assert endpoint.recorded(ASK, temperature=0.5, seed=8, samples=2) is None
    assert ChatEndpoint(server.url, "qwen").recorded(ASK, temperature=0.5, seed=7) is None
    assert len(server.bodies) == 1


def test_a_question_that_a_recording_lacks_is_named(server, file):
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    for text in ("你好", "再见"):
        ask(endpoint, text)
    replay = ChatEndpoint("", "qwen", replay=file)
    with pytest.raises(InputError) as error:
        ask(replay, f"文档：{'很长' * 500}\n相关性等级：2\n查询：", seed=9)
    told = str(error.value)
    assert told.startswith(f"{file} holds 2 answered questions and not '文档：很长很长")
    assert "很长 相关性等级：2 查询：' for qwen (temperature 0.5, seed 9, 1 at once)" in told
    assert "replace replay by record" in told
    assert len(told) < 700
    for changed in ({"seed": 8}, {"temperature": 0.0}, {"samples": 2}):
        with pytest.raises(InputError, match=r"holds this question for qwen \(temperature 0.5, seed 7, 1 at"):
            ask(replay, **changed)
    with pytest.raises(InputError, match=r"not '你好' for gpt .*for qwen .*as it was asked then"):
        ask(ChatEndpoint("", "gpt", replay=file))


@pytest.mark.parametrize("kept", [0, 1, 30, -1])
def test_a_line_that_a_kill_cut_off_is_asked_again(server, file, caplog, kept):
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    first = ask(endpoint)
    whole = file.read_bytes()
    ask(endpoint, "再见")
    del endpoint
    size = len(whole) + kept if kept >= 0 else file.stat().st_size - 2
    os.truncate(file, size)
    cut = file.read_bytes()
    assert ask(ChatEndpoint("", "qwen", replay=file)) == first
    assert file.read_bytes() == cut  # who only reads changes nothing
    told = [record.getMessage() for record in caplog.records if "cut off" in record.getMessage()]
    assert len(told) == (1 if kept else 0)
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    assert file.read_bytes() == whole
    assert (ask(endpoint), ask(endpoint, "再见")) == (first, ["3-0"])
    assert [line["answers"] for line in lines(file)] == [first, ["3-0"]]


def test_a_line_without_its_end_is_whole(server, file):
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    first = ask(endpoint)
    del endpoint
    os.truncate(file, file.stat().st_size - 1)
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    assert ask(endpoint) == first
    ask(endpoint, "再见")
    assert len(lines(file)) == 2


GOOD = {"model": "m", "messages": [], "temperature": 0, "seed": 0, "samples": 1, "answers": ["a"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":1: no JSON"),
        ("[]", r":1 is damaged"),
        (json.dumps({**GOOD, "seed": "0"}), "seed"),
        (json.dumps({**GOOD, "answers": [1]}), "answers"),
        (json.dumps({**GOOD, "answers": []}), "0 answers for 1 samples"),
        (json.dumps({**GOOD, "samples": 0}), "1 answers for 0 samples"),
        (json.dumps({"model": "m"}), "messages"),
        (json.dumps({**GOOD, "answer": "a"}), "answer"),
        ("[" * 100_000, "no JSON"),
        ("\xff", "no JSON"),
    ],
)
@pytest.mark.parametrize("way", ["record", "replay"])
def test_a_damaged_line_is_named(file, line, message, way):
    content = f"{line}\n{json.dumps(GOOD)}\n".encode("latin-1")
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        ChatEndpoint("http://localhost", "m", **{way: file})
    assert f"{file}:1" in str(caught.value)
    assert file.read_bytes() == content
    file.write_text(json.dumps(GOOD) + "\n")
    assert ChatEndpoint("http://localhost", "m", **{way: file}).ask([], temperature=0.0, seed=0) == ["a"]


def test_files_that_cannot_be(tmp_path, file):
    with pytest.raises(InputError, match=r"answers\.jsonl cannot be opened: No such file.*made with record"):
        ChatEndpoint("", "m", replay=file)
    with pytest.raises(InputError, match="is a folder"):
        ChatEndpoint("http://localhost", "m", record=tmp_path)
    with pytest.raises(InputError, match="is no regular file"):
        ChatEndpoint("", "m", replay=tmp_path)
    with pytest.raises(InputError, match="is no folder; make it"):
        ChatEndpoint("http://localhost", "m", record=tmp_path / "no/file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe cannot hold a recording"):
        ChatEndpoint("http://localhost", "m", record=tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is no regular file"):
        ChatEndpoint("", "m", replay=tmp_path / "pipe")
    with pytest.raises(InputError, match=r"rubric .*pipe cannot be read: it is no regular file"):
        read_rubric(tmp_path / "pipe")
    with pytest.raises(InputError, match="name one: record also answers"):
        ChatEndpoint("http://localhost", "m", record=file, replay=file)
    with pytest.raises(InputError, match="no model is named for the recording"):
        ChatEndpoint("", "", replay=file)
    with pytest.raises(InputError, match="no endpoint is named"):
        ChatEndpoint("", "m", record=file)


def test_a_recording_that_nothing_was_asked_for_is_not_left(file):
    endpoint = ChatEndpoint("http://localhost", "m", record=file)
    assert file.exists()
    del endpoint
    assert not file.exists()


HOLD = """
import sys
from relsdk_training.query_models.chat_endpoint import ChatEndpoint
endpoint = ChatEndpoint(sys.argv[1], "qwen", record=sys.argv[2])
for number in range(int(sys.argv[3])):
    endpoint.ask([{"role": "user", "content": str(number)}], temperature=0.0, seed=0)
print("holds", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_record_into_one_file(server, file):
    command = [sys.executable, "-c", HOLD, server.url, str(file), "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"holds\n"
        with pytest.raises(LockedError, match="recorded by another process"):
            ChatEndpoint(server.url, "qwen", record=file)
        replay = ChatEndpoint("", "qwen", replay=file)  # who only reads may
        assert replay.ask([{"role": "user", "content": "1"}], temperature=0.0, seed=0) == ["2-0"]
        other.send_signal(signal.SIGKILL)
    endpoint = ChatEndpoint(server.url, "qwen", record=file)  # the lock died with it, and the answers did not
    assert endpoint.ask([{"role": "user", "content": "0"}], temperature=0.0, seed=0) == ["1-0"]


def test_two_endpoints_of_one_process_share_a_file(server, file, tmp_path):
    (tmp_path / "link").symlink_to(file)
    writer = ChatEndpoint(server.url, "writer", record=file)
    judge = ChatEndpoint(server.url, "judge", record=tmp_path / "link")
    assert ask(writer) != ask(judge)
    del writer
    ask(judge, "再见")
    assert [line["model"] for line in lines(file)] == ["writer", "judge", "judge"]


def test_a_full_disk_keeps_what_is_there(server, file, monkeypatch):
    endpoint = ChatEndpoint(server.url, "qwen", record=file)
    first = ask(endpoint)
    content, write = file.read_bytes(), os.write

    def full(handle, text):
        write(handle, text[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_recording.os, "write", full)
    with pytest.raises(TrainingError, match=r"answers\.jsonl cannot be written \(No space"):
        ask(endpoint, "再见")
    monkeypatch.undo()
    assert file.read_bytes() == content
    assert ask(endpoint, "再见") == ["3-0"]  # it was not kept, so it is asked again
    assert ask(ChatEndpoint("", "qwen", replay=file)) == first
