"""SwanLab: what its run is given, with a double of its client, which the test environments do not have.

`run_swanlab.py` trains with the client itself, and prints what is in its store.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row
from rldk_tracking.trackers.swanlab import SwanLabBackend, SwanLabTracker


class Client:
    """As much of the module `swanlab` as is used."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.run: Any = None

    def begin(self) -> None:
        self.run = SimpleNamespace(name="one", alive=True, log=lambda data, step: self.rows.append((step, data)))

    def has_run(self) -> bool:
        return self.run is not None

    def get_run(self) -> Any:
        if self.run is None:
            raise RuntimeError("No active Run. Call swanlab.init() first.")
        return self.run

    Html = Text = staticmethod(str)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    found = Client()
    monkeypatch.setitem(sys.modules, "swanlab", found)  # type: ignore[arg-type]
    return found


def test_rows_alerts_and_pictures(client: Client, make_alert: Callable[..., Alert]) -> None:
    tracker = SwanLabTracker()
    tracker.open(RunInfo())
    assert not tracker.joined
    with pytest.raises(RejectedError, match="no SwanLab run"):
        tracker.log({"rldk/a": 1.0}, 1)
    assert not SwanLabBackend().is_open()
    client.begin()
    assert SwanLabBackend().is_open()
    tracker.open(RunInfo())
    assert tracker.joined
    tracker.log_rows([Row({"rldk/reward/mean": step / 2}, step, 0.0) for step in (1, 5)])
    tracker.alert(make_alert())
    tracker.alert(make_alert(state="resolved", step=20))
    tracker.alert(make_alert(notify=False))
    tracker.log_figure("rldk/curve", "<svg/>", 7)
    rewards = Heatmap("Rewards", ("1 to 2", "0 to 1"), (1, 5), ((0.25, None), (0.75, 1.0)), edges=(0.0, 1.0, 2.0))
    tracker.log_heatmap("rldk/charts/reward_distribution", rewards, 7)
    tracker.status("running", {}, 7)
    *rows, (step, pictures) = client.rows
    assert [rows[0], rows[1]] == [(1, {"rldk/reward/mean": 0.5}), (5, {"rldk/reward/mean": 2.5})]
    (first, fired), (last, resolved) = rows[2:4]
    assert (first, last) == (12, 20)
    assert "rldk warning: kl.high (step 12)" in fired["rldk/alerts/kl.high"]
    assert "Lower the learning rate" in fired["rldk/alerts/kl.high"]
    assert "resolved" in resolved["rldk/alerts/kl.high"]
    assert (step, pictures) == (7, {"rldk/curve": "<svg/>"})
    tracker.status("finished", {}, 9)
    step, pictures = client.rows[-1]
    assert step == 9
    assert set(pictures) == {f"rldk/charts/{name}" for name in ("overview", "report", "reward_distribution")}
    client.run.alive = False
    with pytest.raises(RejectedError, match="no SwanLab run"):
        tracker.log({"rldk/a": 1.0}, 10)
    tracker.close()
    assert not tracker.joined


def test_an_older_client_is_served_through_its_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "swanlab", SimpleNamespace())  # type: ignore[arg-type]
    assert not SwanLabBackend().joins(None)
    with pytest.raises(ImportError, match="newer swanlab"):
        SwanLabTracker()
    monkeypatch.setitem(sys.modules, "swanlab", None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match="pip install swanlab"):
        SwanLabTracker()
