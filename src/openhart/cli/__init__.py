"""The command line: one file per command, with its options and its action together."""

from openhart.cli.main import main

__all__ = ["main"]
