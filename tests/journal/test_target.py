from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rldk_tracking.journal.offset import offset_path
from rldk_tracking.journal.reader import FileLines
from rldk_tracking.journal.target import Destination, Target, load_offset
from rldk_tracking.trackers.slack import SlackNotifier
from tests.journal.conftest import row, started

SECRET = "https://hooks.slack.com/services/T0/B0/SECRET"


def test_what_is_handed_over() -> None:
    target = Destination("slack-2", SlackNotifier("https://hooks.slack.com/services/T0/B0/x")).target()
    assert (target.id, target.tracker, target.to) == ("slack-2", "slack", {"min_severity": "warning"})
    assert target.secrets == {"url": "https://hooks.slack.com/services/T0/B0/x"}


def test_a_repr_shows_no_secret() -> None:
    target = Target("slack", "slack", {"min_severity": "critical"}, {"url": SECRET})
    assert "SECRET" not in repr(target)
    tracker = target.connect({"min_severity": "info"})
    assert tracker.address()["min_severity"] == "info", "what was found out since goes before"
    with pytest.raises(ValueError, match="telegraph"):
        Target("x", "telegraph", {}).connect({})


@pytest.mark.parametrize(("tracker", "at_the_end"), [("slack", True), ("mlflow", False)])
def test_an_offset_that_is_lost_repeats_no_message(tmp_path: Path, tracker: str, at_the_end: bool) -> None:
    journal = started(tmp_path)
    journal.row(1, row(1))
    journal.close()
    offset_path(journal.path, "x").write_text("{")
    offset = load_offset(journal.path, Target("x", tracker, {}), FileLines(journal.path), logging.getLogger("x"))
    assert offset.position == (journal.size if at_the_end else 0)


def test_a_refusal_is_forgotten(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.close()
    target, lines, log = Target("x", "mlflow", {}), FileLines(journal.path), logging.getLogger("x")
    offset = load_offset(journal.path, target, lines, log)
    offset.refused = True
    offset.save()
    assert not load_offset(journal.path, target, lines, log).refused
