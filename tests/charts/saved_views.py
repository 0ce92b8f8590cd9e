"""How MLflow's chart page reads a saved view."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any


def unpacked(tag: str) -> dict[str, Any]:
    """The state in a view's tag."""
    kind, _, blob = json.loads(tag)["state"].partition(";")
    assert kind == "deflate"
    state = json.loads(zlib.decompress(base64.b64decode(blob)))
    assert isinstance(state, dict)
    return state
