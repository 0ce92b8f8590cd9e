"""The watchdog of a training, for those that follow its journal."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from rldk_tracking.health.alert import Alert


class Watchdog(Protocol):
    """Notices that a training is dead or stuck, see `rldk_tracking.journal.watchdog`."""

    def look(self, now: float, last_step: int, ended: bool) -> list[Alert]:
        """What is new. Called about once a second."""


class _NoWatchdog:
    def look(self, now: float, last_step: int, ended: bool) -> list[Alert]:
        return []


def watchdog(journal: Path, pid: int, created: float, rules: Mapping[str, Mapping[str, Any]]) -> Watchdog:
    """The watchdog of a training."""
    try:
        module = import_module("rldk_tracking.journal.watchdog")
    except ImportError:
        return no_watchdog()
    found: Watchdog = module.Watchdog(journal, pid, created, rules)
    return found


def no_watchdog() -> Watchdog:
    """One that notices nothing."""
    return _NoWatchdog()
