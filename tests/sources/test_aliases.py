"""The tables of log names are consistent, and lead to keys that are documented."""

from __future__ import annotations

import pytest

from rldk_tracking.metrics.keys import lookup
from rldk_tracking.sources.aliases import (
    _BY_KEY,
    ALIASES,
    DIVIDED_BY_MINIBATCHES,
    EVALUATED,
    NAN_COUNTERS,
    OF_FUNCTION,
    PREFERENCE,
)


@pytest.mark.parametrize("key", sorted({*ALIASES.values(), *EVALUATED.values(), *NAN_COUNTERS.values()}))
def test_every_key_is_documented(key: str) -> None:
    assert lookup(key) is not None


def test_no_name_stands_for_two_keys() -> None:
    names = [name for names in _BY_KEY.values() for name in names]
    assert len(names) == len(set(names))


def test_corrections_are_for_names_that_are_known() -> None:
    assert set(DIVIDED_BY_MINIBATCHES) < set(ALIASES)
    assert set(NAN_COUNTERS) <= {*ALIASES.values(), "rldk/kl/ref_k1", "rldk/kl/ref_k3"}


@pytest.mark.parametrize(
    ("name", "function", "statistic"),
    [
        ("rewards/accuracy_reward/mean", "accuracy_reward", "mean"),
        ("rewards/accuracy_reward/std", "accuracy_reward", "std"),
        ("rewards/accuracy_reward", "accuracy_reward", None),
        ("rewards/org/model/mean", "org/model", "mean"),
    ],
)
def test_reward_functions_are_told_by_their_name(name: str, function: str, statistic: str | None) -> None:
    match = OF_FUNCTION.fullmatch(name)
    assert match is not None and (match["function"], match["statistic"]) == (function, statistic)


@pytest.mark.parametrize("name", ["rewards/chosen", "rewards/rejected", "reward", "reward/std"])
def test_what_is_no_reward_function(name: str) -> None:
    assert OF_FUNCTION.fullmatch(name) is None


def test_preference_names_are_aliases_too() -> None:
    assert PREFERENCE.items() <= ALIASES.items()
