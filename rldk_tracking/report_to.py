"""Makes `report_to=["mlflow", "rldk"]` work, without importing transformers for it.

A transformers trainer looks the names of `report_to` up in a table of `transformers.integrations`. Where the module
with the table is loaded already, the entry is made at once; where not, right after it has been loaded. Importing that
module is among the first things that `transformers.trainer` does, and whatever the callback needs of transformers is
there by then, so it does not matter which of the two packages is imported first.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

NAME = "rldk"
INTEGRATIONS = "transformers.integrations.integration_utils"

logger = logging.getLogger(__name__)


def install() -> None:
    """Make the entry now, or as soon as the table is there. Calling it again changes nothing."""
    if hasattr(sys.modules.get(INTEGRATIONS), "INTEGRATION_TO_CALLBACK"):
        register()
    elif not any(isinstance(finder, _PostImportHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PostImportHook())


def register() -> None:
    """Make the entry; the table must be there."""
    try:
        from rldk_tracking.callback import RLDKCallback
    except ImportError as error:
        logger.warning("report_to=%r is not available: %s", NAME, error)
    else:
        sys.modules[INTEGRATIONS].INTEGRATION_TO_CALLBACK[NAME] = RLDKCallback


class _PostImportHook(MetaPathFinder):
    """Calls `register` after the module with the table has been loaded, and is then asked no more."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == INTEGRATIONS else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._load, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    def _load(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        exec_module(module)
        # A new list: another thread may be on its way through the old one.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
        register()
