"""ms-swift's plugin file: the callback under the name `rldk`.

swift rlhf ... --external_plugins .../rldk_tracking/integrations/swift.py --callbacks rldk
"""

from __future__ import annotations

import os
import sys
from typing import Any

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.integrations import part_of_stack

FOLDER = os.path.dirname(os.path.abspath(__file__))


def leave_path() -> None:
    """Take this folder off the path, onto which ms-swift puts it: its files have the names of packages."""
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != FOLDER]


def callback(args: Any, trainer: Any) -> RLDKCallback:
    """For `--callbacks rldk`."""
    leave_path()  # ms-swift may have read its plugin files once more
    return RLDKCallback()


leave_path()
part_of_stack("swift.callbacks", "callbacks_map")["rldk"] = callback
