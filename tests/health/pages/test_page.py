"""All pages together."""

from __future__ import annotations

import dataclasses

import pytest

from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.pages import PAGES
from rldk_tracking.health.pages.page import Page


def test_every_rule_has_exactly_one() -> None:
    assert set(PAGES) == set(RULES)


def test_a_page_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        next(iter(PAGES.values())).why = "?"  # type: ignore[misc]
    assert isinstance(PAGES["kl.high"], Page)
