"""What a rule's page says beyond the rule itself, one file for a room of the training, as in the catalogue."""

from __future__ import annotations

from rldk_tracking.health.pages import numbers, policy, preference, reward, run, system, training
from rldk_tracking.health.pages.page import Page

PAGES: dict[str, Page] = {
    **numbers.PAGES,
    **policy.PAGES,
    **reward.PAGES,
    **training.PAGES,
    **preference.PAGES,
    **system.PAGES,
    **run.PAGES,
}
"""Rule id to page."""
