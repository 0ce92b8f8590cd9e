"""Real PPO runs: the row against a recomputation from the tensors in the training frame, read by the test itself."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl.experimental.ppo", reason="PPOTrainer was removed from TRL in 1.13")

import torch
from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import ppo_trainer
from rldk_tracking.isolation import TrainingStopped
from rldk_tracking.monitors.ppo import PPOMonitor
from rldk_tracking.trackers.memory import InMemoryTracker

STEPS = 4


class Spy(TrainerCallback):
    def __init__(self) -> None:
        self.steps: dict[int, dict[str, Any]] = {}

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        frames = [info.frame for info in inspect.stack() if info.function == "train"]
        (frame,) = [frame for frame in frames if "ref_logprobs" in frame.f_locals]
        names = "logprobs ref_logprobs padding_mask padding_mask_p1 values returns advantages scores sequence_lengths"
        self.steps[state.global_step] = {name: frame.f_locals[name].clone() for name in names.split()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[InMemoryTracker, Spy]:
    tracker, spy = InMemoryTracker(), Spy()
    callback = RLDKCallback(trackers=[tracker], strict=True)
    ppo_trainer(tmp_path_factory.mktemp("ppo"), max_steps=STEPS, callbacks=[callback, spy]).train()
    return tracker, spy


def test_every_series_has_a_value_at_every_step(run: tuple[InMemoryTracker, Spy]) -> None:
    tracker, _ = run
    for key in (
        "rldk/kl/ref_k1",
        "rldk/kl/ref_k3",
        "rldk/kl/ref_per_sequence",
        "rldk/policy/entropy",
        "rldk/policy/clip_fraction",
        "rldk/value/explained_variance",
        "rldk/advantage/mean",
        "rldk/advantage/std",
        "rldk/reward/mean",
        "rldk/length/mean",
        "rldk/grad/norm",
        "rldk/health/score",
    ):
        assert [step for step, _ in tracker.series[key]] == list(range(1, STEPS + 1)), key


def test_values_equal_the_trainers_tensors(run: tuple[InMemoryTracker, Spy]) -> None:
    tracker, spy = run
    for step, seen in spy.steps.items():
        k1, k3, entropy, per_sequence, lengths, advantages, raw = [], [], [], [], [], [], []
        values, returns = [], []
        rows, width = seen["logprobs"].shape
        for row in range(rows):
            total = 0.0
            for t in range(width):
                if not seen["padding_mask_p1"][row, t]:
                    values.append(float(seen["values"][row, t]))
                    returns.append(float(seen["returns"][row, t]))
                if seen["padding_mask"][row, t]:
                    continue
                d = float(seen["logprobs"][row, t].double() - seen["ref_logprobs"][row, t].double())
                k1.append(d)
                k3.append(torch.tensor(-d, dtype=torch.float64).exp().item() - 1 + d)
                entropy.append(-float(seen["logprobs"][row, t]))
                advantages.append(float(seen["advantages"][row, t]))
                raw.append(float(seen["returns"][row, t] - seen["values"][row, t]))
                total += d
            per_sequence.append(total)
            lengths.append(int((~seen["padding_mask"][row]).sum()))
        v, r = torch.tensor(values, dtype=torch.float64), torch.tensor(returns, dtype=torch.float64)
        expected = {
            "rldk/kl/ref_k1": sum(k1) / len(k1),
            "rldk/kl/ref_k3": sum(k3) / len(k3),
            "rldk/kl/ref_per_sequence": sum(per_sequence) / rows,
            "rldk/policy/entropy": sum(entropy) / len(entropy),
            "rldk/length/mean": sum(lengths) / rows,
            "rldk/length/max": max(lengths),
            "rldk/advantage/mean": sum(advantages) / len(advantages),
            "rldk/advantage/std": torch.tensor(advantages, dtype=torch.float64).std().item(),
            "rldk/reward/mean": seen["scores"].double().mean().item(),
            "rldk/reward/std": seen["scores"].double().std().item(),
            "rldk/value/explained_variance": float(1 - (r - v).var() / r.var()),
        }
        for key, value in expected.items():
            assert dict(tracker.series[key])[step] == pytest.approx(value, rel=1e-5, abs=1e-8), (key, step)


def test_the_monitor_alone_with_the_users_limit(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    limits = {"kl_threshold": 0.0, "reward_threshold": 0.05, "gradient_threshold": 1e9}
    monitor = PPOMonitor(**limits, trackers=[tracker], strict=True)
    assert monitor.metrics.policy_kl_mean is None
    ppo_trainer(tmp_path, max_steps=8, learning_rate=5e-3, callbacks=[monitor]).train()
    assert monitor.metrics.policy_kl_mean == tracker.series["rldk/kl/ref_k1"][-1][1]
    assert "kl.high" in {alert.rule for alert in tracker.alerts}


def test_a_critical_alert_saves_and_raises(tmp_path: Path) -> None:
    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 2:
                bias = [p for name, p in model.named_parameters() if "value_model" in name][-1]
                bias.data.view(-1)[0] = float("nan")

    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], on_critical="stop")
    trainer = ppo_trainer(tmp_path, max_steps=8, callbacks=[Break(), callback])
    with pytest.raises(TrainingStopped) as stopped:
        trainer.train()
    assert stopped.value.rule.startswith("nan.")
    assert stopped.value.step in (2, 3)
    assert (tmp_path / f"checkpoint-{stopped.value.step}").is_dir()
    assert tracker.statuses[-1][1] == "stopped"
