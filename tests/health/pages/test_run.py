"""Pages and rules are held against each other."""

from __future__ import annotations

from rldk_tracking.health.catalogue import run as rules
from rldk_tracking.health.pages import run as pages


def test_every_rule_has_a_page_and_every_page_a_rule() -> None:
    assert list(pages.PAGES) == [rule.id for rule in rules.RULES]


def test_pages_are_whole_sentences() -> None:
    for name, page in pages.PAGES.items():
        for text in (page.why, *page.causes, *page.try_first, page.limit):
            assert text[0].isupper() or text.startswith(("`", "memory.")), (name, text)
            assert text.endswith("."), (name, text)
        assert page.causes and page.try_first


def test_the_numbers_of_the_page_are_the_rules() -> None:
    (hung,) = [rule for rule in rules.RULES if rule.id == "run.hung"]
    text = pages.PAGES["run.hung"].limit
    assert f"{hung.parameters['threshold']:.0f} s (threshold)" in text
    assert f"{hung.parameters['times']:.0f} times (times)" in text
    assert f"{hung.parameters['first'] / 60:.0f} minutes (first)" in text
    assert hung.parameters["critical"] == 2.0 and "twice the limit (critical)" in text
