"""Alerts to read back."""

from __future__ import annotations

from tests.trackers.conftest import make_alert

__all__ = ["make_alert"]
