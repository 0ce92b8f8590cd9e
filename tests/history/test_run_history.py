"""Log entries, as rows."""

from __future__ import annotations

from rldk_tracking.history.run_history import history, row_of


def test_a_log_without_steps_counts_its_entries() -> None:
    past = history("x", [{"epoch": 0.1}, {"reward": 1.0}, {"reward": 2.0}])
    assert [(entry.index, entry.step) for entry in past.entries] == [(1, 1), (2, 2)]


def test_a_trainers_own_name_wins_over_a_handwritten_one() -> None:
    assert row_of({"reward": 1.0, "reward_mean": 2.0}) == {"rldk/reward/mean": 1.0}
    assert row_of({"reward_mean": 2.0}) == {"rldk/reward/mean": 2.0}


def test_a_users_name_for_a_key() -> None:
    assert row_of({"my_score": 2.0}, {"my_score": "rldk/reward/gold"}) == {"rldk/reward/gold": 2.0}
