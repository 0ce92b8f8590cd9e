"""Every series that is emitted is documented, and the other way round."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from rldk_tracking.metrics import preference
from rldk_tracking.metrics.advantage import RewardRange
from rldk_tracking.metrics.columns import Table, merge_tails, tail_of
from rldk_tracking.metrics.keys import CATALOGUE, MARK, Direction, Key, Reduce, Source, documented, lookup, misspelt
from rldk_tracking.probes import steps as module
from rldk_tracking.rollout import PolicyUpdate, Rollout

PACKAGE = Path(module.__file__).parents[1]
KEYS = list(CATALOGUE.values())


@functools.cache
def full_tables() -> tuple[Table, Table]:
    """Of a batch with every field."""
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
    return Table(columns, tails, module.reward.names(rollout)), Table(steps)


def emitted() -> set[str]:
    """All that a batch with every field has."""
    table, update = full_tables()
    return set(module.keys_of(table, update)) | set(RewardRange().shares(table))


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


def texts() -> dict[str, str]:
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def test_no_key_is_documented_twice() -> None:
    assert sorted(key.name for text in texts().values() for key in documented(text)) == sorted(CATALOGUE)


def test_all_that_is_marked_is_in_a_docstring() -> None:
    for name, text in texts().items():
        documentation = ast.get_docstring(ast.parse(text)) or ""
        assert (MARK + "\n" in text) == (MARK + "\n" in documentation) == bool(documented(text)), name


@pytest.mark.parametrize("group", module.ROLLOUT_GROUPS, ids=lambda group: group.__name__.split(".")[-1])
def test_a_module_documents_what_it_computes(group: Any) -> None:
    table, update = full_tables()
    found = group.compute(table) | (group.compute_update(table, update) if group is module.policy else {})
    own = {key.name for key in documented(Path(group.__file__).read_text(encoding="utf-8"))}
    assert {key.name for name in found if (key := lookup(name)) is not None} <= own


def of(prefix: str) -> list[Key]:
    found = [key for key in KEYS if key.name.startswith(prefix)]
    assert found
    return found


def test_where_the_numbers_of_a_group_come_from() -> None:
    assert {key.source for key in of("rldk/checkpoint/")} == {"checkpoint"}
    assert {key.source for key in of("rldk/eval/")} == {"logs"}
    for group in ("length", "diversity", "kl", "sampler"):
        assert {key.source for key in of(f"rldk/{group}/")} == {"rollout"}
    for group in ("resources", "memory", "throughput"):
        assert {key.source for key in of(f"rldk/{group}/")} == {"host"}


def test_a_divergence_is_in_nats() -> None:
    """Per token, so that it does not grow with the length, or of a whole completion, which then says so."""
    units = {key.name: key.unit for key in of("rldk/kl/")}
    assert all(unit.startswith("nats") for unit in units.values())
    assert units["rldk/kl/ref_k1"] == units["rldk/kl/ref_k3"] == "nats per token"


def test_a_length_is_in_tokens_or_a_share() -> None:
    assert {key.unit for key in of("rldk/length/")} == {"tokens", "1"}


def test_which_way_is_better() -> None:
    directions = {key.name: key.direction for key in KEYS}
    for name in ("reward/mean", "value/explained_variance", "health/score", "checkpoint/score"):
        assert directions[f"rldk/{name}"] == "higher"
    assert {key.direction for key in of("rldk/checkpoint/part/")} == {"higher"}
    assert {directions[name] for name in directions if name.endswith("_risk")} == {"lower"}
    assert {key.direction for key in of("rldk/nan/")} == {"lower"}


def test_what_is_not_a_number_is_never_averaged_away() -> None:
    """One rank's NaN is the run's, and of the memory the fullest rank counts."""
    assert {key.reduce for key in of("rldk/nan/")} <= {"max", "sum"}
    assert {key.reduce for key in KEYS if key.unit == "GiB"} == {"max"}


def test_every_key_is_spelt_as_it_is() -> None:
    for name in CATALOGUE:
        one = re.sub(r"<\w+>", "x", name)
        assert misspelt(one) is None and misspelt(one.removeprefix("rldk/")) is None
