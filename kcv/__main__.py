"""`python -m kcv`."""

# Both are loaded before this file is: nothing may be imported while the working folder is where modules come from.
import os
import sys


def leave_working_folder() -> None:
    """Takes modules from where Python and its packages are alone: `python -m` looks into the working folder first.

    That folder may be a stranger's, with a `fire.py` in it. A checkout of kcv that is run from its own folder stays, as
    the last place. The same holds for the processes that this one starts.
    """
    try:
        here = os.getcwd()
    except OSError:  # it has been removed
        here = ""
    if not sys.flags.safe_path and sys.path[:1] in ([""], [here]):
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if checkout == here and here not in sys.path:
        sys.path.append(here)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here)))


if __name__ == "__main__":
    leave_working_folder()
    from kcv.cli import main

    sys.exit(main())
