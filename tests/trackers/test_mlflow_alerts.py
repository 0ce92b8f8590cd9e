from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers import mlflow_alerts as module
from rldk_tracking.trackers.mlflow_alerts import COLUMNS, FILE, AlertTable, stored
from rldk_tracking.trackers.mlflow_run import write_table

pytest.importorskip("mlflow", reason="needs mlflow")
Make = Callable[..., Alert]


def test_each_transition_once(make_alert: Make) -> None:
    table = AlertTable()
    for alert in (make_alert(), make_alert(), make_alert("nan.loss"), make_alert(step=20, state="resolved")):
        table.add(alert)
    shown = [dict(zip(COLUMNS, row, strict=True)) for row in table.rows]
    assert [[row[name] for name in ("step", "rule", "severity", "state")] for row in shown] == [
        [12, "kl.high", "warning", "firing"],
        [12, "nan.loss", "warning", "firing"],
        [20, "kl.high", "warning", "resolved"],
    ]
    assert table.open == {"nan.loss": "warning"}
    table.put_before([make_alert("old.one", step=1), make_alert()])
    assert [row[COLUMNS.index("rule")] for row in table.rows] == ["old.one", "kl.high", "nan.loss", "kl.high"]


def test_an_alert_with_more_consequences_takes_its_own_row() -> None:
    table = AlertTable()
    for named in ((), ("kl.spike",), ("kl.spike", "reward.collapse"), ("kl.spike",)):
        table.add(Alert("lr.spike", "warning", "firing", 5, 5, None, None, "m", "a", consequences=named))
    assert [row[COLUMNS.index("consequences")] for row in table.rows] == ["kl.spike, reward.collapse"]


def test_what_an_earlier_process_stored(store: Any, make_alert: Make) -> None:
    run_id = store.client.create_run(store.experiment_id).info.run_id
    table = AlertTable()
    table.add(make_alert(value=float("nan"), evidence={}, consequences=("kl.spike", "reward.collapse"), times=3))
    rows = [*table.rows, [1, "of another make"] + [None] * (len(COLUMNS) - 2)]
    write_table(store.client, run_id, FILE, COLUMNS, rows)
    (found,) = stored(store.client, run_id)
    assert (found.rule, found.step, found.message) == ("kl.high", 12, make_alert().message)
    assert (found.consequences, found.times) == (("kl.spike", "reward.collapse"), 3)
    store.client.log_text(run_id, "{", FILE)
    assert stored(store.client, run_id) == []


def test_what_is_read_first_stands_first() -> None:
    assert COLUMNS[:5] == ("step", "severity", "rule", "message", "advice")


def test_the_more_alerts_the_longer_the_pause_until_the_table_is_written_anew(
    make_alert: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One transition a second, for an hour."""
    table, written, tagged, now = AlertTable(), [], 0, 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(module, "write_table", lambda *given: written.append(len(given[-1])))
    for second in range(3600):
        now = float(second)
        table.add(make_alert(step=second))
        if table.is_due:
            table.write(None, "")
            table.note_tags()
        elif table.are_tags_due:
            tagged += 1
            table.note_tags()
    assert written[:3] == [1, 3, 5], "the first ones at once"
    assert len(written) < 200 and sum(written) < 250_000, "each time it would be 6 million rows"
    assert 3600 - written[-1] <= module.LONGEST_S
    assert tagged + len(written) >= 1700, "what is open is said every two seconds"
