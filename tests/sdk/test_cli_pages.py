"""Command lines in README, in docs/ and in the commands' own help: each is one that relsdk takes."""

import re
import shlex
from pathlib import Path

import click
import pytest

from bench.pages.cli_page import cli_page, walk
from relsdk.cli import _relsdk

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")])
TREE = dict(walk(_relsdk, "relsdk"))


def takes(line):
    """Parse a command line without running it; raise where relsdk would refuse it."""
    words = shlex.split(line, comments=True)[1:]
    command, context = _relsdk, click.Context(_relsdk, info_name="relsdk")
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0)) or pytest.fail(f"no such command: {line}")
        context = click.Context(command, parent=context)
    command.make_context(command.name, [word for word in words if word != "..."])


def lines_of(page):
    """Yield the command lines in the code blocks of a page; a line that ends in a backslash goes on."""
    for block in re.findall(r"(?ms)^```\w*\n(.*?)^```", page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("relsdk ") and "[OPTIONS]" not in line:
                yield line.partition(" | ")[0].partition(" > ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_pages_are_taken(page):
    for line in lines_of(page):
        try:
            takes(line)
        except click.ClickException as error:
            pytest.fail(f"{page.name}: {line}: {error.format_message()}")


def test_pages_show_commands():
    assert sum(len(list(lines_of(page))) for page in PAGES) > 30


@pytest.mark.parametrize("path", TREE)
def test_every_command_has_an_example_that_is_taken(path):
    example = (TREE[path].epilog or "").removeprefix("Example: ")
    assert example.startswith(path), example
    takes(example)


def test_the_page_of_commands_is_what_they_say():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for path, command in TREE.items():
        assert f"\n## {path}\n" in page
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or max(parameter.opts, key=len) in page
    assert page == cli_page(), "run: python -m bench.pages.readme --write"
