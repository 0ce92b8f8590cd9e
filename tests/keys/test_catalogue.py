"""Every series that is emitted is documented, and the other way round."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args

import pytest
import torch

from rldk_tracking import row as module
from rldk_tracking.keys import (
    CATALOGUE,
    Direction,
    Key,
    Reduce,
    Source,
    checkpoint,
    completions,
    lookup,
    misspelt,
    policy,
    resources,
    reward,
    training,
    verdicts,
)
from rldk_tracking.keys.catalogue import ROWS
from rldk_tracking.metrics import preference
from rldk_tracking.metrics.columns import tail_of
from rldk_tracking.metrics.reward_range import RewardRange
from rldk_tracking.metrics.table import Table, merge_tails
from rldk_tracking.rollout import PolicyUpdate, Rollout

KEYS = list(CATALOGUE.values())


def emitted() -> set[str]:
    """All that a batch with every field has."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.arange(12)[None] < torch.tensor([[12], [9], [7], [12], [3], [5]])
    rollout = Rollout(
        mask=mask,
        token_ids=torch.randint(0, 9, (6, 12), generator=generator),
        logprobs=normal(6, 12),
        ref_logprobs=normal(6, 12),
        sampler_logprobs=normal(6, 12),
        scores=normal(6),
        rewards={"a": normal(6), "b/c": normal(6)},
        reward_weights={"a": 1.0, "b/c": 0.0},
        max_score=1.0,
        non_score_rewards=normal(6),
        values=normal(6, 12),
        returns=normal(6, 12),
        advantages=normal(6, 12),
        raw_advantages=normal(6, 12),
        group_ids=torch.arange(6) // 3,
        truncated=torch.tensor([True, False, False, True, False, False]),
    )
    update = PolicyUpdate(
        mask, normal(6, 12), normal(6, 12), normal(6), normal(6, 12), clip_low=0.2, clip_high=0.2, first_epoch=True
    )
    tails = {
        name: merge_tails(tail_of(values, counts)[None].numpy(), counts.sum()[None].numpy())
        for name, (values, counts) in module.rollout_tails(rollout).items()
    }
    columns = {name: column.numpy() for name, column in module.rollout_columns(rollout).items()}
    steps = {name: column.numpy() for name, column in module.update_columns(update).items()}
    table = Table(columns, tails, module.reward.names(rollout))
    return set(module.keys_of(table, Table(steps))) | set(RewardRange().shares(table))


def test_what_is_computed_from_tensors_is_what_is_documented() -> None:
    rows = {name: lookup(name) for name in emitted()}
    undocumented = sorted(name for name, row in rows.items() if row is None)
    assert undocumented == []
    documented = {key.name for key in KEYS if key.source in ("rollout", "update")}
    assert {row.name for row in rows.values() if row is not None} == documented


def test_preference_keys_are_documented() -> None:
    documented = {name for name in CATALOGUE if name.startswith("rldk/preference/")}
    assert documented == {*preference.LOGGED.values(), *preference.DRIFTS.values()}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_row_is_complete(key: Key) -> None:
    assert re.fullmatch(r"rldk(/(\w+|<\w+>)){2,4}", key.name)
    assert key.name == key.name.lower()
    assert key.unit
    assert key.formula
    assert key.meaning.endswith(".")
    assert key.source in get_args(Source)
    assert key.direction in get_args(Direction)
    assert key.reduce in get_args(Reduce)


def test_no_key_has_two_rows() -> None:
    assert len(ROWS) == len(CATALOGUE)


def test_a_group_is_in_one_room() -> None:
    rooms: dict[str, set[str]] = {}
    for room in (policy, reward, completions, training, resources, checkpoint, verdicts):
        for key in room.KEYS:
            rooms.setdefault(key.name.split("/")[1], set()).add(room.__name__)
    assert {group: names for group, names in rooms.items() if len(names) > 1} == {}


def test_templates_are_resolved() -> None:
    row = lookup("rldk/reward/function/org/judge/mean")
    assert row is not None
    assert row.name == "rldk/reward/function/<name>/mean"
    assert lookup("rldk/reward/function//mean") is None
    assert lookup("rldk/reward/function/a/median") is None
    assert lookup("rldk/kl/ref_k1") is CATALOGUE["rldk/kl/ref_k1"]
    assert lookup("rldk/kl/ref_k4") is None


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, rldk_tracking.keys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rldk/reward/maen", "did you mean rldk/reward/mean?"),
        ("lenght/mean", "did you mean rldk/length/mean?"),
        ("rewards/mean", "did you mean rldk/reward/mean?"),
        ("kl", "did you mean rldk/kl/"),
        ("rldk/run/qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq", "see `rldk-tracking keys`."),
    ],
)
def test_a_misspelt_name_is_told(name: str, hint: str) -> None:
    said = misspelt(name)
    assert said is not None and said.startswith(f"there is no series {name!r}; {hint}")


def test_a_name_may_have_to_be_in_full() -> None:
    assert misspelt("reward/mean") is None is misspelt("rldk/reward/mean", in_full=True)
    assert misspelt("reward/mean", in_full=True) == "there is no series 'reward/mean'; did you mean rldk/reward/mean?"


@pytest.mark.parametrize("name", ["x", "loss", "rldk/mine/high", "my_reward/mean", "objective/kl", "tools/failures"])
def test_names_of_the_users_own_are_possible(name: str) -> None:
    assert misspelt(name) is None


def test_every_key_is_spelt_as_it_is() -> None:
    for name in CATALOGUE:
        one = re.sub(r"<\w+>", "x", name)
        assert misspelt(one) is None and misspelt(one.removeprefix("rldk/")) is None
