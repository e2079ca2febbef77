"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from relsdk.errors import InputError
from relsdk.index.store_uri import is_store_uri

__all__ = [
    "INDEX_FOLDER",
    "JSON_LINES",
    "dim_option",
    "folder_argument",
    "index_argument",
    "json_option",
    "threads_option",
    "variant_option",
    "variants_option",
]


# Endings by which a file is read as JSON lines.
JSON_LINES = (".jsonl", ".ndjson", ".json", ".gz")


class _IndexFolder(click.Path):
    """The path of an index folder, where a store will not do."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_store_uri(value):
            command = "this" if ctx is None else ctx.command_path
            raise InputError(f"{value} is a vector store; {command} needs an index folder")
        return super().convert(value, param, ctx)


INDEX_FOLDER = _IndexFolder(path_type=Path)
folder_argument = click.argument("path", metavar="INDEX", type=INDEX_FOLDER)
# A folder or the URI of a store: relsdk.index.opening tells them apart.
index_argument = click.argument("path", metavar="INDEX")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
threads_option = click.option(
    "--threads", type=int, help="CPU threads [default: what affinity and container quota allow]."
)
variant_option = click.option("--variant", default="auto", show_default=True, help="ONNX file of the bundle.")
variants_option = click.option(
    "--variant", "variants", multiple=True, help="ONNX files [default: all this CPU runs exactly]."
)
dim_option = click.option("--dim", "truncate_dim", type=int, help="Keep this many leading dimensions.")
