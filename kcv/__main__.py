"""`python -m kcv`."""

import sys

from kcv.cli import main

if __name__ == "__main__":
    sys.exit(main())
