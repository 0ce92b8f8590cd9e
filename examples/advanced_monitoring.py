"""PPO under stricter rules, with checkpoints looked at, Slack if it is configured, and a stop when it breaks.

    python examples/advanced_monitoring.py                                            # JSON lines only
    RLDK_SLACK_WEBHOOK_URL=https://... python examples/advanced_monitoring.py         # and Slack

After step 10 this script breaks its own run, by putting a NaN into one weight of the critic, as a bad kernel or an
overflow would. The diagnostics see it in the next step, save, and stop the run.
"""

from typing import Any

import torch
from transformers import TrainerCallback

from rldk_tracking import CheckpointMonitor, InMemoryTracker, JsonlTracker, PPOMonitor, RLDKCallback, TrainingStopped
from rldk_tracking.demo import ppo_trainer

BREAK_AT = 10


class Break(TrainerCallback):
    """The accident."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == BREAK_AT:
            with torch.no_grad():
                model.value_model.score.weight[0, 0] = float("nan")


memory = InMemoryTracker()
diagnostics = RLDKCallback(
    trackers=[JsonlTracker("rldk_logs"), memory],
    rules="strict",
    overrides={"kl.high": {"threshold": 3.0}},  # nats per token: this toy task rightly moves far
    on_critical="stop",
    level="full",
)
trainer = ppo_trainer(
    "ppo_output",
    max_steps=20,
    save_strategy="steps",
    save_steps=5,
    callbacks=[
        diagnostics,
        PPOMonitor(kl_threshold=3.0, gradient_threshold=100.0),
        CheckpointMonitor(enable_parameter_analysis=True, enable_gradient_analysis=True),
        Break(),
    ],
)
try:
    trainer.train()
except TrainingStopped as stopped:
    print(f"stopped: {stopped}")

print(f"{len(memory.series)} series over {trainer.state.global_step} steps")
for alert in memory.alerts:
    print(f"step {alert.step}: {alert.title}: {alert.message} {alert.advice}")
