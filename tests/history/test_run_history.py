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


def test_what_is_no_number_is_counted_and_the_first_is_named() -> None:
    entries = [{"reward": "abc", "note": "x", "step": 1}, {"reward": 1.0, "kl": [1]}, {"reward": "", "kl": None}]
    past = history("x", entries)
    assert past.notes == ("2 values are no number; the first is reward in row 1: 'abc'",)
    assert [entry.row for entry in past.entries] == [{"rldk/reward/mean": 1.0}]
    assert history("x", [{"reward": "1,000.5", "step": 1}, {"reward": "nan"}]).notes == ()
    (note,) = history("x", [{"reward": 1.0, "step": 1}, {"mine": True}], aliases={"mine": "rldk/reward/gold"}).notes
    assert note == "1 value is no number; the first is mine in row 2: 'True'"


def test_where_there_are_series_of_ours_they_alone_are_read() -> None:
    entries = [{"step": 1, "train/rldk/reward/mean": 0.5, "train/reward": 0.4}, {"step": 1, "train/reward": 0.4}]
    past = history("x", entries)
    assert [entry.row for entry in past.entries] == [{"rldk/reward/mean": 0.5}]
    assert not past.is_log and history("x", [{"reward": 1.0}]).is_log


def test_what_rules_produced_is_not_judged_again() -> None:
    past = history("x", [{"reward": 0.5, "rldk/health/score": 1.0, "rldk/alerts/firing": 0.0}])
    assert [entry.row for entry in past.entries] == [{"rldk/reward/mean": 0.5}]


def test_the_summary_of_a_training_leaves_the_row_of_its_last_step() -> None:
    summary = {"train/train_runtime": 9.0, "train/train_loss": 5.0, "train/total_flos": 0.0}
    past = history(
        "x", [{"step": 3, "train/loss": 0.1, **summary}, {"step": 3, "train_runtime": 9.0, "train_loss": 5.0}]
    )
    assert [entry.row for entry in past.entries] == [{"rldk/train/loss": 0.1}]
    assert history("x", [{"train_loss": 0.3}]).entries[0].row == {"rldk/train/loss": 0.3}, "a loop's own name"


def test_a_row_with_more_cells_than_the_heading_has_names() -> None:
    assert history("x", [{"reward": "1", None: ["2", "3"]}]).entries[0].row == {"rldk/reward/mean": 1.0}
