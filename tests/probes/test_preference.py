from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.metrics.preference import drift
from rldk_tracking.monitors.preference import BASELINE_STEPS, PreferenceMonitor

CHOSEN = "rldk/preference/chosen_logps"


def test_drift_is_measured_from_the_first_steps(run: Any) -> None:
    monitor = PreferenceMonitor()
    monitor.begin_within(run, None, None, None, None)
    values = [-50.0 - i for i in range(BASELINE_STEPS)] + [-70.0]
    for step, value in enumerate(values, start=1):
        run.add({CHOSEN: value})
        monitor.collect(run, step, {})
        run.finish(step)
    baseline = sum(values[:BASELINE_STEPS]) / BASELINE_STEPS
    assert run.seen.series[f"{CHOSEN}_drift"] == [(len(values), pytest.approx(drift(-70.0, baseline)))]


def test_without_preferences_there_is_no_drift(run: Any) -> None:
    monitor = PreferenceMonitor()
    monitor.begin_within(run, None, None, None, None)
    monitor.collect(run, 1, {})
    run.finish(1)
    assert run.seen.series == {}
