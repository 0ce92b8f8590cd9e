"""`python -m rldk_tracking.checkpoint DIR`, also under `torchrun`, where the ranks divide the tensors among them."""

from __future__ import annotations

import sys

from rldk_tracking.cli.main import main

sys.exit(main(["checkpoint", *sys.argv[1:]]))
