"""``python -m openhart.cli``: the command line."""

import sys

from openhart.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
