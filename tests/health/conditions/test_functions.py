from __future__ import annotations

from rldk_tracking.health.conditions.base import Finding
from rldk_tracking.health.conditions.functions import SilentFunction

KEY = "rldk/reward/function/<name>/none_fraction"


def look(condition: SilentFunction, **shares: float) -> Finding | None:
    return condition.judge(1, {KEY.replace("<name>", name): share for name, share in shares.items()})


def test_a_function_is_silent_after_so_many_rollouts_in_a_row() -> None:
    condition = SilentFunction((KEY,), rollouts=3)
    found = [look(condition, task=0.0, lost=1.0) for _ in range(4)]
    assert [one is not None and one.breached for one in found] == [False, False, True, True]
    assert [one is not None and one.clear for one in found] == [True, True, False, False]
    last = found[-1]
    assert last is not None and (last.value, last.threshold) == (4.0, 3.0)
    assert last.evidence == {"functions": "lost"} and last.key == "rldk/reward/function/lost/none_fraction"


def test_one_score_begins_anew() -> None:
    condition = SilentFunction((KEY,), rollouts=2)
    shares = (1.0, 0.97, 1.0, 1.0)
    assert [found.breached for share in shares if (found := look(condition, rare=share))] == [False, False, False, True]


def test_several_are_named_and_names_may_hold_slashes() -> None:
    condition = SilentFunction((KEY,), rollouts=1)
    found = condition.judge(1, {KEY.replace("<name>", "org/judge"): 1.0, KEY.replace("<name>", "b"): 1.0})
    assert found is not None and found.evidence == {"functions": "org/judge, b"}


def test_rows_without_a_rollout_count_nowhere() -> None:
    condition = SilentFunction((KEY,), rollouts=2)
    look(condition, lost=1.0)
    assert condition.judge(2, {"rldk/train/loss": 1.0}) is None
    found = look(condition, lost=1.0)
    assert found is not None and found.breached


def test_a_resumed_run_counts_on() -> None:
    condition, resumed = SilentFunction((KEY,), rollouts=2), SilentFunction((KEY,), rollouts=2)
    look(condition, lost=1.0)
    resumed.load_state(condition.state())
    found = look(resumed, lost=1.0)
    assert found is not None and found.breached
