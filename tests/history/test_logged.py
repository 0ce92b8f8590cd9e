"""Which rules can be judged from a log at all."""

from __future__ import annotations

from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watched import row_rules
from rldk_tracking.history.handwritten import NAMES
from rldk_tracking.history.logged import LOGGED, not_logged
from rldk_tracking.history.run_history import row_of
from rldk_tracking.keys import lookup
from rldk_tracking.sources.aliases import ALIASES, EVALUATED


def test_every_key_of_a_log_is_one_that_some_name_gives() -> None:
    names = [*ALIASES, *NAMES, *(f"eval_{name}" for name in EVALUATED), "kl", "reward_std"]
    given: set[str] = set()
    for name in names:
        for entry in ({name: 1.0}, {name: float("nan")}, {name: 1.0, "step_time": 1.0}):
            given |= set(row_of(entry))
    functions = {key for key in given if key.startswith("rldk/reward/function/")}
    assert given - functions == LOGGED
    assert all(lookup(key) for key in LOGGED)


def test_what_only_the_callback_sees() -> None:
    rules = row_rules(rules_for("safe"))
    never = not_logged(rules, [rule.id for rule in rules])
    assert {"nan.weights", "grad.flow", "update.frozen", "memory.high", "checkpoint.corrupt", "tracker.down"} <= set(
        never
    )
    assert not {
        "kl.high",
        "reward.collapse",
        "reward.no_signal",
        "nan.loss",
        "grad.explosion",
        "health.unstable",
    } & set(never)
    assert not_logged(rules, ["nan.weights", "kl.high"]) == ("nan.weights",)


def test_a_series_of_the_users_own_may_come_in_any_log() -> None:
    rule = Rule(id="mine.own", keys=("my/number",), condition="level", parameters={"threshold": 1.0})
    assert not_logged([rule], ["mine.own"]) == ()
