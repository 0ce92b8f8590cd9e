"""The distance of preference training from its reference, from the implicit rewards."""

from __future__ import annotations

import random
import statistics
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.preference import PreferenceProbe

CHOSEN, REJECTED = "rldk/preference/reward_chosen", "rldk/preference/reward_rejected"
CHOSEN_DRIFT, REJECTED_DRIFT = "rldk/preference/chosen_logps_drift", "rldk/preference/rejected_logps_drift"


class DPOTrainer(SimpleNamespace):
    pass


class CPOTrainer(SimpleNamespace):
    pass


def begun(trainer: Any) -> PreferenceProbe:
    probe = PreferenceProbe()
    probe.begin(Training(trainer))
    return probe


def drifts(probe: PreferenceProbe, **rewards: Any) -> dict[str, float]:
    data = StepData(1)
    data.add({f"rldk/preference/reward_{side}": value for side, value in rewards.items()})
    probe.collect(data)
    return {key: float(value) for key, value in data.scalars.items() if key.endswith("_drift")}


@pytest.mark.parametrize("reference", [None, object()], ids=["adapter", "model"])
def test_it_is_the_reward_over_beta_from_the_first_step_on(reference: Any) -> None:
    probe = begun(DPOTrainer(beta=0.2, ref_model=reference))
    found = drifts(probe, chosen=-0.5, rejected=torch.tensor(-1.0))
    assert found == {CHOSEN_DRIFT: pytest.approx(-2.5), REJECTED_DRIFT: pytest.approx(-5.0)}
    assert drifts(probe, chosen=0.1) == {CHOSEN_DRIFT: pytest.approx(0.5)}, "KTO's batches may have one side"
    assert drifts(probe) == {}


def test_a_resumed_training_measures_from_the_same_point_and_with_less_noise() -> None:
    """Log-probabilities of batches differ by their texts; what the reference makes of the same texts does not."""
    draw = random.Random(0)
    found, raw = [], []
    for step in range(200):
        if step % 50 == 0:  # as after a resume
            probe = begun(DPOTrainer(beta=0.1, ref_model=None))
        reference, moved = -50.0 + draw.gauss(0, 2), -0.01 * step + draw.gauss(0, 0.3)
        found.append(drifts(probe, chosen=0.1 * moved)[CHOSEN_DRIFT])
        raw.append(reference + moved)
    trend = [-0.01 * step for step in range(200)]
    errors = [x - t for x, t in zip(found, trend, strict=True)]
    assert abs(statistics.fmean(errors)) < 0.1 and statistics.pstdev(errors) < 0.4 < 1.5 < statistics.pstdev(raw)
    assert found[-1] < -1.0, "the sign does not turn"


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        (CPOTrainer(beta=0.1), "CPOTrainer has no reference"),
        (DPOTrainer(beta=0.1, ref_model=None, reference_free=True), "DPOTrainer has no reference"),
        (DPOTrainer(ref_model=None), "the beta of DPOTrainer is not known"),
        (DPOTrainer(ref_model=None, beta=0.0), "the beta of DPOTrainer is not known"),
        (None, "this training has no reference"),
    ],
)
def test_what_cannot_be_told_is_absent_and_said_once(
    trainer: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    probe = begun(trainer)
    drifts(probe)
    assert caplog.text == "", "another kind of training"
    for _ in range(3):
        assert drifts(probe, chosen=-0.5) == {}
    assert caplog.text.count(reason) == 1


def test_a_trainer_that_scores_what_it_samples_is_none_of_its_own() -> None:
    def generate_and_score(inputs: Any) -> Any:
        return inputs

    grpo = SimpleNamespace(beta=0.1, ref_model=None, _generate_and_score_completions=generate_and_score)
    assert not PreferenceProbe().reads(Training(grpo))
    assert PreferenceProbe().reads(Training(DPOTrainer(beta=0.1, ref_model=None)))
    assert PreferenceProbe().reads(Training(None)), "a loop of the user's own may log implicit rewards"


def test_each_training_has_its_own_beta() -> None:
    probe = begun(DPOTrainer(beta=0.1, ref_model=None))
    assert probe.end() == {} and drifts(probe, chosen=1.0) == {}
    probe.begin(Training(DPOTrainer(beta=0.5, ref_model=None)))
    assert drifts(probe, chosen=1.0) == {CHOSEN_DRIFT: 2.0}
