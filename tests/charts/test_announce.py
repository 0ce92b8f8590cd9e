"""The line at the terminal: once, on stderr, beside a progress bar, and not for who wants none."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.charts.announce import alert_lines, announce, announce_alert, announce_journal
from rldk_tracking.health.alert import Alert

Make = Callable[..., Alert]


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


def test_an_alert_shows_step_severity_rule_message_and_advice(make_alert: Make) -> None:
    alert = make_alert(message="Drift is 2 nats per token.", advice="Lower the learning rate.")
    first, second = alert_lines(alert, "rldk: ").splitlines()
    assert " ".join(first.split()) == "rldk: step 12 warning kl.high: Drift is 2 nats per token."
    assert second.strip() == "try: Lower the learning rate."


def test_commands_in_the_advice_stay_whole(make_alert: Make) -> None:
    for before in range(120):
        text = alert_lines(make_alert(advice=f"{'x' * before} `rldk-tracking checkpoint DIR` says it."), "rldk: ")
        assert "rldk-tracking" in text, before


def test_an_end_shows_no_advice(make_alert: Make) -> None:
    text = alert_lines(make_alert(state="resolved", advice="Lower the learning rate."), "")
    assert "resolved" in text
    assert "Lower" not in text


def test_only_alerts_above_info_that_fire_are_written_and_all_are_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, make_alert: Make
) -> None:
    with caplog.at_level(logging.INFO, "rldk_tracking"):
        for changes in ({}, {"severity": "critical"}, {"severity": "info"}, {"state": "resolved"}, {"notify": False}):
            announce_alert(make_alert(**changes))
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split()[3] for line in said.err.splitlines() if line.startswith("rldk: ")] == ["warning", "critical"]
    assert said.err.count("try: ") == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO", "INFO", "INFO"]
    assert {record.name for record in caplog.records} == {"rldk_tracking.alerts"}


ALERT = (
    "from rldk_tracking.health.alert import Alert; from rldk_tracking.charts.announce import announce_alert\n"
    "alert = Alert('kl.high', 'warning', 'firing', 2, 1, 2.0, 1.0, 'Drift is 2 nats.', 'Lower the rate.')\n"
)


@pytest.mark.parametrize("bar", ["tqdm.auto", "tqdm"])
def test_an_alert_is_written_once_and_above_the_bar(bar: str) -> None:
    code = f"{ALERT}from {bar} import tqdm\nfor n in tqdm(range(3), mininterval=0): n == 1 and announce_alert(alert)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    lines = result.stderr.replace("\n", "\r").split("\r")
    assert [line for line in lines if "kl.high" in line] == ["rldk: step 2    warning   kl.high: Drift is 2 nats."]
    assert [line.strip() for line in lines if "Lower" in line] == ["try: Lower the rate."]


def test_a_program_with_a_log_of_its_own_has_the_alert_in_it(tmp_path: Path) -> None:
    code = f"import logging; logging.basicConfig(filename='log.txt')\n{ALERT}announce_alert(alert)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "rldk: step 2" in result.stderr
    assert "WARNING:rldk_tracking.alerts:rldk warning: kl.high (step 2): Drift" in (tmp_path / "log.txt").read_text()


def test_names_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str], make_alert: Make) -> None:
    announce("a\x1b[2Kverdict\n: healthy\x9b")
    assert capsys.readouterr().err == "rldk: a\\x1b[2Kverdict\\n: healthy\\x9b\n"
    text = alert_lines(make_alert(message="a\x1b[2Kb\nhealthy", advice="c\x9b"), "")
    assert "a\\x1b[2Kb healthy" in text and "c\\x9b" in text


def test_the_journal_and_the_command_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    announce_journal(Path("my run/_rldk/run.jsonl"), Path("my run"))
    elsewhere = tmp_path.parent / "x"
    announce_journal(elsewhere / "run.jsonl", elsewhere)
    assert capsys.readouterr().err.splitlines() == [
        "rldk: all of it: my run/_rldk/run.jsonl; as a page: rldk-tracking report 'my run'",
        f"rldk: all of it: {elsewhere}/run.jsonl; as a page: rldk-tracking report {elsewhere}",
    ]
