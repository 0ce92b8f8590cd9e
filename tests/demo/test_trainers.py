"""Each trainer learns the task in seconds on a CPU, and earns what the task pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rldk_tracking import demo
from rldk_tracking.demo.task import reward
from rldk_tracking.demo.trainers import DigitReward

pytestmark = pytest.mark.slow


class Rewards(TrainerCallback):
    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.name in logs:
            self.seen.append(float(logs[self.name]))


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_groups_learn(kind: str, tmp_path: Path) -> None:
    rewards = Rewards("reward")
    getattr(demo, f"{kind}_trainer")(tmp_path, max_steps=40, callbacks=[rewards]).train()
    assert sum(rewards.seen[:5]) / 5 < 0.55
    assert sum(rewards.seen[-5:]) / 5 > sum(rewards.seen[:5]) / 5 + 0.15


def test_ppo_learns(tmp_path: Path) -> None:
    pytest.importorskip("trl.experimental.ppo", reason="TRL removed PPOTrainer in 1.13")
    rewards = Rewards("objective/scores")
    demo.ppo_trainer(tmp_path, max_steps=14, callbacks=[rewards]).train()
    assert sum(rewards.seen[-4:]) / 4 > sum(rewards.seen[:4]) / 4 + 0.05


def test_the_reward_model_pays_what_the_task_pays() -> None:
    tokenizer = demo.tiny_tokenizer()
    model = DigitReward()
    pairs = [("7:", "7777"), ("77:", "7071"), ("333:", "33333333"), ("1:", "2")]
    for prompt, completion in pairs:
        ids = torch.tensor([tokenizer(prompt + completion)["input_ids"]])
        hidden = getattr(model, model.base_model_prefix)(input_ids=ids, attention_mask=ids > 0).hidden_states[-1]
        assert float(model.score(hidden)[0, -1, 0]) == pytest.approx(reward([prompt], [completion])[0])


def test_any_setting_can_be_changed(tmp_path: Path) -> None:
    trainer = demo.grpo_trainer(tmp_path, beta=0.0, num_generations=2, learning_rate=1e-4)
    assert (trainer.args.beta, trainer.args.num_generations, trainer.args.learning_rate) == (0.0, 2, 1e-4)
