"""One word on a run, and how much was judged for it."""

from __future__ import annotations

import itertools

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.verdict import EXIT_CODES, Coverage, Judged, verdict_of
from rldk_tracking.health.watched import row_rules

LEVEL = {"condition": "level", "parameters": {"threshold": 1.0}}


def engine(*rules: Rule) -> Engine:
    return Engine(rules)


def test_a_rule_has_judged_once_it_could_have_fired() -> None:
    rule = Rule(id="kl.own", keys=("x",), warm_up_samples=2, persistence=(3, 4), **LEVEL)
    for value, fires in ((0.0, False), (2.0, True)):
        watched = engine(rule)
        for step in range(10):
            alerts = watched.update(step, {"x": value})
            found = Judged.by(watched)
            assert bool(found.judged) == (step >= 4)
            assert found.judged + found.warming_up == ("kl.own",)
            assert bool(alerts) == (fires and step == 4), "it fires in the first row of which that is said"


def test_a_condition_that_still_learns_what_is_normal_has_not() -> None:
    watched = engine(Rule(id="kl.own", keys=("x",), condition="jump", parameters={"minimum": 8, "z": 5.0}))
    for step in range(30):
        watched.update(step, {"x": 1.0 + 0.01 * (step % 3)})
        assert len(Judged.by(watched).judged) == (step >= 11), "8 values, each of which counts 3 values later"


def test_without_data_it_has_not() -> None:
    watched = engine(Rule(id="kl.own", keys=("x",), **LEVEL))
    watched.update(1, {"y": 1.0})
    assert Judged.by(watched) == Judged((), (), ("kl.own",))


def test_every_rule_is_in_one_of_three_lists() -> None:
    watched = Engine(row_rules(rules_for("safe")))
    for step in range(1, 40):
        watched.update(step, {"rldk/reward/mean": 0.1 * step, "rldk/grad/norm": 1.0, "rldk/value/loss": 1.0})
        found = Judged.by(watched)
        every = found.judged + found.warming_up + found.without_data
        assert sorted(every) == sorted(rule.id for rule in watched.rules)
        assert found.without_data == tuple(watched.unknown())
    counts = found.coverage
    assert (counts.judged, counts.warming_up, counts.without_data) == tuple(
        len(ids) for ids in (found.judged, found.warming_up, found.without_data)
    )


def test_a_rule_that_raised_has_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = engine(Rule(id="kl.own", keys=("x",), **LEVEL), Rule(id="kl.other", keys=("y",), **LEVEL))
    watched.update(1, {"x": 0.0, "y": 0.0})
    (broken, _) = watched.watches

    def judge(step: int, row: object) -> None:
        raise TypeError("planted")

    monkeypatch.setattr(broken.condition, "judge", judge)
    watched.update(2, {"x": 0.0, "y": 0.0})
    assert Judged.by(watched) == Judged(("kl.other",), (), (), ("kl.own",))


@pytest.mark.parametrize(
    ("judged", "warming_up", "core", "is_enough"),
    [(0, 0, 0, False), (4, 4, 1, True), (4, 5, 1, False), (9, 0, 0, False), (1, 0, 1, True)],
)
def test_what_is_enough(judged: int, warming_up: int, core: int, is_enough: bool) -> None:
    assert Coverage(judged, warming_up, 30, core).is_enough == is_enough


@pytest.mark.parametrize(
    ("rule", "is_core"),
    [("reward.own", True), ("mine.own", True), ("goal.own", True), ("nan.own", False), ("memory.own", False)],
)
def test_the_machine_alone_makes_no_run_healthy(rule: str, is_core: bool) -> None:
    watched = engine(Rule(id=rule, keys=("x",), **LEVEL))
    watched.update(1, {"x": 0.0})
    assert Judged.by(watched).coverage.is_enough == is_core


def test_a_row_has_the_numbers() -> None:
    watched = Engine(row_rules(rules_for("safe")))
    for step in range(1, 40):
        watched.update(step, {"rldk/reward/mean": 0.1 * step, "rldk/grad/norm": 1.0, "rldk/value/loss": 1.0})
        assert Coverage.of_row(watched.coverage()) == Judged.by(watched).coverage
    assert Coverage.of_row({"rldk/alerts/rules_judged": 1.0}) is None


def test_the_sentence() -> None:
    assert (
        Coverage(12, 8, 26, 5).sentence(9) == "judged 12, warming up 8, no data 26 (of which 9 cannot come from a log)"
    )
    assert Coverage(12, 8, 26, 5).sentence() == "judged 12, warming up 8, no data 26"


def test_the_worst_alert_decides_and_silence_is_health_only_where_enough_was_judged() -> None:
    ranks = {"info": 0, "warning": 1, "critical": 2}
    for count in range(4):
        for severities in itertools.product(ranks, repeat=count):
            worst = max((ranks[severity] for severity in severities), default=0)
            for is_enough in (False, True):
                expected = ("healthy" if is_enough else "unknown", "warning", "critical")[worst]
                assert verdict_of(severities, is_enough) == expected


def test_every_verdict_has_a_code_of_its_own() -> None:
    assert EXIT_CODES == {"healthy": 0, "warning": 1, "critical": 2, "unknown": 4}
