"""Makes `report_to=["mlflow", "rldk"]` work, without importing transformers for it.

A transformers trainer looks the names of `report_to` up in a dictionary of `transformers.integrations`. Where
transformers' trainer is loaded already, the entry is made at once; where not, a finder in `sys.meta_path` makes it
right after that module has been loaded.

The entry is the class `RLDKCallback`, whose module imports transformers, so either side may be the one that is being
imported when the other one is needed. The entry therefore waits until no module of this package is half loaded: the
finder watches those as well, and tries again after each.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NAME = "rldk"
INTEGRATIONS = "transformers.integrations.integration_utils"
TRAINER = "transformers.trainer"
PACKAGE = "rldk_tracking."
CALLBACK = "rldk_tracking.callback"

logger = logging.getLogger(__name__)


def install() -> None:
    """Make the entry now, or as soon as transformers' trainer is imported. Calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    register()


def register() -> None:
    """Make the entry if transformers' trainer is loaded."""
    table = getattr(sys.modules.get(INTEGRATIONS), "INTEGRATION_TO_CALLBACK", None)
    if table is None or NAME in table or not hasattr(sys.modules.get(TRAINER), "Trainer"):
        return
    try:
        table[NAME] = import_module(CALLBACK).RLDKCallback
    except ImportError as error:
        logger.warning("report_to=%r is not available: %s", NAME, error)


class _Finder(MetaPathFinder):
    """Finds transformers' trainer and the modules of this package through the other finders; wraps their loaders."""

    def __init__(self) -> None:
        self._searching: set[str] = set()
        self.half_loaded = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        watched = fullname == TRAINER or fullname.startswith(PACKAGE)
        if not watched or fullname in self._searching:
            return None
        self._searching.add(fullname)
        try:
            spec = find_spec(fullname)
        finally:
            self._searching.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(Loader):
    """Loads as the wrapped loader does, then tries to make the entry."""

    def __init__(self, wrapped: Loader, finder: _Finder) -> None:
        self._wrapped = wrapped
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)  # what `python -m` and inspect ask of a loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._wrapped.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._wrapped
        module.__loader__ = self._wrapped
        ours = module.__name__.startswith(PACKAGE)
        self._finder.half_loaded += ours
        try:
            self._wrapped.exec_module(module)
        finally:
            self._finder.half_loaded -= ours
        if self._finder.half_loaded == 0:
            register()
