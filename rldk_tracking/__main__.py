"""`python -m rldk_tracking` is the command `rldk-tracking`."""

from __future__ import annotations

import sys

from rldk_tracking.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
