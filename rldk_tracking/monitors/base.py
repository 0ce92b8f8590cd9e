"""The one trainer callback: it finds the trainer, drives the run's probes and sets the flags that rules ask for.

A monitor is a transformers `TrainerCallback` and a choice of probes: a subclass overrides `make_probes`. Several
monitors in one trainer share one run. The first of them drives it, the others add their probes to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.presets import THRESHOLDS
from rldk_tracking.isolation import Shield
from rldk_tracking.journal.options import Options
from rldk_tracking.journal.settings import OnCritical
from rldk_tracking.messages.arguments import NamedArguments
from rldk_tracking.monitors.ending import close_before_reporters
from rldk_tracking.monitors.training import make_run, reference_to, run_of, say_late, trainer_above
from rldk_tracking.probes.base import Probe, StepData
from rldk_tracking.run import Run
from rldk_tracking.sources.logs import is_evaluation, named
from rldk_tracking.trackers.base import Tracker

if TYPE_CHECKING:
    from rldk_tracking.health.rule import Rule
    from rldk_tracking.rollout import PolicyUpdate, Rollout


class Monitor(NamedArguments, TrainerCallback, ExportableState):  # type: ignore[misc]
    """A callback that contributes to the training run's one row a step. Arguments also come by `journal.options`.

    Args:
        trackers: exactly these backends; by default those that the trainer's `report_to` names.
        rules: a preset, "safe", "strict" or "quiet", the path of a YAML file, or a list of `Rule`.
        overrides: changes to single rules, {"kl.high": {"threshold": 0.2}}.
        on_critical: "alert", or "stop" to save and stop the training at the first critical alert.
        slack: an incoming webhook's address or a `SlackNotifier`; by default RLDK_SLACK_WEBHOOK_URL where it is set.
        output_dir: a folder for the run's journal, JSON lines of everything that is logged; by default `_rldk` in the
            trainer's output folder.
        strict: let faults of the diagnostics out instead of logging them once, for development.
        trainer: the trainer, where it cannot be found from the callback event (it can, in every TRL trainer).

    Raises:
        ValueError, TypeError: an argument cannot be; the message says what to write instead.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        argument: f'overrides={{"{rule}": {{"threshold": ...}}}}' for argument, rule in THRESHOLDS.items()
    }

    def __init__(
        self,
        *,
        trackers: list[Tracker] | None = None,
        rules: str | os.PathLike[str] | list[Rule] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        on_critical: OnCritical | None = None,
        slack: Any = None,
        output_dir: str | os.PathLike[str] | None = None,
        strict: bool | None = None,
        trainer: Any = None,
    ) -> None:
        self._options = Options()
        self._settings = self._options.settings(
            trackers, rules, overrides, on_critical=on_critical, slack=slack, output_dir=output_dir, strict=strict
        )
        self._given_trainer = reference_to(trainer)
        self._run: Run | None = None
        self._drives = False
        self._probes: list[Probe] = []
        self._closed_step: int | None = None
        """The last step whose row is begun; None while no training has begun."""
        self._stopping_since: int | None = None

    def make_probes(self) -> Sequence[Probe]:
        """The probes of a training that begins."""
        return []

    @property
    def run(self) -> Run | None:
        """The run that this monitor joined, None before training began."""
        return self._run

    @property
    def alerts(self) -> list[Alert]:
        """Every alert of the run so far, with its end where it ended. On rank 0; other ranks judge nothing."""
        return [] if self._run is None else list(self._run.publisher.alerts)

    # Events of transformers.

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        before, self._run = self._run, None
        if before is not None:
            with before.shield.at("the end of a training that was broken off"):
                before.close("crashed")
        self._closed_step, self._stopping_since = int(state.global_step), None
        self._begun_at, self._logs_before_counting = int(state.global_step), False
        with Shield(self._settings.strict).at("on_train_begin"):
            trainer = self._given_trainer() or trainer_above()
            self._begin(trainer, args, state, control, kwargs.get("model"), kwargs.get("optimizer"))

    def _begin(self, trainer: Any, args: Any, state: Any, control: Any, model: Any, optimizer: Any) -> Run:
        made: list[Run] = []

        def make() -> Run:
            close_before_reporters(trainer, self)
            made.append(make_run(trainer, args, state, control, model, optimizer, self._settings))
            return made[0]

        self._run = run = run_of(trainer, make) if trainer is not None else make()
        self._drives = bool(made)
        run.adopt(self._settings)
        with run.shield.at("resuming"):
            self._go_on(run, state)
        self._probes = run.add_probes(self.make_probes())
        return run

    def share(self, run: Run) -> None:
        """Take part in a run that another monitor drives, with probes that it has begun already."""
        run.adopt(self._settings)
        self._run, self._probes = run, list(run.probes)

    def _driven(self) -> Run | None:
        """The run, where this monitor is the one that drives it and it is not over."""
        return self._run if self._drives and self._run is not None and not self._run.closed else None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = self._driven()
        if run is not None:
            with run.shield.at("on_step_begin"):
                run.before_step(int(state.global_step))
                run.beat("step", int(state.global_step))
                self._do_as_asked(run, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = self._driven()
        if run is None and self._closed_step is None:
            self._closed_step = -1
            say_late(type(self).__name__, type(trainer_above()).__name__)
        if run is None:
            return
        with run.shield.at("on_step_end"):
            # A step that is about to be logged is closed by on_log, so that its logs are in its row.
            if not control.should_log:
                self._close_step(run, int(state.global_step), state, control, {})
            if not run.probes.honours_stop:  # TRL's PPOTrainer, which says nothing at a step's beginning
                run.before_step(int(state.global_step))
                run.beat("sampling", int(state.global_step))
                self._do_as_asked(run, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        run = self._driven()
        if run is None or not logs or "train_runtime" in logs:
            return
        with run.shield.at("on_log"):
            # RLOO up to TRL 0.21, in a loop of its own, logs an update before it counts the step.
            self._logs_before_counting |= not run.probes.honours_stop and state.global_step == self._begun_at
            step = int(state.global_step) + self._logs_before_counting
            if is_evaluation(logs):
                # They come after the step's row.
                run.extra_row(step, logs)
            elif step == self._closed_step:
                # A callback of the user's logs after the trainer did, or a loss of the user's before the step is over.
                run.extra_row(step, logs, override=False)
            else:
                self._close_step(run, step, state, control, logs)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = self._driven()
        if run is not None:
            run.beat("evaluation", int(state.global_step))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = self._driven()
        if run is not None:
            with run.shield.at("on_save"):
                run.saved(int(state.global_step))
                if run.should_stop and not run.probes.honours_stop:
                    run.raise_stop(int(state.global_step))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = self._driven()
        if run is not None:
            with run.shield.at("on_train_end"):
                run.close("stopped" if run.should_stop else "finished", int(state.global_step))

    def _close_step(self, run: Run, step: int, state: Any, control: Any, logs: Mapping[str, Any]) -> None:
        if self._closed_step == step:
            return
        self._closed_step = step
        is_last = getattr(control, "should_training_stop", False) or 0 < getattr(state, "max_steps", 0) <= step
        run.finish(StepData(step, logs, is_last))
        run.beat("ending" if is_last else "between", step)
        self._do_as_asked(run, state, control)

    def _do_as_asked(self, run: Run, state: Any, control: Any) -> None:
        """Set the flags; a trainer that is still training two steps later ignores them and gets the exception."""
        if run.take_save():
            control.should_save = control.should_save or run.can_save
        if not run.should_stop:
            return
        if self._stopping_since is None:
            self._stopping_since = int(state.global_step)
            if not run.can_save:  # asking for a save would hide why the training ends
                run.raise_stop(int(state.global_step))
            control.should_save = True
            control.should_training_stop = True
        elif state.global_step > self._stopping_since + 1:
            run.raise_stop(int(state.global_step))

    # Resuming from a checkpoint.

    def state(self) -> dict[str, Any]:
        """For transformers: what a resumed run needs, stored in the checkpoint's trainer_state.json."""
        found: dict[str, Any] = {}
        run = self._run
        if run is not None:
            with run.shield.at("saving the state"):
                found = run.state()
        return {"args": {}, "attributes": {"resume": found}}

    def _go_on(self, run: Run, state: Any) -> None:
        """Take over the state of the checkpoint that the training goes on from, if it does."""
        stored = getattr(state, "stateful_callbacks", None)
        if not isinstance(stored, dict):
            return
        name = type(self).__name__
        found = stored.get(name)
        found = found[0] if isinstance(found, list) and found else found
        # transformers writes into this entry at every save. A checkpoint of a training without us has none, which
        # would be a KeyError; of two callbacks of one class it has a list, which would grow with every save.
        stored[name] = self.state()
        step = int(state.global_step)
        if step > 0:
            run.load_state(found["attributes"]["resume"] if isinstance(found, dict) else {}, step)

    @property
    def resume(self) -> dict[str, Any]:
        """Set by transformers under `restore_callback_states_from_checkpoint`, on a callback that it makes itself."""
        return {}

    @resume.setter
    def resume(self, found: dict[str, Any]) -> None:
        # It makes `type(callback)()` and puts it in the place of the one that the user made. That one's trackers and
        # settings must not be lost, and whoever holds it wants to see the run: from here on the two are one.
        # The state is taken over at train begin, as without that option.
        handler = getattr(trainer_above(), "callback_handler", None)
        for known in getattr(handler, "callbacks", ()):
            if type(known) is type(self) and known is not self:
                self.__dict__ = known.__dict__
                return

    # A loop of the user's own.

    def observe(
        self,
        rollout: Rollout | None = None,
        *,
        step: int,
        update: PolicyUpdate | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Hand over a step of a training loop that is not a transformers Trainer.

        Args:
            rollout: what was sampled.
            step: the optimiser step, counted from 1.
            update: what the optimiser step saw.
            metrics: further numbers of the step, under their `rldk/...` keys or a trainer's log keys.

        Returns:
            The step's row, key to value; empty on other ranks than 0.
        """
        run = self._run
        if run is None or run.closed:
            run = self._begin(None, None, None, None, None, None)
        with run.shield.at("observe"):
            data = StepData(step, metrics or {}, rollout=rollout, update=update)
            data.add(named(metrics or {}))
            run.finish(data)
            run.complete()
        if run.should_stop:
            run.raise_stop(step)
        return run.latest if run.latest_step == step else {}

    def close(self) -> None:
        """Close the run of a training loop of the user's own. A transformers Trainer does this at train end."""
        if self._run is not None:
            self._run.close("finished")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
