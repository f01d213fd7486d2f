"""``python -m heartbox`` is the command ``heartbox``."""

import sys

from heartbox.cli import main

if __name__ == "__main__":
    sys.exit(main())
