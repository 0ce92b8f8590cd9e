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
        from rldk_tracking.report_to import note, watch_every_trainer
    except ImportError as error:
        seen, line = os.environ.get("_RLDK_RUN_SEEN", os.devnull), f"without {sys.executable}\n"
        with open(seen, "a+", encoding="utf-8") as file:
            file.seek(0)
            if line not in file.readlines():
                file.write(line)
                sys.stderr.write(f"rldk-tracking run: no callback in {sys.executable}: {error}; install it there.\n")
        return
    note("python")
    watch_every_trainer()


def go_on() -> None:
    """Run the `sitecustomize` that stands next on the path, under its name."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [folder for folder in sys.path if os.path.abspath(folder) != here])
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    prepare()
    go_on()
