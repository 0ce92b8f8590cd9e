"""Per trainer and configuration, which series there are and which there must not be.

What is the same by construction is no measurement: a clip fraction where no optimiser step lies between sampling and
the loss, a ratio where the trainer divides a log-probability by itself, a divergence without a reference.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rldk_tracking.metrics.keys import CATALOGUE, lookup
from rldk_tracking.probes.contract import ContractWatch
from rldk_tracking.sources.detect import source_for
from tests.runs.conftest import CONFIGURATIONS, PPO_CONFIGURATIONS, Ran


def named(group: str, names: str) -> set[str]:
    return {f"rldk/{group}/{name}" for name in names.split()}


def group(name: str, *without: set[str]) -> set[str]:
    """All that the catalogue has of a group, without what depends on more than the rest of it."""
    return {key for key in CATALOGUE if key.startswith(f"rldk/{name}/") and "<" not in key}.difference(*without)


KL = group("kl")
SAMPLED = named("policy", "entropy logprob_min")
CLIPPING = named("policy", "clip_fraction clip_fraction_low clip_fraction_high")
RATIOS = group("policy", SAMPLED, CLIPPING)
GROUPS = named(
    "reward",
    "group_tied_fraction group_tied_fraction_all_max group_tied_fraction_all_min group_std_mean "
    "effective_batch_fraction within_group_length_corr",
) | {"rldk/diversity/within_group_overlap"}
PENALTY = {"rldk/reward/non_score_share"}
PAIRS = named("reward/pairwise_corr", "min mean")
WATCHED = {"rldk/reward/unweighted"}
# What needs a faulty run, a judge of the user's own, or the level "full".
RARE = {"rldk/nan/loss", "rldk/reward/gold", "rldk/grad/noise_scale"}
REWARD = group("reward", GROUPS, PENALTY, PAIRS, WATCHED, RARE) | {"rldk/nan/reward"}
RAW_ADVANTAGE = named("advantage", "raw_mean raw_std")
ADVANTAGE = group("advantage", RAW_ADVANTAGE)
ENDING = named("length", "truncated_fraction eos_fraction terminated_mean")
LENGTH = group("length", ENDING)
DIVERSITY = group("diversity", GROUPS)
VALUE = group("value")
SAMPLER = group("sampler")
DRIFT = named("preference", "chosen_logps_drift rejected_logps_drift")
PREFERENCE = group("preference", DRIFT)
NORM_CLIPPING = {"rldk/grad/norm_clipped_fraction"}
GIVEN = named("train", "entropy token_accuracy")
"""Of texts that are not sampled."""
TRAINING = (
    group("train", GIVEN)
    | group("grad", NORM_CLIPPING, RARE)
    | group("weight")
    | group("update")
    | group("nan", RARE, REWARD)
)
SPEED = named("throughput", "step_seconds tokens_per_second samples_per_second")
ROLLOUT_SPEED = {"rldk/throughput/rollout_fraction"}

GROUP_TRAINER = (
    SAMPLED
    | REWARD
    | GROUPS
    | ADVANTAGE
    | LENGTH
    | ENDING
    | DIVERSITY
    | TRAINING
    | NORM_CLIPPING
    | SPEED
    | ROLLOUT_SPEED
)
PPO = (
    SAMPLED | REWARD | PENALTY | ADVANTAGE | RAW_ADVANTAGE | LENGTH | DIVERSITY | VALUE | TRAINING | SPEED | KL | RATIOS
)


def functions(*names: str) -> set[str]:
    stats = ("mean", "std", "weight", "none_fraction", "not_finite")
    return {f"rldk/reward/function/{name}/{stat}" for name in names for stat in stats}


TASK = functions("reward")
SEVERAL = functions("reward", "shortness", "sometimes") | PAIRS
OF_THEM_ONE_SCORES = functions("sometimes") | {key for key in functions("never") if not key.endswith(("/mean", "/std"))}

GRPO_KEYS = {
    "plain": KL | TASK,
    "no reference": TASK,
    "iterations": KL | TASK | RATIOS | CLIPPING,
    "generates often": KL | TASK,
    "generates rarely": KL | TASK | RATIOS | CLIPPING,
    "functions": KL | SEVERAL,
    "watched": functions("reward", "shortness") | PAIRS | WATCHED,
    "unscored": OF_THEM_ONE_SCORES,
    "ties": KL | functions("tied"),
    "truncated": KL | TASK | RATIOS | CLIPPING,
    "logs rarely": TASK,
    "asymmetric": KL | TASK | RATIOS | CLIPPING,
    "cispo": KL | TASK | RATIOS | {"rldk/policy/clip_fraction", "rldk/policy/clip_fraction_high"},
    "sequences": KL | TASK | RATIOS | CLIPPING,
    "entropy bonus": KL | TASK | RATIOS | CLIPPING,
    "sampler": TASK | SAMPLER,
}
"""Beside GROUP_TRAINER. GRPO keeps old log-probabilities only where a step lies between."""

RLOO_KEYS = {
    # RLOO computes old log-probabilities apart from the loss, so that its ratios are measured in any configuration.
    name: keys | RATIOS | (PENALTY if keys & KL else set())
    for name, keys in GRPO_KEYS.items()
}

PPO_KEYS = {
    "plain": CLIPPING | ENDING,
    "minibatches": CLIPPING | ENDING,
    "one step": ENDING,
    "accumulation": CLIPPING | ENDING,
    "rewards": CLIPPING | ENDING,
    "no stop token": CLIPPING,
}
"""Beside PPO."""

LAYERS = ("rldk/grad/layer/", "rldk/update/layer_ratio/")
OTHER = ("rldk/health/", "rldk/alerts/", "rldk/system/", "rldk/resources/", "rldk/memory/", "rldk/lr/", *LAYERS)
"""The same for every trainer, and not told by it."""


def check(run: Ran, expected: set[str]) -> None:
    found = {key for key in run.tracker.series if not key.startswith(OTHER)}
    assert found - expected == set(), "must not be there"
    assert expected - found == set(), "must be there"
    assert [key for key in run.tracker.series if lookup(key) is None] == [], "not documented"
    for key in ("rldk/health/score", "rldk/alerts/firing", "rldk/resources/host_rss_gib"):
        assert key in run.tracker.series
    contract = ContractWatch(source_for(run.trainer).contract).series
    promised = {key for key in expected if getattr(lookup(key), "source", None) in ("rollout", "update")} - SAMPLER
    by_chance = {"rldk/reward/function/never/mean", "rldk/reward/function/never/std", *PAIRS}
    assert promised <= contract <= expected | by_chance, "the contract is what comes of such a trainer"
    assert {value for _, value in run.tracker.series["rldk/system/coverage"]} == {1.0}


@pytest.mark.parametrize(("kind", "name"), CONFIGURATIONS)
def test_group_trainers(kind: str, name: str, group_run: Callable[[str, str], Ran]) -> None:
    check(group_run(kind, name), GROUP_TRAINER | {"grpo": GRPO_KEYS, "rloo": RLOO_KEYS}[kind][name])


@pytest.mark.parametrize("name", PPO_CONFIGURATIONS)
def test_ppo(name: str, ppo_run: Callable[[str], Ran]) -> None:
    check(ppo_run(name), PPO | PPO_KEYS[name])


@pytest.mark.parametrize("kind", ["dpo", "orpo", "cpo"])
def test_preference_training(kind: str, text_run: Callable[[str], Ran]) -> None:
    drift = DRIFT if kind == "dpo" else set()
    given = GIVEN if kind == "dpo" else set()
    check(text_run(kind), TRAINING | given | NORM_CLIPPING | PREFERENCE | drift | {"rldk/throughput/step_seconds"})


def test_kto_compares_no_pairs(text_run: Callable[[str], Ran]) -> None:
    expected = TRAINING | NORM_CLIPPING | PREFERENCE | DRIFT | {"rldk/throughput/step_seconds"}
    check(text_run("kto"), expected - {"rldk/preference/accuracy"} | {"rldk/train/entropy"})


def test_supervised_training(text_run: Callable[[str], Ran]) -> None:
    check(text_run("sft"), TRAINING | GIVEN | NORM_CLIPPING | {"rldk/throughput/step_seconds"})


def test_every_documented_series_of_these_groups_is_emitted_somewhere() -> None:
    emitted = (
        GROUP_TRAINER | PPO | KL | RATIOS | CLIPPING | SEVERAL | WATCHED | SAMPLER | PREFERENCE | DRIFT | ENDING | GIVEN
    )
    documented = {lookup(key) for key in emitted}
    groups = {key.name.split("/")[1] for key in documented if key is not None} - {"throughput"}
    missing = [key for name, key in CATALOGUE.items() if name.split("/")[1] in groups and key not in documented]
    assert {key.name for key in missing} <= RARE | {f"{prefix}<layer>" for prefix in LAYERS}


def test_a_step_with_no_rollout_repeats_nothing(group_run: Callable[[str, str], Ran]) -> None:
    """Steps on an earlier rollout leave its series out rather than writing its numbers once more."""
    run = group_run("grpo", "iterations")
    for step in (2, 4):
        assert {key for key in run.at(step) if not key.startswith(OTHER)} <= (
            RATIOS | CLIPPING | TRAINING | NORM_CLIPPING | {"rldk/policy/entropy", *SPEED, *ROLLOUT_SPEED}
        )
        assert "rldk/throughput/tokens_per_second" not in run.at(step)
