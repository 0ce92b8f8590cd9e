from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rldk_tracking.journal.lock import FileLock
from tests.journal.conftest import ROOT


def test_one_at_a_time_and_free_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    script = "import sys, time; from pathlib import Path; from rldk_tracking.journal.lock import FileLock\n"
    script += "print(FileLock(Path(sys.argv[1])).acquire(), flush=True); lock = FileLock(Path(sys.argv[1]))\n"
    script += "lock.acquire(); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    assert process.stdout.readline() == "held\n"
    lock = FileLock(path)
    assert not lock.acquire()
    process.kill()
    process.communicate()
    assert lock.acquire() and lock.acquire()
    other = FileLock(path)
    assert not other.acquire()
    lock.release()
    assert other.acquire()
    other.release()


def test_where_no_file_can_be_made_nobody_is_kept_out(tmp_path: Path) -> None:
    assert FileLock(tmp_path / "missing" / "a.lock").acquire()
