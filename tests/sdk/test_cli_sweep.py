"""Every command with every parameter's bad values, and random lines: exit code 0 or 2, one line, no hang."""

import random

import click
import pytest

from tests import command_lines

TREE = command_lines.commands()
FAST = [(path, command) for path, command in TREE if not path.startswith(command_lines.SLOW)]


def check(lines, folder):
    found = command_lines.run_lines(lines, folder)
    assert len(found) == len(lines)
    wrong = [(line, fault) for line, result in found if (fault := command_lines.faults(line, result))]
    shown = "\n".join(f"{[word[:80] for word in line]}: {fault}" for line, fault in wrong[:40])
    assert not wrong, f"{len(wrong)} of {len(lines)}\n{shown}"
    return [result for _, result in found]


def test_bases_are_of_commands_that_are_there():
    assert set(command_lines.BASES) <= {path for path, _ in TREE}


def test_some_bad_values(tmp_path):
    """A sample of what `test_every_bad_value` tries, drawn with a fixed seed."""
    lines = [line for path, command in FAST for line in command_lines.lines_of(path, command)]
    results = check(command_lines.sample(1, 100, lines), tmp_path / "w")
    assert {result["code"] for result in results} == {0, 2}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "command"), TREE, ids=[path.replace(" ", "-") for path, _ in TREE])
def test_every_bad_value(tmp_path, path, command):
    check(list(command_lines.lines_of(path, command)), tmp_path / "w")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_two_thousand_random_lines(tmp_path, seed):
    draw = random.Random(seed)
    check([command_lines.random_line(draw, TREE) for _ in range(500)], tmp_path / "w")


@pytest.mark.parametrize(("path", "command"), TREE, ids=[path.replace(" ", "-") for path, _ in TREE])
def test_every_command_and_option_has_help(path, command):
    assert command.get_short_help_str(200), path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts}"
            assert parameter.help.strip().endswith((".", "]")), f"{path} {parameter.opts}: {parameter.help}"
