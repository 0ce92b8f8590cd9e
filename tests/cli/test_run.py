"""`rldk-tracking run`: a trainer of the command has the callback; the exit code and signals are the command's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.history.reading import read

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
TRAINING = """
import sys, torch
from transformers import Trainer, TrainingArguments
import rldk_tracking
from rldk_tracking import RLDKCallback

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(2, 1)

    def forward(self, x, labels=None):
        return {"loss": (self.inner(x) - labels).pow(2).mean()}

def train(folder, own=(), attached=False):
    arguments = TrainingArguments(folder, report_to=[], max_steps=2, logging_steps=1, use_cpu=True, save_strategy="no")
    data = [{"x": torch.ones(2), "labels": torch.ones(1)}] * 16
    trainer = Trainer(Model(), arguments, train_dataset=data, callbacks=list(own))
    if attached:
        rldk_tracking.attach(trainer, level="light")
    ours = [known for known in trainer.callback_handler.callbacks if isinstance(known, RLDKCallback)]
    trainer.train()
    print("RUN", folder, len(ours), ours[0]._level, ours[0]._settings.rules, flush=True)

train("without")
train("own", [RLDKCallback(level="full")])
train("attached", attached=True)
"""


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
def test_the_callback_is_in_every_trainer_of_a_child_and_never_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text(TRAINING)
    (tmp_path / "rldk.yaml").write_text("level: standard\n")
    assert main(["run", "--rules", "quiet", "--", "sh", "-c", f"{PYTHON} train.py; exit 5"]) == 5
    out, err = capfd.readouterr()
    assert [line.split() for line in out.splitlines() if line.startswith("RUN")] == [
        ["RUN", "without", "1", "standard", "quiet"],
        ["RUN", "own", "1", "full", "quiet"],
        ["RUN", "attached", "1", "light", "quiet"],
    ]
    assert "rldk-tracking run:" not in err
    for name in ("without", "own", "attached"):
        found = read(tmp_path / name / "_rldk" / "run.jsonl")
        assert [entry.step for entry in found.entries if "rldk/train/loss" in entry.row] == [1, 2]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "no command is given: write rldk-tracking run -- python train.py"),
        (["--"], 2, "no command is given: write rldk-tracking run -- python train.py"),
        (["nosuch"], 127, "there is no command 'nosuch'."),
        (["--", "train.py"], 127, "there is no command 'train.py': write python train.py."),
        (["--slack-from-env", "--", "true"], 2, "--slack-from-env contradicts the environment: RLDK_SLACK_WEBHOOK_URL"),
        (
            ["--rules", "saef", "--", "true"],
            2,
            "unknown preset 'saef'; did you mean safe? (rules is set by RLDK_RULES)",
        ),
        (["--level", "ful", "--", "true"], 2, 'RLDK_LEVEL must be "light", "standard" or "full", got \'ful\''),
        (["--config", "no.yaml", "--", "true"], 2, "RLDK_CONFIG must be the path of a settings file"),
        (["--", "./broken"], 126, "cannot be run: Exec format error."),
        (
            ["--", "sh", "-c", "exit 3"],
            3,
            "no trainer began; no Python process was reached on this machine. sh is no Python program",
        ),
        (["--", "env", "-i", PYTHON, "-c", "pass"], 0, "or the environment is replaced on the way (env -i, "),
        ([PYTHON, "-I", "-c", "pass"], 0, "python -I or -E"),
        (["--", PYTHON, "-c", "raise SystemExit(7)"], 7, "no trainer began; nothing imported a transformers trainer."),
    ],
)
def test_what_is_said_where_no_trainer_can_begin(
    words: list[str], code: int, sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").touch()
    (tmp_path / "broken").write_bytes(b"\x7fELF")
    (tmp_path / "broken").chmod(0o755)
    assert main(["run", *words]) == code
    err = capfd.readouterr().err
    assert err.startswith("rldk-tracking run: ") and sentence in err and err.count("\n") == 1


def test_options_reach_the_command_as_absolute_paths(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("overrides: {kl.high: {enabled: false}}\n")
    show = "import os; print([os.environ[name] for name in ('RLDK_RULES', 'RLDK_OUTPUT_DIR', 'RLDK_STRICT')])"
    options = ["--rules", "mine.yaml", "--output-dir", "logs", "--strict", "1"]
    main(["run", *options, "--", PYTHON, "-c", show, "--rules", "its own"])
    assert capfd.readouterr().out == f"{[str(tmp_path / 'mine.yaml'), str(tmp_path / 'logs'), '1']}\n"


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


SLEEP = "import os, time; open('pid.new', 'w').write(str(os.getpid())); os.rename('pid.new', 'pid'); time.sleep(60)"
HEARING = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
open("pid.new", "w").write(str(os.getpid())); os.rename("pid.new", "pid")
time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the command takes the place of the process")
@pytest.mark.parametrize(
    ("code", "sent", "expected"),
    [
        (HEARING, signal.SIGTERM, 9),
        (SLEEP, signal.SIGINT, -2),
        (SLEEP, signal.SIGKILL, -9),
    ],
    ids=["heard", "ends", "kill"],
)
def test_signals_are_the_command_s(code: str, sent: signal.Signals, expected: int, tmp_path: Path) -> None:
    command = [PYTHON, "-m", "rldk_tracking", "run", "--", PYTHON, "-c", code]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text())
        process.send_signal(sent)
        assert process.wait(60) == expected
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_terminal_s_interrupt_comes_once(tmp_path: Path) -> None:
    """Its driver sends it to both: what is handed on as well would end what the command does at its end."""
    code = (
        "import os, time\nopen('up', 'w')\ntry: time.sleep(60)\nexcept KeyboardInterrupt: time.sleep(1); os._exit(11)"
    )
    pid, terminal = os.forkpty()
    if not pid:
        os.execv(PYTHON, [PYTHON, "-m", "rldk_tracking", "run", "--", PYTHON, "-c", code])  # noqa: S606
    wait_for((tmp_path / "up").exists)
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 11
    os.close(terminal)
