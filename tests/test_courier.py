"""The courier's process by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rldk_tracking.courier import main
from rldk_tracking.journal.environment import ENVIRONMENT

ROOT = Path(__file__).parents[1]


def test_it_ends_when_nobody_tells_it_anything() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rldk_tracking.courier"],
        input=b"nonsense\n{}\n[]\n",
        capture_output=True,
        timeout=60,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_it_ends_when_the_trainer_is_gone_although_the_pipe_stays_open(tmp_path: Path) -> None:
    """A child that the trainer forked has inherited the pipe's other end."""
    from tests.journal.conftest import started

    journal = started(tmp_path)
    journal.end("finished", 0)
    reader, writer = os.pipe()
    trainer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(trainer.pid).create_time()
    courier = subprocess.Popen([sys.executable, "-m", "rldk_tracking.courier"], stdin=reader, cwd=ROOT)
    message = {"journal": str(journal.path), "pid": trainer.pid, "created": created, "destinations": [], "rules": {}}
    os.write(writer, json.dumps(message).encode() + b"\n")
    time.sleep(2)
    assert courier.poll() is None
    trainer.kill()
    trainer.wait()
    try:
        assert courier.wait(30) == 0
    finally:
        courier.kill()
        os.close(writer)
        os.close(reader)


def test_settings_of_the_users_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys, runpy; sys.stdin.close(); import rldk_tracking.journal.service as c;"
        "c.serve = lambda source: print({k: os.environ[k] for k in sorted(os.environ) if k.startswith('MLFLOW_HTTP')});"
        "sys.stdin = open(os.devnull); runpy.run_module('rldk_tracking.courier', run_name='__main__')"
    )
    mine = os.environ | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    mine.pop("MLFLOW_HTTP_REQUEST_MAX_RETRIES", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=mine)
    assert "'MLFLOW_HTTP_REQUEST_TIMEOUT': '77'" in done.stdout
    assert f"'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '{ENVIRONMENT['MLFLOW_HTTP_REQUEST_MAX_RETRIES']}'" in done.stdout


def test_by_hand_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main() == 2
    assert "rldk-tracking sync" in capsys.readouterr().err


def test_an_import_is_cheap() -> None:
    code = (
        "import sys, rldk_tracking.courier; print(sorted({'mlflow', 'torch', 'numpy', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
