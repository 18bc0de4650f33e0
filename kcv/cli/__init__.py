"""The command line: Fire's verbs, their options and help, and how results look on a terminal."""

from kcv.cli.main import main

__all__ = ["main"]
