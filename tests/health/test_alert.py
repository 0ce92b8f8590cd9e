from __future__ import annotations

import dataclasses
import json

import pytest

from rldk_tracking.health.alert import SEVERITIES, Alert, add_alert


def alert(**changes: object) -> Alert:
    fields: dict[str, object] = {
        "rule": "kl.high",
        "severity": "warning",
        "state": "firing",
        "step": 12,
        "first_step": 10,
        "value": 0.3,
        "threshold": 0.2,
        "message": "KL is 0.3.",
        "advice": "Raise beta.",
        "evidence": {"reward": 0.1},
    }
    return Alert(**(fields | changes))  # type: ignore[arg-type]


def test_the_title_says_how_bad_and_what() -> None:
    assert alert().title == "rldk warning: kl.high"
    assert alert(state="resolved").title == "rldk resolved: kl.high"


def test_a_title_fits_what_wandb_takes() -> None:
    assert len(alert(rule="team." + "x" * 100).title) == 64


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        alert().step = 3  # type: ignore[misc]


def test_plain_data_survives_json() -> None:
    one = alert(value=None, threshold=None)
    assert Alert(**json.loads(json.dumps(one.as_dict()))) == one


def test_severities_are_in_order() -> None:
    assert SEVERITIES == ("info", "warning", "critical")


def test_the_same_alert_with_more_consequences_takes_its_place() -> None:
    first, other = alert(step=5), alert(step=6)
    more = alert(step=5, consequences=("kl.high",), notify=False)
    alerts = [first, other]
    add_alert(alerts, more)
    assert [(one.step, one.consequences, one.notify) for one in alerts] == [(5, ("kl.high",), True), (6, (), True)]
    add_alert(alerts, alert(step=5, state="resolved"))
    assert len(alerts) == 3
