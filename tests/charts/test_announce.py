"""The line at the terminal: once, on stderr, beside a progress bar, and not for who wants none."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from rldk_tracking.charts.announce import announce


def test_the_line_goes_to_stderr_and_to_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rldk_tracking"):
        announce("charts: 100% at http://127.0.0.1:5000/#/x")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "rldk: charts: 100% at http://127.0.0.1:5000/#/x\n")
    assert "charts: 100% at" in caplog.text


@pytest.mark.parametrize(("value", "silent"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_silences_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str, silent: bool
) -> None:
    monkeypatch.setenv("RLDK_SILENT", value)
    announce("charts")
    assert (capsys.readouterr().err == "") is silent


@pytest.mark.parametrize("tqdm", ["import tqdm", "pass"])
def test_a_terminal_that_has_gone_is_no_fault(tqdm: str) -> None:
    code = f"import sys; {tqdm}; from rldk_tracking.charts.announce import announce; sys.stderr.close(); announce('x')"
    result = subprocess.run([sys.executable, "-c", f"{code}; print('on')"], capture_output=True, text=True, timeout=60)
    assert result.stdout == "on\n"


def test_a_progress_bar_stays_whole() -> None:
    code = (
        "import time; from tqdm.auto import tqdm; from rldk_tracking.charts.announce import announce\n"
        "for n in tqdm(range(3), mininterval=0): n == 1 and announce('look here')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    (line,) = [part for part in result.stderr.replace("\n", "\r").split("\r") if "look here" in part]
    assert line == "rldk: look here"


def test_a_process_without_tqdm_says_it_too() -> None:
    code = "import sys; from rldk_tracking.charts.announce import announce; sys.modules['tqdm'] = None; announce('x')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stderr == "rldk: x\n"


def test_another_process_may_say_it_instead(capsys: pytest.CaptureFixture[str]) -> None:
    from rldk_tracking.charts.announce import announced_by

    taken: list[str] = []
    with announced_by(taken.append):
        announce("here")
    announce("there")
    assert taken == ["here"]
    assert capsys.readouterr().err == "rldk: there\n"
