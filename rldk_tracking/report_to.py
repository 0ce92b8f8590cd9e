"""The two ways into a trainer that need no line of code there: a name in `report_to`, and `rldk-tracking run`.

Neither imports transformers: where the module that matters is loaded already, the work is done at once; where not,
right after it has been loaded. So it does not matter which of the two packages is imported first.

A transformers trainer looks the names of `report_to` up in a table of `transformers.integrations`. Importing that
module is among the first things that `transformers.trainer` does, and whatever the callback needs of transformers is
there by then. `rldk-tracking run` has each process that it reaches call `watch_every_trainer`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from rldk_tracking.messages.seen import note

NAME = "rldk"
INTEGRATIONS = "transformers.integrations.integration_utils"
CALLBACKS = "transformers.trainer_callback"

logger = logging.getLogger(__name__)


def install() -> None:
    """Make the entry now, or as soon as the table is there. Calling it again changes nothing."""
    _when_loaded(INTEGRATIONS, "INTEGRATION_TO_CALLBACK", register)


def watch_every_trainer() -> None:
    """Have an `RLDKCallback` in every transformers trainer of this process to which the user gives none of ours."""
    _when_loaded(CALLBACKS, "CallbackHandler", _watch)


def register() -> None:
    """Make the entry; the table must be there."""
    try:
        from rldk_tracking.callback import RLDKCallback
    except ImportError as error:
        logger.warning("report_to=%r is not available: %s", NAME, error)
    else:
        sys.modules[INTEGRATIONS].INTEGRATION_TO_CALLBACK[NAME] = RLDKCallback


def _watch() -> None:
    """Wrap what a trainer does with its callbacks. A callback of the user's is none that we make way for."""
    handler = sys.modules[CALLBACKS].CallbackHandler
    make, add = handler.__init__, handler.add_callback
    if make.__module__ == __name__:  # it is done
        return
    note("transformers")

    def wrapped_init(self: Any, *arguments: Any, **named: Any) -> None:
        from rldk_tracking.callback import RLDKCallback
        from rldk_tracking.monitors.base import Monitor

        make(self, *arguments, **named)
        if not any(isinstance(known, Monitor) for known in self.callbacks):
            callback = RLDKCallback()
            callback.makes_way = True
            add(self, callback)

    def wrapped_add(self: Any, callback: Any) -> None:
        from rldk_tracking.monitors.base import Monitor

        if isinstance(callback, Monitor) or (isinstance(callback, type) and issubclass(callback, Monitor)):
            self.callbacks = [known for known in self.callbacks if not getattr(known, "makes_way", False)]
        add(self, callback)

    handler.__init__, handler.add_callback = wrapped_init, wrapped_add


def _when_loaded(module: str, attribute: str, work: Callable[[], None]) -> None:
    """Do the work now, where the module is loaded as far as this attribute, or else right after it has been loaded."""
    if hasattr(sys.modules.get(module), attribute):
        work()
    elif not any(isinstance(finder, _PostImportHook) and finder.module == module for finder in sys.meta_path):
        sys.meta_path.insert(0, _PostImportHook(module, work))


class _PostImportHook(MetaPathFinder):
    """Does its work after a module has been loaded, and is then asked no more."""

    def __init__(self, module: str, work: Callable[[], None]) -> None:
        self.module = module
        self._work = work

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == self.module else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(self._load, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    def _load(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        exec_module(module)
        # A new list: another thread may be on its way through the old one.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
        self._work()
