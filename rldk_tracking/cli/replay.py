"""`rldk-tracking replay SOURCE...`: judge past runs by the rules that would have watched them live.

The exit code is that of the worst run, see `rldk_tracking.cli.main.EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rldk_tracking.cli.main import UNREADABLE
from rldk_tracking.cli.replay_text import FORMATS, WORST_FIRST, Unreadable, code_of, render
from rldk_tracking.history.reading import runs_of
from rldk_tracking.history.write_back import NotWrittenError, write_back
from rldk_tracking.messages.arguments import printable
from rldk_tracking.metrics.keys import misspelt
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.registry import able

if TYPE_CHECKING:
    from rldk_tracking.history.replay import ReplayResult

FAULTS = (ValueError, OSError, ImportError)
"""What reading a source and judging it may raise: each costs that source alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="an output folder, or a file that says by its content what it is: a journal or other JSON lines, JSON, a "
        "table, what a trainer printed, a notebook, W&B's or TensorBoard's own (FILE#RUN: one of several runs in it), "
        + ", ".join(backend.sources for backend in able(Backend.read).values()),
    )
    parser.add_argument("--rules", default="safe", help="safe, strict, quiet, or a YAML file of your own")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument(
        "--rules-without-data", action="store_true", help="name the rules that have not judged (JSON always does)"
    )
    parser.add_argument(
        "--to",
        choices=tuple(able(Backend.written_back)),
        help="also write series and alerts there: into the run itself where it is MLflow's, else into a new one",
    )
    parser.add_argument(
        "--alias", action="append", default=[], metavar="NAME=KEY", help="a name in the source for a key of `keys`"
    )
    parser.add_argument("--plot", action="store_true", help="plot the first cause also where no terminal is")


def run(arguments: argparse.Namespace) -> int:
    """Print what the rules say, and return the exit code."""
    from rldk_tracking.health.presets import rules_for

    aliases = aliases_of(arguments.alias)
    try:
        rules_for(arguments.rules)
    except FAULTS as fault:
        raise SystemExit(f"--rules: {fault}") from fault
    sources: list[str] = []
    results: list[ReplayResult | Unreadable] = []
    for source in arguments.sources:
        try:
            sources += runs_of(source)
        except FAULTS as fault:
            results.append(unreadable(source, fault))
    for count, source in enumerate(sources, 1):
        results.append(judge(source, arguments.rules, aliases))
        if len(sources) > 1 and sys.stderr.isatty():
            sys.stderr.write(f"\r{count} of {len(sources)} runs{chr(10) if count == len(sources) else ''}")
    with_plot = arguments.plot or sys.stdout.isatty()
    text = render(results, arguments.format, arguments.rules_without_data, with_plot)
    if text:
        print(text)
    codes = [code_of(result) for result in results]
    for result in results:
        if isinstance(result, Unreadable):
            sys.stderr.write(f"{printable(result.reason)}\n")
        elif arguments.to is not None:
            try:
                write_back(result.source, result, arguments.to, aliases)
            except (NotWrittenError, OSError) as fault:
                sys.stderr.write(f"{printable(' '.join(str(fault).split()))}\n")
                codes.append(UNREADABLE)
    return min(codes, key=WORST_FIRST.index)


def aliases_of(pairs: Iterable[str]) -> dict[str, str]:
    """The user's names, to keys.

    Raises:
        SystemExit: a text is no NAME=KEY, or there is no such key.
    """
    aliases: dict[str, str] = {}
    for pair in pairs:
        name, equals, key = pair.partition("=")
        if not equals:
            raise SystemExit("--alias takes NAME=KEY.")
        problem = misspelt(key, in_full=True)
        if problem is not None:
            raise SystemExit(f"--alias {pair}: {problem}")
        aliases[name] = key
    return aliases


def judge(source: str, rules: str, aliases: Mapping[str, str]) -> ReplayResult | Unreadable:
    """A run's report, or in words why it cannot be read."""
    from rldk_tracking.history.replay import replay

    try:
        return replay(source, rules=rules, aliases=aliases)
    except FAULTS as fault:
        return unreadable(source, fault)


def unreadable(source: str, fault: Exception) -> Unreadable:
    """What is wrong with a source, which is named once."""
    if isinstance(fault, OSError) and fault.strerror:
        return Unreadable(source, f"{fault.filename or source}: {fault.strerror}.")
    text = " ".join(str(fault).split())
    is_named = source in text or str(Path(source)) in text
    return Unreadable(source, text if is_named else f"{source}: {text}")
