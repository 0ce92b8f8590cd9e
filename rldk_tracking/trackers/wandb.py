"""Weights & Biases: rows beside those of transformers in the same run, and alerts through `run.alert`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from rldk_tracking.charts.announce import announce
from rldk_tracking.charts.first_view import FirstView
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.panels import RunPanels
from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.arguments import shown
from rldk_tracking.messages.packages import imported
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row, Tracker

STEP = "train/global_step"
"""The x-axis that transformers gives its own series. Ours share it, or W&B shows two."""

_LEVELS = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}


class WandbTracker(Tracker):
    """Writes to the open W&B run, or to the one given; never ends it.

    Every row is one `run.log` that carries its own `train/global_step`. W&B's own step argument is never used: it
    counts all rows of the run, TRL's included, and rows that name a step in the past are dropped.

    Args:
        run: a run from `wandb.init`; without it the one that is open when training begins.

    Raises:
        ImportError: wandb is not installed.

    Examples:
        >>> from rldk_tracking import RLDKCallback, WandbTracker
        >>> callback = RLDKCallback(trackers=[WandbTracker()])  # joins the run that is open when training begins
    """

    name: ClassVar[str] = "wandb"
    repeatable: ClassVar[bool] = False
    how_to_join: ClassVar[str] = "Call wandb.init() before train(), or give it a run: WandbTracker(wandb.init(...))."

    def __init__(self, run: Any = None) -> None:
        wandb = imported("wandb", "WandbTracker")
        if run is not None and (isinstance(run, (type, ModuleType)) or not callable(getattr(run, "log", None))):
            raise TypeError(f"run must be a run of W&B, got {shown(run)}: write run=wandb.init(...), or leave it out.")
        self._wandb = wandb
        self._given = run
        self._owns_run = False
        self._last_step: int | None = None
        self._newest_step: int | None = None
        self._run = run
        self._args: Any = None
        self._url: str | None = None
        self._pointed_out = False
        self._defined: set[str] = set()
        self._open_alerts: dict[str, str] = {}
        self._panels: RunPanels | None = None
        self._view: FirstView | None = None

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> WandbTracker:
        """A tracker for the run of another process, which it ends at `close`; `to` is that process's `address()`.

        Raises:
            ValueError: `to` names no run.
            ConnectionError: W&B cannot be reached.
        """
        tracker = cls()
        wandb, place = tracker._wandb, to.get("log")
        if not to.get("id"):
            raise ValueError("the training ended before it had a W&B run")
        try:
            run = wandb.init(
                entity=to.get("entity"),
                project=to.get("project"),
                id=to["id"],
                resume="allow",
                # Beside the first run's files, where they are on this machine.
                dir=None if place is None or not Path(place).is_file() else str(Path(place).absolute().parents[2]),
            )
        except wandb.Error as error:
            raise ConnectionError(f"W&B cannot be reached: {error}") from error
        tracker._given = tracker._run = run
        tracker._owns_run = True
        return tracker

    @property
    def joined(self) -> bool:
        return self._run is not None

    def open(self, run: RunInfo) -> None:
        self._args = run.args
        if self._run is None:
            self._run = self._wandb.run
        if self._run is not None:
            self._url = self._run.url or None
            # Before anybody logs: afterwards the summary has the present training's step.
            last = self._run.summary.get(STEP, 0) if self._run.resumed else None
            self._last_step = int(last) if isinstance(last, (int, float)) else None
            self._panels = RunPanels(self._wandb, run, resumed_after=self._last_step)
            if run.saves_view and self._url is not None:
                self._view = FirstView(self._run.settings.base_url, self._run.entity, self._run.project)
            self._wandb.Table(columns=["a"], data=[])  # the first one imports pandas, which would hold up a step

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.log_rows([Row(metrics, step, time.time())])

    def log_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            panels = {} if self._panels is None else self._panels.row(row.all, row.step)
            self._write({**row.metrics, **panels}, row.step)
            if self._view is not None:
                self._view.row([*row.metrics, *panels])

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = self._wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._write({key: table}, step)

    def log_figure(self, key: str, svg: str, step: int) -> None:
        self._write({key: self._wandb.Html(svg, inject=False)}, step)

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        if self._panels is not None:
            self._write(self._panels.heatmap(key, heatmap), step)

    def log_checkpoint(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int) -> None:
        run = self._joined_run()
        with _Finished(self._wandb):
            log_model(self._wandb, run, self._args, name, metrics, params, step)

    def alert(self, alert: Alert) -> None:
        """Sent by W&B to Slack or mail, as the user has chosen there. An offline run keeps it for `wandb sync`.

        W&B keeps neither step nor number with an alert, so the text has both.
        """
        run = self._joined_run()
        level = "INFO" if alert.state == "resolved" else _LEVELS[alert.severity]
        with _Finished(self._wandb):
            if alert.notify:
                run.alert(title=alert.title[:63], text=alert_text(alert), level=self._wandb.AlertLevel[level])
            if alert.state == "firing":
                self._open_alerts[alert.rule] = alert.severity
            else:
                self._open_alerts.pop(alert.rule, None)
            run.summary["rldk/alerts/open"] = ",".join(sorted(self._open_alerts))
        if self._panels is not None:
            self._panels.alert(alert)

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        run = self._joined_run()
        with _Finished(self._wandb):
            run.summary["rldk/status"] = status
        ended = status in ("finished", "stopped", "crashed")
        if ended and self._panels is not None:
            panels = self._panels.at_end(status, str(run.name or run.id))
            if panels:
                self._write(panels, step)
        if self._url is not None and (ended or not self._pointed_out):
            self._pointed_out = True
            place = f"{run.entity}/{run.project}"
            hint = f" (`rldk-tracking charts wandb {place}` makes one view of all runs)" if self._view is None else ""
            announce(f"charts in W&B: {self._url}{hint}")
        if ended and self._view is not None:
            self._view.at_end()

    def url(self) -> str | None:
        return self._url

    def address(self) -> Mapping[str, str]:
        run = self._run
        if run is None:
            return {}
        found = {name: str(value) for name in ("entity", "project", "id") if (value := getattr(run, name, None))}
        log = getattr(run.settings, "sync_file", None)
        return found | ({"log": str(log)} if log else {})

    def last_step(self) -> int | None:
        return self._last_step

    def close(self) -> None:
        """Forget the run: one tracker may serve one training after another."""
        if self._owns_run and self._run is not None:
            self._run.finish()
            return
        self._run = self._given
        self._panels = self._view = None
        self._newest_step = None
        self._pointed_out = False
        self._defined.clear()
        self._open_alerts.clear()

    def _write(self, values: dict[str, Any], step: int) -> None:
        run = self._joined_run()
        with _Finished(self._wandb):
            for key in values:
                if key not in self._defined:
                    # By its exact name: of two patterns that match, W&B takes one at random.
                    run.define_metric(key, step_metric=STEP)
                    self._defined.add(key)
            run.log(values | {STEP: step})
            if self._newest_step is not None and step < self._newest_step:
                run.summary[STEP] = self._newest_step  # from which a resumed training goes on
            else:
                self._newest_step = step

    def _joined_run(self) -> Any:
        if self._run is None:
            raise RejectedError("no W&B run is open")
        return self._run


class _Finished:
    """Turns the error of a run that was finished under us into a rejection: asking again is of no use."""

    def __init__(self, wandb: Any) -> None:
        self._errors = wandb.Error

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, self._errors):
            raise RejectedError(f"W&B refuses the call: {error}") from error


def alert_text(alert: Alert) -> str:
    """The alert in Markdown, one fact a line."""
    lines = [alert.message, f"Step: {alert.step} (first seen at {alert.first_step})"]
    if alert.value is not None:
        lines.append(f"Value: {alert.value:g}")
    if alert.threshold is not None:
        lines.append(f"Threshold: {alert.threshold:g}")
    if alert.key is not None:
        lines.append(f"Series: {alert.key}")
    if alert.advice and alert.state == "firing":
        lines.append(f"Advice: {alert.advice}")
    return "\n".join(lines)


def log_model(
    wandb: Any, run: Any, args: Any, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int
) -> None:
    """One version of the run's artifact: what a checkpoint was found to be, with its name as an alias.

    Its only file holds the metadata once more: no weights are uploaded. Where the user has transformers upload the
    checkpoints (WANDB_LOG_MODEL=checkpoint), it says which version of which artifact holds the weights.

    Args:
        wandb, run: the module and the open run.
        args: the trainer's settings, None without a trainer.
        name: of the checkpoint, such as `checkpoint-200`.
        metrics: finite numbers under their keys.
        params: short texts.
        step: the checkpoint's.
    """
    numbers = {key.removeprefix("rldk/checkpoint/").replace("/", "_"): value for key, value in metrics.items()}
    metadata = {"step": step, **params, **numbers}
    weights = uploaded(run, args, step)
    if weights is not None:
        metadata["weights"] = weights
    artifact = wandb.Artifact(
        name=f"checkpoint-health-{run.id}",
        type="checkpoint-health",
        description="What was found in each saved checkpoint. It holds no weights.",
        metadata=metadata,
    )
    # W&B takes two artifacts with the same files for one version, whatever their metadata.
    with artifact.new_file("checkpoint.json") as file:
        json.dump(metadata, file)
    run.log_artifact(artifact, aliases=[name])


def uploaded(run: Any, args: Any, step: int) -> str | None:
    """The version that transformers' WandbCallback makes of a checkpoint, None where it makes none.

    Its name has the run's id, or the run's name where the trainer's `run_name` is another than its `output_dir`.
    """
    if args is None or os.environ.get("WANDB_LOG_MODEL", "").lower() != "checkpoint":
        return None
    named = getattr(args, "run_name", None) not in (None, args.output_dir)
    return f"model-{run.name if named else run.id}:checkpoint_global_step_{step}"
