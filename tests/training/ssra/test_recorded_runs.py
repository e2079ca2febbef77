"""Whole runs in which a language model writes and judges: recorded, stopped, and repeated without it."""

import json
import shutil
import time

import pytest

from relsdk.errors import InputError, TrainingError
from relsdk.files.folders import file_sha256
from relsdk_training.config.files import load_config
from relsdk_training.config.ssra import SsraConfig
from relsdk_training.ssra.recipe import plan_stages, train_ssra
from tests.training.chat_server import ChatServer, choices

# Times and places: what two equal runs differ in.
PASSING = ("log.jsonl", "result.json", "config.json", "stage.json")


@pytest.fixture
def server(monkeypatch):
    """Never answers twice alike: a run that is the same must have its answers from the recording."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer() as server:

        def reply(body):
            number = len(server.bodies)
            time.sleep(len(str(body["messages"])) % 7 / 200)  # the later is often the faster
            if body["model"] == "judge":
                return 200, choices("AB"[number % 2])
            return 200, choices(*(f"搜索词{number}号{n}怎么做" for n in range(body["n"])))

        server.replies = [reply]
        yield server


@pytest.fixture
def run(settings, tmp_path):
    """Run all stages into a folder of a name, with what is said of the two endpoints."""

    def run(name, *of_both):
        both = [f"{at}.endpoint.{one}" for at in ("synthesis", "filter") for one in of_both]
        names = ["synthesis.endpoint.name=writer", "filter.endpoint.name=judge", "filter.judge=endpoint"]
        few = ["unlabelled.limit=6", "training.max_steps=1", "training.checkpoint_every=0"]
        few += ["embed.evaluate_every=0", "filter.by_score=false", f"run.output={tmp_path / name}"]
        few += ["synthesis.reannotate=false", "balance.annotated=false"]  # no stage 1
        train_ssra(load_config(SsraConfig, None, [*settings, *names, *few, *both]))
        return tmp_path / name

    return run


def made(run):
    """The hash of each file of each stage, and each stage's identity and report."""
    stages = run / "stages"
    files = {
        path.relative_to(stages).as_posix(): file_sha256(path)
        for path in stages.rglob("*")
        if path.is_file() and not (path.name in PASSING and path.parent.parent == stages)
    }
    for path in stages.glob("*/stage.json"):
        stage = json.loads(path.read_text())
        files |= {f"{path.parent.name}/{name}": stage[name] for name in ("identity", "outputs", "report")}
    return files


def test_a_recorded_run_is_repeated_without_the_model(run, server, tmp_path):
    answers = tmp_path / "answers.jsonl"
    first = run("first", f"url={server.url}", f"record={answers}", "at_once=8")
    asked = len(server.bodies)
    models = [json.loads(line)["model"] for line in answers.read_text(encoding="utf-8").splitlines()]
    assert len(models) == asked
    assert set(models) == {"writer", "judge"}
    second = run("second", f"replay={answers}", "at_once=1")  # no URL: there is nobody to ask
    assert made(second) == made(first)
    assert {name.partition("/")[0] for name in made(second)} == {
        *("01-pool", "02-score", "08-write-1", "09-filter-1", "90-balance", "91-embed", "92-compare"),
    }
    assert len(server.bodies) == asked


def test_a_run_that_is_stopped_pays_for_nothing_twice(run, server, tmp_path):
    """Within what is asked at once, where the stage itself has kept nothing yet."""
    answers, reply = tmp_path / "answers.jsonl", server.replies[0]
    server.replies = [lambda body: (401, b"no credit") if len(server.bodies) == 10 else reply(body)]
    with pytest.raises(TrainingError, match="401"):
        run("first", f"url={server.url}", f"record={answers}", "at_once=1")
    assert len(answers.read_text(encoding="utf-8").splitlines()) == 9
    shutil.copytree(tmp_path / "first/stages", tmp_path / "second/stages")  # what was trained
    with pytest.raises(
        InputError, match=r"holds 9 answered questions and not '文档：.*相关性等级：\d 查询：' for writer"
    ):
        run("second", f"replay={answers}")
    run("first", f"url={server.url}", f"record={answers}", "at_once=1")
    questions = [json.dumps(body, sort_keys=True) for body in server.bodies]
    assert questions[9] == questions[10]  # the one that was refused
    assert len(set(questions)) == len(questions) - 1


def test_a_rubric_counts_by_what_it_says(settings, tmp_path):
    rubrics = {"one": "3: ours", "same": "3: ours\n", "other": "3: theirs"}
    for name, text in rubrics.items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    def identities(section, *changes):
        both = ["synthesis.endpoint.url=http://localhost", "filter.judge=endpoint"]
        config = load_config(SsraConfig, None, [*settings, *both, *changes])
        return {planned.stage.name: planned.stage.settings for planned in plan_stages(config, 1)}

    for section, stage in (("synthesis", "08-write-1"), ("filter", "09-filter-1")):
        without = identities(section)
        of = {name: identities(section, f"{section}.endpoint.rubric={tmp_path / name}") for name in rubrics}
        assert of["one"] == of["same"] != of["other"]
        assert {name for name in without if without[name] != of["one"][name]} == {stage}
        for place in ("url=http://elsewhere", "record=a", "key_env=KEY", "timeout=3", "at_once=9"):
            assert identities(section, f"{section}.endpoint.{place}") == without
        with pytest.raises(InputError, match="the rubric nowhere cannot be read: No such file"):
            identities(section, f"{section}.endpoint.rubric=nowhere")
