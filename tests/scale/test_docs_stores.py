"""docs/stores.md: what the page shows runs, with a toy model where the demo's is."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from relsdk_sample import generate, write
from tests.scale.engines import NOISE
from tests.toys import FIXTURES

pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(noise) for noise in NOISE)]
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "stores.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_runs(relsdk, tmp_path, monkeypatch, capsys):
    pytest.importorskip("qdrant_client")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FIXTURES / "encoder-bundle-v1", "relsdk-demo/bundle")
    write(generate(seed=5, n_documents=100, n_queries=10), "relsdk-demo/world")
    (shell,) = blocks("sh")
    for line in shell.splitlines():
        command, *arguments = shlex.split(line)
        code, _, error = relsdk(*arguments)
        assert (command, code) == ("relsdk", 0), (line, error)
    names = {}
    (python,) = blocks("python")
    exec(python, names)
    level, count = capsys.readouterr().out.split()
    assert 0 <= int(level) <= 3
    assert int(count) > 1
    assert len(names["hits"]) == 5
