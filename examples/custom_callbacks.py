"""Two ways to build on the diagnostics: a callback that acts on them, and a backend of one's own.

python examples/custom_callbacks.py
"""

from collections.abc import Mapping
from typing import Any

from rldk_tracking import Alert, RLDKCallback
from rldk_tracking.demo import grpo_trainer
from rldk_tracking.trackers.base import Tracker


class StopWhenSolved(RLDKCallback):
    """A callback that reads the latest values and ends the training when the reward is high enough."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_begin(args, state, control, **kwargs)
        if (self.metrics.reward_mean or 0.0) > 0.8:
            print(f"solved at step {state.global_step}: reward {self.metrics.reward_mean:.2f}")
            control.should_training_stop = True


class Terminal(Tracker):
    """A backend: only `log` is required. A step arrives once, with plain finite numbers."""

    name = "terminal"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if step % 10 == 0:
            print(f"step {step}: reward {metrics['rldk/reward/mean']:.2f}, health {metrics.get('rldk/health/score')}")

    def alert(self, alert: Alert) -> None:
        print(f"step {alert.step}: {alert.title}: {alert.message}")


def with_a_trainer() -> None:
    """Both, on the tiny model of the demo."""
    trainer = grpo_trainer("custom_output", max_steps=80, callbacks=[StopWhenSolved(trackers=[Terminal()])])
    trainer.train()


if __name__ == "__main__":
    with_a_trainer()
