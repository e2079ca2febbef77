"""Threads and servers of a test, which end before it does: what goes wrong on one is the test's failure."""

import sys
import threading
import time
import traceback
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

# A machine that is busy with other things may take so long.
PATIENCE = 120


@contextmanager
def at_once(*works, until=None):
    """Run functions, each on a thread, while the body runs and until they have ended.

    Args:
        works: The functions; what one of them raises is raised at the end.
        until: An event that is set where the body ends: it tells them to end.
    """
    errors = []

    def run(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        if until is not None:
            until.set()
        end_of(*threads)
        if errors:
            raise errors[0]


def end_of(*threads):
    """Wait until threads have ended; where one does not, fail and say where it is."""
    seconds = 1.5 * PATIENCE  # so that what they wait for themselves is told of first
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    frames = sys._current_frames()
    stuck = [thread for thread in threads if thread.is_alive()]
    where = ["".join(traceback.format_stack(frames.get(thread.ident))) for thread in stuck]
    assert not stuck, f"{len(stuck)} threads have not ended within {seconds:g} s: {where[0]}"


def wait_for(condition, seconds=PATIENCE):
    """Wait until a condition holds; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"it did not happen within {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - began


class Server(ThreadingHTTPServer):
    """A server of this machine that answers as a handler does; a context manager, which serves meanwhile.

    Attributes:
        url: Its address.
    """

    request_queue_size = 128  # of 6 that connect at once, socketserver's 5 would have one wait or fail

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        end_of(self._thread)
        self.server_close()
