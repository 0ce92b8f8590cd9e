from __future__ import annotations

import os
from pathlib import Path

from rldk_tracking.health.alert import Alert
from rldk_tracking.ledger import Ledger


def alert(step: int, rule: str = "kl.high", state: str = "firing") -> Alert:
    return Alert(rule, "warning", state, step, step, 0.3, 0.2, "KL is 0.3.", "Lower it.", {}, "rldk/kl/ref_k1")  # type: ignore[arg-type]


def test_what_was_told_after_the_checkpoint_is_not_told_again(tmp_path: Path) -> None:
    first = Ledger(str(tmp_path))
    assert all(first.is_news(a) for a in (alert(2), alert(5, state="resolved"), alert(9), alert(12, "reward.collapse")))
    first.close()
    again = Ledger(str(tmp_path), resumed_at=6)
    assert not again.is_news(alert(10)), "a little later in the part that is made again"
    assert again.is_news(alert(11)), "a second time is news"
    assert again.is_news(alert(11, "nan.loss"))
    assert again.is_news(alert(13, "reward.collapse")), "later than all that was told"
    again.close()


def test_a_new_training_begins_a_new_ledger(tmp_path: Path) -> None:
    first = Ledger(str(tmp_path))
    first.is_news(alert(9))
    first.close()
    second = Ledger(str(tmp_path))
    assert second.is_news(alert(3))
    second.close()
    third = Ledger(str(tmp_path), resumed_at=1)
    assert not third.is_news(alert(3))
    assert third.is_news(alert(9))
    third.close()


def test_a_folder_that_cannot_be_written_keeps_no_alert_from_people(tmp_path: Path) -> None:
    (tmp_path / "rldk").write_text("in the way")
    ledger = Ledger(str(tmp_path))
    assert ledger.is_news(alert(1))
    assert ledger.is_news(alert(1))
    ledger.close()
    assert Ledger(None).is_news(alert(1))
    assert os.listdir(tmp_path) == ["rldk"]
