"""How commands end: one line, an exit code, and nothing that acts on a terminal."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relsdk.cli.output import echo_json, printable
from tests.default_signals import WITH_DEFAULT_SIGNALS

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
INDEX = FIXTURES / "index-v1"
INFO = ("index", "info", str(INDEX))
HOSTILE = "a\x1b[31mb\x9b2Jc\u202egnp.exe\u2066d\x07\r"


def command(*arguments, shell="", timeout=60, **environment):
    """Run relsdk in a shell with redirections behind it."""
    line = [sys.executable, "-m", "relsdk", *arguments]
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {shell}', "-", *line],
        capture_output=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def without_warnings(stderr):
    """Lines of stderr; bundles of format 1 are said to have no checksum."""
    return [line for line in stderr.decode().splitlines() if not line.startswith("relsdk: warning: ")]


def one_line(done, code=2):
    lines = without_warnings(done.stderr)
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, lines
    assert lines[0].startswith("relsdk: error: ")
    return lines[0]


@pytest.mark.parametrize(
    "arguments",
    [
        INFO,
        ("--help",),
        *(pytest.param(more, marks=pytest.mark.slow) for more in (("--version",), (*INFO, "--json"))),
    ],
)
@pytest.mark.parametrize("shell", ["> /dev/full", ">&-"])
def test_a_full_or_closed_stdout_is_said(arguments, shell):
    assert ("No space" if "full" in shell else "closed") in one_line(command(*arguments, shell=shell))


def test_the_next_file_opened_never_becomes_stdout(tmp_path):
    """With descriptor 1 closed, what is opened next would get it, and what is printed would land there."""
    output = tmp_path / "v.npy"
    (tmp_path / "q.txt").write_text("红烧肉\n")
    done = command(
        *("encode", str(FIXTURES / "encoder-bundle-v1"), str(tmp_path / "q.txt"), str(output)), shell=">&-"
    )
    assert "closed" in one_line(done)
    assert output.read_bytes()[:6] == b"\x93NUMPY"


@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full"])
def test_a_closed_stderr_changes_no_exit_code(shell):
    assert command("querry", shell=shell).returncode == 2
    assert command(*INFO, shell=shell).returncode == 0


@pytest.mark.parametrize(
    "arguments", [INFO, ("--help",), pytest.param((*INFO, "--json"), marks=pytest.mark.slow)]
)
def test_a_reader_that_went_away_is_no_error(arguments):
    done = command(*arguments, shell="| true")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_clean_up_and_say_so_in_one_line(tmp_path, number, code):
    """Documents come from a pipe that stays open: the build waits in the midst of its work."""
    bundle = str(FIXTURES / "encoder-bundle-v1")
    process = subprocess.Popen(
        [
            *WITH_DEFAULT_SIGNALS,
            *(sys.executable, "-m", "relsdk", "index", "build", str(tmp_path / "i"), "-m", bundle, "-i", "-"),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    line = json.dumps({"_id": "1", "title": "红烧肉"}) + "\n"
    process.stdin.write(line.encode())
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("vectors.npy*")) and not list(tmp_path.rglob("documents.sqlite*")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert without_warnings(stderr) == [
        "relsdk: error: interrupted; finished work is kept, unfinished work was removed"
    ]
    assert not list(tmp_path.rglob("*.npy"))


def test_an_interrupt_of_an_evaluated_text_keeps_its_exit_code(tmp_path):
    """CPython remembers it and kills `python -m` with SIGINT at the end, after SIGTERM, too."""
    (tmp_path / "interrupted.py").write_text(
        "import os, signal\nfrom relsdk.cli.ending import Signals\n"
        "try:\n"
        "    with Signals():\n"
        "        exec('os.kill(os.getpid(), signal.SIGTERM); [None for _ in range(10**8)]')\n"
        "except KeyboardInterrupt:\n    raise SystemExit(143) from None\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], timeout=60, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 143


def test_what_is_logged_reaches_no_terminal_raw(relsdk, tmp_path):
    path = tmp_path / f"{HOSTILE}.jsonl"
    path.write_text('{"_id": "1", "title": "a"}\n{"_id": "2", "title": ""}\n')
    bundle = FIXTURES / "encoder-bundle-v1"
    code, _, err = relsdk("index", "build", tmp_path / "i", "-m", bundle, "-i", path, "--skip-empty")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "left out" in line]
    assert line.startswith("relsdk: warning: ")
    assert not set(line) & set(HOSTILE[1:2] + "\x9b\u202e\u2066\x07")


def test_a_signal_that_was_ignored_stays_ignored():
    program = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from relsdk.cli.ending import Signals\n"
        "with Signals(): assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize(
    "seconds", [0.1, 0.3, *(pytest.param(more, marks=pytest.mark.slow) for more in (0.05, 0.2, 0.5))]
)
def test_an_interrupt_at_any_moment_of_the_start(seconds):
    """Within imports, too: a library may turn the interrupt into an error of its own."""
    process = subprocess.Popen(
        [*WITH_DEFAULT_SIGNALS, sys.executable, "-m", "relsdk", "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    # The interpreter itself prints a traceback for Ctrl-C; from the first line of relsdk on, there is none.
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    if "relsdk/cli" in stderr or "relsdk: " in stderr:
        assert process.returncode == 130
        assert "Traceback" not in stderr


def test_what_acts_on_a_terminal_is_shown():
    shown = printable(HOSTILE)
    assert shown == r"a\x1b[31mb\x9b2Jc\u202egnp.exe\u2066d\x07\r"
    assert printable("红烧肉\tá ﷺ 😀\n") == "红烧肉\tá ﷺ 😀\n"


def test_titles_ids_and_paths_reach_no_terminal_raw(relsdk, tmp_path):
    """Every command that shows them, on an index of hostile titles and ids in a folder of a hostile name."""
    folder = tmp_path / "x\x1b]0;owned\x07"
    folder.mkdir()
    (folder / "d.jsonl").write_text(
        json.dumps({"_id": f"1{HOSTILE}", "title": HOSTILE, "text": HOSTILE}) + "\n"
    )
    bundle = shutil.copytree(FIXTURES / "encoder-bundle-v1", folder / "b")
    build = ("index", "build", folder / "i", "-m", bundle, "-i", folder / "d.jsonl", "--variant", "fp32")
    runs = [relsdk(*build)]
    runs += [
        relsdk("query", folder / "i", HOSTILE, "--variant", "fp32", *extra) for extra in ((), ("--json",))
    ]
    runs += [relsdk("index", "info", folder / "i"), relsdk("index", "info", folder / HOSTILE)]
    runs += [
        relsdk("score", bundle, HOSTILE, HOSTILE, "--variant", "fp32", *extra) for extra in ((), ("--json",))
    ]
    runs += [relsdk(HOSTILE), relsdk("query", f"--{HOSTILE}"), relsdk("model", "info", bundle)]
    assert [code for code, _, _ in runs] == [0, 0, 0, 0, 2, 0, 0, 2, 2, 0], runs
    for _, out, err in runs:
        assert not set(out + err) & set("\x1b\x9b\x07\r\u202e\u2066"), out + err
    (hit,) = json.loads(runs[2][1])["hits"]
    assert hit["title"] == HOSTILE


def test_json_escapes_what_acts_on_a_terminal_and_is_exact(capsys):
    value = {"title": HOSTILE + "\ud800\u2028", "键": "红烧肉"}
    echo_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert "红烧肉" in out
    assert not set(out) & set(HOSTILE[1:2] + "\x9b\u202e\u2066\u2028\ud800")


def test_every_command_prints_through_one_function():
    for path in (ROOT / "sdk" / "relsdk" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "click"
            ):
                assert node.attr not in ("echo", "secho", "style", "progressbar"), f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    ("term", "no_color", "styled"), [("xterm", "", True), ("dumb", "", False), ("xterm", "1", False)]
)
def test_styles_are_for_terminals_that_want_them(term, no_color, styled):
    """On a real terminal, of its own."""
    import pty

    mine, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "NO_COLOR": no_color}
    process = subprocess.Popen(
        [sys.executable, "-m", "relsdk", *INFO], stdout=theirs, stderr=theirs, env=environment, cwd=ROOT
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(mine, 4096):
            shown += block
    except OSError:  # the other end is closed
        pass
    os.close(mine)
    assert process.wait(timeout=60) == 0
    assert (b"\x1b[" in shown) is styled
    assert b"count" in shown


def test_an_encoding_that_lacks_characters_is_named_once():
    done = command("index", "info", "红烧肉", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    first, second = done.stderr.decode("ascii").splitlines()
    assert r"\u7ea2\u70e7\u8089 does not exist" in first
    assert second.startswith("relsdk: warning: ")
    assert "ascii" in second
    assert "PYTHONIOENCODING=utf-8" in second


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["querry"], ". Did you mean 'query'?; see"),
        (["index", "buld"], ". Did you mean 'build'?; see"),
        (["query", "x", "y", "--minlevel", "2"], "--min-level"),
        (["query"], "relsdk query --help"),
        (["eval", "x"], "1 name given, not 2"),
        (["index", "info", "a" * 300], "File name too long"),
        (["index", "info", "a/" * 3000], "File name too long"),
        (["nonsense"], "there are demo, index"),
    ],
)
def test_mistakes_take_one_line(relsdk, arguments, wanted):
    code, out, err = relsdk(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("relsdk: error: ")
    assert wanted.lower() in line.lower()


@pytest.mark.parametrize("group", [[], ["index"], ["train"]])
def test_a_group_without_a_command_prints_its_help(relsdk, group):
    assert relsdk(*group) == relsdk(*group, "--help")


def test_a_bug_is_called_one(relsdk, monkeypatch):
    monkeypatch.setattr("relsdk.cli.index.Index.open", lambda *_: {}["absent"])
    code, _, err = relsdk(*INFO)
    assert code == 70
    assert "this is a bug in relsdk: KeyError: 'absent'" in err
    assert "Traceback" not in err
    monkeypatch.setenv("RELSDK_TRACEBACK", "1")
    assert "Traceback" in relsdk(*INFO)[2]


def test_a_bad_setting_is_told_before_torch_is_imported():
    program = """
import sys
from relsdk.cli import main
for task in ("embed", "score", "query", "distill", "ssra"):
    try:
        main(["train", task, "--set", "runn.seed=1"])
    except SystemExit as stop:
        print(stop.code, "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["2 False"] * 5, done.stderr
    assert done.stderr.count("did you mean 'run'") == 5


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("owner/name", True),
        ("BAAI/bge-small-zh-v1.5", True),
        ("_a/b_c", True),
        ("./typo", False),
        ("../typo", False),
        ("a/.hidden", False),
        ("models/typo/x", False),
        ("a" * 50 + "/" + "b" * 60, False),
        ("tests/fixtures", False),  # a folder that is there
        ("红烧肉/模型", False),
    ],
)
def test_what_is_a_hub_id(name, wanted, monkeypatch):
    from relsdk.bundle.hub import is_hub_id

    monkeypatch.chdir(ROOT)
    assert is_hub_id(name) is wanted


@pytest.mark.usefixtures("without_hub")
def test_a_mistyped_folder_is_called_one(relsdk):
    for name in ("./typo", "models/typo"):
        code, _, err = relsdk("score", name, "a", "b")
        assert code == 2
        assert name.lstrip("./") in err
        assert "folder" in err
