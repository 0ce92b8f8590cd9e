"""The entry point as a person meets it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import rldk_tracking
from rldk_tracking.cli.main import COMMANDS, main


def test_every_command_of_the_table_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"rldk-tracking {name}" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert rldk_tracking.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["no-such-command"]])
def test_a_wrong_command_is_code_two_and_a_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "rldk-tracking" in capsys.readouterr().err


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
