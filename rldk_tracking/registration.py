"""Makes `report_to=["mlflow", "rldk"]` work, without importing transformers for it.

A transformers trainer looks the names of `report_to` up in a dictionary of `transformers.integrations`. Where
transformers' trainer is loaded already, the entry is made at once; where not, a finder in `sys.meta_path` makes it
right after that module has been loaded. `rldk_tracking.callback` imports the trainer itself, so either of the two may
be the one that finishes last: both are watched, and the entry is made as soon as both are there.
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

NAME = "rldk"
INTEGRATIONS = "transformers.integrations.integration_utils"
TRAINER = "transformers.trainer"
CALLBACK = "rldk_tracking.callback"

logger = logging.getLogger(__name__)


def install() -> None:
    """Make the entry now, or as soon as transformers is imported. Calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    register()


def register() -> None:
    """Make the entry if transformers' trainer is loaded and the callback is, or can be, loaded."""
    table = getattr(sys.modules.get(INTEGRATIONS), "INTEGRATION_TO_CALLBACK", None)
    if table is None or NAME in table or not hasattr(sys.modules.get(TRAINER), "Trainer"):
        return
    if CALLBACK not in sys.modules:
        try:
            import_module(CALLBACK)
        except ImportError as error:
            logger.warning("report_to=%r is not available: %s", NAME, error)
            return
    callback = getattr(sys.modules[CALLBACK], "RLDKCallback", None)
    if callback is not None:  # None: the module is being imported, and its own loader comes back here
        table[NAME] = callback


class _Finder(MetaPathFinder):
    """Finds the two watched modules through the other finders, and wraps their loaders."""

    def __init__(self) -> None:
        self._searching: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in (TRAINER, CALLBACK) or fullname in self._searching:
            return None
        self._searching.add(fullname)
        try:
            spec = find_spec(fullname)
        finally:
            self._searching.discard(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads as the wrapped loader does, then makes the entry."""

    def __init__(self, wrapped: Loader) -> None:
        self._wrapped = wrapped

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._wrapped.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._wrapped
        module.__loader__ = self._wrapped
        self._wrapped.exec_module(module)
        register()
