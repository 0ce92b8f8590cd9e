from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.health.rule import Rule
from rldk_tracking.journal.settings import Settings
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.slack import SlackNotifier


def test_trackers_are_added_and_none_twice() -> None:
    one, two = InMemoryTracker(), InMemoryTracker()
    settings = Settings(trackers=[one])
    settings.adopt(Settings(trackers=[one, two]))
    assert settings.trackers == [one, two]


def test_no_wish_for_trackers_leaves_those_of_report_to() -> None:
    settings = Settings()
    settings.adopt(Settings())
    assert settings.trackers is None


def test_of_two_choices_the_severer_stands() -> None:
    settings = Settings()
    settings.adopt(Settings(on_critical="stop", strict=True, rules="strict"))
    settings.adopt(Settings())
    assert (settings.on_critical, settings.strict, settings.rules) == ("stop", True, "strict")


def test_overrides_of_one_rule_are_joined() -> None:
    settings = Settings(overrides={"kl.high": {"threshold": 0.1}})
    settings.adopt(Settings(overrides={"kl.high": {"cooldown_steps": 5}, "lr.zero": {"enabled": False}}))
    assert settings.overrides == {
        "kl.high": {"threshold": 0.1, "cooldown_steps": 5},
        "lr.zero": {"enabled": False},
    }


def test_its_rules_are_those_of_preset_overrides_and_goals() -> None:
    rules = Settings(overrides={"lr.zero": {"enabled": False}}, goals={"target_reward": 1.0}).all_rules()
    names = [rule.id for rule in rules]
    assert "goal.target_reward" in names and "kl.high" in names and "lr.zero" not in names


SLACK, OTHER_SLACK = "https://hooks.example/T0/one", "https://hooks.example/T0/two"


def rule(limit: float, **fields: Any) -> Rule:
    return Rule(id="a.b", keys=("x",), condition="level", parameters={"threshold": limit}, **fields)


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        ({"output_dir": "a"}, {"output_dir": "b"}, "output_dir='a' of the first, not in 'b': a run has one journal"),
        ({"slack": SLACK}, {"slack": OTHER_SLACK}, "the slack of the first is used, that of another is not"),
        ({"rules": "strict"}, {"rules": "quiet"}, "rules='strict' of the first stand, 'quiet' of another is not used"),
        ({"rules": "quiet"}, {"rules": [rule(1.0)]}, "rules='quiet' of the first stand, a list of 1 rules of another"),
        (
            {"overrides": {"kl.high": {"threshold": 0.1}}},
            {"overrides": {"kl.high": {"threshold": 0.3}}},
            "overrides of 'kl.high': threshold 0.3 of the last is used, 0.1 is not",
        ),
        (
            {"goals": {"min_reward": 0.1}},
            {"goals": {"min_reward": 0.2}},
            "performance_benchmarks: min_reward 0.2 of the last is used, 0.1 is not",
        ),
        (
            {"overrides": {"kl.high": {"threshold": 0.1}}},
            {"rules": [rule(1.0)]},
            "the rules of another cannot be joined with those of the first, and are not used: rule 'kl.high'",
        ),
        ({"output_dir": "a"}, {"output_dir": "./a", "overrides": {"kl.high": {"threshold": 0.1}}}, ""),
        ({"slack": SLACK}, {"slack": SLACK, "rules": "strict"}, ""),
        ({"slack": False}, {"slack": SLACK}, ""),
    ],
)
def test_what_is_not_heeded_is_said(
    first: dict[str, Any], later: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings()
    settings.adopt(Settings(**first))
    assert caplog.records == []
    settings.adopt(Settings(**later))
    settings.adopt(Settings())
    assert len(caplog.records) == bool(said) and said in caplog.text
    assert "hooks.example" not in caplog.text
    assert settings.all_rules()


def test_slack_beside_trackers_that_the_user_named() -> None:
    tracker, notifier = InMemoryTracker(), SlackNotifier(SLACK)
    assert Settings(trackers=[tracker]).named_trackers == [tracker]
    assert Settings(trackers=[tracker], slack=notifier).named_trackers == [tracker, notifier]
    assert Settings(trackers=[tracker, notifier], slack=notifier).named_trackers == [tracker, notifier]
    assert Settings(slack=notifier).named_trackers is None, "it is added to those of report_to"


def test_a_digest_tells_rules_apart_and_no_secret() -> None:
    def digest(settings: Settings) -> str:
        return settings.digest(settings.all_rules())

    plain = digest(Settings())
    assert plain == digest(Settings(output_dir="elsewhere", slack=SLACK)), "rank 0 alone writes"
    different = [
        Settings(on_critical="stop"),
        Settings(overrides={"kl.high": {"threshold": 0.1}}),
        Settings(rules="strict"),
        Settings(goals={"min_reward": 0.1}),
        Settings(overrides={"kl.high": {"actions": ["stop"]}}),
    ]
    assert len({plain, *map(digest, different)}) == 1 + len(different)
    assert digest(Settings(rules=[rule(1.0, actions=[print])])) == digest(Settings(rules=[rule(1.0, actions=[len])]))


def test_a_policy_that_was_trained_is_not_held_to_its_reference() -> None:
    new, trained = Settings(), Settings(policy_is_new=False)
    trained.adopt(Settings())
    assert {rule.id for rule in new.all_rules()} - {rule.id for rule in trained.all_rules()} == {"reference.mismatch"}
