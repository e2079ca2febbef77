"""The client of a relsdk server: the SDK's calls, over HTTP (extra `client`)."""

from relsdk.client._async_client import AsyncClient
from relsdk.client._client import Client

__all__ = ["AsyncClient", "Client"]
