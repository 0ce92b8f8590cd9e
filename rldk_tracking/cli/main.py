"""The entry point: a table of subcommands, each in a module of its own that is imported only when it is used.

A command's module has `add_arguments(parser)`, which declares its options, and `run(arguments) -> int`, which does the
work and returns the exit code. Mistakes of the user are raised as `SystemExit` with a sentence, or through
`parser.error`. Sentences on what went wrong go to stderr, on one line. What is quoted from files goes through
`rldk_tracking.messages.arguments.printable` before it is printed.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from types import TracebackType
from typing import NoReturn

import rldk_tracking
from rldk_tracking.messages.arguments import printable
from rldk_tracking.messages.packages import advice

UNREADABLE, UNKNOWN, INTERRUPTED = 3, 4, 130
"""Exit codes beside those of the verdicts healthy 0, warning 1, critical 2."""
EXIT_CODES = """\
exit codes of replay, watch and checkpoint:
  0    healthy
  1    warning
  2    critical
  3    no verdict: a source cannot be read, an argument is wrong, or the command failed
  4    unknown: too little was judged for a verdict
  130  interrupted
Of several runs the worst counts: no verdict before critical, warning, unknown and healthy. `report` ends with 0
whatever the run's health.
"""
COMMANDS: dict[str, tuple[str, str]] = {
    "alerts": ("rldk_tracking.cli.alerts", "have W&B tell a team's Slack about low health and open alerts"),
    "charts": ("rldk_tracking.cli.charts", "save the charts as a view of a W&B project"),
    "checkpoint": ("rldk_tracking.cli.checkpoint", "say whether saved weights are any good"),
    "demo": ("rldk_tracking.cli.demo", "train a tiny model, healthy and with a fault, and show what is seen"),
    "doctor": ("rldk_tracking.cli.doctor", "say what is installed and what can be watched with it"),
    "explain": ("rldk_tracking.cli.explain", "say what a rule watches, why, and what to try when it fires"),
    "keys": ("rldk_tracking.cli.keys", "print the catalogue of series"),
    "mcp": ("rldk_tracking.cli.mcp", "answer an agent's questions about runs (Model Context Protocol)"),
    "replay": ("rldk_tracking.cli.replay", "judge past runs by the rules that would have watched them"),
    "report": ("rldk_tracking.cli.report", "put a past run on one page, or its series into a table"),
    "run": ("rldk_tracking.cli.run", "run a command with the callback in every transformers trainer of it"),
    "sync": ("rldk_tracking.cli.sync", "send what a tracker did not take, and complete trainings that were killed"),
    "watch": ("rldk_tracking.cli.watch", "say what happens in a run as it happens, until it ends"),
}
"""Name of the command to its module and one line of help."""
JUDGES = ("checkpoint", "replay", "report", "watch")
"""Commands whose mistakes end in `UNREADABLE`: the usual 1 and 2 would be read as verdicts."""


class JudgeParser(argparse.ArgumentParser):
    """The parser of a command that judges."""

    def error(self, message: str) -> NoReturn:
        """Say how the command is called, and what is wrong."""
        self.print_usage(sys.stderr)
        self.exit(UNREADABLE, f"{self.prog}: {printable(message)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` defaults to the command line's."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding shows escapes
            stream.reconfigure(errors="backslashreplace")
    chosen = next((word for word in words if not word.startswith("-")), None)
    failed = UNREADABLE if chosen in JUDGES else 1
    if argv is None and chosen in JUDGES:
        sys.excepthook = _unforeseen
    try:
        return _run(words, chosen)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\nrldk-tracking: interrupted.\n")
        return INTERRUPTED
    except ImportError as error:
        sentence = advice(f"rldk-tracking {chosen}", error, "demo" if chosen == "demo" else None)
        if sentence is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        return failed
    except SystemExit as stop:
        if isinstance(stop.code, str):
            sys.stderr.write(f"{printable(' '.join(stop.code.split()))}\n")
            stop.code = failed
        raise


def _run(words: Sequence[str], chosen: str | None) -> int:
    parser_class = JudgeParser if chosen in JUDGES else argparse.ArgumentParser
    parser = parser_class(
        prog="rldk-tracking",
        description="Diagnostics for reinforcement learning, in MLflow and W&B.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rldk-tracking {rldk_tracking.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        judges = name in ("replay", "checkpoint", "watch")
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=EXIT_CODES if judges else None,
            formatter_class=argparse.RawDescriptionHelpFormatter if judges else argparse.HelpFormatter,
        )
        if name == chosen:
            command.set_defaults(module=import_module(module))
            import_module(module).add_arguments(command)
    if not words:
        parser.print_help()
        return 0
    arguments = parser.parse_args(words)
    return int(arguments.module.run(arguments))


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of the command itself: its traceback, and a code that is no verdict, where Python's own is "warning"."""
    sys.__excepthook__(kind, error, trace)
    raise SystemExit(UNREADABLE)


if __name__ == "__main__":
    sys.exit(main())
