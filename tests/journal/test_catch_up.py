"""What the command `sync` rests on; see also tests/cli/test_sync.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.watched import as_data
from rldk_tracking.journal.catch_up import busy, catch_up, waits
from rldk_tracking.journal.contents import Contents
from rldk_tracking.journal.reader import FileLines
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.wandb import WandbTracker
from rldk_tracking.trackers.wandb_backend import WandbBackend
from tests.journal.conftest import INFO, an_alert, row, started


class Wandb(InMemoryTracker):
    """As W&B's, with a log that holds the first steps."""

    name = "wandb"

    def __init__(self, held: int = 0) -> None:
        super().__init__()
        self.held = held

    def address(self) -> dict[str, str]:
        return {"entity": "e", "project": "p", "id": "i", "log": "/a/b/c/run.wandb"}

    def missing(self, records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        return [record for record in records if record["type"] in ("metrics", "alert") and record["step"] > self.held]


def killed(folder: Path, *trackers: Any, pid: int = 2**22 + 1, end: str | None = None) -> Path:
    journal = started(folder, *trackers)
    for step in range(1, 6):
        journal.row(step, row(step), [an_alert(step)] if step in (2, 4) else [])
    if end is not None:
        journal.end(end, 5)
    journal.close()
    lines = journal.path.read_text().splitlines()
    begin = json.loads(lines[0]) | {"pid": pid, "created": 1.0, "rules": as_data(rules_for("safe"))}
    journal.path.write_text("\n".join([json.dumps(begin), *lines[1:]]) + "\n")
    return journal.path


def test_contents(tmp_path: Path) -> None:
    path = killed(tmp_path, Wandb())
    with path.open("ab") as file:
        file.write(b"nonsense\n")
    contents = Contents.of(path)
    assert (contents.last_step, contents.has_ended, contents.targets) == (5, False, {})
    assert contents.in_training["wandb"].to["id"] == "i"
    assert contents.position == path.stat().st_size
    assert [why for _, why in contents.skipped] == ["it is not JSON, or torn"]
    assert (contents.pid, contents.created, contents.is_elsewhere) == (2**22 + 1, 1.0, False)
    assert set(contents.rules) >= {"run.crashed"}
    assert busy(path, contents) is None


def test_a_training_that_goes_on_begins_anew(tmp_path: Path) -> None:
    path = killed(tmp_path, Wandb(), end="finished")
    assert Contents.of(path).has_ended
    again = started(tmp_path, Wandb(), resumed_at=3)
    assert not Contents.of(path).has_ended
    assert busy(path, Contents.of(path)) == "the training that writes it is running"
    again.close()


def test_wandb_gets_what_its_own_log_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, resumed = killed(tmp_path, Wandb()), Wandb(held=3)
    monkeypatch.setattr(WandbTracker, "resume", lambda to, secrets: resumed)
    monkeypatch.setattr(WandbBackend, "missing", lambda self, to, records: resumed.missing(records))
    outcomes = catch_up(path, Contents.of(path), lambda target: target, 10)
    assert outcomes is not None
    (outcome,) = outcomes
    assert resumed.series["rldk/a"] == [(4, 2.0), (5, 2.5)]
    assert [alert.rule for alert in resumed.alerts] == ["kl.high", "run.crashed"]
    assert resumed.statuses == [(5, "crashed")]
    assert (outcome.sent, outcome.left, outcome.is_closed) == (4, 0, True)
    assert not waits(path, Contents.of(path)), "it is sent once"


@pytest.mark.parametrize(("at_once", "sent", "left"), [(True, 0, None), (False, 1, 3)])
def test_what_did_not_reach_wandb_is_counted_where_it_is_known(
    tmp_path: Path, at_once: bool, sent: int, left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, resumed = killed(tmp_path, Wandb()), Wandb(held=3)

    def away(*_: Any) -> Any:
        raise ConnectionError("it is away")

    monkeypatch.setattr(resumed, "alert", away)
    monkeypatch.setattr(WandbTracker, "resume", away if at_once else lambda to, secrets: resumed)
    monkeypatch.setattr(WandbBackend, "missing", lambda self, to, records: resumed.missing(records))
    outcomes = catch_up(path, Contents.of(path), lambda target: target, 10)
    assert outcomes is not None
    (outcome,) = outcomes
    assert (outcome.sent, outcome.left, outcome.problem) == (sent, left, "it is away")


class Elsewhere(InMemoryTracker):
    """One that the courier serves."""

    name = "mlflow"
    in_process = False

    def address(self) -> dict[str, str]:
        return {"run_id": "r", "tracking_uri": "http://127.0.0.1:1"}


@pytest.mark.parametrize(("is_readable", "left"), [(True, 6), (False, None)])
def test_what_stays_is_counted_where_the_journal_can_be_read(
    tmp_path: Path, is_readable: bool, left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = killed(tmp_path, Elsewhere(), pid=0, end="finished")
    contents = Contents.of(path)

    def breaks(*_: Any) -> Any:
        raise OSError(5, "Input/output error")

    def refuse(target: Any) -> Any:
        if not is_readable:
            monkeypatch.setattr(FileLines, "lines", breaks)
        raise ValueError("it is not yours")

    outcomes = catch_up(path, contents, refuse, 10)
    assert outcomes is not None
    (outcome,) = outcomes
    assert (outcome.sent, outcome.left, outcome.problem) == (0, left, "it is not yours"), "five rows and the end"


@pytest.mark.parametrize("end", ["finished", "stopped", "crashed"])
def test_wandb_of_a_training_that_said_how_it_ended_is_left_alone(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = killed(tmp_path, Wandb(), end=end)
    monkeypatch.setattr(WandbTracker, "resume", lambda to, secrets: pytest.fail("it was resumed"))
    assert not waits(path, Contents.of(path))


@pytest.mark.parametrize(("end", "expected"), [(None, 1), ("crashed", 1), ("finished", 0)])
def test_the_crash_is_written_down_once(tmp_path: Path, end: str | None, expected: int) -> None:
    path = killed(tmp_path, end=end)
    for _ in range(2):
        outcomes = catch_up(path, Contents.of(path), lambda target: target, 10)
        assert outcomes is not None and list(outcomes) == []
    rules = [json.loads(line).get("rule") for line in path.read_text().splitlines()]
    assert rules.count("run.crashed") == expected
    firing: dict[str, Alert] = Contents.of(path).firing
    assert list(firing) == ["run.crashed"] * expected
    assert INFO.name == "a try"
