"""Files and pages of the built-in rules."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from rldk_tracking.health.presets import BUILT_IN, builtin_rules
from rldk_tracking.health.rule import FAMILIES

RULES = builtin_rules()
NAMES = ("`", "nvidia", "torch", "bf16", "exp ", "fp16", "max_", "save_", "tracemalloc")
"""With which a sentence may begin."""


def test_each_file_holds_one_family() -> None:
    for path in BUILT_IN.iterdir():
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {entry["id"].partition(".")[0] for entry in entries} == {path.stem}
        assert path.stem in FAMILIES


def test_every_rule_has_a_page_of_whole_sentences() -> None:
    for name, rule in RULES.items():
        page = rule.page
        assert page is not None and page.causes and rule.advice, name
        for text in (page.why, *page.causes, *rule.advice.split("\n"), page.limit):
            assert text[0].isupper() or text[0].isdigit() or text.startswith(NAMES), (name, text)
            assert text.endswith("."), (name, text)


def test_a_page_is_a_value() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RULES["kl.high"].page.why = "?"


def test_the_numbers_of_the_page_of_a_hang_are_the_rules() -> None:
    hung = RULES["run.hung"]
    text = hung.page.limit
    assert f"{hung.parameters['threshold']:.0f} s (threshold)" in text
    assert f"{hung.parameters['times']:.0f} times (times)" in text
    assert f"{hung.parameters['first'] / 60:.0f} minutes (first)" in text
    assert hung.parameters["critical"] == 2.0 and "twice the limit (critical)" in text
