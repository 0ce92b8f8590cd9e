"""One object for one training run, shared by the monitors that watch it.

A step goes through here once: the monitors hand over what they saw, `finish` merges it over the ranks, computes the
metrics, has them judged, and hands one row and the alerts to every tracker.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.keys import CATALOGUE, lookup
from rldk_tracking.metrics import catalogue
from rldk_tracking.ranks import Merged, Part, Ranks, Schema
from rldk_tracking.shield import Shield, TrainingStopped
from rldk_tracking.trackers.base import RunInfo, Tracker
from rldk_tracking.trackers.delivery import Delivery

if TYPE_CHECKING:
    import torch

    from rldk_tracking.health.alert import Alert
    from rldk_tracking.health.rules import Rule
    from rldk_tracking.rollout import PolicyUpdate, Rollout

logger = logging.getLogger(__name__)

OnCritical = Literal["alert", "stop"]


_RUNS: weakref.WeakKeyDictionary[Any, Run] = weakref.WeakKeyDictionary()
"""The present run of each trainer that is being watched."""


@dataclass
class Settings:
    """What the monitors of a run ask for. The settings of several monitors are joined, see `Run.join`."""

    trackers: list[Tracker] | None = None
    rules: str | list[Rule] = "safe"
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_critical: OnCritical = "alert"
    slack: Any = None
    output_dir: str | None = None
    strict: bool = False
    close_timeout: float = 15.0


class Run:
    """The state of one training run on this rank.

    Attributes:
        latest: the last row, key to value.
        alerts: every transition so far, in order.
        shield: keeps faults of the diagnostics from the trainer.
        engine: judges the rows, once the run is open.
        stop: the alert that asked for a stop, if any.
    """

    def __init__(self, settings: Settings, info: RunInfo | None = None) -> None:
        self.settings = settings
        self.info = info if info is not None else RunInfo()
        self.shield = Shield(settings.strict)
        self.latest: dict[str, float] = {}
        self.latest_step: int | None = None
        self.alerts: list[Alert] = []
        self.stop: Alert | None = None
        self.engine: Engine | None = None
        self.part = Part()
        self.closed = False
        self.find_trackers: Callable[[], list[Tracker]] = list
        self.probe_reader: Callable[[list[float]], dict[str, float]] | None = None
        self.device: torch.device | None = None
        self.rows_per_rank = 512
        self.listeners: list[Callable[[Alert], None]] = []
        self.honours_stop = True
        self.rollout_seconds: float | None = None
        self.read_logs: Callable[[Mapping[str, Any]], dict[str, float]] = dict
        self._claims: dict[str, weakref.ref[Any]] = {}
        self._monitors: list[Any] = []
        self._waiting: set[int] = set()
        self._deliveries: list[Delivery] = []
        self._ranks: Ranks | None = None
        self._status = ""
        self._resume: dict[str, Any] | None = None
        self._measured = (time.perf_counter(), 0.0)

    @classmethod
    def of(cls, trainer: Any, settings: Settings, info: RunInfo) -> Run:
        """The run of a trainer's present `train()`, made by the first monitor that asks."""
        run = _RUNS.get(trainer)
        if run is None or run.closed:
            run = _RUNS[trainer] = cls(settings, info)
        return run

    def join(self, monitor: Any, settings: Settings) -> None:
        """A monitor takes part: its trackers and overrides are added, the severer choice of two holds."""
        if any(known is monitor for known in self._monitors):
            return
        self._monitors.append(monitor)
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Add what another monitor asks for to what this run does."""
        mine = self.settings
        if settings is mine:
            return
        if settings.trackers is not None:
            known = mine.trackers or []
            mine.trackers = known + [t for t in settings.trackers if all(t is not k for k in known)]
        for rule, fields in settings.overrides.items():
            mine.overrides.setdefault(rule, {}).update(fields)
        if mine.rules == "safe":
            mine.rules = settings.rules
        mine.on_critical = "stop" if "stop" in (mine.on_critical, settings.on_critical) else "alert"
        mine.slack = mine.slack or settings.slack
        mine.output_dir = mine.output_dir or settings.output_dir
        self.shield.strict = self.shield.strict or settings.strict

    def claim(self, task: str, monitor: Any) -> bool:
        """Whether this monitor does the task: true for the first that asks, so that nothing is measured twice."""
        holder = self._claims.get(task)
        if holder is None or holder() is None:
            self._claims[task] = weakref.ref(monitor)
            return True
        return holder() is monitor

    def open(self) -> tuple[Ranks, Engine]:
        """Find the trackers and start judging; at the first event after train begin, when every monitor has joined."""
        if self._ranks is not None and self.engine is not None:
            return self._ranks, self.engine
        settings = self.settings
        rules = rules_for(settings.rules, settings.overrides)
        self.engine = Engine(rules, context=dict(self.info.config))
        if self._resume is not None:
            self.engine.load_state(self._resume)
        schema = Schema(
            rollout=catalogue.ROLLOUT_COLUMNS,
            update=catalogue.UPDATE_COLUMNS,
            tails=catalogue.TAILS,
            scalars=tuple(CATALOGUE),
        )
        self._ranks = Ranks(schema, self.device, self.rows_per_rank)
        if self._ranks.rank == 0:
            found = settings.trackers if settings.trackers is not None else self.find_trackers()
            self._deliveries = [Delivery(tracker, journal=self._journal(tracker)) for tracker in found]
            for delivery in self._deliveries:
                delivery.open(self.info)
            self._set_status("running", 0)
        return self._ranks, self.engine

    def _journal(self, tracker: Tracker) -> Path | None:
        """Where rows wait that a tracker did not take; made when there is the first one."""
        folder = self.settings.output_dir or self.info.output_dir
        return Path(folder) / "rldk" / f"undelivered-{tracker.name}.jsonl" if folder and tracker.threaded else None

    def observe(self, rollout: Rollout | None = None, update: PolicyUpdate | None = None) -> None:
        """Reduce a rollout or an optimiser step to per-sequence columns, on the device, for the step in progress."""
        if rollout is not None:
            self.part.rollout.update(catalogue.rollout_columns(rollout))
            self.part.tails.update(catalogue.rollout_tails(rollout))
            self.part.names = catalogue.names(rollout)
        if update is not None:
            self.part.update.update(catalogue.update_columns(update))

    def add(self, scalars: Mapping[str, float | Any], override: bool = True) -> None:
        """Single numbers of the step in progress. With `override` False a number that is there already stays."""
        for key, value in scalars.items():
            if override or key not in self.part.scalars:
                self.part.scalars[key] = value

    def add_logs(self, logs: Mapping[str, Any]) -> None:
        """A trainer's logs of the step in progress, under whatever names; what the rollout says wins over them."""
        self.add(self.read_logs(logs), override=False)

    def eval_logs(self, logs: Mapping[str, Any]) -> None:
        """An evaluation's logs. They come after the step's row and go into the next one."""
        self.add(self.read_logs(logs))

    def urgent(self, scalars: Mapping[str, float], step: int) -> None:
        """Something found between two steps that cannot wait for the next row, because there may be none.

        With several ranks it goes into the next row, since a collective outside the step would wait for the others.
        """
        self.add(scalars)
        ranks, _ = self.open()
        if ranks.world_size == 1:
            self.finish(step)

    def leave(self, monitor: Any, step: int) -> None:
        """Train end for one monitor; the last one closes the run."""
        self._monitors = [known for known in self._monitors if known is not monitor]
        if not self._monitors:
            self.close("stopped" if self.stop is not None else "finished", step)

    def reported(self, monitor: Any, step: int) -> None:
        """A monitor has handed over all it has of this step; the last one closes the step."""
        if not self._waiting:
            self._waiting = {id(known) for known in self._monitors}
        self._waiting.discard(id(monitor))
        if not self._waiting:
            self.finish(step)

    def finish(self, step: int) -> dict[str, float]:
        """Merge over ranks, compute, judge, deliver. Returns the row (the same on every rank)."""
        ranks, engine = self.open()
        part, self.part = self.part, Part()
        row = self._row(ranks.merge(part))
        if not row:
            return {}
        alerts = self._judge(engine, step, row)
        self.latest, self.latest_step = row, step
        if ranks.rank == 0:
            self._deliver(step, row, alerts)
        return row

    def _row(self, merged: Merged) -> dict[str, float]:
        row = merge_scalars(merged.scalars)
        if self.probe_reader is not None and merged.probes:
            row |= merge_scalars([self.probe_reader(values) for values in merged.probes])
        row |= catalogue.compute_rollout(merged.rollout)
        row |= catalogue.compute_update(merged.update)
        return {key: value for key, value in row.items() if _is_finite(value)}

    def _judge(self, engine: Engine, step: int, row: dict[str, float]) -> list[Alert]:
        row.update(self._overhead())
        if self._deliveries:  # rank 0's own affair, and no reason for a stop
            row["rldk/system/tracker_errors"] = float(sum(delivery.errors for delivery in self._deliveries))
            row["rldk/system/trackers_down"] = float(sum(not delivery.healthy for delivery in self._deliveries))
        alerts = engine.update(step, row)
        self.alerts.extend(alerts)
        row.update(engine.scores())
        row["rldk/alerts/firing"] = float(len(engine.firing))
        if self.settings.on_critical == "stop" and self.stop is None:
            self.stop = next((a for a in alerts if a.severity == "critical" and a.state == "firing"), None)
        return alerts

    def _overhead(self) -> dict[str, float]:
        """Share of the wall time since the last row that went into these diagnostics, on this rank."""
        (then, before), now = self._measured, time.perf_counter()
        self._measured = (now, self.shield.seconds)
        return {"rldk/system/overhead_fraction": (self.shield.seconds - before) / (now - then)} if now > then else {}

    def _deliver(self, step: int, row: Mapping[str, float], alerts: Iterable[Alert]) -> None:
        for delivery in self._deliveries:
            if not delivery.tracker.joined:
                delivery.open(self.info)
            delivery.put("log", dict(row), step)
        for alert in alerts:
            log = logger.info if alert.state == "resolved" or alert.severity == "info" else logger.warning
            log("%s (step %d): %s", alert.title, alert.step, alert.message)
            for delivery in self._deliveries:
                delivery.put("alert", alert)
            for listener in self.listeners:
                with self.shield.at("an alert listener"):
                    listener(alert)
        severities = {alert.severity for alert in self.engine.firing} if self.engine is not None else set()
        status = next((s for s in ("critical", "warning") if s in severities), "running")
        self._set_status(status, step)

    def _set_status(self, status: str, step: int) -> None:
        if status == self._status:
            return
        self._status = status
        for delivery in self._deliveries:
            delivery.put("status", status, dict(self.latest), step)

    def table(self, key: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """A table for every tracker that shows tables (rank 0)."""
        for delivery in self._deliveries:
            delivery.put("log_table", key, columns, rows, step)

    def figure(self, key: str, svg: str, step: int) -> None:
        """A picture for every tracker that shows pictures (rank 0)."""
        for delivery in self._deliveries:
            delivery.put("log_figure", key, svg, step)

    def urls(self) -> dict[str, str]:
        """Addresses of the run's pages, by tracker."""
        found = {delivery.tracker.name: delivery.tracker.url() for delivery in self._deliveries}
        return {name: url for name, url in found.items() if url}

    def raise_stop(self) -> None:
        """End a training that does not honour the stop flag.

        Raises:
            TrainingStopped: always, after the trackers were flushed.
        """
        stop = self.stop
        if stop is None:
            raise ValueError("No alert asked for a stop.")
        self.close("stopped", stop.step)
        raise TrainingStopped(stop.rule, stop.step, stop.message)

    def close(self, status: str, step: int) -> None:
        """Flush the trackers within the time limit and leave nothing behind."""
        if self.closed:
            return
        self.closed = True
        self._set_status(status, step)
        deadline = time.monotonic() + self.settings.close_timeout
        for delivery in self._deliveries:
            delivery.close(max(0.0, deadline - time.monotonic()))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on judging where this one is, as plain data."""
        return self.engine.state() if self.engine is not None else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from another run's state, before the first step."""
        self._resume = state


def merge_scalars(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Per-rank numbers as one, in the way that the key's row in the catalogue says ("mean" for a key without one)."""
    gathered: dict[str, list[float]] = {}
    for part in parts:
        for key, value in part.items():
            gathered.setdefault(key, []).append(float(value))
    merged = {}
    for key, values in gathered.items():
        known = lookup(key)
        reduce = known.reduce if known is not None else "mean"
        if reduce == "mean":
            merged[key] = sum(values) / len(values)
        else:
            merged[key] = float(max(values) if reduce == "max" else min(values) if reduce == "min" else sum(values))
    return merged


def _is_finite(value: float) -> bool:
    return value == value and value not in (float("inf"), float("-inf"))
