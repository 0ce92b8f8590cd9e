"""What `rldk-tracking replay` prints: of a run first what matters, of several runs a table with the worst first."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rldk_tracking.cli.main import UNREADABLE
from rldk_tracking.health.alert import SEVERITIES
from rldk_tracking.messages.arguments import printable

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert
    from rldk_tracking.history.replay import ReplayResult

FORMATS = ("text", "json", "markdown")
WORST_FIRST = (UNREADABLE, 2, 1, 4, 0)
"""Exit codes by how much there is to be done."""
COLUMNS = ("verdict", "reward", "first cause", "since step", "rows", "run")
"""Of the table of several runs."""


@dataclass(frozen=True)
class Unreadable:
    """A source without a verdict, and why in a sentence that names it."""

    source: str
    reason: str


def render(
    results: Sequence[ReplayResult | Unreadable], form: str, with_rules: bool = False, with_plot: bool = False
) -> str:
    """All reports in one of `FORMATS`. JSON is one object for one run and a list for several.

    Args:
        results: what was found out of each source.
        form: one of `FORMATS`.
        with_rules: name the rules that have not judged.
        with_plot: plot the series of the first cause; in text only.
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
    pages = ["\n".join(map(printable, _page(report, form, with_rules, with_plot))) for report in reports]
    if len(results) > 1:
        pages.append("\n".join(map(printable, _summary(results, form))))
    return "\n\n".join(pages)


def _page(report: ReplayResult, form: str, with_rules: bool, with_plot: bool) -> list[str]:
    """What matters first: the verdict, its first cause, what came of it and what to try; then the rest."""
    fired = _by_rule(report)
    cause = report.first_cause
    lines: list[str] = []
    if cause is not None:
        row, found = next((row, alert) for row, alert in report.alerts if alert is cause)
        lines.append(_line(row, found, fired.pop(cause.rule)))
        later = [
            f"{rule} (step {alerts[0][1].step})" for rule, alerts in fired.items() if alerts[0][1].step > cause.step
        ]
        for what, named in (("held back as its consequences", report.consequences), ("later", later)):
            lines += [f"    {what}: {', '.join(named)}"] if named else []
        lines += [f"    try: {cause.advice}"] if cause.advice else []
    if report.convergence is not None:
        lines.append(f"reward: {report.convergence}")
    plotted = [] if cause is None or not with_plot else plot(report.cause_series, cause)
    rest = [_line(*next(one for one in alerts if one[1].state == "firing"), alerts) for alerts in fired.values()]
    facts = [report.coverage, *([f"read as {report.format}"] if report.format else []), *report.notes]
    if with_rules:
        facts.append(f"no data for: {', '.join(report.unknown) or 'no rule'}")
        facts.append(f"warming up: {', '.join(report.judged.warming_up) or 'no rule'}")
        if report.judged.failed:
            facts.append(f"failed: {', '.join(report.judged.failed)}")
    head = f"{report.verdict}: {report.source} ({report.rows} rows)"
    if form == "markdown":  # where a line of its own is a paragraph's next words, but for one in a list
        return [f"## {head}", *(f"- {_escaped(line.strip())}" for line in (*lines, *rest, *facts))]
    return [head, *lines, *plotted, *rest, *facts] if cause is not None else [head, *rest, *facts, *lines]


def _by_rule(report: ReplayResult) -> dict[str, list[tuple[int, Alert]]]:
    """Every transition with its row, by rule; the rules in the order in which they fired."""
    fired: dict[str, list[tuple[int, Alert]]] = {}
    for row, alert in report.alerts:
        if alert.state == "firing" or alert.rule in fired:
            fired.setdefault(alert.rule, []).append((row, alert))
    return fired


def _line(row: int, alert: Alert, alerts: Sequence[tuple[int, Alert]]) -> str:
    """A rule in one line, however often it fired: in the words of an alert, and what is said of all of them.

    Args:
        row: where the alert began.
        alert: the one that is quoted.
        alerts: all transitions of its rule.
    """
    firing = [one for _, one in alerts if one.state == "firing"]
    begun = [one for place, (_, one) in enumerate(alerts) if one in firing and _is_opening(alerts, place)]
    worst = max((one.severity for one in firing), key=SEVERITIES.index)
    since = f" since step {alert.first_step}" if alert.first_step < alert.step else ""
    often = f" {len(begun)} times, first step {begun[0].step}, last step {begun[-1].step}" if len(begun) > 1 else since
    last = alerts[-1][1]
    over = f" (over at step {last.step})" if last.state == "resolved" else ""
    return f"step {alert.step} (row {row}) {worst} {alert.rule}{often}{over}: {alert.message}"


def _is_opening(alerts: Sequence[tuple[int, Alert]], place: int) -> bool:
    return place == 0 or alerts[place - 1][1].state == "resolved"


def plot(series: Sequence[tuple[int, float]], alert: Alert, width: int = 64, height: int = 8) -> list[str]:
    """A series in characters that every terminal has: `*` values, `-` the limit, `|` where the alert was first seen.

    Of the values that share a column, the one farthest from the median of all stands for them.
    """
    if len(series) < 2:
        return []
    middle = sorted(value for _, value in series)[len(series) // 2]
    width = min(width, len(series))
    groups = [series[n * len(series) // width : (n + 1) * len(series) // width] for n in range(width)]
    values = [max((value for _, value in group), key=lambda value: abs(value - middle)) for group in groups]
    ends = [*values, middle if alert.threshold is None else alert.threshold]
    low, extent = min(ends), (max(ends) - min(ends)) or 1.0
    levels = [round((value - low) / extent * (height - 1)) for value in ends]
    at = next((n for n, group in enumerate(groups) if group[-1][0] >= alert.first_step), width - 1)
    lines = []
    for level in range(height - 1, -1, -1):
        empty = "-" if alert.threshold is not None and level == levels[-1] else " "
        row = ["*" if levels[n] == level else "|" if n == at else empty for n in range(width)]
        lines.append(f"{low + extent * level / (height - 1):>11.4g} {''.join(row)}".rstrip())
    return [f"    {alert.key}, steps {series[0][0]} to {series[-1][0]}", *lines]


def _summary(results: Sequence[ReplayResult | Unreadable], form: str) -> list[str]:
    """A row for each run, the worst first, and of those the one first that went wrong first."""
    ordered = sorted(results, key=lambda result: (WORST_FIRST.index(code_of(result)), _since(result)))
    rows = [COLUMNS, *map(_cells, ordered)]
    if form == "markdown":
        lines = [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]
        return [lines[0], "|---" * len(COLUMNS) + "|", *lines[1:]]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS) - 1)] + [0]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _cells(result: ReplayResult | Unreadable) -> tuple[str, ...]:
    if isinstance(result, Unreadable):
        return ("unreadable", "-", "-", "-", "-", result.source)
    cause = result.first_cause
    of_cause = ("-", "-") if cause is None else (cause.rule, str(cause.first_step))
    return (result.verdict, result.convergence or "unknown", *of_cause, str(result.rows), result.source)


def code_of(result: ReplayResult | Unreadable) -> int:
    """The exit code of one run."""
    return UNREADABLE if isinstance(result, Unreadable) else result.exit_code


def _since(result: ReplayResult | Unreadable) -> float:
    cause = None if isinstance(result, Unreadable) else result.first_cause
    return math.inf if cause is None else cause.first_step


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
