"""What all monitors share: finding the trainer, joining its run, closing a step once, and the shield around events.

A monitor is a transformers `TrainerCallback`. A subclass says what it looks at by overriding `begin`, `before_step`,
`collect`, `saved` and `end`; the callback events themselves live here only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rldk_tracking.health.alert import Alert
from rldk_tracking.isolation import Shield
from rldk_tracking.monitors.training import prepare, run_info, trainer_above
from rldk_tracking.run import Run
from rldk_tracking.settings import OnCritical, Settings
from rldk_tracking.trackers.base import Tracker

if TYPE_CHECKING:
    from rldk_tracking.health.rules import Rule
    from rldk_tracking.rollout import PolicyUpdate, Rollout


class Monitor(TrainerCallback, ExportableState):  # type: ignore[misc]
    """A callback that contributes to the training run's one row a step.

    Args:
        trackers: exactly these backends; by default those that the trainer's `report_to` names.
        rules: a preset, "safe", "strict" or "quiet", or a list of `Rule`.
        overrides: changes to single rules, {"kl.high": {"threshold": 0.2}}.
        on_critical: "alert", or "stop" to save and stop the training at the first critical alert.
        slack: an incoming webhook's address or a `SlackNotifier`; by default RLDK_SLACK_WEBHOOK_URL where it is set.
        output_dir: a folder for a JSON-lines copy of everything that is logged.
        strict: let faults of the diagnostics out instead of logging them once, for development.
        trainer: the trainer, where it cannot be found from the callback event (it can, in every TRL trainer).
    """

    tasks: ClassVar[tuple[str, ...]] = ()
    """What this monitor measures. A task is done by the first monitor of a run that claims it."""

    def __init__(
        self,
        *,
        trackers: list[Tracker] | None = None,
        rules: str | list[Rule] = "safe",
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        on_critical: OnCritical = "alert",
        slack: Any = None,
        output_dir: str | None = None,
        strict: bool = False,
        trainer: Any = None,
    ) -> None:
        if on_critical not in ("alert", "stop"):
            raise ValueError(f'on_critical must be "alert" or "stop", got {on_critical!r}.')
        self._settings = Settings(
            trackers=None if trackers is None else list(trackers),
            rules=rules,
            overrides={rule: dict(fields) for rule, fields in (overrides or {}).items()},
            on_critical=on_critical,
            slack=slack,
            output_dir=output_dir,
            strict=strict,
        )
        self._given_trainer = trainer
        self._run: Run | None = None
        self._closed_step = -1
        self._stopping_since: int | None = None
        self._check_configuration()

    def _check_configuration(self) -> None:
        """Raise now, not in training, for rules and webhooks that cannot be."""
        from rldk_tracking.health.presets import rules_for
        from rldk_tracking.journal.actions import Acting
        from rldk_tracking.trackers.slack import SlackNotifier

        Acting(rules_for(self._settings.rules, self._settings.overrides))
        if isinstance(self._settings.slack, str):
            self._settings.slack = SlackNotifier(self._settings.slack)

    @property
    def run(self) -> Run | None:
        """The run that this monitor joined, None before training began."""
        return self._run

    @property
    def alerts(self) -> list[Alert]:
        """Every alert of the run so far, with its end where it ended."""
        return [] if self._run is None else self._run.alerts

    def begin_within(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        """Begin as a part of another monitor, which passes the events on."""
        self._run = run
        run.adopt(self._settings)
        self.begin(run, trainer, args, model, optimizer)

    # What a subclass says.

    def begin(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        """Training begins: install what is needed to look."""

    def before_step(self, run: Run, step: int) -> None:
        """A transformers Trainer is about to make the step after `step`; TRL's PPOTrainer never says so."""

    def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
        """A step is over: hand to the run what was seen of it. `logs` is empty where the step was not logged."""

    def saved(self, run: Run, step: int, args: Any, model: Any) -> None:
        """A checkpoint was written."""

    def end(self, run: Run) -> None:
        """Training is over: take out what was installed."""

    # Events of transformers.

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run, before = None, self._run
        if before is not None and not before.closed:
            with before.shield.at("the end of a training that was broken off"):
                self.end(before)
        self._closed_step, self._stopping_since = -1, None
        with Shield(self._settings.strict).at("on_train_begin"):
            trainer = self._given_trainer if self._given_trainer is not None else trainer_above()
            info = run_info(trainer, args, state, control)
            run = Run.of(trainer, self._settings, info) if trainer is not None else Run(self._settings, info)
        self._run = run
        if self._run is None:
            return
        with self._run.shield.at("resuming"):
            self._go_on(self._run, state)
        with self._run.shield.at("on_train_begin"):
            self._run.join(self, self._settings)
            prepare(self._run, trainer, args)
            self.begin(self._run, trainer, args, kwargs.get("model"), kwargs.get("optimizer"))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._run is None or self._run.closed:
            return
        with self._run.shield.at("on_step_begin"):
            self._run.open()
            self.before_step(self._run, state.global_step)
            self._do_as_asked(state, control)
        self._run.release()  # the last thing, since what it sets free wants the interpreter too

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A step that is about to be logged is closed by on_log, so that its logs are in its row.
        run = self._run
        if run is None or run.closed:
            return
        if not control.should_log:
            self._close_step(state, control, {})
        if not run.honours_stop:  # TRL's PPOTrainer, which tells of no step's beginning
            with run.shield.at("on_step_end"):
                self.before_step(run, state.global_step)
                self._do_as_asked(state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        run = self._run
        if run is None or run.closed or not logs or "train_runtime" in logs:
            return
        with run.shield.at("on_log"):
            if all(str(key).startswith(("eval_", "test_")) for key in logs if key != "epoch"):
                run.eval_logs(logs)
            else:
                self._close_step(state, control, logs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._run is None or self._run.closed:
            return
        with self._run.shield.at("on_save"):
            self.saved(self._run, state.global_step, args, kwargs.get("model"))
            if self._run.stop is not None and not self._run.honours_stop:
                self._run.raise_stop()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._run is None:
            return
        with self._run.shield.at("on_train_end"):
            self.end(self._run)
            self._run.leave(self, state.global_step)

    def _close_step(self, state: Any, control: Any, logs: Mapping[str, Any]) -> None:
        run, step = self._run, int(state.global_step)
        if run is None or run.closed or self._closed_step == step:
            return
        self._closed_step = step
        run.has_waited = bool(logs)
        run.ending = getattr(control, "should_training_stop", False) or 0 < getattr(state, "max_steps", 0) <= step
        with run.shield.at("a step's diagnostics"):
            try:
                self.collect(run, step, logs)
            finally:
                run.reported(self, step)
            self._do_as_asked(state, control)

    def _do_as_asked(self, state: Any, control: Any) -> None:
        """Set the flags; a trainer that is still training two steps later ignores them and gets the exception."""
        run = self._run
        if run is None:
            return
        if run.save:
            run.save = False
            control.should_save = control.should_save or run.can_save
        if run.stop is None:
            return
        if self._stopping_since is None:
            self._stopping_since = int(state.global_step)
            if not run.can_save:  # asking for a save would hide why the training ends
                run.raise_stop()
            control.should_save = True
            control.should_training_stop = True
        elif state.global_step > self._stopping_since + 1:
            run.raise_stop()

    # Resuming from a checkpoint.

    def state(self) -> dict[str, Any]:
        """For transformers: what a resumed run needs, stored in the checkpoint's trainer_state.json."""
        held: dict[str, Any] = {}
        run = self._run
        if run is not None:
            with run.shield.at("saving the state"):
                held = run.state()
        return {"args": {}, "attributes": {"resume": held}}

    def _go_on(self, run: Run, state: Any) -> None:
        """Take over the state of the checkpoint that the training goes on from, if it does."""
        stored = getattr(state, "stateful_callbacks", None)
        if not isinstance(stored, dict):
            return
        name = type(self).__name__
        held = stored.get(name)
        held = held[0] if isinstance(held, list) and held else held
        # transformers writes into this entry at every save. A checkpoint of a training without us has none, which
        # would be a KeyError; of two callbacks of one class it has a list, which would grow with every save.
        stored[name] = self.state()
        step = int(state.global_step)
        if step > 0:
            run.load_state(held["attributes"]["resume"] if isinstance(held, dict) else {}, step)

    @property
    def resume(self) -> dict[str, Any]:
        """Set by transformers under `restore_callback_states_from_checkpoint`, on a callback that it makes itself."""
        return {}

    @resume.setter
    def resume(self, held: dict[str, Any]) -> None:
        # It makes `type(callback)()` and puts it in the place of the one that the user made. That one's trackers and
        # settings must not be lost, and whoever holds it wants to see the run: from here on the two are one.
        # What is held is taken over at train begin, as without that option.
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
            The step's row, key to value.
        """
        if self._run is None or self._run.closed:
            self._run = Run(self._settings)
            self._run.join(self, self._settings)
            prepare(self._run, None, None)
        run, row = self._run, {}
        with run.shield.at("observe"):
            run.observe(rollout, update)
            if metrics:
                run.add_logs(metrics)
            self.collect(run, step, {})
            run.finish(step, wait=True)
            row = run.latest
        if run.stop is not None:
            run.raise_stop()
        return row

    def close(self) -> None:
        """Flush the trackers of a training loop of the user's own. A transformers Trainer does this at train end."""
        if self._run is not None:
            self._run.close("finished")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
