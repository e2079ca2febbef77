"""`python -m relsdk` is the command `relsdk`."""

from relsdk.cli import main

main()
