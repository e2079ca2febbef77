"""Retries without a network: the generator of attempts, driven by hand with a clock of its own."""

import pytest

from relsdk.client._exchange import Answer, Exchange, Lost, Request
from relsdk.errors import ServerError

REQUEST = Request("GET", "/info")


class Driver:
    """Sends a request; time passes as the test says."""

    def __init__(self, timeout=100.0, max_retries=9, request=REQUEST):
        self.now = 1000.0
        exchange = Exchange("http://h", None, timeout, max_retries, clock=lambda: self.now)
        self.flow = exchange.send(request)
        self.attempt = next(self.flow)

    def wait_after(self, outcome, took=0.0):
        """Answer the attempt; return the wait before the next one."""
        self.now += self.attempt.wait + took
        self.attempt = self.flow.send(outcome)
        return self.attempt.wait


def refused(**headers):
    return Answer(429, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"retry_after_ms": "250", "retry_after": "1"}, 0.25),
        ({"retry_after": "3"}, 3.0),
        ({"retry_after_ms": "soon", "retry_after": "3"}, 3.0),
        ({"retry_after": "-1"}, 0.1),
        ({"retry_after": "nan"}, 0.1),
        ({"retry_after": "soon"}, 0.1),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, 0.1),
    ],
)
def test_the_wait_is_what_the_server_asks_for_and_a_little_more(headers, least):
    waits = {Driver().wait_after(refused(**headers)) for _ in range(50)}
    assert all(least <= wait <= least * 1.25 for wait in waits)
    assert len(waits) > 10 or least == 0  # not all at once


def test_a_date_is_a_wait_too(monkeypatch):
    from datetime import datetime, timedelta, timezone
    from email.utils import format_datetime

    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True)
    assert 18 <= Driver().wait_after(refused(retry_after=later)) <= 25.1


def test_without_a_word_waits_double():
    driver = Driver()
    waits = [driver.wait_after(Lost("gone", sent=False)) for _ in range(9)]
    for wait, least in zip(waits, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 8.0, 8.0], strict=True):
        assert least <= wait <= least * 1.25


def test_each_attempt_may_take_what_is_left():
    driver = Driver(timeout=10.0)
    assert (driver.attempt.wait, driver.attempt.timeout) == (0.0, 10.0)
    wait = driver.wait_after(refused(retry_after="2"), took=3.0)
    assert driver.attempt.timeout == pytest.approx(10.0 - 3.0 - wait)
    with pytest.raises(ServerError, match="429 after 2 tries"):
        driver.wait_after(refused(retry_after="2"), took=4.0)


def test_a_request_that_must_not_be_done_twice_is_sent_once_unless_it_was_refused():
    once = Request("POST", "/v1/documents/delete", b"{}", repeatable=False)
    for outcome in (Lost("reset", sent=True), Answer(502, {}, b""), Answer(504, {}, b"")):
        with pytest.raises(ServerError):
            Driver(request=once).wait_after(outcome)
        assert Driver().wait_after(outcome) > 0
    for outcome in (Lost("refused", sent=False), refused(), Answer(503, {}, b"")):
        assert Driver(request=once).wait_after(outcome) > 0


def test_no_retry_means_none():
    with pytest.raises(ServerError):
        Driver(max_retries=0).wait_after(refused())
