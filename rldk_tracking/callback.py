"""The one line that enables everything: `callbacks=[RLDKCallback()]`, `attach(trainer)`, `report_to=[..., "rldk"]`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from rldk_tracking.health.goals import rules_of
from rldk_tracking.journal.settings import OnCritical
from rldk_tracking.messages.arguments import flag, listed, number, shown, word
from rldk_tracking.messages.packages import MONITORS, extensions, leave_out, tried
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.monitors.view import Snapshot, of
from rldk_tracking.probes.base import Probe
from rldk_tracking.probes.checkpoints import CheckpointProbe
from rldk_tracking.probes.gold import GoldProbe, GoldScore
from rldk_tracking.probes.optimizer import OptimizerProbe
from rldk_tracking.probes.preference import PreferenceProbe
from rldk_tracking.probes.rollouts import RolloutProbe
from rldk_tracking.probes.steps import ResourceProbe
from rldk_tracking.run import Run
from rldk_tracking.trackers.base import Tracker

if TYPE_CHECKING:
    from rldk_tracking.health.rule import Rule

logger = logging.getLogger(__name__)

Level = Literal["light", "standard", "full"]


@dataclass(frozen=True, slots=True)
class RLDKMetrics(Snapshot):
    """The latest values of a run, whatever the trainer; units and formulas stand in the key catalogue.

    Examples:
        >>> from rldk_tracking import RLDKMetrics
        >>> metrics = RLDKMetrics.from_row(7, {"rldk/reward/mean": 0.5})
        >>> metrics.step, metrics.reward_mean
        (7, 0.5)
    """

    loss: float | None = of("rldk/train/loss")
    learning_rate: float | None = of("rldk/update/learning_rate")
    grad_norm: float | None = of("rldk/grad/norm")
    reward_mean: float | None = of("rldk/reward/mean")
    reward_std: float | None = of("rldk/reward/std")
    kl_mean: float | None = of("rldk/kl/ref_k1")
    entropy_mean: float | None = of("rldk/policy/entropy")
    clip_fraction: float | None = of("rldk/policy/clip_fraction")
    value_explained_variance: float | None = of("rldk/value/explained_variance")
    length_mean: float | None = of("rldk/length/mean")
    truncated_fraction: float | None = of("rldk/length/truncated_fraction")
    group_tied_fraction: float | None = of("rldk/reward/group_tied_fraction")
    gpu_memory_gib: float | None = of("rldk/resources/gpu_memory_gib")
    host_rss_gib: float | None = of("rldk/resources/host_rss_gib")
    health_score: float | None = of("rldk/health/score")
    training_stability: float | None = of("rldk/health/stability")
    alerts_firing: float | None = of("rldk/alerts/firing")


class RLDKCallback(Monitor):
    """All diagnostics that fit the trainer, in one callback.

    What is left out is taken from the environment, as RLDK_RULES, or from a file `rldk.yaml` beside the script.

    Series are named `rldk/<group>/<name>`. `rldk-tracking keys [group]` says unit, meaning and formula of each.

    | groups | of what |
    |---|---|
    | reward, advantage, value | what completions are worth: scores, what the loss weighs with, the critic |
    | kl, policy, sampler | the policy: far from its reference, from the one that sampled, from the engine that did |
    | async | sampling beside training: how old completions are, who waits for whom |
    | length, diversity, tools | the completions themselves, and the tools that they call |
    | preference, train, eval | what the trainer logs of itself |
    | grad, update, weight, lr, nan | optimization, from gradients to what a change of the learning rate did |
    | checkpoint, memory | what is saved, and what the training holds |
    | resources, throughput | the machine |
    | health, alerts, run, system | what the rules say, and these diagnostics themselves |

    Args:
        trackers: exactly these backends; by default those that the trainer's `report_to` names.
        monitors: exactly these monitors instead of all that fit.
        rules: a preset, "safe" (the default), "strict" or "quiet", the path of a YAML file, or a list of `Rule`.
        overrides: changes to single rules, {"kl.high": {"threshold": 0.2}}.
        on_critical: "alert" (the default), or "stop" to save and stop the training at the first critical alert.
        slack: an incoming webhook's address or a `SlackNotifier`; by default RLDK_SLACK_WEBHOOK_URL where it is set.
        level: what the optimizer's diagnostics may cost, "light", "standard" (the default) or "full".
        log_samples: log the best and worst completions of a step as a table. Off, so that texts stay where they are.
        gold_score_fn: a held-out judge of completions, `f(prompts, completions) -> scores`, against reward hacking.
        output_dir: a folder for the run's journal, JSON lines of everything that is logged.
        charts: numbers to draw that the trainer logs under names of its own, ["tools/failure_frequency"].
        performance_benchmarks: goals such as {"target_reward": 1.0, "max_kl_divergence": 0.1}, see `health.goals`.
        max_overhead: the share of the training's time that `gold_score_fn` may take, 0.02; it is asked less often.
        strict: let faults of the diagnostics out instead of logging them once, for development.
        trainer: the trainer, where it cannot be found from the callback event (it can, in every TRL trainer).

    Raises:
        ValueError, TypeError: an argument cannot be; the message says what to write instead.

    Examples:
        >>> import torch
        >>> from rldk_tracking import InMemoryTracker, RLDKCallback, Rollout
        >>> memory = InMemoryTracker()
        >>> with RLDKCallback(trackers=[memory]) as callback:  # in a trainer: callbacks=[RLDKCallback()]
        ...     _ = callback.observe(Rollout(mask=torch.ones(4, 8), scores=torch.arange(4.0)), step=1)
        >>> memory.series["rldk/reward/mean"]
        [(1, 1.5)]
    """

    makes_way = False
    """Whether `rldk-tracking run` made it: one that the user gives takes its place."""

    def __init__(
        self,
        *,
        trackers: list[Tracker] | None = None,
        monitors: Sequence[Monitor] | None = None,
        rules: str | os.PathLike[str] | list[Rule] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        on_critical: OnCritical | None = None,
        slack: Any = None,
        level: Level | None = None,
        log_samples: bool | None = None,
        gold_score_fn: GoldScore | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        charts: Sequence[str] | None = None,
        performance_benchmarks: Mapping[str, float] | None = None,
        max_overhead: float | None = None,
        strict: bool | None = None,
        trainer: Any = None,
    ) -> None:
        super().__init__(
            trackers=trackers,
            rules=rules,
            overrides=overrides,
            on_critical=on_critical,
            slack=slack,
            output_dir=output_dir,
            strict=strict,
            trainer=trainer,
        )
        pick = self._options.pick
        level, log_samples = pick("level", level), pick("log_samples", log_samples)
        performance_benchmarks = pick("performance_benchmarks", performance_benchmarks)
        word("level", level, get_args(Level))
        max_overhead = number("max_overhead", pick("max_overhead", max_overhead), above=0, high=1)
        self._settings.charts = listed("charts", pick("charts", charts), str, '["tools/failure_frequency"]')
        if performance_benchmarks is not None:
            rules_of(performance_benchmarks)
            self._settings.goals = dict(performance_benchmarks)
        self.monitors = None if monitors is None else listed("monitors", monitors, Monitor, "[PPOMonitor()]")
        if self.monitors is not None and (level == "full" or log_samples):
            logger.warning("rldk: level and log_samples are not used beside monitors: give them to the monitors.")
        self._level: Level = level
        self._log_samples = flag("log_samples", log_samples)
        self._brought: list[Monitor] = []
        self._gold = None if gold_score_fn is None else GoldProbe(gold_score_fn, max_overhead=max_overhead)

    @property
    def metrics(self) -> RLDKMetrics:
        """The latest values; None where nothing was measured yet."""
        if self._run is None:
            return RLDKMetrics()
        return RLDKMetrics.from_row(self._run.latest_step, self._run.latest)

    def make_probes(self) -> Sequence[Probe]:
        gold = [] if self._gold is None else [self._gold]
        if self.monitors is not None:
            return [*(probe for monitor in self.monitors for probe in monitor.make_probes()), *gold]
        self._brought = monitors_of_packages()
        return [
            RolloutProbe(log_samples=self._log_samples),
            PreferenceProbe(),
            OptimizerProbe(self._level),
            ResourceProbe(),
            CheckpointProbe(self._level),
            *gold,
            *(probe for monitor in self._brought for probe in monitor.make_probes()),
        ]

    def _begin(self, trainer: Any, args: Any, state: Any, control: Any, model: Any, optimizer: Any) -> Run:
        run = super()._begin(trainer, args, state, control, model, optimizer)
        for monitor in (*(self.monitors or ()), *self._brought):
            monitor.share(run)
        return run


def monitors_of_packages() -> list[Monitor]:
    """What other packages bring for all trainings: subclasses of `Monitor`, or functions that make one."""
    found: list[Monitor] = []
    for extension in extensions(MONITORS):
        monitor = tried(extension.package, extension.name, extension.value)
        if isinstance(monitor, Monitor):
            found.append(monitor)
        elif monitor is not None:
            leave_out(extension.package, extension.name, "it makes no rldk_tracking.monitors.base.Monitor")
    return found


class RLDKMonitor(RLDKCallback):
    """The same with fewer dials, for those who want health in the tracker and nothing else.

    Args:
        output_dir: a folder for the run's journal, JSON lines of everything that is logged.
        slack: an incoming webhook's address; by default RLDK_SLACK_WEBHOOK_URL where it is set.

    Examples:
        >>> from rldk_tracking import RLDKMonitor
        >>> monitor = RLDKMonitor()  # GRPOTrainer(..., callbacks=[monitor])
        >>> monitor.alerts
        []
    """

    def __init__(
        self, output_dir: str | os.PathLike[str] | None = None, slack: str | None = None, **options: Any
    ) -> None:
        super().__init__(output_dir=output_dir, slack=slack, **{"level": "light", **options})


class CustomRLDKCallback(RLDKCallback):
    """The callback with goals of the user's own: `performance_benchmarks={"target_reward": 1.0}`.

    Examples:
        >>> from rldk_tracking import CustomRLDKCallback
        >>> callback = CustomRLDKCallback(performance_benchmarks={"target_reward": 1.0, "max_kl_divergence": 0.1})
        >>> callback.alerts
        []
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        performance_benchmarks: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(output_dir=output_dir, performance_benchmarks=performance_benchmarks, **options)


def attach(trainer: Any, **options: Any) -> RLDKCallback:
    """Give a trainer that exists already its `RLDKCallback`.

    Args:
        trainer: a transformers or TRL trainer, before `train()`.
        options: as for `RLDKCallback`.

    Returns:
        The callback; the one that is there if the trainer has one.

    Raises:
        TypeError: `trainer` has no callbacks.

    Examples:
        >>> import tempfile
        >>> from rldk_tracking import attach
        >>> from rldk_tracking.demo import grpo_trainer
        >>> trainer = grpo_trainer(tempfile.mkdtemp())
        >>> callback = attach(trainer)  # then trainer.train()
        >>> callback in trainer.callback_handler.callbacks
        True
    """
    handler = getattr(trainer, "callback_handler", None)
    if handler is None:
        raise TypeError(f"attach() takes a transformers or TRL trainer, got {shown(trainer)}.")
    for known in handler.callbacks:
        if isinstance(known, RLDKCallback) and not known.makes_way:
            if options:
                logger.warning("rldk: the trainer has an RLDKCallback; %s of attach() is not used.", ", ".join(options))
            return known
    callback = RLDKCallback(trainer=trainer, **options)
    trainer.add_callback(callback)
    # The trainer writes the state of callbacks that it knew when its own state was made.
    trainer.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
    return callback
