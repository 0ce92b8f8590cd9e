"""`python -m rldk_tracking.checkpoint DIR`, also under `torchrun`, where the ranks divide the tensors among them."""

from __future__ import annotations

import argparse
import sys

from rldk_tracking.cli import checkpoint

parser = argparse.ArgumentParser(prog="python -m rldk_tracking.checkpoint", description=checkpoint.__doc__)
checkpoint.add_arguments(parser)
sys.exit(checkpoint.run(parser.parse_args()))
