"""What a process of `rldk-tracking run` does first, and that the `sitecustomize` of the user's still runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rldk_tracking.cli.run import STARTUP
from rldk_tracking.messages.seen import SEEN


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with a folder of the user's behind ours on the path."""
    path = os.pathsep.join([str(STARTUP), str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, SEEN: str(folder / "seen"), **environment},
        capture_output=True,
        text=True,
    )


def test_the_user_s_own_runs_as_before(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("mine = __name__, __file__\n")
    done = python("import sitecustomize as s, sys; print(*s.mine); print('torch' in sys.modules)", tmp_path)
    assert done.stdout.split("\n")[:2] == [f"sitecustomize {tmp_path / 'sitecustomize.py'}", "False"]
    assert (tmp_path / "seen").read_text() == "python\n"


def test_a_python_without_the_package_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "rldk_tracking").mkdir()
    (tmp_path / "rldk_tracking" / "__init__.py").write_text("raise ModuleNotFoundError('there is none')\n")
    (tmp_path / "sitecustomize.py").write_text("print('mine')\n")
    first, second = (python("print('runs')", tmp_path) for _ in range(2))
    assert first.stdout == second.stdout == "mine\nruns\n"
    assert first.stderr == (f"rldk-tracking run: no callback in {sys.executable}: there is none; install it there.\n")
    assert second.stderr == ""
    assert python("print('runs')", tmp_path, **{SEEN: str(tmp_path / "no" / "seen")}).stdout == "mine\nruns\n"


def test_nothing_else_can_be_imported_from_its_folder() -> None:
    assert [path.name for path in STARTUP.glob("*.py")] == ["sitecustomize.py"]
