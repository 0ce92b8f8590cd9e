"""Real preference training: chosen and rejected texts from the trainer's logs, and their drift."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.runs.conftest import PREFERENCE_STEPS, Ran

SHOWN = {
    "rldk/preference/margin": "rewards/margins",
    "rldk/preference/accuracy": "rewards/accuracies",
    "rldk/preference/chosen_logps": "logps/chosen",
    "rldk/preference/rejected_logps": "logps/rejected",
    "rldk/train/loss": "loss",
    "rldk/grad/norm": "grad_norm",
    "rldk/update/learning_rate": "learning_rate",
}


@pytest.mark.parametrize("kind", ["dpo", "kto", "orpo", "cpo"])
def test_every_step_shows_what_the_trainer_logged(kind: str, text_run: Callable[[str], Ran]) -> None:
    run = text_run(kind)
    assert sorted(run.spy.steps) == list(range(1, PREFERENCE_STEPS + 1))
    for step, logs in run.spy.steps.items():
        row = run.at(step)
        for key, name in SHOWN.items():
            assert (key in row) == (name in logs), (key, step)
            if name in logs:
                assert row[key] == pytest.approx(logs[name], rel=1e-5), (key, step)
    assert ("rldk/preference/accuracy" in run.tracker.series) == (kind != "kto")


@pytest.mark.parametrize("kind", ["dpo", "kto", "orpo", "cpo"])
def test_drift_is_measured_from_the_mean_of_the_first_five_steps(kind: str, text_run: Callable[[str], Ran]) -> None:
    run = text_run(kind)
    for side in ("chosen", "rejected"):
        values = {step: logs[f"logps/{side}"] for step, logs in run.spy.steps.items()}
        start = sum(values[step] for step in range(1, 6)) / 5
        drift = dict(run.tracker.series[f"rldk/preference/{side}_logps_drift"])
        assert drift == pytest.approx({step: values[step] - start for step in (6, 7)}, rel=1e-5)
