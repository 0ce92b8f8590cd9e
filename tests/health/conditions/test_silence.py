"""A silence, held to the limit that comes with it; reward functions that score nothing."""

from __future__ import annotations

import pytest

from rldk_tracking.health.conditions.base import Finding
from rldk_tracking.health.conditions.silence import Silence, SilentFunction

KEY, LIMIT = "rldk/run/silent_seconds", "rldk/run/limit_seconds"


def silence(**parameters: float) -> Silence:
    return Silence((KEY,), **{"threshold": 120.0, **parameters})


@pytest.mark.parametrize(
    ("silent", "limit", "breached", "clear", "critical"),
    [
        (0.0, 120.0, False, True, False),
        (120.0, 120.0, False, True, False),
        (120.5, 120.0, True, False, False),
        (240.0, 120.0, True, False, False),
        (240.5, 120.0, True, False, True),
        (1e9, None, False, True, False),
    ],
)
def test_a_silence_is_held_to_the_limit_of_its_row(silent, limit, breached, clear, critical) -> None:
    finding = silence().judge(3, {KEY: silent} if limit is None else {KEY: silent, LIMIT: limit})
    assert (finding.breached, finding.clear, finding.critical) == (breached, clear, critical)
    assert (finding.value, finding.threshold, finding.key) == (silent, limit, KEY)


def test_a_row_without_a_silence_says_nothing() -> None:
    assert silence().judge(3, {LIMIT: 1.0, "rldk/run/gone": 0.0}) is None


def test_how_far_the_limit_may_pass_can_be_changed() -> None:
    assert silence(critical=1.0).judge(0, {KEY: 6.0, LIMIT: 5.0}).critical


@pytest.mark.parametrize("parameters", [{"threshold": 0.0}, {"times": -1.0}, {"first": 0.0}, {"critical": 0.5}])
def test_numbers_that_cannot_be_are_refused(parameters) -> None:
    with pytest.raises(ValueError, match="above 0, and critical at least 1"):
        silence(**parameters)


FUNCTION = "rldk/reward/function/<name>/none_fraction"


def look(condition: SilentFunction, **shares: float) -> Finding | None:
    return condition.judge(1, {FUNCTION.replace("<name>", name): share for name, share in shares.items()})


def test_a_function_is_silent_after_so_many_rollouts_in_a_row() -> None:
    condition = SilentFunction((FUNCTION,), rollouts=3)
    found = [look(condition, task=0.0, lost=1.0) for _ in range(4)]
    assert [one is not None and one.breached for one in found] == [False, False, True, True]
    assert [one is not None and one.clear for one in found] == [True, True, False, False]
    last = found[-1]
    assert last is not None and (last.value, last.threshold) == (4.0, 3.0)
    assert last.evidence == {"functions": "lost"} and last.key == "rldk/reward/function/lost/none_fraction"


def test_one_score_begins_anew() -> None:
    condition = SilentFunction((FUNCTION,), rollouts=2)
    shares = (1.0, 0.97, 1.0, 1.0)
    assert [found.breached for share in shares if (found := look(condition, rare=share))] == [False, False, False, True]


def test_several_are_named_and_names_may_hold_slashes() -> None:
    condition = SilentFunction((FUNCTION,), rollouts=1)
    found = condition.judge(1, {FUNCTION.replace("<name>", "org/judge"): 1.0, FUNCTION.replace("<name>", "b"): 1.0})
    assert found is not None and found.evidence == {"functions": "org/judge, b"}


def test_rows_without_a_rollout_count_nowhere() -> None:
    condition = SilentFunction((FUNCTION,), rollouts=2)
    look(condition, lost=1.0)
    assert condition.judge(2, {"rldk/train/loss": 1.0}) is None
    found = look(condition, lost=1.0)
    assert found is not None and found.breached


def test_a_resumed_run_counts_on() -> None:
    condition, resumed = SilentFunction((FUNCTION,), rollouts=2), SilentFunction((FUNCTION,), rollouts=2)
    look(condition, lost=1.0)
    resumed.load_state(condition.state())
    found = look(resumed, lost=1.0)
    assert found is not None and found.breached
