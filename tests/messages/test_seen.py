"""What a process has come to is noted where somebody asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldk_tracking.messages.seen import SEEN, note


def test_each_thing_is_a_line_and_a_file_that_is_gone_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note("nobody asks")
    monkeypatch.setenv(SEEN, str(tmp_path / "seen"))
    note("python")
    note("training")
    monkeypatch.setenv(SEEN, str(tmp_path / "gone" / "seen"))
    note("nobody reads it")
    assert (tmp_path / "seen").read_text() == "python\ntraining\n"
