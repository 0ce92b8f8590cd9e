"""The page on `rldk-tracking run` has the results that there are."""

from __future__ import annotations

from tests.forks.run_zero_code import PAGE, page


def test_the_table_of_the_page_is_that_of_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text and "| trl grpo |" in text
