"""A run is told event by event: while it trains, when it is killed, and when it is over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rldk_tracking.cli import watch
from rldk_tracking.cli.main import main
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.health.watched import as_data, watched_rules
from rldk_tracking.history.replay import replay
from rldk_tracking.journal.courier import append_alerts
from rldk_tracking.journal.journal import Journal
from rldk_tracking.journal.watchdog import Watchdog
from rldk_tracking.rollout import RunInfo
from tests.cli.test_replay import log
from tests.journal.conftest import an_alert

ENOUGH = {f"rldk/alerts/{name}": 3.0 for name in ("rules_judged", "core_rules_judged")}
ENOUGH |= {f"rldk/alerts/{name}": 0.0 for name in ("rules_warming_up", "rules_without_data")}
FIRED = an_alert(4)
WORSE = replace(FIRED, step=6, severity="critical", value=float("nan"))
OVER = replace(FIRED, step=8, state="resolved")
GONE_PID = 2**22 + 1


def begun(folder: Path, **changes: Any) -> Journal:
    """The journal of a training that this process is, or another one."""
    journal = Journal.open(folder / "_rldk", [])
    journal.begin(RunInfo(name="a try"), 1, as_data(watched_rules(builtin_rules().values())), None)
    if changes:
        record = json.loads(journal.path.read_text())
        journal.path.write_text(json.dumps(record | changes) + "\n")
    return journal


def rows(journal: Journal, *steps: int) -> None:
    """Rows of a run with an alert that opens at step 4, gets worse at 6 and is over at 8."""
    for step in steps:
        found = [alert for alert in (FIRED, WORSE, OVER) if alert.step == step]
        journal.row(step, {"rldk/kl/ref_k3": step / 10} | ENOUGH, found)


def watched(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[dict[str, Any]]]:
    code = main(["watch", *map(str, words), "--json"])
    return code, [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]


def test_a_training_is_followed_as_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.01)
    journal = begun(tmp_path)
    rows(journal, *range(1, 5))
    events = watch.follow(journal.path)
    first = next(events)
    assert (first["event"], first["rule"], first["step"], first["severity"]) == ("opened", "kl.high", 4, "warning")
    rows(journal, 5, 6)
    journal.row(6, {}, [replace(WORSE, consequences=("reward.drop",))])  # given again: no event of its own
    assert [next(events)["event"]] == ["worsened"]
    rows(journal, 7, 8)
    journal.end("finished", 8)
    journal.close()
    assert [event["event"] for event in events] == ["resolved", "end"]


def test_of_a_run_that_is_over_all_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = begun(tmp_path)
    rows(journal, *range(1, 10))
    journal.end("finished", 9)
    journal.close()
    with journal.path.open("a") as file:
        file.write('{"type": "metr\n')
    code, events = watched(capsys, tmp_path)
    assert code == 2
    assert [event["event"] for event in events] == ["opened", "worsened", "resolved", "end"]
    assert events[1]["value"] == "nan" and events[0]["advice"] == "Lower it."
    last = {"status": "finished", "verdict": "critical", "step": 9, "open": [], "notes": ["1 line holds no record"]}
    assert events[-1] == {"event": "end"} | last
    assert main(["watch", str(journal.path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 4 opened warning kl.high: KL is 0.3."
    assert lines[-1] == "end: finished at step 9, critical; 1 line holds no record"


@pytest.mark.parametrize("is_said", [False, True])
def test_a_process_that_is_gone_has_crashed(is_said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = begun(tmp_path, pid=GONE_PID, created=1.0)
    rows(journal, 1, 2)
    journal.close()
    before = journal.path.read_bytes()
    if is_said:  # by the courier
        dog = Watchdog(journal.path, GONE_PID, 1.0, as_data(watched_rules(builtin_rules().values())))
        append_alerts(journal.path, [alert for _ in range(2) for alert in dog.look(time.monotonic(), 2)])
    code, events = watched(capsys, journal.path)
    assert code == 2
    assert [event["event"] for event in events] == ["crashed", "end"]
    assert f"its process {GONE_PID} is gone" in events[0]["message"]
    assert (events[1]["status"], events[1]["verdict"], events[1]["open"]) == ("crashed", "critical", ["run.crashed"])
    assert is_said or journal.path.read_bytes() == before, "whoever watches writes nothing"


def test_a_process_that_is_killed_while_it_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.01)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    journal = begun(tmp_path, pid=process.pid, created=psutil.Process(process.pid).create_time())
    rows(journal, *range(1, 5))
    events = watch.follow(journal.path)
    assert next(events)["event"] == "opened"
    process.kill()
    rows(journal, 5, 6)  # written before it was gone, and seen after that
    journal.close()
    assert [event["event"] for event in events] == ["worsened", "crashed", "end"]
    process.communicate()


def test_an_exception_is_a_crash_with_its_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = begun(tmp_path)
    rows(journal, 1)
    journal.end("crashed", 1, "Traceback\nValueError: no")
    journal.close()
    code, (crash, end) = watched(capsys, tmp_path)
    assert (code, crash["event"], end["status"]) == (2, "crashed", "crashed")
    assert "ValueError: no" in crash["message"]


def test_a_hung_run_is_told_and_not_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = begun(tmp_path)
    rows(journal, 1)
    append_alerts(journal.path, [an_alert(1, "run.hung"), an_alert(3, "run.hung", state="resolved")])
    code, events = watched(capsys, tmp_path, "--timeout", "0")
    assert [event["event"] for event in events] == ["hung", "resolved", "timeout"]
    assert (code, events[-1]["status"], events[-1]["verdict"]) == (1, "running", "warning")
    journal.close()


def test_silence_is_health_where_enough_was_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = begun(tmp_path)
    journal.row(1, {"rldk/kl/ref_k3": 0.1})
    assert watched(capsys, tmp_path, "--timeout", "0")[0] == 4
    rows(journal, 2)
    assert watched(capsys, tmp_path, "--timeout", "0")[0] == 0
    journal.close()


def test_another_machine_is_waited_for_until_it_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = begun(tmp_path, host="elsewhere", pid=GONE_PID)
    rows(journal, 1)
    journal.close()
    assert watched(capsys, tmp_path, "--timeout", "0")[1][-1]["status"] == "running"
    long_ago = time.time() - 2 * 3600
    os.utime(journal.path, (long_ago, long_ago))
    code, (end,) = watched(capsys, tmp_path)
    assert (code, end["event"], end["status"]) == (0, "end", "unknown")


def test_any_other_source_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log(tmp_path / "log.jsonl", [0.2 + 0.005 * step for step in range(20)] + [float("nan")])
    code, events = watched(capsys, path)
    result = replay(path)
    assert code == result.exit_code == 2
    assert events[-1]["event"] == "end" and events[-1]["verdict"] == "critical"
    assert [event["rule"] for event in events[:-1] if event["event"] == "opened"] == [
        alert.rule for _, alert in result.alerts if alert.state == "firing"
    ]


def test_of_several_journals_the_newest_is_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        journal = begun(tmp_path)
        rows(journal, step)
        journal.end("finished", step)
        journal.close()
    assert main(["watch", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "at step 2" in said.out
    assert f"watching {tmp_path}/_rldk/run-2.jsonl; also found {tmp_path}/_rldk/run.jsonl" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no/such/run"], "no/such/run: no such file or folder."),
        (["."], "no trainer_state.json, checkpoint-*, run.jsonl"),
        (["log.jsonl", "--rules", "lax"], "unknown preset"),
        (["log.jsonl", "--timeout", "-1"], "--timeout"),
        (["log.jsonl", "--timeout", "nan"], "--timeout"),
    ],
)
def test_what_cannot_be_watched_is_a_sentence_and_no_verdict(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == "log.jsonl":
        log(tmp_path / "log.jsonl", [0.1, 0.2])
    with pytest.raises(SystemExit) as stopped:
        main(["watch", *words])
    shown = capsys.readouterr()
    assert (stopped.value.code, shown.out) == (3, "") and said in shown.err
