"""Weights & Biases: rows beside those of transformers in the same run, and alerts through `run.alert`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.base import RejectedError, RunInfo, Tracker

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
    """

    name: ClassVar[str] = "wandb"
    repeatable: ClassVar[bool] = False

    def __init__(self, run: Any = None) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError('WandbTracker needs wandb: pip install "rldk-tracking[wandb]"') from error
        self._wandb: Any = wandb
        self._given = run
        self._run = run
        self._url: str | None = None
        self._defined: set[str] = set()
        self._open_alerts: dict[str, str] = {}

    @property
    def joined(self) -> bool:
        return self._run is not None

    def open(self, run: RunInfo) -> None:
        if self._run is None:
            self._run = self._wandb.run
        if self._run is not None:
            self._url = self._run.url or None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._write(dict(metrics), step)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = self._wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        self._write({key: table}, step)

    def log_figure(self, key: str, svg: str, step: int) -> None:
        self._write({key: self._wandb.Html(svg, inject=False)}, step)

    def alert(self, alert: Alert) -> None:
        """Sent by W&B to Slack or mail, as the user has chosen there. An offline run keeps it for `wandb sync`.

        W&B keeps neither step nor number with an alert, so the text has both.
        """
        run = self._joined_run()
        level = "INFO" if alert.state == "resolved" else _LEVELS[alert.severity]
        with _Finished(self._wandb):
            run.alert(title=alert.title[:63], text=alert_text(alert), level=self._wandb.AlertLevel[level])
            if alert.state == "firing":
                self._open_alerts[alert.rule] = alert.severity
            else:
                self._open_alerts.pop(alert.rule, None)
            run.summary["rldk/alerts/open"] = ",".join(sorted(self._open_alerts))

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        run = self._joined_run()
        with _Finished(self._wandb):
            run.summary["rldk/status"] = status

    def url(self) -> str | None:
        return self._url

    def address(self) -> Mapping[str, str]:
        run = self._run
        if run is None:
            return {}
        return {name: str(value) for name in ("entity", "project", "id") if (value := getattr(run, name, None))}

    def close(self) -> None:
        """Forget the run: one tracker may serve one training after another."""
        self._run = self._given
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
