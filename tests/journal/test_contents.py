"""What a journal says of its run, and what a training makes of it that goes on: no alert is sent twice."""

from __future__ import annotations

from pathlib import Path

from rldk_tracking.journal.contents import Contents, Earlier
from rldk_tracking.journal.journal import journals_in
from tests.journal.conftest import an_alert, row, started


def test_alerts_after_the_checkpoint(tmp_path: Path) -> None:
    journal = started(tmp_path)
    sent = [an_alert(2), an_alert(5, state="resolved"), an_alert(9), an_alert(12, "reward.collapse")]
    for alert in sent:
        journal.row(alert.step, row(alert.step), [alert])
    journal.close()
    earlier = Earlier.read(journal.path, 6)
    assert earlier.last_step == 12
    assert earlier.sent == sent[2:]
    assert not earlier.is_new(an_alert(10)), "a little later in the part that is made again"
    assert earlier.is_new(an_alert(11)), "a second time is news"
    assert earlier.is_new(an_alert(11, "nan.loss"))
    assert earlier.is_new(an_alert(12, "reward.collapse", state="resolved"))
    assert earlier.is_new(an_alert(13, "reward.collapse")), "later than all that was sent"


def test_a_chain_of_continuations_ends_where_a_training_began(tmp_path: Path) -> None:
    for number, resumed_at in enumerate((None, None, 3, 3), 1):
        journal = started(tmp_path / "x")
        journal.close()
        journal.path.unlink()
        journal = started(tmp_path)
        journal._file.close()
        journal.path.write_bytes(b"")
        journal.begin(journal_info(), 1, {}, resumed_at)
        journal.row(5, row(5), [an_alert(5, f"rule.{number}")])
        journal.close()
    chain = Earlier.chain(journals_in(tmp_path), 4)
    assert [alert.rule for alert in chain.sent] == ["rule.2", "rule.3", "rule.4"]


def test_open_alerts_of_the_family_run(tmp_path: Path) -> None:
    journal = started(tmp_path)
    for rule, state in (("run.hung", "firing"), ("run.crashed", "firing"), ("run.hung", "resolved")):
        journal.call("alert", an_alert(1, rule, state=state))
    journal.close()
    assert list(Contents.of(journal.path).firing) == ["run.crashed"]
    assert Earlier.read(journal.path, 0).sent == [], "they are not made anew by the steps that are"


def journal_info() -> object:
    from tests.journal.conftest import INFO

    return INFO
