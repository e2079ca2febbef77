"""Measurements of toys, whose times mean nothing."""

from types import SimpleNamespace

import pytest


@pytest.fixture(autouse=True)
def _nothing_is_collected_before_a_measurement(monkeypatch):
    """It takes long among the objects of all that tests import, and would melt what conftest.py froze."""
    names = ("collect", "freeze", "unfreeze", "disable", "enable")
    quiet = SimpleNamespace(**dict.fromkeys(names, lambda: None))
    for module in ("bench.harness.interleave", "bench.http_server.load"):
        monkeypatch.setattr(f"{module}.gc", quiet)
