"""`rldk-tracking replay SOURCE...`: judge past runs by the rules that would have watched them live.

The exit code is that of the worst run: 0 healthy, 1 warning, 2 critical, 3 could not be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING

from rldk_tracking.history.stores import runs_of
from rldk_tracking.history.write_back import write_back

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert
    from rldk_tracking.history.replay import ReplayResult

FORMATS = ("text", "json", "markdown")
UNREADABLE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a trainer_state.json, an output folder, JSON lines, CSV, a TensorBoard folder, mlflow:RUN_ID, "
        "mlflow:experiment/NAME, wandb:ENTITY/PROJECT/RUN",
    )
    parser.add_argument("--rules", default="safe", help="safe, strict, quiet, or a YAML file of your own")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument(
        "--to",
        choices=("mlflow", "wandb"),
        help="also write series and alerts there: into the run itself where it is MLflow's, else into a new one",
    )
    parser.add_argument(
        "--alias", action="append", default=[], metavar="NAME=KEY", help="a name in the source for a key of `keys`"
    )
    parser.add_argument("--jobs", type=int, help="runs that are judged at the same time (default: one a processor)")


def run(arguments: argparse.Namespace) -> int:
    """Print what the rules say, and return the exit code."""
    try:
        aliases = dict(pair.split("=", 1) for pair in arguments.alias)
    except ValueError:
        raise SystemExit("--alias takes NAME=KEY.") from None
    sources: list[str] = []
    results: list[ReplayResult | str] = []
    for source in arguments.sources:
        try:
            sources += runs_of(source)
        except (ValueError, OSError, ImportError) as fault:
            results.append(f"{source}: {fault}")
    results += judge_all(sources, arguments.rules, aliases, arguments.jobs)
    print(render(results, arguments.format))
    for result in results:
        if isinstance(result, str):
            sys.stderr.write(f"{result}\n")
        elif arguments.to is not None:
            write_back(result.source, result, arguments.to, aliases)
    return max((UNREADABLE if isinstance(result, str) else result.exit_code for result in results), default=UNREADABLE)


def judge_all(
    sources: Sequence[str], rules: str, aliases: Mapping[str, str], jobs: int | None = None
) -> list[ReplayResult | str]:
    """Every run's report or fault, in order; several at a time, with the progress on stderr."""
    jobs = min(len(sources), jobs or os.cpu_count() or 1)
    if jobs <= 1:
        return [judge(source, rules, aliases) for source in sources]
    # Processes that are forked would share the connections of a store that was asked for its runs.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(judge, source, rules, aliases) for source in sources]
        for count, _ in enumerate(as_completed(waiting), 1):
            sys.stderr.write(f"\r{count} of {len(sources)} runs")
            sys.stderr.flush()
        sys.stderr.write("\n")
        return [future.result() for future in waiting]


def judge(source: str, rules: str, aliases: Mapping[str, str]) -> ReplayResult | str:
    """A run's report, or in words why it cannot be read."""
    from rldk_tracking.history.replay import replay

    try:
        return replay(source, rules=rules, aliases=aliases)
    except (ValueError, OSError, ImportError) as fault:
        return f"{source}: {fault}"


def render(results: Sequence[ReplayResult | str], form: str) -> str:
    """All reports in one of `FORMATS`. JSON is one object for one run and a list for several."""
    if form == "json":
        objects = [
            {"verdict": "unreadable", "error": result} if isinstance(result, str) else result.as_dict()
            for result in results
        ]
        return json.dumps(objects[0] if len(objects) == 1 else objects, indent=1)
    reports = [result for result in results if not isinstance(result, str)]
    pages = [_page(report, form) for report in reports]
    if len(results) > 1:
        pages.append(_summary(results, form))
    return "\n\n".join(pages)


def _page(report: ReplayResult, form: str) -> str:
    lines = [f"{'## ' if form == 'markdown' else ''}{report.verdict}: {report.source} ({report.rows} rows)"]
    if report.convergence is not None:
        lines.append(f"reward: {report.convergence}")
    last = {alert.rule: alert for _, alert in report.alerts if alert.state == "firing"}
    shown = [(row, alert) for row, alert in report.alerts if alert.notify or alert is last[alert.rule]]
    lines += [_line(row, alert, form) for row, alert in shown]
    if report.unknown:
        lines.append(f"no data for: {', '.join(report.unknown)}")
    return "\n".join(lines)


def _line(row: int, alert: Alert, form: str) -> str:
    word = alert.severity if alert.state == "firing" else "resolved"
    text = f"step {alert.step} (row {row}) {word} {alert.rule}: {alert.message}"
    if form == "markdown":
        return f"- {_escaped(text)}"
    return f"{text}\n    {alert.advice}" if alert.state == "firing" and alert.advice else text


def _summary(results: Sequence[ReplayResult | str], form: str) -> str:
    rows = [
        ("unreadable", result.partition(":")[0], "")
        if isinstance(result, str)
        else (result.verdict, result.source, ", ".join(sorted({alert.rule for _, alert in result.alerts})))
        for result in results
    ]
    if form == "markdown":
        lines = ["| verdict | run | rules |", "|---|---|---|"]
        return "\n".join(lines + [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows])
    return "\n".join(f"{verdict:10s} {source}  {rules}" for verdict, source, rules in rows)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
