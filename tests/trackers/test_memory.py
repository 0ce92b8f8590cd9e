from __future__ import annotations

from collections.abc import Callable

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.memory import InMemoryTracker


def test_keeps_everything_at_once_and_in_order(make_alert: Callable[..., Alert]) -> None:
    tracker = InMemoryTracker()
    tracker.log({"rldk/a": 1.0, "rldk/b": 2.0}, 1)
    tracker.log({"rldk/a": 3.0}, 2)
    tracker.alert(make_alert())
    tracker.status("warning", {}, 2)
    tracker.log_table("rldk/samples", ["a"], [[1], [2]], 2)
    tracker.log_figure("rldk/curve", "<svg/>", 2)
    for number in (1, 2):
        tracker.log_heatmap("rldk/charts/h", Heatmap(f"version {number}", ("a",), (1,), ((1.0,),)), number)
    assert tracker.heatmaps["rldk/charts/h"].title == "version 2"
    assert tracker.series == {"rldk/a": [(1, 1.0), (2, 3.0)], "rldk/b": [(1, 2.0)]}
    assert tracker.alerts == [make_alert()]
    assert tracker.statuses == [(2, "warning")]
    assert tracker.tables == {"rldk/samples": [(2, ["a"], [[1], [2]])]}
    assert tracker.figures == {"rldk/curve": [(2, "<svg/>")]}
    tracker.close()
    assert tracker.series["rldk/b"] == [(1, 2.0)]
