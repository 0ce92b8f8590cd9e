"""`rldk-tracking replay SOURCE...`: judge past runs by the rules that would have watched them live.

The exit code is that of the worst run: 0 healthy, 1 warning, 2 critical, 3 could not be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert
    from rldk_tracking.replaying import Report

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
    parser.add_argument("--to", choices=("mlflow", "wandb"), help="also write series and alerts into a new run there")
    parser.add_argument("--jobs", type=int, default=1, help="runs that are judged at the same time")


def run(arguments: argparse.Namespace) -> int:
    """Print what the rules say, and return the exit code."""
    sources = [name for source in arguments.sources for name in expand(source)]
    if arguments.jobs > 1 and len(sources) > 1:
        with ProcessPoolExecutor(arguments.jobs) as pool:
            results = list(pool.map(judge, sources, [arguments.rules] * len(sources)))
    else:
        results = [judge(source, arguments.rules) for source in sources]
    print(render(results, arguments.format))
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, str):
            sys.stderr.write(f"{result}\n")
        elif arguments.to is not None:
            write_back(source, result, arguments.to)
    return max((UNREADABLE if isinstance(result, str) else result.exit_code for result in results), default=UNREADABLE)


def expand(source: str) -> list[str]:
    """The runs of an MLflow experiment, `mlflow:experiment/NAME`; anything else stands for itself."""
    prefix = "mlflow:experiment/"
    if not source.startswith(prefix):
        return [source]
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(source.removeprefix(prefix))
    if experiment is None:
        return [source]
    return [f"mlflow:{run.info.run_id}" for run in client.search_runs([experiment.experiment_id])]


def judge(source: str, rules: str) -> Report | str:
    """A run's report, or in words why it cannot be read."""
    from rldk_tracking.replaying import replay

    try:
        return replay(source, rules=load_rules(rules))
    except (ValueError, OSError, ImportError) as fault:
        return f"{source}: {fault}"


def load_rules(name: str) -> Any:
    """A preset's name as it is; the rules of a YAML file."""
    if not name.endswith((".yaml", ".yml")):
        return name
    from rldk_tracking.health import user_rules

    return user_rules.load_rules(name)


def render(results: Sequence[Report | str], form: str) -> str:
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


def _page(report: Report, form: str) -> str:
    lines = [f"{'## ' if form == 'markdown' else ''}{report.verdict}: {report.source} ({report.rows} rows)"]
    if report.convergence is not None:
        lines.append(f"reward: {report.convergence}")
    lines += [_line(row, alert, form) for row, alert in report.alerts]
    if report.unknown:
        lines.append(f"no data for: {', '.join(report.unknown)}")
    return "\n".join(lines)


def _line(row: int, alert: Alert, form: str) -> str:
    word = alert.severity if alert.state == "firing" else "resolved"
    text = f"step {alert.step} (row {row}) {word} {alert.rule}: {alert.message}"
    if form == "markdown":
        return f"- {_escaped(text)}"
    return f"{text}\n    {alert.advice}" if alert.state == "firing" and alert.advice else text


def _summary(results: Sequence[Report | str], form: str) -> str:
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


def write_back(source: str, report: Report, backend: str) -> None:
    """Series and alerts of a past run, written into a new run of MLflow or W&B."""
    from rldk_tracking.sources.reading import read
    from rldk_tracking.trackers.base import RunInfo, Tracker

    tracker: Tracker
    if backend == "mlflow":
        from rldk_tracking.trackers.mlflow import MLflowTracker

        tracker = MLflowTracker(experiment="rldk-replay")
    else:
        import wandb

        from rldk_tracking.trackers.wandb import WandbTracker

        tracker = WandbTracker(wandb.init(project="rldk-replay", config={"source": source}))
    tracker.open(RunInfo(name=source, trainer="replay"))
    for entry in read(source).entries:
        tracker.log(entry.row, entry.step)
    for _, alert in report.alerts:
        tracker.alert(alert)
    tracker.status(report.verdict if report.verdict != "healthy" else "finished", {}, 0)
    tracker.close()
