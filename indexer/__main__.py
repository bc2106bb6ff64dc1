"""`python -m indexer` is `rescind`."""

from indexer.cli import main

main(prog_name="rescind")
