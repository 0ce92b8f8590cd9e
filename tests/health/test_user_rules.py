"""Rules out of YAML, and mistakes in it by file and line."""

from __future__ import annotations

import textwrap

import pytest

from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import load_rules, rules_for
from rldk_tracking.health.user_rules import UserRulesError

GOOD = """
preset: safe
overrides:
  kl.high: {threshold: 0.2}
rules:
  - id: team.slow
    when: mean("reward/mean", 3) < 0.1
    persistence: [2, 3]
    message: Reward is {value:.2f}.
    advice: Look at the prompts.
  - id: team.long
    keys: [rldk/length/mean]
    condition: level
    parameters: {threshold: 900, clear: 700}
  - id: kl.spike
    when: last("kl/ref_k1") > 7
"""


def file(tmp_path, text: str):
    path = tmp_path / "rules.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_adds_to_a_preset_and_replaces_rules_of_the_same_id(tmp_path) -> None:
    rules = {rule.id: rule for rule in load_rules(file(tmp_path, GOOD))}
    assert set(rules) == {*RULES, "team.slow", "team.long"}
    assert rules["kl.high"].parameters["threshold"] == 0.2
    assert rules["kl.spike"].condition == "written"
    assert rules["team.slow"].keys == ("rldk/reward/mean",)


def test_the_rules_work(tmp_path) -> None:
    engine = Engine(rules_for(str(file(tmp_path, GOOD))))
    rows = [{"rldk/reward/mean": 0.05, "rldk/length/mean": 950.0}] * 5
    fired = [(a.rule, a.step, a.message) for step, row in enumerate(rows) for a in engine.update(step, row)]
    assert ("team.slow", 3, "Reward is 0.05.") in fired
    assert any(rule == "team.long" and step == 0 for rule, step, _ in fired)


def test_a_plain_list_and_no_preset(tmp_path) -> None:
    assert len(load_rules(file(tmp_path, "- {id: a.b, when: last('x') > 1}\n"))) == len(RULES) + 1
    text = "preset: none\nrules:\n- {id: a.b, when: last('x') > 1}\n"
    assert [rule.id for rule in load_rules(file(tmp_path, text))] == ["a.b"]


def test_a_file_may_begin_with_another_one_beside_it(tmp_path) -> None:
    file(tmp_path, GOOD).rename(tmp_path / "base.yaml")
    rules = {
        rule.id: rule
        for rule in load_rules(file(tmp_path, "preset: base.yaml\noverrides: {kl.high: {threshold: 0.3}}"))
    }
    assert set(rules) == {*RULES, "team.slow", "team.long"}
    assert rules["kl.high"].parameters["threshold"] == 0.3


def test_a_file_may_not_begin_with_itself(tmp_path) -> None:
    with pytest.raises(UserRulesError, match=r"rules.yaml:1: .*begins with itself: rules.yaml -> rules.yaml"):
        load_rules(file(tmp_path, "preset: rules.yaml"))
    (tmp_path / "other.yml").write_text("preset: rules.yaml\n")
    with pytest.raises(UserRulesError, match="rules.yaml -> other.yml -> rules.yaml"):
        load_rules(file(tmp_path, "preset: other.yml"))


def test_overrides_may_follow_in_python(tmp_path) -> None:
    rules = {r.id: r for r in rules_for(str(file(tmp_path, GOOD)), {"team.long": {"threshold": 50.0}})}
    assert rules["team.long"].parameters["threshold"] == 50.0


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("rules: [1, 2", 1, "expected"),
        ("a: 1\n", 1, "list of rules, or has the keys preset, overrides, rules"),
        ("rules:\n- just text\n", 2, "mapping with an id"),
        ("rules: 3\n", 1, "rules is a list"),
        ("rules:\n- id: a.b\n  when: last('x') >\n", 3, "when: column"),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  severity: fatal\n", 4, "severity"),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  keys: [x]\n", 4, "has no keys"),
        ("rules:\n- id: a.b\n  keys: [x]\n  condition: magic\n", 2, "unknown condition 'magic'"),
        (
            "rules:\n- id: a.b\n  keys: [x]\n  condition: level\n  parameters: {threshold: 1, z: 2}\n",
            2,
            "no parameter 'z'",
        ),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n\n- id: a.b\n  when: last('x') > 2\n", 5, "also in line 2"),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  persistence: [5, 2]\n", 4, "persistence"),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  1: 2\n", 2, "keywords must be strings"),
        ("preset: mild\n", 1, "unknown preset"),
        ("overrides:\n  kl.hihg: {}\n", 1, "did you mean kl.high"),
        ("overrides: [1]\n", 1, "items"),
        ("rules:\n- &a {id: a.b, when: last('x') > 1}\n- *a\n", 3, "aliases"),
        ("rules:\n- !!python/object/apply:os.system ['true']\n", 2, "python/object"),
    ],
)
def test_mistakes_have_their_line(tmp_path, text: str, line: int, message: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(UserRulesError, match=message) as caught:
        load_rules(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(UserRulesError, match="nothing.yaml"):
        load_rules(tmp_path / "nothing.yaml")
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    with pytest.raises(UserRulesError, match="larger"):
        load_rules(tmp_path / "large.yaml")
