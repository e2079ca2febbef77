"""The options of every command that reads documents, pairs or queries from a file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from relsdk.cli._warnings import warn
from relsdk.errors import InputError
from relsdk.formats import read_documents
from relsdk.records import Document

__all__ = ["document_options", "input_options", "typed_documents"]

Command = Callable[..., Any]
_ENCODING = click.option(
    "--encoding",
    default="utf-8",
    show_default=True,
    help="Encoding of a text input, such as gb18030 (Chinese Excel) or utf-16.",
)
_DELIMITER = click.option("--delimiter", help="Between the cells of CSV [default: ,] or TSV [default: tab].")
_SKIP_EMPTY = click.option(
    "--skip-empty", is_flag=True, help="Leave out input rows without a text, and say how many."
)
_TYPES = click.option(
    "--types",
    multiple=True,
    metavar="COLUMN=TYPE,...",
    help="Types of CSV and TSV columns: text, number or boolean [default: what all cells of a column are].",
)


def input_options(command: Command) -> Command:
    """Add `--encoding`, `--delimiter` and `--skip-empty`.

    The command takes them as `reading`, a dictionary of arguments for the readers of `relsdk.formats`.
    """

    @functools.wraps(command)
    def wrapped(encoding: str, delimiter: str | None, skip_empty: bool, **options: Any) -> Any:
        separator = "\t" if delimiter in ("\\t", "tab") else delimiter
        reading = {"encoding": encoding, "delimiter": separator, "skip_empty": skip_empty}
        return command(reading=reading, **options)

    return _ENCODING(_DELIMITER(_SKIP_EMPTY(wrapped)))


def document_options(command: Command) -> Command:
    """Add `--types` to `input_options`; it is in `reading`, too, which is then for `typed_documents`."""

    @functools.wraps(command)
    def wrapped(types: tuple[str, ...], reading: dict[str, Any], **options: Any) -> Any:
        return command(reading={**reading, "types": _parse_types(types)}, **options)

    return _TYPES(input_options(wrapped))


def typed_documents(source: str, reading: Mapping[str, Any]) -> Iterator[Document]:
    """Read documents, and say on stderr which columns of CSV or TSV are no text though nobody said so."""

    def say(types: Mapping[str, str]) -> None:
        for kind in ("number", "boolean"):
            names = [name for name in types if types[name] == kind and name not in reading["types"]]
            if names:
                columns = f"columns typed as {kind}s: {', '.join(names)}"
                warn(f"{columns}; override with --types {names[0]}=text")

    return read_documents(source, on_types=say, **reading)


def _parse_types(texts: tuple[str, ...]) -> dict[str, str]:
    types: dict[str, str] = {}
    for text in texts:
        for part in text.split(","):
            name, sign, kind = part.strip().rpartition("=")
            if not sign or not name:
                raise InputError(f"--types {text!r}; write COLUMN=TYPE, as in duration=number,sku=text")
            if types.setdefault(name, kind) != kind:
                raise InputError(f"--types has {name}={types[name]} and {name}={kind}; a column has one type")
    return types
