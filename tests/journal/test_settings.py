from __future__ import annotations

from rldk_tracking.journal.settings import Settings
from rldk_tracking.trackers.memory import InMemoryTracker


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
