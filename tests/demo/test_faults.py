"""Each fault does to a real run what its summary says, by the trainer's own numbers and tensors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from rldk_tracking.demo.faults import FAULTS, at_step, reward_from
from rldk_tracking.demo.trainers import grpo_trainer

pytestmark = pytest.mark.slow

STEP = 4
STEPS = 6


def run(name: str, tmp_path: Path, steps: int = STEPS) -> tuple[Trainer, dict[str, list[float]]]:
    """A short run with the fault from STEP on; the trainer, and its logs by key (index 0 is step 1)."""
    fault = FAULTS[name]
    trainer = grpo_trainer(tmp_path, max_steps=steps, **fault.settings(STEP))
    fault.apply(trainer, STEP)
    trainer.train()
    logs: dict[str, list[float]] = {}
    for entry in trainer.state.log_history:
        for key, value in entry.items():
            logs.setdefault(key, []).append(value)
    return trainer, logs


def test_names_are_their_keys() -> None:
    assert all(name == fault.name and fault.rules for name, fault in FAULTS.items())


def test_lr_jump(tmp_path: Path) -> None:
    _, logs = run("lr-jump", tmp_path)
    rates = logs["learning_rate"]
    assert rates[0] == pytest.approx(3e-3)
    assert rates[-1] == pytest.approx(30 * 3e-3)
    assert max(logs["kl"][STEP:]) > 3 * max(logs["kl"][: STEP - 1])


def test_lr_zero_freezes_the_weights(tmp_path: Path) -> None:
    fault = FAULTS["lr-zero"]
    trainer = grpo_trainer(tmp_path, max_steps=STEPS)
    fault.apply(trainer, STEP)
    sums: list[float] = []

    def note(model: Any, optimizer: Any) -> None:
        sums.append(float(sum(p.detach().double().sum() for p in model.parameters())))

    trainer.add_callback(at_step(1, note, every=True))
    trainer.train()
    note(trainer.model, None)
    changed = [a != b for a, b in itertools.pairwise(sums)]
    assert changed == [True] * (STEP - 1) + [False] * (STEPS - STEP + 1)


def test_constant_reward_leaves_no_advantage(tmp_path: Path) -> None:
    _, logs = run("constant-reward", tmp_path)
    assert all(value < 1 for value in logs["frac_reward_zero_std"][: STEP - 1])
    assert logs["frac_reward_zero_std"][STEP - 1 :] == [1.0] * (STEPS - STEP + 1)


def test_nan_puts_one_nan_into_one_weight(tmp_path: Path) -> None:
    trainer, logs = run("nan", tmp_path)
    assert any(not torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    assert trainer.state.global_step == STEPS
    assert all(math.isfinite(loss) for loss in logs["loss"]), "the trainer hides it"


def test_nan_reward_is_returned_from_the_step_on() -> None:
    class State:
        global_step = 0

    function = FAULTS["nan-reward"].settings(3)["reward_funcs"]
    state = State()
    for step in (1, 2, 3, 4):
        state.global_step = step - 1
        scores = function(prompts=["1:", "2:"], completions=["1", "1"], trainer_state=state)
        assert math.isnan(scores[0]) == (step >= 3)
        assert scores[1] == 0.0


def test_truncation_cuts_completions_off(tmp_path: Path) -> None:
    _, logs = run("truncation", tmp_path)
    assert max(logs["completions/clipped_ratio"][: STEP - 1]) < 0.5
    assert min(logs["completions/clipped_ratio"][STEP - 1 :]) > 0.9


def test_truncation_changes_sampling_and_scoring_alike(tmp_path: Path) -> None:
    """The log-probabilities of the trainer are those of the policy that samples, also where TRL scores by itself."""
    trainer = grpo_trainer(tmp_path, max_steps=STEP + 1, num_iterations=1)
    FAULTS["truncation"].apply(trainer, STEP)
    trainer.train()
    model = trainer.model
    ids = torch.randint(2, 12, (4, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(ids).logits[:, :-1]
        expected = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
        found = trainer._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), 7)[0]
    assert (logits.argmax(-1) != 1).all() and float(logits[..., 1].max()) < -5
    torch.testing.assert_close(found, expected)


def test_entropy_collapse_stops_the_sampling(tmp_path: Path) -> None:
    _, logs = run("entropy-collapse", tmp_path)
    assert min(logs["entropy"][: STEP - 1]) > 1.0
    assert max(logs["entropy"][STEP - 1 :]) < 0.3


def test_wrong_reference_shows_in_the_first_step(tmp_path: Path) -> None:
    _, wrong = run("wrong-reference", tmp_path / "wrong", steps=1)
    trainer = grpo_trainer(tmp_path / "right", max_steps=1)
    trainer.train()
    assert wrong["kl"][0] > 0.05
    assert abs(trainer.state.log_history[0]["kl"]) < 1e-6


def test_reward_without_the_trainer_state_is_the_tasks() -> None:
    function = reward_from(1, lambda scores: [0.5] * len(scores))
    assert function(prompts=["1:"], completions=["1111"]) == [1.0]
