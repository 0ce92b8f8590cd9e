"""What trainers should bring by what they have and how they are configured. Real trainings: tests/runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking import demo
from rldk_tracking.sources.contract import contract_of, is_aligned, of_completions

BASE = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8, "num_generations": 4}


@pytest.mark.parametrize(
    ("kind", "settings", "rollout", "update", "period"),
    [
        ("grpo", {"beta": 0.04}, {"ref_logprobs"}, set(), 1),
        ("grpo", {"beta": 0.0, "num_iterations": 2}, set(), {"old_logprobs", "clip_low", "clip_high"}, 2),
        ("grpo", {"beta": 0.0, "steps_per_generation": 8}, set(), {"old_logprobs", "clip_low", "clip_high"}, 4),
        ("grpo", {"beta": 0.0, "loss_type": "cispo", "num_iterations": 2}, set(), {"old_logprobs", "clip_high"}, 2),
        ("grpo", {"beta": 0.0, "loss_type": "sapo", "num_iterations": 2}, set(), {"old_logprobs"}, 2),
        ("rloo", {"beta": 0.0}, set(), {"old_logprobs"}, 1),
        ("rloo", {"beta": 0.1}, {"ref_logprobs", "non_score_rewards"}, {"old_logprobs"}, 1),
    ],
)
def test_grpo_and_rloo(
    tmp_path: Path, kind: str, settings: dict[str, Any], rollout: set[str], update: set[str], period: int
) -> None:
    trainer = getattr(demo, f"{kind}_trainer")(tmp_path, **BASE, **settings)
    contract = of_completions(trainer)
    always = {"mask", "token_ids", "logprobs", "scores", "rewards", "advantages", "group_ids", "truncated"}
    assert contract.rollout == always | rollout
    assert (contract.update, contract.period) == (update, period)
    assert contract.functions == {"reward": 1.0} and not contract.hides_truncated
    assert is_aligned(trainer) == (period == 1)


def test_what_nothing_is_known_of_promises_its_loss() -> None:
    assert contract_of(SimpleNamespace()).numbers == {"rldk/train/loss"}
    assert contract_of(SimpleNamespace()).rollout == frozenset()


def test_a_trainer_that_samples_in_a_way_of_its_own() -> None:
    functions = SimpleNamespace(reward_funcs=[len], reward_func_names=["len"])
    assert contract_of(functions).rollout == {"mask", "token_ids", "logprobs", "rewards", "advantages"}
    assert contract_of(functions).functions == {"len": None}
    judged = contract_of(SimpleNamespace(generation_config=object(), beta=0.1))
    assert judged.rollout == {"mask", "token_ids", "logprobs", "ref_logprobs"}


def texts(*columns: str, **fields: Any) -> frozenset[str]:
    found = contract_of(SimpleNamespace(train_dataset=SimpleNamespace(column_names=list(columns)), **fields)).numbers
    return frozenset(key.removeprefix("rldk/preference/") for key in found if "/preference/" in key)


def test_texts_that_are_compared() -> None:
    logged = {"margin", "accuracy", "reward_chosen", "reward_rejected", "chosen_logps", "rejected_logps"}
    drifts = {"chosen_logps_drift", "rejected_logps_drift"}
    assert texts("chosen_ids", "rejected_ids", beta=0.1, ref_model=None) == logged | drifts
    assert texts("chosen_ids", "rejected_ids", beta=0.1, ref_model=None, reference_free=True) == logged
    assert texts("chosen", "rejected", beta=0.1) == logged
    assert texts("completion", "label", beta=0.1, ref_model=None) == (logged | drifts) - {"accuracy"}
    assert texts("chosen_ids", "rejected_ids") == {"accuracy", "margin"}, "as a reward model"
    assert texts("messages", "rejected_response", beta=0.1, ref_model=None) == logged | drifts, "of texts encoded late"
    assert texts("text", "label") == texts("text", beta=0.1) == frozenset()


def test_a_trainer_with_a_reference_brings_entropy_and_token_accuracy() -> None:
    def of_training(*columns: str, **fields: Any) -> set[str]:
        dataset = SimpleNamespace(column_names=list(columns))
        found = contract_of(SimpleNamespace(train_dataset=dataset, **{"beta": 0.1, **fields})).numbers
        return {key for key in found if key.startswith("rldk/train/")}

    more = {"rldk/train/loss", "rldk/train/entropy", "rldk/train/token_accuracy"}
    assert of_training("chosen_ids", "rejected_ids", ref_model=None) == more
    assert of_training("completion", "label", ref_model=None) == more - {"rldk/train/token_accuracy"}
    assert of_training("chosen_ids", "rejected_ids") == {"rldk/train/loss"}, "as ORPO"
    assert of_training("text", beta=None, _metrics={}) == more, "as SFT"
    assert of_training("text", beta=None) == of_training("text", "label", beta=None, _metrics={}) == {"rldk/train/loss"}
    assert of_training("chosen_ids", "rejected_ids", beta=None, _metrics={}) == {"rldk/train/loss"}, "a reward model"
