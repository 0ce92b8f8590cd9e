"""Names of hand-written loops."""

from __future__ import annotations

import pytest

from rldk_tracking.history.handwritten import NAMES, plain, read
from rldk_tracking.metrics.keys import CATALOGUE
from rldk_tracking.sources.aliases import ALIASES


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Avg Response Len", "rldk/length/mean"),
        ("train/mean_reward", "rldk/reward/mean"),
        ("KL_ref", "rldk/kl/ref_k1"),
        ("Learning Rate", "rldk/update/learning_rate"),
        ("eval/perplexity", "rldk/eval/perplexity"),
        ("train/mean_completion_length", "rldk/length/mean"),
        ("truncation rate", "rldk/length/truncated_fraction"),
        ("frac_zero_std", "rldk/reward/group_tied_fraction"),
        ("held-out reward", "rldk/reward/gold"),
    ],
)
def test_spellings(name: str, key: str) -> None:
    assert read({name: "0.5"}) == {key: 0.5}


def test_names_are_listed_in_their_plain_spelling_and_once() -> None:
    assert all(plain(name) == name for name in NAMES)
    assert all(key in CATALOGUE for key in NAMES.values())
    assert not set(NAMES) & {name for name, key in ALIASES.items() if key != NAMES.get(name)}, "one meaning a name"


def test_what_is_not_finite_is_counted_where_that_is_a_fault() -> None:
    assert read({"reward_mean": float("nan")}) == {"rldk/nan/reward": 1.0}
    assert read({"mean_entropy": float("inf")}) == {}


def test_no_end_of_sequence_in_a_batch_of_ppo_is_truncation() -> None:
    assert read({"val/num_eos_tokens": 0}) == {"rldk/length/truncated_fraction": 1.0}
    assert read({"val/num_eos_tokens": 3}) == {}


def test_the_kl_of_a_distillation_is_to_the_teacher() -> None:
    logs = {"kl_mean": 1.5, "teacher_entropy": 0.5}
    assert read(logs) == {} and read({**logs, "mean reward": 1.0})["rldk/kl/ref_k1"] == 1.5
    assert read(logs, {"kl_mean": "rldk/kl/ref_k1"}) == {"rldk/kl/ref_k1": 1.5}


def test_aliases_win() -> None:
    assert read({"avg_len": 3.0}, {"avg_len": "rldk/reward/gold"}) == {"rldk/reward/gold": 3.0}
