from __future__ import annotations

from pathlib import Path

import pytest

from rldk_tracking.health.actions import Call, Webhook, action, actions_of
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.presets import load_rules, rules_for
from rldk_tracking.health.rule import Rule, RuleError
from rldk_tracking.health.rules_file import RulesFileError

SECRET = "https://pager.example/hooks/xoxSECRETxox"


def told(alert: Alert) -> None: ...


def rule(**fields: object) -> Rule:
    return Rule(id="team.long", keys=("rldk/length/mean",), condition="level", parameters={"threshold": 1.0}, **fields)


def test_one_or_several_in_either_form() -> None:
    assert actions_of("stop") == ("stop",)
    assert actions_of(["alert", "save", {"call": "page_me"}]) == ("alert", "save", Call("page_me"))
    assert actions_of({"webhook": SECRET}) == (Webhook(SECRET),)
    given = {"webhook": {"environment": "PAGER_URL", "allow_loopback": True}}
    assert actions_of([given, told]) == (Webhook(environment="PAGER_URL", allow_loopback=True), told)


@pytest.mark.parametrize(
    "given",
    [
        "rm -rf /",
        {"shell": "ls"},
        {"call": 3},
        7,
        [None],
        {"webhook": {"url": SECRET}},
        {"webhook": 1},
        [["stop"]],
        int,
    ],
)
def test_anything_else_is_refused_and_not_quoted(given: object) -> None:
    with pytest.raises(ValueError, match=r"action|webhook") as refused:
        actions_of(given)
    assert "SECRET" not in str(refused.value)


def test_a_rule_takes_them_and_its_errors_keep_secrets() -> None:
    assert rule(actions=["stop", told]).actions == ("stop", told)
    assert rule().actions == ()
    with pytest.raises(RuleError) as refused:
        rule(actions=[{"webhook": {"url": SECRET}}])
    assert "SECRET" not in str(refused.value)
    assert "SECRET" not in repr(rule(actions=[Webhook(SECRET)]))


def test_overrides_take_them() -> None:
    rules = {rule.id: rule for rule in rules_for("safe", {"kl.high": {"threshold": 0.2, "actions": "stop"}})}
    assert rules["kl.high"].actions == ("stop",)
    with pytest.raises(ValueError, match=r"kl\.high.*an action is"):
        rules_for("safe", {"kl.high": {"actions": ["shout"]}})


def test_a_file_of_rules_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(
        "overrides:\n  nan.loss: {actions: [stop]}\n"
        "rules:\n"
        "  - id: team.long\n    when: last('length/mean') > 900\n"
        "    actions: [save, {call: page_me}, {webhook: {environment: PAGER_URL}}]\n"
    )
    rules = {rule.id: rule for rule in load_rules(path)}
    assert rules["nan.loss"].actions == ("stop",)
    assert rules["team.long"].actions == ("save", Call("page_me"), Webhook(environment="PAGER_URL"))


def test_a_file_with_a_wrong_one_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  - id: team.long\n    when: last('length/mean') > 900\n    actions: [{shell: ls}]\n")
    with pytest.raises(RulesFileError, match=r"rules\.yaml:4: rule 'team.long': actions: an action is alert, stop"):
        load_rules(path)


def test_functions_by_name() -> None:
    with pytest.raises(ValueError, match="no function is named 'tests_page_me'"):
        Call("tests_page_me").function()
    assert action("tests_page_me")(told) is told
    assert Call("tests_page_me").function() is told


def test_a_webhook_reads_its_variable_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = Webhook(environment="PAGER_URL")
    assert webhook.reveal() == ""
    monkeypatch.setenv("PAGER_URL", SECRET)
    assert webhook.reveal() == SECRET
