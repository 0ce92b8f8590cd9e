"""What each Python process of `rldk-tracking run` does first: its folder stands first in PYTHONPATH.

Then it hands over to the `sitecustomize` that the process would have had. Nothing else may lie in this folder: whatever
is run could import it.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def prepare() -> None:
    """Have the callback in the trainers of this process, or say, once for each Python, why it cannot be."""
    try:
        from rldk_tracking.messages.seen import note
        from rldk_tracking.report_to import watch_every_trainer
    except ImportError as error:
        if is_first(f"without {sys.executable}\n"):
            sys.stderr.write(f"rldk-tracking run: no callback in {sys.executable}: {error}; install it there.\n")
        return
    note("python")
    watch_every_trainer()


def is_first(line: str) -> bool:
    """Whether no other process of the command has written this line; it is written now."""
    try:
        with open(os.environ["_RLDK_RUN_SEEN"], "a+", encoding="utf-8") as file:
            file.seek(0)
            known = file.readlines()
            file.write(line)
    except (KeyError, OSError):  # of another machine
        return True
    return line not in known


def go_on() -> None:
    """Run the `sitecustomize` that stands next on the path, under its name."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [folder for folder in sys.path if os.path.abspath(folder) != here])
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    try:
        prepare()
    finally:
        go_on()
