from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Row, Tracker
from rldk_tracking.trackers.memory import InMemoryTracker


class Smallest(Tracker):
    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, float], int]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append((dict(metrics), step))


def test_numbers_of_the_trainers_own_names_are_not_stored_again() -> None:
    tracker, memory = Smallest(), InMemoryTracker()
    rows = [Row.of({"rldk/kl/ref_k3": 0.1, "tools/calls": 2.0}, 1, 0.0), Row.of({"tools/calls": 3.0}, 2, 0.0)]
    for one in (tracker, memory):
        one.log_rows(rows)
    assert tracker.rows == [({"rldk/kl/ref_k3": 0.1}, 1)]
    assert memory.series == {"rldk/kl/ref_k3": [(1, 0.1)], "tools/calls": [(1, 2.0), (2, 3.0)]}


def test_log_is_all_that_a_backend_must_have(make_alert: Callable[..., Alert]) -> None:
    tracker = Smallest()
    tracker.open(RunInfo())
    tracker.log_rows([Row({"a": 1.0}, 1, 0.0), Row({"a": 2.0}, 2, 0.0)])
    tracker.log_table("t", [], [], 1)
    tracker.log_figure("f", "<svg/>", 1)
    tracker.alert(make_alert())
    tracker.status("running", {}, 1)
    tracker.close()
    assert tracker.rows == [({"a": 1.0}, 1), ({"a": 2.0}, 2)]
    assert tracker.joined
    assert tracker.url() is None
    assert tracker.address() == {}


def test_without_log_it_is_no_tracker() -> None:
    with pytest.raises(TypeError, match="log"):
        Tracker()  # type: ignore[abstract]
