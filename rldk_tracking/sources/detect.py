"""Which source fits a trainer: by the methods and variables that it has, whatever its class is called."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

from rldk_tracking.isolation import Shield
from rldk_tracking.sources.contract import Contract, contract_of, with_completions
from rldk_tracking.sources.logs import Observation, Source, canonical
from rldk_tracking.sources.loss_pass import logprobs_of
from rldk_tracking.sources.reward_functions import REWARDS
from rldk_tracking.sources.scoring import logs_of
from rldk_tracking.sources.trl_async import AsyncSource, Report
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.sources.trl_ppo import PPOSource
from rldk_tracking.sources.wrapping import SCORING, Wrapped, local_variables

LOOP = {"padding_mask", "ref_logprobs"}
"""Variables of a training loop that keeps a whole rollout, as PPO's."""
QUEUED = ("rollout_queue", "model_version")
"""What a trainer has that takes completions from a queue, and knows which of its weights sampled them."""
STATISTICS = ("step", "log_stats")
"""What PPO of TRL up to 0.11 has, and LLaMA-Factory's: the first returns what the second logs; callbacks get less."""


UNKNOWN_SAMPLING = "it samples completions, but not as a trainer that is known, so that its logs are all there is"
REWARD = "rldk/reward/mean"
"""What only a trainer of sampled completions logs."""


class LogsSource:
    """Any trainer that is not known: its logs are all there is. See `Source`."""

    honours_stop = True
    rows_per_rank = 1

    def __init__(self, trainer: Any, contract: Contract) -> None:
        self.contract = contract
        self.missing: list[str] = []
        self.rollout_seconds: float | None = None
        self._step: Wrapped | None = None
        self._statistics: Mapping[str, Any] = {}

    def attach(self, trainer: Any, shield: Shield) -> None:
        """Look at what its `step` returns, where that is more than it logs."""
        if all(callable(getattr(trainer, name, None)) for name in STATISTICS):
            self._step = Wrapped(trainer, STATISTICS[0], self._around_step)
        if self.contract.rollout:
            self.missing = [UNKNOWN_SAMPLING]

    def detach(self) -> None:
        """Unwrap, and forget."""
        if self._step is not None:
            self._step.restore()
        self._step, self._statistics = None, {}

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        """The logs under canonical keys, but for the speed, which is measured."""
        logs, self._statistics = {**self._statistics, **logs}, {}
        found = canonical(logs, "other", reward_std_within_groups=False)
        if REWARD in found and not self.contract.rollout:
            self.contract, self.missing = with_completions(self.contract), [UNKNOWN_SAMPLING]
        return Observation({key: value for key, value in found.items() if "/throughput/" not in key})

    def _around_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(*args: Any, **kwargs: Any) -> Any:
            statistics = original(*args, **kwargs)
            self._statistics = statistics if isinstance(statistics, Mapping) else {}
            return statistics

        return step


def source_for(trainer: Any, report: Report = lambda scalars: None) -> Source:
    """The source that reads most of it; the logs alone of a trainer that is like none.

    Args:
        trainer: of any class.
        report: takes numbers that cannot wait for the end of the step that is under way.

    What a trainer has may still not be what it seems: a source says what it could not read when it tries.
    """
    if _scores_completions(trainer):
        return GroupSource(trainer)
    if all(hasattr(trainer, name) for name in QUEUED) and "old_log_probs" in local_variables(trainer, "compute_loss"):
        return AsyncSource(trainer, report)
    if local_variables(trainer, "train") >= LOOP:
        return PPOSource(trainer)
    return LogsSource(trainer, contract_of(trainer))


def _scores_completions(trainer: Any) -> bool:
    """Whether it has what is read of GRPO: completions that are sampled or trained on, and rewards of them."""
    samples = any(callable(getattr(trainer, name, None)) for name in (SCORING, logprobs_of(trainer)))
    return samples and (callable(getattr(trainer, REWARDS, None)) or "rewards" in logs_of(trainer))


def package_of(trainer: Any) -> str:
    """The package that its class, or the nearest one above it, comes from, with its version."""
    for kind in type(trainer).__mro__:
        package = kind.__module__.partition(".")[0]
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of no package"
