"""Rules out of YAML, and mistakes in it by file and line."""

from __future__ import annotations

import os
import tempfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health import rules_file
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules, load_rules, rules_for
from rldk_tracking.health.rules_file import LOADERS, RulesFileError

RULES = builtin_rules()

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
    with pytest.raises(RulesFileError, match=r"rules.yaml:1: .*begins with itself: rules.yaml -> rules.yaml"):
        load_rules(file(tmp_path, "preset: rules.yaml"))
    (tmp_path / "other.yml").write_text("preset: rules.yaml\n")
    with pytest.raises(RulesFileError, match="rules.yaml -> other.yml -> rules.yaml"):
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
        ("rules:\n- id: a.b\n  keys: [x]\n  condition: magic\n", 4, "unknown condition 'magic'"),
        (
            "rules:\n- id: a.b\n  keys: [x]\n  condition: level\n  parameters: {threshold: 1, z: 2}\n",
            5,
            "no parameter 'z'",
        ),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n\n- id: a.b\n  when: last('x') > 2\n", 5, "also in line 2"),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  persistence: [5, 2]\n", 4, "persistence"),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  1: 2\n", 2, "a field's name is a string, got 1"),
        ("preset: mild\n", 1, "unknown preset"),
        ("overrides: {}\npreset: [1]\n", 2, "rules must hold Rule objects, got 1"),
        ("preset:\n", 1, "got None"),
        ("overrides:\n  kl.high:\n    severity: info\n    threshold: 1e-1\n", 4, "got '1e-1', a string: write 0.1"),
        ("overrides:\n  kl.high: {parameters: {\n    threshold: .nan}}\n", 3, "must be a finite number, got nan"),
        ("overrides:\n  kl.high:\n    enabled: 'no'\n", 3, "enabled must be True or False, got 'no': write False"),
        ("overrides:\n  lr.zero: {}\n  kl.high: 0.2\n", 3, "an override is a mapping of its fields, got 0.2"),
        ("overrides:\n  kl.high:\n    treshold: 1\n", 3, "no field 'treshold'; did you mean threshold"),
        ("overrides:\n  kl.high: {threshold: 1}\n  kl.high: {threshold: 2}\n", 3, "'kl.high' is also in line 2"),
        ("overrides: 0\n", 1, "overrides must be a mapping, got 0"),
        ("preset: safe\nrules: false\n", 2, "rules is a list, got False"),
        ("preset: safe\noverides: {}\n", 2, "not 'overides'; did you mean overrides"),
        ("rules:\n- id: a.b\n  when: 5\n", 3, "when is an expression, got 5"),
        ('rules:\n- id: a.b\n  when:\n    mean("lenght/mean", 20) > 1\n', 3, "did you mean rldk/length/mean"),
        ("rules:\n- id: a.b\n  keys: [x]\n  condition: level\n  threshold: 1\n", 5, "is a parameter of condition"),
        (
            "rules:\n- id: a.b\n  when: last('x') > 1\n  warm_up_steps: '3'\n",
            4,
            "warm_up_steps must be a valid integer",
        ),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  silences: [lr.spke]\n", 4, "did you mean lr.spike"),
        (
            "rules:\n- id: a.b\n  when: last('x') > 1\n  actions: [{webhook: {address: 5}}]\n",
            4,
            "must be a string, got",
        ),
        (
            "rules:\n- id: a.b\n  when: last('x') > 1\n  page:\n    because: b\n",
            5,
            "there is no field 'page.because'; did you mean causes",
        ),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  page:\n    why: [b]\n", 5, "page.why must be a valid string"),
        (
            "rules:\n- id: a.b\n  when: last('x') > 1\n  page: text\n",
            4,
            "page must be a mapping of why, causes and limit",
        ),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  page: {causes: one}\n", 4, "page.causes must be a list of texts"),
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  advice: [1]\n", 4, "a text or a list of texts is wanted"),
        # What breaks a parser, or the language below it.
        ("rules:\n- id: a.b\n  when: last('x') > 1\n  since: 2024-99-99\n", 4, "no value: month must be in 1..12"),
        (f"rules:\n- id: a.b\n  when: last('x') > {'9' * 400}\n", 3, "a number is at most 1.8e308"),
        (f"overrides:\n  kl.high:\n    threshold: {'9' * 400}\n", 3, "threshold must be a finite number"),
        (f"overrides:\n  kl.high:\n    threshold: {'9' * 5000}\n", 3, "no value: Exceeds the limit|threshold must be"),
        ("preset: safe\nrules: " + "[" * 5000 + "\n", 2, "nested more than 20 deep"),
        ("preset: safe\nrules:\n" + "- " * 5000 + "\n", 3, "nested more than 20 deep"),
        ("rules:\n" + "".join(" " * n + "- a:\n" for n in range(2, 200, 2)), 20, "nested more than 20 deep"),
        ("preset: safe\n# \x07\n", 2, "the character '.x07' is not allowed"),
        ("preset: safe\nrules: [!!int '', 1]\n", 2, "no value: "),
        ("preset: safe\nrules: [!!timestamp 'x']\n", 2, "no value: "),
        ("preset: safe\n---\npreset: safe\n", 2, "single document|another document"),
        ("preset: safe\n? [a]\n: 1\n", 2, "unhashable"),
        ("rules:\n- id: a.b\n  when: " + " + ".join(["slope('x', 1000)"] * 90) + " > 0\n", 3, "operations a row"),
        ("overrides:\n  kl.hihg: {}\n", 2, "did you mean kl.high"),
        ("overrides: [1]\n", 1, r"overrides must be a mapping, got \[1\]"),
        ("rules:\n- &a {id: a.b, when: last('x') > 1}\n- *a\n", 3, "aliases"),
        ("rules:\n- !!python/object/apply:os.system ['true']\n", 2, "python/object"),
    ],
)
def test_mistakes_have_their_line(tmp_path, text: str, line: int, message: str) -> None:
    path = file(tmp_path, text)
    with pytest.raises(RulesFileError, match=message) as caught:
        load_rules(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")


def test_errors_are_the_same_without_the_fast_loader(tmp_path, monkeypatch) -> None:
    path = file(tmp_path, "rules:\n- {id: a.b, when: last('x') > 1\n")
    messages = []
    for loaders in (LOADERS, LOADERS[-1:]):
        monkeypatch.setattr(rules_file, "LOADERS", loaders)
        with pytest.raises(RulesFileError) as caught:
            load_rules(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "expected ',' or '}'" in messages[0]


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(RulesFileError, match="nothing.yaml"):
        load_rules(tmp_path / "nothing.yaml")
    with pytest.raises(RulesFileError, match=r"nothing.yaml:1: there is no such file"):
        load_rules(tmp_path / "nothing.yaml")
    with pytest.raises(RulesFileError, match="no regular file"):
        load_rules(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"preset: safe\n# caf\xe9\n")
    with pytest.raises(RulesFileError, match=r"latin.yaml:2: this is no UTF-8"):
        load_rules(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    with pytest.raises(RulesFileError, match="larger"):
        load_rules(tmp_path / "large.yaml")


@pytest.mark.timeout(10)
def test_a_file_that_never_ends_is_not_read(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(RulesFileError, match="no regular file"):
            load_rules(path)


def test_an_error_of_a_file_below_names_both(tmp_path) -> None:
    (tmp_path / "base.yaml").write_text("overrides:\n  kl.high: {threshold: '0.2'}\n")
    path = file(tmp_path, "overrides: {lr.zero: {enabled: false}}\npreset: base.yaml\n")
    with pytest.raises(RulesFileError, match=rf"{path}:2: .*base.yaml:2: rule 'kl.high': threshold must be"):
        load_rules(path)


def test_braces_in_an_expression_are_no_fields_of_its_message(tmp_path) -> None:
    (rule,) = load_rules(file(tmp_path, "preset: none\nrules: [{id: a.b, when: 'last(\"x{y}\") > 1'}]\n"))
    (alert,) = Engine([rule]).update(1, {"rldk/x{y}": 2.0})
    assert alert.message == 'last("x{y}") > 1 since step 1.'


@given(st.text(max_size=80))
def test_any_text_is_rules_or_a_user_rules_error(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            load_rules(path)
        except RulesFileError as error:
            assert str(error).startswith(f"{path}:")
