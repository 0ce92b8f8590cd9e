"""The entry point as a person meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rldk_tracking
from rldk_tracking.cli import main as entry
from rldk_tracking.cli.main import COMMANDS, main
from rldk_tracking.messages.packages import install_line

ROOT = Path(rldk_tracking.__file__).parents[1]


def command(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after some lines of Python."""
    start = (
        f"import sys; sys.argv = ['rldk-tracking', *{list(words)!r}]\n{code}\nfrom rldk_tracking.cli.main import main\n"
    )
    return subprocess.run([sys.executable, "-c", start + "sys.exit(main())"], capture_output=True, text=True, cwd=ROOT)


def test_every_command_of_the_table_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"rldk-tracking {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["replay", "--help"], ["watch", "--help"], ["checkpoint", "--help"]])
def test_the_exit_codes_are_in_the_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert entry.EXIT_CODES.strip() in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main([]) == 0
    assert capsys.readouterr().out == shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert rldk_tracking.__version__ in capsys.readouterr().out


def test_a_wrong_command_is_code_two_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["no-such-command"])
    assert stopped.value.code == 2
    assert "rldk-tracking" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["replay"], ["replay", "x.csv", "--format", "many"], ["checkpoint", ".", "--what\x1b"]]
)
def test_a_wrong_argument_is_no_verdict(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr()
    assert stopped.value.code == 3
    assert said.err.startswith("usage: rldk-tracking") and not said.out and "\x1b" not in said.err


def test_a_mistake_is_a_line_on_stderr_and_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="NAME=KEY") as stopped:
        main(["replay", "x.csv", "--alias", "a"])
    said = capsys.readouterr()
    assert (stopped.value.code, said.out, said.err) == (3, "", "--alias takes NAME=KEY.\n")


def test_a_mistake_that_quotes_a_file_stays_on_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rldk_tracking.cli import keys

    def run(arguments: object) -> int:
        raise SystemExit("no \x1b[2Kgood\nverdict: healthy")

    monkeypatch.setattr(keys, "run", run)
    with pytest.raises(SystemExit) as stopped:
        main(["keys"])
    assert stopped.value.code == 1, "a command that judges nothing"
    assert capsys.readouterr().err == "no \\x1b[2Kgood verdict: healthy\n"


def test_a_fault_of_the_command_is_a_traceback_and_no_verdict() -> None:
    planted = "from rldk_tracking.cli import replay\ndef run(arguments): raise LookupError('planted')\nreplay.run = run"
    result = command(planted, "replay", "x.csv")
    assert result.returncode == 3
    assert result.stderr.startswith("Traceback") and result.stderr.endswith("LookupError: planted\n")


@pytest.mark.parametrize("module", ["torch", "tqdm"])
def test_the_demo_in_a_base_install_names_its_extra(module: str) -> None:
    result = command(f"sys.modules[{module!r}] = None", "demo")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (f"rldk-tracking demo needs {module}, which is not installed: {install_line('demo')}\n")


def test_an_import_that_no_extra_mends_is_a_fault() -> None:
    result = command("sys.modules['rldk_tracking.metrics.keys'] = None", "keys")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")


def test_an_interrupt_is_one_line_and_its_own_code(tmp_path: Path) -> None:
    planted = "import time\nfrom rldk_tracking.cli import keys\n"
    planted += "def run(arguments): print('ready', flush=True); time.sleep(60)\nkeys.run = run\n"
    planted += "import sys; from rldk_tracking.cli.main import main\nsys.exit(main(['keys']))"
    process = subprocess.Popen(
        [sys.executable, "-c", planted], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "\nrldk-tracking: interrupted.\n")


@pytest.mark.parametrize("module", ["rldk_tracking", "rldk_tracking.cli.main"])
def test_the_package_is_the_command_too(module: str) -> None:
    result = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout == f"rldk-tracking {rldk_tracking.__version__}\n"


def test_a_terminal_of_another_encoding_is_no_error() -> None:
    planted = "from rldk_tracking.cli import keys\ndef run(arguments): print('größer →'); return 0\nkeys.run = run\n"
    planted += "sys.stdout.reconfigure(encoding='ascii')"
    result = command(planted, "keys")
    assert (result.returncode, result.stdout) == (0, "gr\\xf6\\xdfer \\u2192\n")


def test_only_the_command_that_is_used_is_imported() -> None:
    code = """
import json, sys
from rldk_tracking.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
print(json.dumps([name for name in sys.modules if name.startswith(("rldk_tracking.cli.", "torch", "transformers"))]))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(shown.splitlines()[-1]) == ["rldk_tracking.cli.main"]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m rldk_tracking.cli.main keys --format json | head -c 10; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
