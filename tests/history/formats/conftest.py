"""Files to read."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.history.reading import read
from rldk_tracking.history.run_history import History

Reads = Callable[..., History]


@pytest.fixture
def reads(tmp_path: Path) -> Reads:
    """Writes a text under a name that says nothing, reads it, and the same packed."""

    def reading(text: str, run: str = "") -> History:
        path = tmp_path / "some.thing"
        path.write_text(text, encoding="utf-8")
        found = read(f"{path}#{run}" if run else path)
        packed = tmp_path / "some.GZ"
        packed.write_bytes(gzip.compress(text.encode()))
        again = read(f"{packed}#{run}" if run else packed)
        assert (again.entries, again.format, again.settings) == (found.entries, found.format, found.settings)
        return found

    return reading
