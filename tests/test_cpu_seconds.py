"""The gate's limit on a test's CPU seconds: own work and that of processes, not waiting."""

import pytest

pytest_plugins = ("pytester",)

TESTS = """
import subprocess, sys, time
import pytest

WORK = "import time\\nwhile time.process_time() < 0.4: pass"

@pytest.fixture
def preparation():
    exec(WORK.replace("time.process_time()", f"time.process_time() - {time.process_time()}"))

def test_prepared(preparation): pass
def test_in_a_process(): subprocess.run([sys.executable, "-c", WORK], check=True)
def test_waiting(): time.sleep(0.4)
@pytest.mark.slow
def test_marked(preparation): pass
"""


@pytest.fixture
def gate(pytester, monkeypatch):
    """Run the tests above under the plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # seconds of imports
    monkeypatch.setattr("tests.cpu_seconds.ABOVE", 0.2)
    pytester.makepyfile(TESTS)
    pytester.makeini("[pytest]\nmarkers = slow")

    def run(*options):
        return pytester.runpytest_inprocess("-p", "xdist", "-p", "tests.cpu_seconds", *options)

    return run


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_test_above_the_limit_fails_the_run(gate, workers):
    result = gate("--cpu-limit", "0.2", *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4)
    said = result.stdout.str()
    assert "ERROR: 2 above the limit of 0.2 CPU seconds" in said
    listed = said[said.index("not marked slow") :]
    assert "test_prepared" in listed
    assert "test_in_a_process" in listed
    assert "test_waiting" not in listed
    assert "test_marked" not in listed


def test_without_a_limit_they_are_listed_alone(gate):
    result = gate()
    assert result.ret == pytest.ExitCode.OK
    assert "test_prepared" in result.stdout.str()
    assert "ERROR" not in result.stdout.str()


def test_below_the_limit_nothing_is_said(gate):
    result = gate("--cpu-limit", "100", "-k", "waiting")
    assert result.ret == pytest.ExitCode.OK
    assert "CPU seconds" not in result.stdout.str()
