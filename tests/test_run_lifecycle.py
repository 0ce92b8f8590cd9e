"""How a run begins and ends, what it keeps alive, and what several monitors ask of it together."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.journal.settings import Settings
from rldk_tracking.monitors import training as monitors_training
from rldk_tracking.probes.base import Training
from rldk_tracking.rollout import RunInfo
from rldk_tracking.run import Run
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.test_run import LOSS, NAN, Counting, Rows, run_of, step_of


class Trainer:
    """Stands for a trainer as a key, nothing else."""


def test_a_run_that_never_began_leaves_nothing() -> None:
    run, tracker = run_of()
    run.close("finished")
    run.close("crashed")
    assert run.closed and tracker.statuses == [] and run.latest_step is None


def test_closing_twice_is_closing_once() -> None:
    run, tracker = run_of()
    probe = Counting()
    run.add_probes([probe])
    run.finish(step_of(1))
    run.close("stopped", 3)
    run.close("finished", 4)
    assert [status for status in tracker.statuses if status[1] != "running"] == [(3, "stopped")]
    assert probe.calls.count("end") == 1


def test_a_training_that_was_broken_off_gets_no_last_row() -> None:
    """What is known only at the end is said of a whole training."""
    run, tracker = run_of()
    run.add_probes([Counting()])
    run.finish(step_of(1))
    run.close("crashed")
    assert len(tracker.rows) == 1 and tracker.statuses[-1] == (1, "crashed")


def test_the_trackers_are_looked_for_when_every_monitor_has_joined(tmp_path: Path) -> None:
    found: list[str] = []
    tracker = Rows()
    settings = Settings(output_dir=str(tmp_path))
    run = Run(settings, RunInfo(name="late"), None, lambda: (found.append("asked"), [tracker])[1])
    assert found == []
    run.adopt(Settings(overrides={"nan.weights": {"enabled": False}}))
    run.finish(step_of(1, {NAN: 1.0}))
    run.finish(step_of(2))
    assert found == ["asked"] and tracker.series[NAN] == [(1, 1.0)] and tracker.alerts == []
    run.close("finished")


def test_trackers_that_were_named_are_not_looked_for() -> None:
    tracker = Rows()
    run = Run(Settings(trackers=[tracker]), find_trackers=lambda: [][0])
    run.finish(step_of(1))
    assert tracker.series[LOSS] == [(1, 1.0)]
    run.close("finished")


def test_faults_are_to_be_seen_where_any_monitor_wants_that() -> None:
    run, _ = run_of()
    run.adopt(Settings(strict=True))
    run.add_probes([Counting()])
    next(iter(run.probes)).fails_in = "collect"  # type: ignore[attr-defined]
    with pytest.raises(LookupError):
        run.finish(step_of(1))
    run.close("crashed")


def test_a_trainer_that_trains_twice_has_two_runs() -> None:
    trainer, tracker = Trainer(), Rows()

    def make() -> Run:
        return Run(Settings(trackers=[tracker]))

    first = monitors_training.run_of(trainer, make)
    assert monitors_training.run_of(trainer, make) is first, "before its first event another monitor may join"
    first.before_step(0)
    second = monitors_training.run_of(trainer, make)
    assert second is not first and first.closed, "an exception had ended it"
    second.before_step(0)
    del second
    gc.collect()
    third = monitors_training.run_of(trainer, make)
    assert [status for _, status in tracker.statuses] == ["running", "crashed", "running", "crashed"]
    third.close("finished")
    assert monitors_training.run_of(trainer, make) is not third
    assert monitors_training.run_of(Trainer(), make) is not monitors_training.run_of(trainer, make)


@pytest.mark.parametrize("ends", [True, False])
def test_nothing_here_keeps_a_trainer(ends: bool, tmp_path: Path) -> None:
    tracker = Rows()

    def train() -> tuple[weakref.ref[Trainer], Run | None]:
        trainer = Trainer()
        training, settings = Training(trainer, trainer, trainer), Settings(output_dir=str(tmp_path))
        find = lambda: [tracker] if trainer is training.trainer else []  # noqa: E731
        run = monitors_training.run_of(trainer, lambda: Run(settings, None, training, find))
        run.add_probes([Counting()])
        run.finish(step_of(1))
        if ends:
            run.close("finished")
        return weakref.ref(trainer), run if ends else None

    alive, run = train()
    gc.collect()
    assert alive() is None
    assert run is None or run.latest_step == 1, "who looks at the alerts afterwards keeps the run"


def test_a_training_starts_no_thread_and_changes_nothing_of_the_interpreter(tmp_path: Path) -> None:
    intervals, threads = set(), set[str]()

    class Look(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            intervals.add(sys.getswitchinterval())
            threads.update(thread.name for thread in threading.enumerate())

        on_log = on_step_begin = on_pre_optimizer_step = on_step_end

    before = sys.getswitchinterval()
    started: list[str] = []
    original = threading.Thread.start

    def start(self: threading.Thread) -> None:
        started.append(self.name)
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        callback = RLDKCallback(trackers=[InMemoryTracker()], strict=True)
        grpo_trainer(tmp_path, max_steps=3, callbacks=[Look(), callback, Look()]).train()
    assert callback.metrics.step == 3
    assert [name for name in {*started, *threads} if name.startswith("rldk")] == []
    assert intervals == {before} and sys.getswitchinterval() == before


# What monitors ask for.


def test_trackers_are_added_and_none_twice() -> None:
    one, two = InMemoryTracker(), InMemoryTracker()
    settings = Settings(trackers=[one])
    settings.adopt(Settings(trackers=[one, two]))
    settings.adopt(settings)
    assert settings.trackers == [one, two]


def test_no_wish_for_trackers_leaves_those_of_report_to() -> None:
    settings = Settings()
    settings.adopt(Settings())
    assert settings.trackers is None
    settings.adopt(Settings(trackers=[]))
    assert settings.trackers == []


def test_of_two_choices_the_severer_holds() -> None:
    settings = Settings()
    settings.adopt(
        Settings(on_critical="stop", strict=True, rules="strict", output_dir="a", goals={"min_entropy": 1.0})
    )
    settings.adopt(Settings(output_dir="b", rules="quiet", goals={"max_clip_fraction": 0.5}))
    assert (settings.on_critical, settings.strict, settings.rules) == ("stop", True, "strict")
    assert settings.output_dir == "a" and settings.goals == {"min_entropy": 1.0, "max_clip_fraction": 0.5}


def test_overrides_of_one_rule_are_joined() -> None:
    settings = Settings(overrides={"kl.high": {"threshold": 0.1}})
    settings.adopt(Settings(overrides={"kl.high": {"cooldown_steps": 5}, "lr.zero": {"enabled": False}}))
    assert settings.overrides == {
        "kl.high": {"threshold": 0.1, "cooldown_steps": 5},
        "lr.zero": {"enabled": False},
    }
    assert {rule.id for rule in settings.all_rules()} >= {"kl.high"} and "lr.zero" not in {
        rule.id for rule in settings.all_rules()
    }
