"""The demo as a person runs it: in a process of its own, in a folder of its own, to the end."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rldk_tracking.cli import demo
from rldk_tracking.cli.main import main
from rldk_tracking.demo.faults import FAULTS, Fault
from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.jsonl import JsonlStore

pytestmark = pytest.mark.slow


def run_demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "rldk_tracking.cli.main", "demo", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], float]:
    """The README's first command: its folder, what it printed, seconds of the processor that it took."""
    folder = tmp_path_factory.mktemp("first")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run_demo(folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return folder, result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_first_command_of_the_readme(first: tuple[Path, subprocess.CompletedProcess[str], float]) -> None:
    """Both runs in MLflow, the right rule, the page's address, in less than two minutes."""
    folder, result, seconds = first
    assert result.returncode == 0, result.stdout + result.stderr
    assert seconds < 120  # of the processor: those on the wall depend on what else the machine does
    assert "No warning, as it should be." in result.stdout
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in result.stdout
    assert "Traceback" not in result.stderr

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    pages = re.findall(r"(\S+)\s+http://127.0.0.1:5000/#/experiments/(\d+)/runs/(\w+)", result.stdout)
    assert [name for name, _, _ in pages] == ["healthy", demo.DEFAULT_FAULT]
    for name, experiment, run_id in pages:
        run = client.get_run(run_id)
        assert run.info.experiment_id == experiment
        assert run.info.run_name == name
        rewards = client.get_metric_history(run_id, "rldk/reward/mean")
        assert sorted(point.step for point in rewards) == list(range(1, demo.STEPS + 1))
        if name != "healthy":
            assert max(point.value for point in client.get_metric_history(run_id, "rldk/alerts/firing")) > 0


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {demo.DEFAULT_FAULT}))
def test_every_other_fault_meets_its_rule_and_not_before(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault, began = FAULTS[name], demo.STEPS // 2
    store = JsonlStore(tmp_path)
    store.prepare()
    alerts = demo.train(name, fault, demo.STEPS, began, store)
    assert demo.fault_as_expected(fault, alerts, 1 if fault.from_start else began), alerts
    if not fault.from_start:
        assert not [rule for rule, step in demo.firing(alerts).items() if step < began], "healthy until then"
    said, first = " ".join(capsys.readouterr().out.split()), alerts[0]  # consequences that come later stand in it too
    assert f"{first.rule}: {first.message.split(' With it:')[0]}" in said and f"try: {first.advice}" in said
    lines = [json.loads(line) for line in store.path(name).read_text().splitlines()]
    assert any(rule in json.dumps(line) for line in lines if line["type"] == "alert" for rule in fault.rules)


@pytest.mark.parametrize("tracker", ["mlflow", "jsonl"])
def test_what_the_demo_leaves_can_be_judged_and_reported(
    tracker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    place, fault, rule = tmp_path, "nan", "nan"
    if tracker == "mlflow":
        place, fault, rule = request.getfixturevalue("first")[0], demo.DEFAULT_FAULT, "lr.spike"
    else:
        result = run_demo(tmp_path, "--tracker", tracker, "--steps", "30", "--fault", fault)
        assert result.returncode == 0, result.stdout + result.stderr
    monkeypatch.chdir(place)
    for name in ("healthy", fault):
        folder = f"rldk_demo/{name}"
        assert main(["replay", folder]) == (0 if name == "healthy" else 2)
        assert "reading _rldk/run.jsonl" in capsys.readouterr().out
        assert main(["report", folder]) == 0
        assert (f"Critical: {rule}" in capsys.readouterr().out) == (name != "healthy")


def test_an_interrupt_is_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "rldk_tracking", "demo", "--tracker", "jsonl"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = ""
    while "2/60" not in said and process.poll() is None:
        said += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "rldk-tracking: interrupted." and "Traceback" not in said + rest


def test_wandb_offline(tmp_path: Path) -> None:
    result = run_demo(tmp_path, "--tracker", "wandb", "--fault", "nan", "--steps", "30")
    assert result.returncode == 0, result.stdout + result.stderr
    folders = re.findall(r"^  (healthy|nan)\s+(\S+)$", result.stdout, re.MULTILINE)
    assert [name for name, _ in folders] == ["healthy", "nan"]
    for _, folder in folders:
        assert list(Path(folder).glob("*.wandb"))


def test_too_few_steps_are_refused(tmp_path: Path) -> None:
    result = run_demo(tmp_path, "--steps", "3")
    assert result.returncode == 1
    assert "--steps must be at least" in result.stderr


def alert(rule: str, step: int, severity: str = "warning", state: str = "firing") -> Alert:
    return Alert(rule, severity, state, step, step, None, None, "message", "advice")  # type: ignore[arg-type]


FAULT = Fault("f", "something", ("kl.high", "lr.spike"))


@pytest.mark.parametrize(
    ("alerts", "expected"),
    [
        ([], False),
        ([alert("kl.high", 31)], True),
        ([alert("kl.high", 30)], True),
        ([alert("kl.high", 12)], False),
        ([alert("reward.collapse", 31)], False),
        ([alert("kl.high", 31, severity="info")], False),
        ([alert("kl.high", 31, state="resolved")], False),
    ],
)
def test_the_verdict_on_a_fault(alerts: list[Alert], expected: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.fault_as_expected(FAULT, alerts, began=30) == expected
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("alerts", "expected"),
    [([], True), ([alert("reward.saturated", 50, "info")], True), ([alert("kl.high", 3)], False)],
)
def test_the_verdict_on_the_healthy_run(
    alerts: list[Alert], expected: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.healthy_as_expected(alerts) == expected
    assert ("kl.high" in capsys.readouterr().out) == (not expected)
