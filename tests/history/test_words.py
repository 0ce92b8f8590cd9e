"""Columns of past logs, told by their words."""

from __future__ import annotations

from itertools import product

import pytest

from rldk_tracking.history.handwritten import NAMES
from rldk_tracking.history.run_history import UnreadableSourceError, history, row_of
from rldk_tracking.history.words import ACCURACY, by_words, key_of, unread
from rldk_tracking.metrics.keys import CATALOGUE
from rldk_tracking.sources.aliases import ALIASES

WORDS = {
    "rldk/reward/mean": ("reward", "Rewards", "scores", "total_reward"),
    "rldk/kl/ref_k3": ("kl", "KL", "kl_div", "kld", "ref_kl", "kl_per_token"),
    "rldk/policy/approx_kl": ("approx_kl", "approxkl"),
    "rldk/policy/entropy": ("entropy", "policy_entropy", "token_entropy"),
    "rldk/length/mean": ("response_length", "completion_len", "response_token_length", "tokens_per_response"),
    "rldk/length/truncated_fraction": ("truncated_rate", "truncation_fraction"),
    "rldk/train/loss": ("loss", "policy_loss", "grpo_loss"),
    "rldk/value/loss": ("value_loss", "critic_loss", "vf_loss"),
    "rldk/grad/norm": ("grad_norm", "gradient_norm", "gradnorm"),
    "rldk/policy/clip_fraction": ("clip_frac", "clipfrac", "clip_fraction"),
    "rldk/update/learning_rate": ("lr", "learning_rate", "actor_lr"),
    "rldk/preference/accuracy": ("reward_accuracies", "preference_accuracy"),
    ACCURACY: ("acc", "accuracy", "accuracies"),
}
BEFORE = ("", "avg", "mean", "train", "batch", "epoch", "train/avg")
AFTER = ("", "avg", "mean", "epoch", "batch")
NEAR = (
    *("max", "min", "std", "var", "median", "p95", "target", "coef", "beta", "penalty", "bonus", "sum", "ema", "best"),
    *("prompt", "format", "sequence", "teacher", "old", "normalized", "scale", "limit", "hinge", "3", "%"),
)
STOCK = (
    *("eps", "objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward", "loss/dpo"),
    *("objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "loss/value_avg", "lr"),
    *("val/clipfrac_avg", "policy/entropy_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "episode", "kl"),
    *(
        "num_tokens",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "entropy",
        "clip_ratio/high_max",
        "loss",
        "grad_norm",
    ),
    *(
        "clip_ratio/low_min",
        "completions/max_terminated_length",
        "sampling/importance_sampling_ratio/mean",
        "step_time",
    ),
    *("rewards/f/mean", "rewards/f/std", "logits/chosen", "nll_loss", "log_odds_ratio", "aux_loss", "loss/xpo"),
    *("loss/score", "actor/ppo_kl", "actor/kl_coef", "critic/rewards/mean", "critic/returns/mean", "critic/lr"),
    *("critic/grad_norm", "critic/vpred_mean", "actor/pg_clipfrac_lower", "prompt_length/mean", "training/global_step"),
    *("response_length_non_aborted/mean", "response/aborted_ratio", "perf/total_num_tokens", "global_seqlen/mean"),
    *("return", "total_length", "ptx_loss", "values", "distillation/loss", "teacher_kl", "rollout/correctness_mean"),
    *("batch/row_tokens_mean", "sample/forwarded_tokens_mean", "agent_loop/compute_score/mean"),
)
"""What stock trainers log beside one another."""


def spellings(word: str) -> list[str]:
    joined = ["_".join(filter(None, parts)) for parts in product(BEFORE, (word,), AFTER)]
    return [*joined, *(one.replace("_", " ").title() for one in joined), *(one.replace("_", "/") for one in joined)]


@pytest.mark.parametrize("key", WORDS)
def test_a_quantity_is_found_whatever_stands_around_its_words(key: str) -> None:
    names = [name for word in WORDS[key] for name in spellings(word)]
    assert {name: key_of(name) for name in names} == dict.fromkeys(names, key)
    assert key == ACCURACY or key in CATALOGUE


@pytest.mark.parametrize("key", WORDS)
def test_what_is_only_near_is_not(key: str) -> None:
    near = [
        name for word in WORDS[key] for one in NEAR for name in (f"{one}_{word}", f"{word}/{one}", f"avg_{word}_{one}")
    ]
    assert [name for name in near if key_of(name) == key] == []


@pytest.mark.parametrize(
    "name",
    [
        *("critic_lr", "critic/grad_norm", "kl_loss", "entropy_loss", "kl_per_response", "completion_entropy"),
        *("sequence_kl", "total_kl", "clip_grad_norm", "gen_tokens", "total_tokens", "prompt_len", "mean_token_length"),
        *("reward_kl", "clip_ratio_low", "clipped_frac", "entropy_loss_avg", "running_reward", "train_eval_loss"),
    ],
)
def test_what_cannot_be_told(name: str) -> None:
    assert key_of(name) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("val_rewards_avg", "rldk/eval/reward"),
        ("Test Accuracy", "rldk/eval/accuracy"),
        ("validation/loss/mean", "rldk/eval/loss"),
        ("dev_ppl", "rldk/eval/perplexity"),
        ("val_entropy", None),
        ("eval_kl_avg", None),
        ("perplexity", None),
    ],
)
def test_what_an_evaluation_logs_joins_no_series_of_training(name: str, key: str | None) -> None:
    assert key_of(name) == key


def test_words_agree_with_the_names_that_are_known_but_for_the_estimator_of_a_kl() -> None:
    other = {name for name, key in {**NAMES, **ALIASES}.items() if key_of(name) not in (None, key)}
    assert {key_of(name) for name in other} == {"rldk/kl/ref_k3"} and all("kl" in name for name in other)


def test_known_names_are_read_as_without_words() -> None:
    for name in (*ALIASES, *NAMES):
        entry = {"step": 1, name: 0.5}
        row = row_of(entry)
        assert not row or history("x", [entry]).entries[0].row == row, name


def test_what_stock_trainers_log_is_no_words() -> None:
    assert {name for name in STOCK if name not in ALIASES and key_of(name) is not None} == {"kl"}
    entry = {"step": 1} | dict.fromkeys(STOCK, 0.5)
    past = history("x", [entry])
    assert past.entries[0].row == row_of(entry) and not any("took" in note for note in past.notes)


def of_columns(**columns: list[float]) -> list[dict[str, float]]:
    rows = len(next(iter(columns.values())))
    return [{"step": row, **{name: values[row] for name, values in columns.items()}} for row in range(rows)]


def test_a_log_of_nobodys_names() -> None:
    past = history(
        "x", of_columns(kl_avg=[0.1], rewards_avg=[0.5], train_accuracies_avg=[0.4], val_accuracies_avg=[0.3])
    )
    assert past.entries[0].row == {
        "rldk/kl/ref_k3": 0.1, "rldk/reward/mean": 0.5, "rldk/reward/gold": 0.4, "rldk/eval/accuracy": 0.3,
    }  # fmt: skip
    assert past.notes[0] == (
        "took kl_avg for rldk/kl/ref_k3, rewards_avg for rldk/reward/mean, val_accuracies_avg for rldk/eval/accuracy, "
        "train_accuracies_avg for rldk/reward/gold"
    )


def test_an_accuracy_is_what_stands_beside_it() -> None:
    assert by_words(of_columns(train_acc=[0.5]), ["train_acc"], {"rldk/reward/mean"})[0] == {
        "train_acc": "rldk/reward/gold"
    }
    pairs = by_words(of_columns(train_acc=[0.5], margin_x=[1.0]), ["train_acc", "margin_x"], {"rldk/reward/mean"})[0]
    assert pairs == {"train_acc": "rldk/preference/accuracy"}
    assert by_words(of_columns(train_acc=[0.5]), ["train_acc"], set())[0] == {}
    texts = by_words(of_columns(entropy_avg=[0.5]), ["entropy_avg"], {"rldk/preference/margin"})[0]
    assert texts == {}, "an entropy of texts that are given"
    assert by_words(of_columns(kl_avg=[0.5], teacher_score=[1.0]), ["kl_avg"], set())[0] == {}, "a KL to the teacher"
    assert by_words(of_columns(val_loss=[0.5], policy_loss=[1.0]), ["val_loss"], set())[0] == {}, (
        "of the values, perhaps"
    )


def test_of_two_columns_neither_is_taken_unless_one_is_the_total() -> None:
    two = of_columns(batch_rewards=[0.1, 0.2], rewards_avg=[0.3, 0.4])
    taken, notes = by_words(two, ["batch_rewards", "rewards_avg"], set())
    assert taken == {}
    assert notes == [
        "batch_rewards or rewards_avg for rldk/reward/mean? Neither was taken; say it by "
        "--alias batch_rewards=rldk/reward/mean"
    ]
    total = of_columns(total_rewards=[0.1, 0.2], rewards_avg=[0.3, 0.4])
    taken, notes = by_words(total, ["total_rewards", "rewards_avg"], set())
    assert taken == {"total_rewards": "rldk/reward/mean"}
    assert notes == ["total_rewards was taken for rldk/reward/mean, not rewards_avg"]
    same = of_columns(batch_rewards=[0.1, 0.2], rewards_avg=[0.1, 0.2])
    assert by_words(same, ["batch_rewards", "rewards_avg"], set())[0] == {"batch_rewards": "rldk/reward/mean"}


def test_a_known_name_goes_before_words() -> None:
    past = history("x", of_columns(reward=[0.5], rewards_avg=[0.1], kl=[0.1], my_kl_avg=[0.2]))
    assert past.entries[0].row == {"rldk/reward/mean": 0.5, "rldk/kl/ref_k3": 0.1}
    assert past.ignored == ("my_kl_avg", "rewards_avg")


@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("kl_avg", [0.1, 0.2, 0.3], "rldk/kl/ref_k3"),
        ("kl_avg", [0.1, -0.01, 0.3], "rldk/kl/ref_k1"),
        ("kl_avg", [-0.1, -0.2, 0.3], None),
        ("entropy_avg", [0.5, -0.5, 0.4], None),
        ("clip_frac_avg", [0.1, 12.0, 3.0], None),
        ("val_acc", [55.0, 60.0, 70.0], None),
        ("rewards_avg", [-1.0, 2.0, float("nan")], "rldk/reward/mean"),
    ],
)
def test_numbers_decide_too(name: str, values: list[float], key: str | None) -> None:
    taken, notes = by_words([{name: value} for value in values], [name], set())
    assert taken == ({} if key is None else {name: key})
    assert key is not None or "not taken" in notes[0]


def test_a_nan_under_a_name_that_was_taken_by_its_words_is_a_fault() -> None:
    past = history("x", of_columns(rewards_avg=[0.5, float("nan")]))
    assert [entry.row for entry in past.entries] == [{"rldk/reward/mean": 0.5}, {"rldk/nan/reward": 1.0}]


def test_the_users_word_goes_before_those_of_a_name() -> None:
    past = history("x", of_columns(rewards_avg=[0.5]), aliases={"rewards_avg": "rldk/reward/gold"})
    assert past.entries[0].row == {"rldk/reward/gold": 0.5} and "took" not in " ".join(past.notes)


def test_columns_that_are_not_read_are_named_and_near_spellings_proposed() -> None:
    entry = {"step": 1, "reward": 1.0, "avg_entrpy": 0.5, "kl_coef": 0.1, "epoch": 1.0, "_runtime": 3.0, "note": "x"}
    past = history("x", [entry, entry | {"step": 2}])
    assert past.ignored == ("avg_entrpy", "kl_coef")
    assert past.notes == ("not read: avg_entrpy, kl_coef; --alias avg_entrpy=rldk/policy/entropy",)
    many = history("x", [{"step": 1, "reward": 1.0} | {f"mine_{place:02d}": 1.0 for place in range(30)}])
    assert many.notes == (f"not read: {', '.join(f'mine_{place:02d}' for place in range(8))} and 22 more",)
    with pytest.raises(UnreadableSourceError, match=r"not read: rewrad_avg; --alias rewrad_avg=rldk/reward/mean"):
        history("x", [{"step": 1, "rewrad_avg": 1.0}])


def test_what_nobody_misses_is_not_listed() -> None:
    noise = [
        "epoch",
        "train/epoch",
        "_timestamp",
        "timestamp",
        "eval_kl",
        "perf/mfu/actor",
        "timing_s/gen",
        "num_tokens",
    ]
    assert unread([*noise, "completions / max_terminated_length", "step", "Step", "total_flos", "mine"]) == ["mine"]
