from __future__ import annotations

from pathlib import Path

from rldk_tracking.journal.log import _LARGEST_BYTES, courier_log


def test_a_bounded_file_for_the_owner_alone(tmp_path: Path) -> None:
    log = courier_log(tmp_path / "run-2.jsonl")
    assert courier_log(tmp_path / "run-2.jsonl") is log
    assert list(tmp_path.iterdir()) == [], "no file before there is something to say"
    for number in range(8000):
        log.info("line %d %s", number, "x" * 100)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["run-2.courier.log", "run-2.courier.log.1"]
    for name in files:
        assert (tmp_path / name).stat().st_size <= _LARGEST_BYTES
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert "line 7999" in (tmp_path / "run-2.courier.log").read_text()
    assert courier_log(tmp_path / "run.jsonl") is not log
