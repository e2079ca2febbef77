"""The options that several commands share."""

from __future__ import annotations

import click

__all__ = ["dim_option", "json_option", "threads_option", "variant_option", "variants_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
threads_option = click.option(
    "--threads", type=int, help="CPU threads [default: what affinity and container quota allow]."
)
variant_option = click.option("--variant", default="auto", show_default=True, help="ONNX file of the bundle.")
variants_option = click.option(
    "--variant", "variants", multiple=True, help="ONNX files [default: all this CPU runs exactly]."
)
dim_option = click.option("--dim", "truncate_dim", type=int, help="Keep this many leading dimensions.")
