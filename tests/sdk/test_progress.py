"""Progress lines: what a terminal, a log file and short work see."""

import io

import pytest

from relsdk.progress import Progress


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def watched(monkeypatch):
    """Run 1,000 steps of so many seconds each; return what stderr got."""

    def run(terminal, seconds, total=1000, term="xterm"):
        stream, now = Stream(terminal), [0.0]
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("TERM", term)
        monkeypatch.setenv("COLUMNS", "60")
        with Progress(total, clock=lambda: now[0]) as progress:
            for done in range(1, 1001):
                now[0] += seconds
                progress("encode", done)
        return stream.getvalue()

    return run


def test_a_log_gets_lines_with_the_time_left(watched):
    lines = watched(False, 0.3).splitlines()
    assert lines[0] == "encode 35 of 1,000, 4m 50s left"  # after ten seconds
    assert lines[-1].startswith("encode 9")
    assert 10 < len(lines) < 30  # fewer and fewer


def test_short_work_says_nothing_in_a_log(watched):
    assert watched(False, 0.009) == ""


def test_a_terminal_gets_one_line_that_is_redrawn(watched):
    drawn = watched(True, 0.05)
    assert drawn.count("\n") == 1
    assert drawn.endswith("\n")
    assert drawn.count("\r") > 100
    assert "encode 1,000 of 1,000" in drawn
    assert max(map(len, drawn.split("\r"))) < 60


def test_a_dumb_terminal_is_a_log(watched):
    assert "\r" not in watched(True, 0.3, term="dumb")


def test_without_a_total_there_is_a_rate(watched):
    assert watched(False, 0.1, total=None).splitlines()[0] == "encode 102, 10/s"


def test_stderr_that_is_full_or_closed_fails_no_work(monkeypatch):
    now = [0.0]
    for stream in (open("/dev/full", "w"), None):
        monkeypatch.setattr("sys.stderr", stream)
        with Progress(3, clock=lambda: now[0]) as progress:
            progress("encode", 1)
            now[0] += 20
            progress("encode", 2)
        if stream is not None:
            with pytest.raises(OSError, match="No space"):
                stream.close()
