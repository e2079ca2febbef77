"""The asynchronous client, for tests that are written for the blocking one."""

import asyncio

from relsdk.client import AsyncClient


class Waiting:
    """An `AsyncClient` whose methods return when they are done."""

    def __init__(self, *arguments, **options):
        self._client = AsyncClient(*arguments, **options)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._loop.run_until_complete(method(*arguments, **options))

    def close(self):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    def __repr__(self):
        return repr(self._client)
