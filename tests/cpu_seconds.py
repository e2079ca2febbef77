"""A pytest plugin that measures the CPU seconds of every test.

They are those of the process of a test, and of processes that it started and waited for, in setup and call.
Unlike the wall clock they hardly depend on what else the machine does. A test marked slow may take what it
likes.
"""

import os

import pytest

ABOVE = 10.0

_seconds = pytest.StashKey[float]()


def pytest_addoption(parser):
    parser.addoption(
        "--cpu-limit",
        type=float,
        metavar="SECONDS",
        help="fail where a test that is not marked slow takes more CPU seconds than this",
    )


def pytest_configure(config):
    config.pluginmanager.register(CpuSeconds(config.getoption("--cpu-limit")))


class CpuSeconds:
    """List the unmarked tests above ten CPU seconds; fail the run where one is above the limit."""

    def __init__(self, limit):
        self.limit = limit
        self.by_test = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item):
        return (yield from _measure(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        return (yield from _measure(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        report.cpu_seconds = item.stash.get(_seconds, 0.0)  # xdist sends attributes along
        item.stash[_seconds] = 0.0
        return report

    def pytest_runtest_logreport(self, report):
        if "slow" not in report.keywords:
            seconds = getattr(report, "cpu_seconds", 0.0)  # a worker that crashed reports none
            self.by_test[report.nodeid] = self.by_test.get(report.nodeid, 0.0) + seconds

    def pytest_sessionfinish(self, session):
        is_worker = hasattr(session.config, "workerinput")
        if not is_worker and self._above(self.limit) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if listed := self._above(ABOVE):
            terminalreporter.section(f"tests above {ABOVE:g} CPU seconds that are not marked slow")
            for seconds, name in listed:
                terminalreporter.line(f"{seconds:6.1f} s  {name}")
        if beyond := self._above(self.limit):
            terminalreporter.line(
                f"ERROR: {len(beyond)} above the limit of {self.limit:g} CPU seconds; make them cheaper, "
                "or mark them slow"
            )

    def _above(self, limit):
        if limit is None:
            return []
        return sorted(
            ((seconds, name) for name, seconds in self.by_test.items() if seconds > limit), reverse=True
        )


def _measure(item):
    before = _cpu_seconds()
    try:
        return (yield)
    finally:
        item.stash[_seconds] = item.stash.get(_seconds, 0.0) + _cpu_seconds() - before


def _cpu_seconds():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
