from __future__ import annotations

import math

import pytest

from rldk_tracking.metrics import preference
from rldk_tracking.sources.logs import canonical

LOGS = {
    "loss": 0.6,
    "rewards/chosen": 0.1,
    "rewards/rejected": -0.3,
    "rewards/margins": 0.4,
    "rewards/accuracies": 0.75,
    "logps/chosen": -52.5,
    "logps/rejected": -61.0,
}


def test_reads_what_preference_trainers_log() -> None:
    assert canonical(LOGS) == {
        "rldk/train/loss": 0.6,
        "rldk/preference/margin": 0.4,
        "rldk/preference/accuracy": 0.75,
        "rldk/preference/reward_chosen": 0.1,
        "rldk/preference/reward_rejected": -0.3,
        "rldk/preference/chosen_logps": -52.5,
        "rldk/preference/rejected_logps": -61.0,
    }


def test_kto_logs_no_accuracy() -> None:
    logs = {name: value for name, value in LOGS.items() if name != "rewards/accuracies"}
    assert "rldk/preference/accuracy" not in canonical(logs)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "nan", "No Log", [], True])
def test_what_is_no_number_is_absent(value: object) -> None:
    assert canonical({"rewards/margins": value}) == {}


def test_numbers_written_as_text_are_numbers() -> None:
    assert canonical({"rewards/margins": "0.25"}) == {"rldk/preference/margin": 0.25}


def test_a_judges_scores_are_no_implicit_rewards() -> None:
    """Nash-MD logs both under one name."""
    found = canonical({**LOGS, "rewards/probabilities": 0.5})
    assert not {"rldk/preference/reward_chosen", "rldk/preference/reward_rejected"} & set(found)
    assert found["rldk/preference/margin"] == 0.4


def test_drift_is_negative_where_the_text_became_less_likely_than_under_the_reference() -> None:
    row = {"rldk/preference/reward_chosen": -0.5, "rldk/preference/reward_rejected": -2.0}
    assert preference.drifts(row, 0.1) == {
        "rldk/preference/chosen_logps_drift": pytest.approx(-5.0),
        "rldk/preference/rejected_logps_drift": pytest.approx(-20.0),
    }
    assert preference.drifts({}, 0.1) == {}
