"""From transitions to incidents, and a verdict that never takes silence for health."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

import pytest

from rldk_tracking.charts.incidents import by_weight, incidents_of, verdict, verdict_word, worst_open
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.verdict import Coverage

Make = Callable[..., Alert]


def row_of(coverage: Coverage) -> dict[str, float]:
    names = ("rules_judged", "rules_warming_up", "rules_without_data", "core_rules_judged")
    return {f"rldk/alerts/{name}": float(n) for name, n in zip(names, astuple(coverage), strict=True)}


def test_an_alert_and_its_end_are_one_incident(make_alert: Make) -> None:
    incidents = incidents_of([make_alert(), make_alert(state="resolved", step=30, message="Over.")])
    assert [(e.rule, e.first_step, e.step, e.ended) for e in incidents] == [("kl.high", 10, 12, 30)]
    assert incidents[0].message == "KL to the reference is 0.31 nats per token, above 0.2."


def test_an_escalation_keeps_the_beginning_and_takes_the_worst(make_alert: Make) -> None:
    critical = make_alert(severity="critical", step=20, first_step=18, message="Worse.")
    incidents = incidents_of([make_alert(), critical, make_alert(step=25, first_step=24)])
    assert [(e.severity, e.first_step, e.step, e.ended) for e in incidents] == [("critical", 10, 12, None)]


def test_a_rule_may_have_several_incidents(make_alert: Make) -> None:
    story = [
        make_alert(step=1, first_step=1),
        make_alert("grad.explosion", step=2, first_step=2),
        make_alert(state="resolved", step=3),
        make_alert(step=9, first_step=8),
    ]
    assert [(e.rule, e.step, e.ended) for e in incidents_of(story)] == [
        ("kl.high", 1, 3),
        ("grad.explosion", 2, None),
        ("kl.high", 9, None),
    ]


def test_one_that_fires_again_soon_is_one_incident(make_alert: Make) -> None:
    story = [
        make_alert(step=1, first_step=1),
        make_alert(state="resolved", step=3),
        make_alert("grad.explosion", step=4, first_step=4),
        make_alert(step=9, first_step=8, times=2, notify=False, consequences=("kl.spike",), message="Again."),
        make_alert(state="resolved", step=12, times=2, notify=False),
    ]
    again, _ = incidents_of(story[:4])
    assert (again.first_step, again.ended, again.times) == (1, None, 2)
    first, _ = incidents_of(story)
    assert (first.ended, first.times, first.message, first.consequences) == (12, 2, "Again.", ("kl.spike",))


def test_a_rule_that_flaps_through_a_run_is_one_message_and_one_incident_with_a_count() -> None:
    engine = Engine(rules_for())
    alerts = [
        alert
        for step in range(3400)
        for alert in engine.update(step, {"rldk/kl/ref_k1": -0.5 if 100 <= step % 200 < 105 else 0.01})
    ]
    told = [(alert.rule, alert.state) for alert in alerts if alert.notify]
    assert told == [("kl.negative", "firing"), ("kl.negative", "resolved")]
    (incident,) = incidents_of(alerts)
    assert (incident.times, incident.first_step) == (17, 100)
    assert incident.message.endswith("It has fired 17 times since step 100.")


def test_an_end_without_a_beginning_tells_nothing(make_alert: Make) -> None:
    assert incidents_of([make_alert(state="resolved")]) == []


def test_what_lasts_and_what_is_severe_comes_first(make_alert: Make) -> None:
    story = [
        make_alert("a.over", severity="critical", step=1, first_step=1),
        make_alert("a.over", state="resolved", severity="critical", step=2),
        make_alert("b.late", step=9, first_step=9),
        make_alert("c.early", step=5, first_step=5),
        make_alert("d.worst", severity="critical", step=20, first_step=20),
        make_alert("e.info", severity="info", step=3, first_step=3),
    ]
    incidents = incidents_of(story)
    assert [e.rule for e in by_weight(incidents)] == ["d.worst", "c.early", "b.late", "e.info", "a.over"]
    assert worst_open(incidents) == "critical"
    assert worst_open(incidents[:1]) is None


HEALTHY = {"rldk/health/score": 1.0}


@pytest.mark.parametrize(
    ("status", "row", "expected"),
    [
        ("running", HEALTHY, "Running, step 40. No alert so far."),
        ("finished", HEALTHY, "Finished, step 40. No alert so far."),
        ("", HEALTHY, "As recorded, step 40. No alert so far."),
        ("crashed", {}, "Crashed, step 40. Nothing is known about its health: no rule had data."),
    ],
)
def test_without_alerts(status: str, row: dict[str, float], expected: str) -> None:
    assert verdict(status, 40, row, []) == expected


def test_too_little_judged_is_unknown_and_not_silence(make_alert: Make) -> None:
    few, enough = Coverage(5, 12, 29, 1), Coverage(12, 5, 29, 3)
    row = HEALTHY | row_of(few)
    said = "Unknown: too little was judged to call it healthy (judged 5, warming up 12, no data 29)."
    assert verdict("finished", 4, row, []) == f"Finished, step 4. {said}"
    assert verdict("finished", 4, HEALTHY | row_of(enough), []) == "Finished, step 4. No alert so far."
    nothing = "Finished, step 4. Nothing is known about its health: no rule had data."
    assert verdict("finished", 4, row_of(Coverage(0, 0, 46, 0)), []) == nothing
    alerts = [make_alert()]
    assert verdict("finished", 4, row, incidents_of(alerts)) == "Finished, step 4. Warning: kl.high since step 10."
    assert verdict_word(row, incidents_of(alerts)) == "warning"
    assert verdict_word(row, []) == "unknown"
    assert verdict_word(HEALTHY | row_of(enough), []) == verdict_word(HEALTHY, []) == "healthy"
    over = incidents_of([*alerts, make_alert(state="resolved", step=30)])
    assert verdict_word(HEALTHY | row_of(enough), over) == "healthy"


def test_with_alerts(make_alert: Make) -> None:
    open_ones = incidents_of([make_alert(), make_alert("nan.weights", severity="critical", step=20, first_step=20)])
    said = verdict("critical", 40, HEALTHY, open_ones)
    assert said == "Running, step 40. Critical: nan.weights since step 20 and 1 more."
    over = incidents_of([make_alert(), make_alert(state="resolved", step=30)])
    assert verdict("finished", 40, HEALTHY, over) == "Finished, step 40. No alert is open; 1 earlier one is over."
    info = incidents_of([make_alert(severity="info")])
    assert verdict("running", 40, HEALTHY, info) == "Running, step 40. No alert so far."
