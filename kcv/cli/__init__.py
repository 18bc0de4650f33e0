"""The command line: the verbs, their options and help, and the output on a terminal."""

from kcv.cli.main import main

__all__ = ["main"]
