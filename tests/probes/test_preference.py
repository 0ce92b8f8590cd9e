from __future__ import annotations

import pytest
import torch

from rldk_tracking.metrics.preference import drift
from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.preference import BASELINE_STEPS, PreferenceProbe

CHOSEN, REJECTED = "rldk/preference/chosen_logps", "rldk/preference/rejected_logps"


def step(probe: PreferenceProbe, number: int, **scalars: float) -> dict[str, float]:
    """The drifts of a step."""
    data = StepData(number)
    data.add({f"rldk/preference/{name}_logps": value for name, value in scalars.items()})
    probe.collect(data)
    return {key: float(value) for key, value in data.scalars.items() if key.endswith("_drift")}


def test_drift_is_measured_from_the_first_steps() -> None:
    probe = PreferenceProbe()
    probe.begin(Training())
    values = [-50.0 - i for i in range(BASELINE_STEPS)]
    assert [step(probe, number, chosen=value) for number, value in enumerate(values, start=1)] == [{}] * BASELINE_STEPS
    baseline = sum(values) / BASELINE_STEPS
    for number, value in ((6, -70.0), (7, -51.0)):
        expected = drift(value, baseline)
        assert step(probe, number, chosen=value) == {f"{CHOSEN}_drift": pytest.approx(expected)}
        assert expected == pytest.approx(value - baseline)


def test_the_two_sides_are_apart_and_steps_without_a_side_do_not_count() -> None:
    probe = PreferenceProbe()
    probe.begin(Training())
    for number in range(1, BASELINE_STEPS + 1):
        step(probe, number, chosen=-10.0)
    found = step(probe, 6, chosen=-12.0, rejected=-40.0)
    assert found == {f"{CHOSEN}_drift": pytest.approx(-2.0)}
    for number in range(7, 6 + BASELINE_STEPS):
        assert step(probe, number, rejected=-40.0) == {}
    assert step(probe, 20, rejected=-45.0) == {f"{REJECTED}_drift": pytest.approx(-5.0)}


def test_a_training_that_begins_has_a_baseline_of_its_own() -> None:
    probe = PreferenceProbe()
    for start in (-10.0, -100.0):
        probe.begin(Training())
        for number in range(1, BASELINE_STEPS + 1):
            assert step(probe, number, chosen=start) == {}
        assert step(probe, 6, chosen=start - 1) == {f"{CHOSEN}_drift": pytest.approx(-1.0)}


def test_a_number_may_be_a_tensor() -> None:
    probe = PreferenceProbe()
    probe.begin(Training())
    for number in range(1, 7):
        data = StepData(number)
        data.add({CHOSEN: torch.tensor(-3.0 - (number == 6))})
        probe.collect(data)
    assert float(data.scalars[f"{CHOSEN}_drift"]) == pytest.approx(-1.0)


def test_without_preferences_there_is_no_drift() -> None:
    probe = PreferenceProbe()
    probe.begin(Training())
    assert [step(probe, number) for number in range(1, 8)] == [{}] * 7
