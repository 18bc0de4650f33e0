"""What each verb does, one file per verb. Each reads as its own diagram.

A verb is a typed function with a Google docstring, and nothing else says what it takes: `kcv.cli.specification` reads
the flags, their checks and the help from it. So that the help stays quick, these modules import what is heavy inside
the functions.
"""


def described_sources() -> str:
    """Returns a description of all sources of images, for the help of the verbs that take one."""
    from kcv.data import sources

    return sources.described()
