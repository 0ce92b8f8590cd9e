"""One object for one training run, shared by the monitors that watch it.

A step goes through here once: the monitors hand over what they saw, `finish` merges it over the ranks, the metrics are
computed, judged, and handed to every tracker as one row. What takes long of that, the metrics of the rollout, is done
while the step's last backward pass lasts. The rest is done when the step is over, so that its row is on disk before the
next one begins; but where it would have to be waited for, as for a device that still computes, it is done beside the
training, unless a decision depends on the verdict (`on_critical="stop"`) or faults are to be seen (`strict`).
"""

from __future__ import annotations

import functools
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rldk_tracking.ahead import Ahead
from rldk_tracking.charts.limits import limits_of
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.goals import rules_of
from rldk_tracking.health.presets import rules_for
from rldk_tracking.isolation import Shield, TrainingStopped
from rldk_tracking.keys import CATALOGUE
from rldk_tracking.metrics import catalogue
from rldk_tracking.metrics.table import Table
from rldk_tracking.outlet import Outlet
from rldk_tracking.ranks import Merged, Part, Ranks, Schema
from rldk_tracking.readings import Measurement, Readings
from rldk_tracking.rollout import RunInfo
from rldk_tracking.row import ProbeReader, row_of
from rldk_tracking.settings import Settings
from rldk_tracking.sources.base import Observation
from rldk_tracking.step import Step
from rldk_tracking.trackers.base import Tracker

if TYPE_CHECKING:
    import torch

    from rldk_tracking.health.alert import Alert
    from rldk_tracking.rollout import PolicyUpdate, Rollout

logger = logging.getLogger(__name__)

ENOUGH = 0.005
"""Seconds of waiting after which a step waits for no verdict that can be had beside the training."""

_RUNS: weakref.WeakKeyDictionary[Any, tuple[weakref.ref[Run], Outlet]] = weakref.WeakKeyDictionary()
"""The present run of each trainer that is being watched. Its monitors, which the trainer has, keep it alive: held here
it would keep the trainer."""


class Run:
    """The state of one training run on this rank.

    Attributes:
        settings: what its monitors ask for.
        info: what its trackers are told.
        shield: keeps faults of the diagnostics from the trainer.
        part: what was handed over of the step in progress.
        observation: what was seen of the step in progress.
        engine: judges the rows, once the run is open.
        stop: the alert that asked for a stop, if any.
        save: whether a rule asked for a checkpoint that the trainer has not been told of.
        ending: whether the step in progress is the last one.
        has_waited: whether the trainer has just waited for its device itself, as it does to log a step.
    """

    def __init__(self, settings: Settings, info: RunInfo | None = None) -> None:
        self.settings = settings
        self.info = info if info is not None else RunInfo()
        self.shield = Shield(settings.strict, training=True)
        self.part = Part()
        self.observation = Observation()
        self.engine: Engine | None = None
        self.stop: Alert | None = None
        self.save = False
        self.ending = False
        self.has_waited = False
        # Set by the monitors that know.
        self.find_trackers: Callable[[], list[Tracker]] = list
        self.read_logs: Callable[[Mapping[str, Any]], dict[str, float]] = dict
        self.read_probe: ProbeReader | None = None
        self.read_pending: Callable[[], torch.Tensor] | None = None
        self.see_layers: Callable[[list[float]], None] = lambda numbers: None
        self.layers: Mapping[str, Mapping[str, float]] = {}
        self.device: torch.device | None = None
        self.rows_per_rank = 512
        self.honours_stop = True
        self.rollout_seconds: float | None = None
        self.waited_seconds = 0.0
        self.listeners: list[Callable[[Alert], None]] = []
        self.followers: list[Callable[[int, Mapping[str, float]], Mapping[str, float]]] = []
        self._measurements: list[Measurement] = []
        self._afterwards: list[Callable[[], None]] = []
        self._ahead: Ahead | None = None
        self._alerts: list[Alert] = []
        self._claims: dict[str, weakref.ref[Any]] = {}
        self._monitors: list[Any] = []
        self._waiting: set[int] = set()
        self._ranks: Ranks | None = None
        self._outlet = Outlet(settings)
        self._background = self._outlet.background
        self._resume: dict[str, Any] = {}
        self._resumed_at: int | None = None
        self._measured = (time.perf_counter(), 0.0)
        self._waited_before = 0.0

    @classmethod
    def of(cls, trainer: Any, settings: Settings, info: RunInfo) -> Run:
        """The run of a trainer's present `train()`, made by the first monitor that asks at train begin."""
        known, outlet = _RUNS.get(trainer, (lambda: None, None))
        run = known()
        if outlet is not None and outlet.is_open and not outlet.closed:
            # An exception ended the last `train()`, or nobody would begin again.
            (outlet if run is None else run).close("crashed")
        if run is None or run.closed:
            run = cls(settings, info)
            _RUNS[trainer] = weakref.ref(run), run._outlet
        return run

    # What monitors ask of it.

    def join(self, monitor: Any, settings: Settings) -> None:
        """A monitor takes part: every step waits for it."""
        if all(known is not monitor for known in self._monitors):
            self._monitors.append(monitor)
            self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Add what another monitor asks for to what this run does."""
        self.settings.adopt(settings)
        self.shield.strict = self._background.shield.strict = self.settings.strict

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
        rules = [*rules_for(settings.rules, settings.overrides), *rules_of(settings.goals)]
        self.engine = Engine(rules, context=dict(self.info.config))
        try:
            self.engine.load_state(self._resume)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("rldk: the checkpoint's state is not taken over, judging starts afresh: %s", error)
        schema = Schema(catalogue.ROLLOUT_COLUMNS, catalogue.UPDATE_COLUMNS, catalogue.TAILS, tuple(CATALOGUE))
        self._ranks = Ranks(schema, self.device, self.rows_per_rank)
        find = self.find_trackers if settings.trackers is None else lambda: settings.trackers or []
        self._outlet.open(rules, self.info, find if self._ranks.rank == 0 else None, self._resumed_at)
        self._waited_before = self.shield.elapsed  # what a beginning takes is no step's
        self.find_trackers = list  # which knows the trainer's callbacks, and they may know the trainer
        return self._ranks, self.engine

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self._outlet.closed

    @property
    def world_size(self) -> int:
        """Ranks that take part; 1 before the run is open."""
        return 1 if self._ranks is None else self._ranks.world_size

    @property
    def can_save(self) -> bool:
        """Whether the trainer can be asked for a checkpoint.

        TRL's PPOTrainer fails when it saves on several ranks ("'DistributedDataParallel' object has no attribute
        'config'").
        """
        return self.honours_stop or self.world_size == 1

    # What is handed over of a step.

    def observe(self, rollout: Rollout | None = None, update: PolicyUpdate | None = None) -> None:
        """A rollout, or what an optimiser step saw, of the step in progress."""
        before = self.observation
        pair = rollout if rollout is not None else before.rollout, update if update is not None else before.update
        self.observation = Observation(made=lambda: pair)

    def read_ahead(self, observation: Observation) -> None:
        """The rollout of the step in progress is complete and has time to be read, as a backward pass begins."""
        if self.settings.strict:
            return
        ranks, _ = self.open()
        ahead = Ahead(observation, ranks, self._background.shield, self._background.is_awaited)
        self._ahead = ahead if self._background.offer(ahead.compute) else None

    def add(self, scalars: Mapping[str, float | torch.Tensor], override: bool = True) -> None:
        """Single numbers of the step in progress. With `override` False a number that is there already stays."""
        for key, value in scalars.items():
            if (override or key not in self.part.scalars) and is_number(value):
                self.part.scalars[str(key)] = value

    def measure(self, measurement: Measurement) -> None:
        """Single numbers of the step in progress that are read when it is over, in well under a millisecond."""
        self._measurements.append(measurement)

    def afterwards(self, work: Callable[[], None]) -> None:
        """Have something done beside the training when the step in progress has been judged."""
        self._afterwards.append(work)

    def add_logs(self, logs: Mapping[str, Any]) -> None:
        """A trainer's logs of the step in progress, under whatever names; what the rollout says wins over them."""
        self.add(self.read_logs(logs), override=False)

    def eval_logs(self, logs: Mapping[str, Any]) -> None:
        """An evaluation's logs. They come after the step's row and go into the next one."""
        self.add(self.read_logs(logs))

    def reported(self, monitor: Any, step: int) -> None:
        """A monitor has handed over all it has of this step; the last one closes the step."""
        if not self._waiting:
            self._waiting = {id(known) for known in self._monitors}
        self._waiting.discard(id(monitor))
        if not self._waiting:
            self.finish(step)

    def urgent(self, scalars: Mapping[str, float], step: int) -> None:
        """Something found between two steps that cannot wait for the next row, because there may be none.

        With several ranks it goes into the next row, since a collective outside the step would wait for the others.
        """
        self.add(scalars)
        ranks, _ = self.open()
        if ranks.world_size == 1:
            self.finish(step, wait=True)

    def conclude(self, scalars: Mapping[str, float], step: int) -> None:
        """Something that was known only when training was over: a last row, of this rank alone."""
        _, engine = self.open()
        merged = Merged(Table(), Table(), [dict(scalars)], [])
        self._soon(lambda: self._judge(engine, step, merged, row_of(merged))(), wait=True)

    # What becomes of it.

    def finish(self, step: int, wait: bool = False) -> None:
        """Close the step: merge over ranks, and have it computed, judged and delivered.

        Args:
            step: the global step.
            wait: for the verdict.
        """
        ranks, engine = self.open()
        self._outlet.fan_out.join(self.info)
        readings = Readings(self.observation, self._measurements, self.read_pending)
        ahead = self._ahead if self._ahead is not None and self._ahead.belongs_to(self.observation) else None
        if ranks.world_size > 1:
            self.part.scalars["rldk/system/rank_spread/seconds"] = ranks.waited + self.waited_seconds
            self.waited_seconds = 0.0
        seen = Step(ranks, self.part, readings, ahead, self._overhead(), self.read_probe)
        self.part, self.observation, self.read_pending, self._ahead = Part(), Observation(), None, None
        on_host = self.device is None or self.device.type == "cpu"
        known = seen.at_once(self.shield, on_host or self.has_waited)
        afterwards = self._afterwards
        self._measurements, self._afterwards = [], []

        def judge() -> Callable[[], None]:
            return self._judge(engine, step, *seen.row(self._background.shield), afterwards)

        has_time = self.shield.elapsed - self._waited_before < ENOUGH and self._background.is_idle
        if not self._waits(wait) and seen.is_whole and has_time:
            with self.shield.at("judging a step"):
                self._background.submit(judge())
                self._outlet.fan_out.catch_up()
        elif self._waits(wait):
            self._soon(lambda: judge()(), wait=True)
        else:
            self._outlet.fan_out.hold(known, step)
            self._background.submit(lambda: self._judge_held(judge))
        self._waited_before = self.shield.elapsed

    def _judge_held(self, judge: Callable[[], Callable[[], None]]) -> None:
        """Judge a step that is kept on disk until it is."""
        try:
            follow = judge()
        finally:
            self._outlet.fan_out.let_go()
        follow()

    def _waits(self, wait: bool) -> bool:
        return wait or self.settings.strict or self.settings.on_critical == "stop" or self._outlet.acting.decides

    def _soon(self, work: Callable[[], None], wait: bool) -> None:
        if self._waits(wait):
            self._background.settle()
            work()
            self._outlet.fan_out.catch_up()
        else:
            self._background.submit(work)

    def _judge(
        self,
        engine: Engine,
        step: int,
        merged: Merged,
        row: dict[str, float],
        afterwards: Iterable[Callable[[], None]] = (),
    ) -> Callable[[], None]:
        """Give the verdict on a row and hand on both; returns what is to follow and has time."""
        if not row:
            return lambda: self._follow([], afterwards)
        for numbers in merged.probes:
            self.see_layers(numbers)
        for follow in self.followers:  # what follows from this row and those before it
            row.update(follow(step, row))
        row.update(self._outlet.health())
        alerts = engine.update(step, row)
        self._alerts.extend(alerts)
        firing = engine.firing
        row.update(engine.scores())
        row["rldk/alerts/firing"] = float(len(firing))
        row.update(limits_of(self.settings.overrides, self.settings.goals))
        self.stop = self.stop or self._stop_for(alerts)
        self.save = self.save or self._outlet.acting.save(alerts)
        news = self._outlet.take(step, row, alerts)
        severities = {alert.severity for alert in firing}
        self._outlet.set_status(next((s for s in ("critical", "warning") if s in severities), "running"), step)
        scores, gradients = merged.rollout.get("reward/score"), self.layers.get("gradients")
        draw = functools.partial(self._outlet.draw, step, scores, gradients)
        return lambda: self._follow(news, [draw, *afterwards])

    def _follow(self, alerts: Iterable[Alert], works: Iterable[Callable[[], None]]) -> None:
        """What a verdict brings about, some of it functions of the user's."""
        self._outlet.tell(alerts, self.listeners)
        for work in works:
            with self._background.shield.at("what follows a step"):
                work()

    def _stop_for(self, alerts: Iterable[Alert]) -> Alert | None:
        """The first of these alerts that asks to stop."""
        if self.settings.on_critical == "stop":
            for alert in alerts:
                if alert.severity == "critical" and alert.state == "firing":
                    return alert
        return self._outlet.acting.stop(alerts)

    def _overhead(self) -> dict[str, float]:
        """Share of the wall time since the last row that the training waited for these diagnostics, on this rank."""
        (then, before), now = self._measured, time.perf_counter()
        self._measured = (now, self.shield.seconds)
        return {"rldk/system/overhead_fraction": (self.shield.seconds - before) / (now - then)} if now > then else {}

    def release(self) -> None:
        """The next step begins: what was put off until then may be done beside it."""
        self._background.release()

    def later(self, work: Callable[[], None]) -> None:
        """Have something done beside the training, after the steps that are under way."""
        self._soon(work, wait=False)

    def table(self, key: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """A table for every tracker that shows tables (rank 0)."""
        self._outlet.fan_out.put("log_table", key, columns, rows, step)

    def figure(self, key: str, svg: str, step: int) -> None:
        """A picture for every tracker that shows pictures (rank 0)."""
        self._outlet.fan_out.put("log_figure", key, svg, step)

    def checkpoint(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int) -> None:
        """What a saved checkpoint was found to be, for every tracker that keeps models (rank 0)."""
        self._outlet.fan_out.put("log_checkpoint", name, dict(metrics), dict(params), step)

    # What is known of it. Reading waits for the steps that are under way.

    @property
    def latest(self) -> dict[str, float]:
        """The last row, key to value."""
        self._background.settle()
        return self._outlet.latest[1]

    @property
    def latest_step(self) -> int | None:
        """The last row's step; None before the first."""
        self._background.settle()
        return self._outlet.latest[0]

    @property
    def alerts(self) -> list[Alert]:
        """Every transition so far, in order."""
        self._background.settle()
        return list(self._alerts)

    def urls(self) -> dict[str, str]:
        """Addresses of the run's pages, by tracker."""
        return self._outlet.fan_out.urls()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on judging where this one is, as plain data."""
        self._background.settle()
        return self.engine.state() if self.engine is not None else {}

    def load_state(self, state: dict[str, Any], step: int | None = None) -> None:
        """Go on from another run's state, before the first step of this one.

        Args:
            state: of `state()`.
            step: the checkpoint's, where this run goes on in the other one's series.
        """
        self._resume, self._resumed_at = state or self._resume, step

    # Its end.

    def leave(self, monitor: Any, step: int) -> None:
        """Train end for one monitor; the last one closes the run."""
        self._monitors = [known for known in self._monitors if known is not monitor]
        if not self._monitors:
            self.close("stopped" if self.stop is not None else "finished", step)

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

    def close(self, status: str, step: int | None = None) -> None:
        """Have the monitors take out what they installed, judge what is under way, flush the trackers in time."""
        if self.closed:
            return
        monitors, self._monitors = self._monitors, []
        for monitor in monitors:
            with self.shield.at("the end of a training that was broken off"):
                monitor.end(self)
        self._ahead = None
        self._outlet.close(status, step)


def is_number(value: Any) -> bool:
    """Whether this can be a value of a row: a number, or a tensor of one real element."""
    if isinstance(value, (int, float)):
        return True
    return getattr(value, "numel", None) is not None and value.numel() == 1 and not value.is_complex()
