"""`relsdk serve`: models and indexes over HTTP."""

from __future__ import annotations

import asyncio
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from relsdk.cli.options import json_option, variant_option
from relsdk.cli.output import echo, echo_json, echo_table
from relsdk.errors import InputError, MissingExtraError
from relsdk.index.store_uri import is_store_uri, parse_store_uri

__all__ = ["serve"]

_PACKAGES = ("starlette", "uvicorn", "httptools", "prometheus_client")
# What a browser sends as Origin: compared letter by letter, so that another way to write it matches none.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z]+")


@click.command(epilog="Example: relsdk serve docs.idx --scorer scorer --port 8080")
@click.argument("path", metavar="[INDEX]", required=False)
@click.option("--model", "-m", "models", multiple=True, metavar="[NAME=]BUNDLE", help="Serve this model.")
@click.option("--index", "indexes", multiple=True, metavar="[NAME=]INDEX", help="Serve this index, too.")
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    metavar="[NAME=]BUNDLE",
    help="Re-score hits with this scorer unless a search says otherwise.",
)
@variant_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Threads that run models [default: what affinity and container quota allow].",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="Keys, one a line: read:KEY or write:KEY. RELSDK_SERVE_KEYS holds them, too, with commas.",
)
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without a key.")
@click.option("--open-info", is_flag=True, help="Answer /metrics, /info and /openapi.json without a key.")
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin ask, such as https://shop.example.com; * lets all of them.",
)
@click.option(
    "--max-body", type=click.IntRange(1, 1024), default=8, show_default=True, help="MiB of a request."
)
@click.option(
    "--max-inputs",
    type=click.IntRange(1, 1_000_000),
    default=2048,
    show_default=True,
    help="Texts of a request.",
)
@click.option(
    "--max-documents",
    type=click.IntRange(1, 100_000),
    default=512,
    show_default=True,
    help="Documents to rank, or pairs to grade, of a request.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(1),
    help="Milliseconds that a request may wait before it is refused [default: while 20 a worker wait].",
)
@click.option(
    "--query-cache", type=click.IntRange(0), default=10_000, show_default=True, help="Queries to remember."
)
@click.option("--state", type=click.Path(path_type=Path), help="Folder for what outlives a restart.")
@click.option("--log", type=click.Choice(["plain", "json"]), help="Write a line a request to stderr.")
@click.option(
    "--log-queries", type=click.Path(path_type=Path), help="Write queries and their hits to this file."
)
@click.option("--check", is_flag=True, help="Load everything, say what would be served, and end.")
@json_option
def serve(
    path: str | None,
    models: tuple[str, ...],
    indexes: tuple[str, ...],
    scorers: tuple[str, ...],
    check: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Serve models and indexes over HTTP, and a page to look at them.

    An index is served with the model that built it. Without an index, models are served alone: embeddings,
    ranking, grading.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise MissingExtraError(f"relsdk serve ({', '.join(missing)})", "serve")
    if as_json and not check:
        raise InputError("--json goes with --check")
    positional = () if path is None else (path,)
    served = {
        "models": _named(models, "--model"),
        "indexes": _named((*positional, *indexes), "--index"),
        "scorers": _named(scorers, "--scorer"),
    }
    if not any(served.values()):
        raise InputError("nothing to serve; name an INDEX, or a bundle with --model BUNDLE")
    if both := set(served["models"]) & set(served["scorers"]):
        raise InputError(f"two models are called {sorted(both)[0]!r}; name one: --scorer NAME=BUNDLE")
    from relsdk_serve._keys import check_address
    from relsdk_serve._routes import route_paths
    from relsdk_serve._server import bind, run_server
    from relsdk_serve._service import Service

    settings = _settings(served, options)
    service = Service(settings, routes=route_paths())
    check_address(settings.host, service.keys, insecure=settings.insecure)
    if check:
        _echo_check(service, as_json)
        return
    listener = bind(settings)
    address = _address(settings.host, listener.getsockname()[1])

    def on_ready() -> None:
        echo(f"relsdk serve: {address} ({_summary(service)})", err=True)

    run_server(settings, service, listener, on_ready)


def _settings(served: dict[str, dict[str, str]], options: dict[str, Any]) -> Any:
    from relsdk.runtime.hardware import choose_threads
    from relsdk_serve._settings import Limits, Settings

    wait = options.pop("max_wait")
    limits = Limits(
        body=options.pop("max_body") << 20,
        inputs=options.pop("max_inputs"),
        documents=options.pop("max_documents"),
        wait=None if wait is None else wait / 1e3,
    )
    for origin in options["cors"]:
        if origin != "*" and _ORIGIN.fullmatch(origin) is None:
            raise InputError(
                f"--cors {origin!r} is no origin; write it as browsers send it, with the scheme, in lower "
                "case and without a path: https://shop.example.com"
            )
    workers = options.pop("workers") or choose_threads().threads
    return Settings(
        models=served["models"],
        indexes=served["indexes"],
        scorers=served["scorers"],
        workers=workers,
        limits=limits,
        **options,
    )


def _named(values: tuple[str, ...], option: str) -> dict[str, str]:
    """Return paths by name: [NAME=]PATH; the name is the folder's (or collection's) where none is given."""
    named: dict[str, str] = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator or "/" in name or is_store_uri(value) or os.path.exists(value):
            path = value
            name = _own_name(value)
        if not name or not path:
            raise InputError(f"{option} {value!r}; [NAME=]PATH is needed")
        if name in named:
            raise InputError(f"{option}: {name!r} is there twice; name them: {option} NAME={path}")
        named[name] = path
    return named


def _own_name(place: str) -> str:
    return parse_store_uri(place).collection if is_store_uri(place) else Path(os.path.abspath(place)).name


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _summary(service: Any) -> str:
    models, indexes = service.catalogue.models, service.catalogue.indexes
    parts = [
        f"{len(models)} model{'s' * (len(models) != 1)} ({', '.join(models)})",
        *(f"{name}: {len(served.index):,} documents" for name, served in indexes.items()),
        f"{service.settings.workers} worker{'s' * (service.settings.workers != 1)}",
        "keys" if service.keys else "no key",
    ]
    return "; ".join(parts)


def _echo_check(service: Any, as_json: bool) -> None:
    """Load everything as a server would, and tell what it would do."""
    import msgspec

    from relsdk_serve._health import server_card

    async def load() -> None:
        await service.start()
        await service.stop()

    asyncio.run(load())
    card = msgspec.to_builtins(server_card(service))
    settings = service.settings
    if as_json:
        echo_json({**card, "address": f"{settings.host}:{settings.port}", "keys": bool(service.keys)})
        return
    rows = [["address", f"{settings.host}:{settings.port}"], ["keys", "yes" if service.keys else "none"]]
    for model in card["models"]:
        levels = "levels" if model["levels"] else "no levels"
        rows.append([f"model {model['id']}", f"{model['kind']}, {model['variant']}, {levels}"])
    for index in card["indexes"]:
        parts = [f"{index['documents']:,} documents", index["generation"], f"by {index['model']}"]
        parts += [" ".join(index["modes"]), *([f"scorer {index['scorer']}"] if index["scorer"] else [])]
        rows.append([f"index {index['name']}", ", ".join(filter(None, parts))])
    rows += [["workers", str(card["workers"])]]
    limits = {**card["limits"], "max_wait_ms": card["limits"]["max_wait_ms"] or "while 20 a worker wait"}
    rows += [[name.replace("_", " "), str(value)] for name, value in limits.items()]
    echo_table(["what", "served"], rows)
