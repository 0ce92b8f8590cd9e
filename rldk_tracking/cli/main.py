"""The entry point: a table of subcommands, each in a module of its own that is imported only when it is used.

A command's module has `add_arguments(parser)`, which declares its options, and `run(arguments) -> int`, which does the
work and returns the exit code. Mistakes of the user are raised as `SystemExit` with a sentence, or through
`parser.error`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import rldk_tracking

COMMANDS: dict[str, tuple[str, str]] = {
    "alerts": ("rldk_tracking.cli.alerts", "have W&B tell a team's Slack about low health and open alerts"),
    "charts": ("rldk_tracking.cli.charts", "save the charts as a view of a W&B project"),
    "checkpoint": ("rldk_tracking.cli.checkpoint", "say whether saved weights are any good"),
    "demo": ("rldk_tracking.cli.demo", "train a tiny model, healthy and with a fault, and show what is seen"),
    "doctor": ("rldk_tracking.cli.doctor", "say what is installed and what can be watched with it"),
    "explain": ("rldk_tracking.cli.explain", "say what a rule watches, why, and what to try when it fires"),
    "keys": ("rldk_tracking.cli.keys", "print the catalogue of series"),
    "replay": ("rldk_tracking.cli.replay", "judge past runs by the rules that would have watched them"),
    "report": ("rldk_tracking.cli.report", "put a past run on one page, or its series into a table"),
    "sync": ("rldk_tracking.cli.sync", "send what a tracker did not take, and complete trainings that were killed"),
}
"""Name of the command to its module and one line of help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` defaults to the command line's."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="rldk-tracking", description="Diagnostics for reinforcement learning, in MLflow and W&B."
    )
    parser.add_argument("--version", action="version", version=f"rldk-tracking {rldk_tracking.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:
            command.set_defaults(module=import_module(module))
            import_module(module).add_arguments(command)
    arguments = parser.parse_args(words)
    try:
        return int(arguments.module.run(arguments))
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
