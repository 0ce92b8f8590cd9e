"""Pictures come from another process as they would from this one, which imports nothing that draws."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from rldk_tracking.charts.drawing import OVERVIEW, REPORT, Drawing, pictures_of
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.report import Report
from rldk_tracking.charts.spec import GRADIENTS, REWARDS
from rldk_tracking.health.alert import Alert

Make = Callable[..., Alert]
SERIES = {"rldk/kl/ref_k3": [(1, 0.1), (2, float("nan")), (3, 0.3)], "rldk/reward/mean": [(1, 1.0)]}
REWARDS_SHOWN = Heatmap("Rewards", ("1 to 2", "0 to 1"), (1, 5), ((0.25, None), (float("nan"), 1.0)))


def test_they_are_the_same_as_here(make_alert: Make) -> None:
    alerts = [make_alert(step=3, first_step=2, evidence={"reward": 1.0})]
    settings = {"beta": 0.1, "what": object}
    report = Report("<b>", SERIES, alerts, "finished", settings=settings, heatmaps={REWARDS: REWARDS_SHOWN})
    names = [OVERVIEW, REPORT, REWARDS, GRADIENTS]
    drawing = Drawing(report, names)
    deadline = time.monotonic() + 60
    while not drawing.is_done and time.monotonic() < deadline:
        time.sleep(0.05)
    found = drawing.pictures(0.0)
    assert set(found) == {OVERVIEW, REPORT, REWARDS}
    assert found == pictures_of(report, names)


def test_what_takes_too_long_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert Drawing(Report("r", SERIES), [REPORT]).pictures(0.0) == {}
    assert "it took longer than 0 s" in caplog.text


def test_a_fault_of_the_process_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("rldk_tracking.charts.drawing.__name__", "no_such_module")
    with caplog.at_level("INFO"):
        assert Drawing(Report("r", SERIES), [OVERVIEW]).pictures(60.0) == {}
    assert "No module named no_such_module" in caplog.text


def test_who_has_something_drawn_imports_nothing_that_draws() -> None:
    code = (
        "import sys\n"
        "from rldk_tracking.charts.drawing import Drawing\n"
        "from rldk_tracking.charts.report import Report\n"
        "found = Drawing(Report('r', {'rldk/reward/mean': [(1, 1.0)]}), ['overview', 'report']).pictures(60)\n"
        "assert set(found) == {'overview', 'report'}, found\n"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
