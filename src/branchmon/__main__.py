"""``python -m branchmon``."""

import sys

from branchmon.commands import main

if __name__ == "__main__":
    sys.exit(main())
