from __future__ import annotations

import gc
import logging
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.outlet import Outlet, news_of
from rldk_tracking.rollout import RunInfo
from rldk_tracking.settings import Settings
from rldk_tracking.trackers.memory import InMemoryTracker


def outlet_of(folder: Path | None = None) -> tuple[Outlet, InMemoryTracker]:
    tracker = InMemoryTracker()
    outlet = Outlet(Settings())
    outlet.open([], RunInfo(output_dir=None if folder is None else str(folder)), lambda: [tracker])
    return outlet, tracker


def alert() -> Alert:
    return Alert("kl.high", "warning", "firing", 3, 2, 1.0, 0.5, "too far", "lower the learning rate")


def test_a_row_and_its_alerts_come_to_the_trackers_and_to_who_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outlet, tracker = outlet_of(tmp_path)
    heard: list[Alert] = []
    with caplog.at_level(logging.INFO):
        news = outlet.take(3, {"rldk/kl/ref_k1": 1.0}, [alert()])
    assert heard == []
    outlet.tell(news, [heard.append])
    outlet.set_status("warning", 3)
    outlet.set_status("warning", 4)
    outlet.tell([], [])
    outlet.close("finished", 9)
    assert outlet.latest == (3, {"rldk/kl/ref_k1": 1.0})
    assert tracker.series["rldk/kl/ref_k1"] == [(3, 1.0)]
    assert tracker.alerts == heard == [alert()]
    assert "step 3" in caplog.text
    assert tracker.statuses == [(0, "running"), (3, "warning"), (9, "finished")]


def test_a_second_row_of_a_step_adds_what_is_new() -> None:
    outlet, tracker = outlet_of()
    outlet.take(1, {"a": 1.0, "b": 2.0, "rldk/system/overhead_fraction": 0.1}, [])
    outlet.take(1, {"a": 1.0, "b": 3.0, "rldk/system/overhead_fraction": 0.2}, [])
    assert outlet.latest[1] == {"a": 1.0, "b": 3.0, "rldk/system/overhead_fraction": 0.2}
    assert tracker.series["a"] == [(1, 1.0)]
    assert tracker.series["b"] == [(1, 2.0), (1, 3.0)]
    assert news_of({"a": 1.0}, {}) == {"a": 1.0}
    outlet.close("finished")


def test_nothing_comes_out_of_the_other_ranks() -> None:
    outlet = Outlet(Settings())
    outlet.open([])
    assert outlet.take(1, {"a": 1.0}, [alert()]) == []
    outlet.set_status("warning", 1)
    outlet.draw(1, np.ones(4), {"layer": 1.0})
    assert outlet.latest == (1, {"a": 1.0}) and outlet.health() == {}
    outlet.close("finished")
    assert outlet.closed


def test_heat_maps_go_out_at_the_latest_at_the_end() -> None:
    outlet, tracker = outlet_of()
    outlet.draw(1, np.array([0.0, 1.0]), {"one": 1.0, "two": 2.0})
    outlet.take(1, {"a": 1.0}, [])
    outlet.close("finished")
    assert tracker.heatmaps


def test_closing_twice_is_closing_once() -> None:
    outlet, tracker = outlet_of()
    outlet.close("stopped", 3)
    outlet.close("finished", 4)
    assert tracker.statuses[-1] == (3, "stopped")


LEFT_OPEN = """
import sys
from rldk_tracking.outlet import Outlet
from rldk_tracking.settings import Settings
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.jsonl import JsonlTracker


class Distant(JsonlTracker):
    threaded = True


outlet = Outlet(Settings())
outlet.open([], RunInfo(output_dir=sys.argv[1]), lambda: [Distant(sys.argv[1])])
outlet.take(1, {"a": 1.0}, [])
del outlet
"""


def test_what_nobody_closed_is_said_at_exit_to_have_crashed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEFT_OPEN, str(tmp_path)], check=True, timeout=120)
    assert '"crashed"' in (tmp_path / "run.jsonl").read_text().splitlines()[-1]


def test_it_keeps_nobody_alive_that_listens() -> None:
    class Trainer:
        def hear(self, heard: Any) -> None:
            pass

    outlet, trainer = outlet_of()[0], Trainer()
    outlet.tell(outlet.take(1, {"a": 1.0}, [alert()]), [trainer.hear])
    alive = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert alive() is None
    outlet.close("finished")
