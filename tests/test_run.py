"""One run, its steps, its probes and its rules; see test_run_lifecycle.py and test_run_ranks.py for the rest."""

from __future__ import annotations

import gc
import json
import logging
import time
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from rldk_tracking.journal.settings import Settings
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.ranks import Merged
from rldk_tracking.rollout import Rollout
from rldk_tracking.run import Run
from rldk_tracking.trackers.memory import InMemoryTracker

LOSS, NORM, LENGTH, NAN = "rldk/train/loss", "rldk/grad/norm", "rldk/length/mean", "rldk/nan/weights"


class Rows(InMemoryTracker):
    """Keeps the rows as they came too."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append((step, dict(metrics)))
        super().log(metrics, step)


def run_of(training: Training | None = None, **settings: Any) -> tuple[Run, Rows]:
    tracker = Rows()
    return Run(Settings(trackers=[tracker], **settings), training=training), tracker


def step_of(step: int, scalars: Mapping[str, Any] | None = None, **fields: Any) -> StepData:
    data = StepData(step, **fields)
    data.add({LOSS: float(step)} if scalars is None else scalars)
    return data


OWN = ("rldk/health/", "rldk/alerts/", "rldk/system/")


def measured(row: Mapping[str, float]) -> dict[str, float]:
    """A row without what is said of it once a step."""
    return {key: value for key, value in row.items() if not key.startswith(OWN)}


# A step.


def test_one_row_a_step_in_order() -> None:
    run, tracker = run_of(strict=True)
    for step in (1, 2, 3):
        run.finish(step_of(step, {LOSS: 0.5 * step, NORM: torch.tensor(2.0)}))
        assert run.latest_step == step
        assert run.latest.items() >= {LOSS: 0.5 * step, NORM: 2.0}.items()
    run.close("finished")
    assert [step for step, _ in tracker.rows] == [1, 2, 3]
    assert tracker.series[LOSS] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert tracker.rows[0][1]["rldk/alerts/firing"] == 0.0 and "rldk/health/score" in tracker.rows[2][1]


def test_a_rollout_is_reduced_and_wins_over_what_was_logged() -> None:
    run, _ = run_of(strict=True)
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0])
    alive = weakref.ref(scores)
    rollout = Rollout(mask=torch.ones(4, 2, dtype=torch.bool), scores=scores)
    run.finish(step_of(1, {"rldk/reward/mean": 99.0}, rollout=rollout))
    assert (run.latest["rldk/reward/mean"], run.latest["rldk/reward/max"], run.latest[LENGTH]) == (3.0, 6.0, 2.0)
    del scores, rollout
    gc.collect()
    assert alive() is None, "nothing of a rollout is kept after its step"
    run.close("finished")


def test_a_step_with_nothing_in_it_makes_no_row() -> None:
    run, tracker = run_of(strict=True)
    run.finish(step_of(1, {}))
    run.extra_row(1, {})
    run.finish(step_of(2, {LOSS: float("nan")}))
    assert tracker.rows[0][1].keys() >= {"rldk/system/overhead_fraction"}
    assert len(tracker.rows) == 1 and LOSS not in tracker.series
    run.close("finished")


def test_the_share_of_the_time_that_the_training_waited_is_in_the_row() -> None:
    run, tracker = run_of()
    run.finish(step_of(1))
    with run.shield.at("an event"):
        time.sleep(0.03)
    time.sleep(0.03)
    run.finish(step_of(2))
    time.sleep(0.03)
    run.finish(step_of(3))
    (_, first), (_, second), (_, third) = tracker.series["rldk/system/overhead_fraction"]
    assert 0 <= first < 1
    assert 0.3 < second < 0.7 and third < 0.2, "each since the row before"
    run.close("finished")


def test_limits_of_the_users_own_are_series() -> None:
    run, _ = run_of(overrides={"kl.high": {"threshold": 0.25}}, goals={"max_gradient_norm": 3.0})
    run.finish(step_of(1))
    assert run.latest.items() >= {"rldk/kl/limit": 0.25, "rldk/grad/limit": 3.0}.items()
    run.close("finished")


def test_what_comes_after_a_steps_row_adds_to_it_and_repeats_nothing() -> None:
    run, tracker = run_of(strict=True)
    run.finish(step_of(5, {LOSS: 1.0, NAN: 0.0}))
    run.extra_row(5, {"rldk/eval/loss": 2.0})
    run.extra_row(5, {NAN: 3.0})
    run.extra_row(5, {LOSS: 9.0, NORM: 4.0}, override=False)
    later = [(step, measured(row)) for step, row in tracker.rows[1:]]
    assert later == [(5, {"rldk/eval/loss": 2.0}), (5, {NAN: 3.0}), (5, {NORM: 4.0})]
    said = [key for key, points in tracker.series.items() if key.startswith(OWN) and len(points) > 1]
    assert said == [] and "rldk/health/nan" in tracker.series
    assert run.latest.items() >= {LOSS: 1.0, NORM: 4.0, NAN: 3.0, "rldk/eval/loss": 2.0}.items()
    assert run.latest["rldk/alerts/firing"] == 1.0, "judged all the same"
    run.finish(step_of(6, {LOSS: 0.5}))
    assert "rldk/eval/loss" not in run.latest and "rldk/health/score" in tracker.rows[-1][1]
    run.extra_row(7, {LOSS: 0.25}, override=False)
    assert run.latest[LOSS] == 0.25, "the row before was another step's"
    run.close("finished")


def test_what_a_probe_reports_within_a_step_is_written_at_once() -> None:
    run, tracker = run_of(strict=True)
    run.training.report({NORM: 1.0})
    run.finish(step_of(5))
    run.training.report({NORM: 4.0})
    run._pending = (6, None)  # type: ignore[assignment]  # as where a device still computes
    run.training.report({NORM: 9.0})
    assert [(step, measured(row)) for step, row in tracker.rows[1:]] == [(5, {NORM: 4.0})]
    run._pending = None
    run.close("finished")


# Probes.


class Counting(Probe):
    """Adds numbers at every point at which a probe may."""

    fails_in = ""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_in:
            raise LookupError(name)

    def begin(self, training: Training) -> None:
        self.call("begin")

    def before_step(self, step: int) -> Mapping[str, float]:
        self.call("before_step")
        return {}

    def collect(self, data: StepData) -> None:
        data.add({NORM: 1.0})
        self.call("collect")

    def derive(self, step: int, row: Mapping[str, float], merged: Merged) -> Mapping[str, float]:
        self.call("derive")
        return {"rldk/update/learning_rate": row[NORM] + step, "rldk/weight/norm": float("inf")}

    def saved(self, step: int) -> None:
        self.call("saved")

    def end(self) -> Mapping[str, float]:
        self.call("end")
        return {"rldk/checkpoint/score": 0.5}


class Other(Counting):
    """Another type, whose numbers follow from those of the one before."""

    def before_step(self, step: int) -> Mapping[str, float]:
        self.call("before_step")
        return {NAN: 1.0} if step == 2 else {}

    def collect(self, data: StepData) -> None:
        self.call("collect")
        data.add({LENGTH: 2.0 * float(data.scalars[NORM])})

    def derive(self, step: int, row: Mapping[str, float], merged: Merged) -> Mapping[str, float]:
        self.call("derive")
        return {"rldk/policy/entropy": 10.0 * row.get("rldk/update/learning_rate", 0.5)}

    def end(self) -> Mapping[str, float]:
        self.call("end")
        return {"rldk/checkpoint/drift": 0.25}


def test_probes_see_the_numbers_of_those_before_them() -> None:
    run, tracker = run_of(strict=True)
    one, two = Counting(), Other()
    assert run.add_probes([one, two]) == [one, two]
    run.before_step(0)
    run.finish(step_of(1))
    run.saved(1)
    expected = {LOSS: 1.0, NORM: 1.0, LENGTH: 2.0, "rldk/update/learning_rate": 2.0, "rldk/policy/entropy": 20.0}
    assert run.latest.items() >= expected.items() and "rldk/weight/norm" not in run.latest
    run.close("finished")
    assert one.calls == two.calls == ["begin", "before_step", "collect", "derive", "saved", "end"]
    step, last = tracker.rows[-1]
    assert (step, measured(last)) == (1, {"rldk/checkpoint/score": 0.5, "rldk/checkpoint/drift": 0.25})


class Slow(Probe):
    """Knows of a step two steps later, and of the last ones at the end."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def collect(self, data: StepData) -> None:
        self.seen.append(data.step)

    def late_rows(self) -> Mapping[int, Mapping[str, float]]:
        known, self.seen = self.seen[:-2], self.seen[-2:]
        return {step: {"rldk/checkpoint/step": float(step)} for step in known}

    def end(self) -> Mapping[str, float]:
        self.seen += [0, 0]
        return {NORM: 7.0}


def test_what_is_known_late_has_the_row_of_its_step() -> None:
    run, tracker = run_of(strict=True)
    run.add_probes([Slow()])
    for step in range(1, 6):
        run.finish(step_of(step))
    run.close("finished")
    assert tracker.series["rldk/checkpoint/step"] == [(step, float(step)) for step in range(1, 6)]
    assert tracker.series[NORM] == [(5, 7.0)]
    assert run.latest_step == 5 and run.latest.items() >= {LOSS: 5.0, NORM: 7.0}.items()
    scores = [step for step, row in tracker.rows if "rldk/health/score" in row or "rldk/alerts/firing" in row]
    assert len(scores) == len(set(scores)), "once a step"


class Remembering(Probe):
    def __init__(self) -> None:
        self.steps: list[int] = []

    def collect(self, data: StepData) -> None:
        self.steps.append(data.step)

    def state(self) -> Mapping[str, Any]:
        return {"steps": self.steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.steps = list(state["steps"])


def test_a_resumed_runs_probes_go_on_from_their_state() -> None:
    first, _ = run_of(strict=True)
    first.add_probes([Remembering()])
    first.finish(step_of(1))
    stored = json.loads(json.dumps(first.state()))
    second, _ = run_of(strict=True)
    (probe,) = second.add_probes([Remembering()])
    second.load_state(stored, 1)
    second.before_step(1)
    second.finish(step_of(2))
    assert isinstance(probe, Remembering) and probe.steps == [1, 2]
    first.close("finished")
    second.close("finished")


def test_of_each_type_one_probe_looks() -> None:
    run, _ = run_of(strict=True)
    first, second, other = Counting(), Counting(), Other()
    assert run.add_probes([first]) == [first]
    assert run.add_probes([other, second]) == [other, first]
    assert list(run.probes) == [first, other] and second.calls == []
    run.close("finished")


@pytest.mark.parametrize("place", ["begin", "before_step", "collect", "derive", "saved", "end"])
def test_a_fault_costs_that_probe_alone_and_is_logged_once(place: str, caplog: pytest.LogCaptureFixture) -> None:
    run, tracker = run_of()
    broken, whole = Counting(), Other()
    broken.fails_in = place
    with caplog.at_level(logging.ERROR):
        run.add_probes([broken, whole])
        for step in (1, 2, 3):
            run.before_step(step - 1)
            run.finish(step_of(step))
            run.saved(step)
        run.close("finished")
    assert [step for step, _ in tracker.series[LOSS]] == [1, 2, 3]
    assert [value for _, value in tracker.series[LENGTH]] == [2.0, 2.0, 2.0]
    assert len(tracker.series["rldk/policy/entropy"]) >= 3
    assert tracker.series["rldk/checkpoint/drift"] == [(3, 0.25)]
    assert ("rldk/checkpoint/score" in tracker.series) == (place != "end")
    assert ("rldk/update/learning_rate" in tracker.series) == (place != "derive")
    faults = [record for record in caplog.records if "Counting" in record.getMessage()]
    assert len(faults) == 1 and faults[0].exc_info is not None


def test_what_cannot_wait_is_judged_before_the_step() -> None:
    run, tracker = run_of(strict=True, on_critical="stop")
    run.add_probes([Counting(), Other()])
    for step in (1, 2):
        run.before_step(step - 1)
        run.finish(step_of(step))
    assert not run.should_stop
    run.before_step(2)
    assert [(alert.rule, alert.step) for alert in tracker.alerts] == [("nan.weights", 2)]
    assert tracker.series[NAN] == [(2, 1.0)] and run.should_stop
    assert [step for step, _ in tracker.rows] == [1, 2, 2], "at once"
    run.close("stopped")
