"""What rules can watch for. A rule names its condition; parameters are the fields of its class."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from rldk_tracking.health.conditions.base import CONDITIONS, Condition

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["CONDITIONS", "Condition"]
