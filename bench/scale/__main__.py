"""The programs of this package.

    python -m bench.scale rates --output bench/results/scale.json
    python -m bench.scale simulate --output bench/results/scale.json

Both write to one file, each its own stages.
"""

from __future__ import annotations

from pkgutil import resolve_name

import click

# name -> command; a program is imported when it is called.
PROGRAMS = {
    "rates": "bench.scale.rates:main",
    "simulate": "bench.scale.simulate:main",
    "actors": "bench.scale.actors:main",
}


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("program", type=click.Choice(list(PROGRAMS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def main(program: str, arguments: tuple[str, ...]) -> None:
    """Run PROGRAM; each has its own --help."""
    resolve_name(PROGRAMS[program]).main(list(arguments), prog_name=f"bench.scale {program}")


if __name__ == "__main__":
    main()
