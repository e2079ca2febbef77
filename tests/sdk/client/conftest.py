"""Both clients, of a scripted server."""

import pytest

from relsdk.client import Client
from tests.sdk.client.scripted_server import scripted_server
from tests.waiting_client import Waiting


@pytest.fixture
def server():
    pytest.importorskip("httpx", reason="the client needs the extra client")
    with scripted_server() as script:
        yield script


@pytest.fixture(params=[Client, Waiting], ids=["sync", "async"])
def connect(request, server):
    """Open a client of the server, of either kind; closed at the end."""
    opened = []

    def open_client(url=None, **options):
        opened.append(request.param(url or server.url, **options))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()
