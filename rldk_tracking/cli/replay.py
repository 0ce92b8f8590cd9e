"""`rldk-tracking replay SOURCE...`: judge past runs by the rules that would have watched them live.

The exit code is that of the worst run, see `rldk_tracking.cli.main.EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from rldk_tracking.cli.main import UNREADABLE
from rldk_tracking.history.reading import runs_of
from rldk_tracking.history.write_back import NotWrittenError, write_back
from rldk_tracking.messages.arguments import printable
from rldk_tracking.metrics.keys import misspelt
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.registry import able

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert
    from rldk_tracking.history.replay import ReplayResult

FORMATS = ("text", "json", "markdown")
WORST_FIRST = (UNREADABLE, 2, 1, 4, 0)
"""Exit codes by how much there is to be done."""
FAULTS = (ValueError, OSError, ImportError)
"""What reading a source and judging it may raise: each costs that source alone."""


@dataclass(frozen=True)
class Unreadable:
    """A source without a verdict, and why in a sentence that names it."""

    source: str
    reason: str


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
    parser.add_argument("--jobs", type=int, help="runs that are judged at the same time (default: one a processor)")


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
    results += judge_all(sources, arguments.rules, aliases, arguments.jobs)
    text = render(results, arguments.format, arguments.rules_without_data)
    if text:
        print(text)
    codes = [UNREADABLE if isinstance(result, Unreadable) else result.exit_code for result in results]
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


def judge_all(
    sources: Sequence[str], rules: str, aliases: Mapping[str, str], jobs: int | None = None
) -> list[ReplayResult | Unreadable]:
    """Every run's report or fault, in order; several at a time, with the progress on stderr."""
    jobs = min(len(sources), jobs or os.cpu_count() or 1)
    if jobs <= 1:
        return [judge(source, rules, aliases) for source in sources]
    # Processes that are forked would share the connections of a store that was asked for its runs. An interrupt of the
    # terminal reaches them too, and ends them without a traceback each.
    quietly = (signal.SIGINT, signal.SIG_DFL)
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=signal.signal, initargs=quietly) as pool:
        waiting = [pool.submit(judge, source, rules, aliases) for source in sources]
        try:
            for count, _ in enumerate(as_completed(waiting), 1):
                sys.stderr.write(f"\r{count} of {len(sources)} runs")
                sys.stderr.flush()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        sys.stderr.write("\n")
        results: list[ReplayResult | Unreadable] = []
        for source, future in zip(sources, waiting, strict=True):
            try:
                results.append(future.result())
            except BrokenProcessPool:
                results.append(Unreadable(source, f"{source}: the process that judged it was killed; try --jobs 1."))
        return results


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


def render(results: Sequence[ReplayResult | Unreadable], form: str, with_rules: bool = False) -> str:
    """All reports in one of `FORMATS`. JSON is one object for one run and a list for several.

    Args:
        results: what was found out of each source.
        form: one of `FORMATS`.
        with_rules: name the rules that have not judged.
    """
    if form == "json":
        objects = [
            {"verdict": "unreadable", "source": result.source, "error": result.reason}
            if isinstance(result, Unreadable)
            else result.as_dict()
            for result in results
        ]
        return json.dumps(objects[0] if len(objects) == 1 else objects, indent=1)
    reports = [result for result in results if not isinstance(result, Unreadable)]
    pages = ["\n".join(map(printable, _page(report, form, with_rules))) for report in reports]
    if len(results) > 1:
        pages.append("\n".join(map(printable, _summary(results, form))))
    return "\n\n".join(pages)


def _page(report: ReplayResult, form: str, with_rules: bool) -> list[str]:
    lines = [f"{'## ' if form == 'markdown' else ''}{report.verdict}: {report.source} ({report.rows} rows)"]
    facts = [report.coverage, *([f"read as {report.format}"] if report.format else []), *report.notes]
    if report.convergence is not None:
        facts.append(f"reward: {report.convergence}")
    if with_rules:
        facts.append(f"no data for: {', '.join(report.unknown) or 'no rule'}")
        facts.append(f"warming up: {', '.join(report.judged.warming_up) or 'no rule'}")
        if report.judged.failed:
            facts.append(f"failed: {', '.join(report.judged.failed)}")
    # In Markdown a line of its own is a paragraph's next words, but for one in a list.
    lines += [f"- {_escaped(fact)}" for fact in facts] if form == "markdown" else facts
    last = {alert.rule: alert for _, alert in report.alerts if alert.state == "firing"}
    for row, alert in report.alerts:
        if alert.notify or alert is last[alert.rule]:
            lines += _lines(row, alert, form)
    return lines


def _lines(row: int, alert: Alert, form: str) -> Iterable[str]:
    word = alert.severity if alert.state == "firing" else "resolved"
    text = f"step {alert.step} (row {row}) {word} {alert.rule}: {alert.message}"
    if form == "markdown":
        return [f"- {_escaped(text)}"]
    return [text, f"    {alert.advice}"] if alert.state == "firing" and alert.advice else [text]


def _summary(results: Sequence[ReplayResult | Unreadable], form: str) -> list[str]:
    rows = [
        ("unreadable", result.source, "")
        if isinstance(result, Unreadable)
        else (result.verdict, result.source, ", ".join(sorted({alert.rule for _, alert in result.alerts})))
        for result in results
    ]
    if form == "markdown":
        lines = ["| verdict | run | rules |", "|---|---|---|"]
        return [*lines, *(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows)]
    return [f"{verdict:10s} {source}  {rules}" for verdict, source, rules in rows]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
