"""Pages and rules are held against each other."""

from __future__ import annotations

from rldk_tracking.health.catalogue import training as rules
from rldk_tracking.health.pages import training as pages


def test_every_rule_has_a_page_and_every_page_a_rule() -> None:
    assert list(pages.PAGES) == [rule.id for rule in rules.RULES]


def test_pages_are_whole_sentences() -> None:
    for name, page in pages.PAGES.items():
        for text in (page.why, *page.causes, *page.try_first, page.limit):
            assert (
                text[0].isupper()
                or text[0].isdigit()
                or text.startswith(
                    ("`", "nvidia", "torch", "bf16", "exp", "fp16", "max_", "save_", "tracemalloc", "Log")
                )
            ), (name, text)
            assert text.endswith((".", ")", "`.")), (name, text)
        assert page.causes and page.try_first
