"""Secrets stay where they are, and what strangers name is data, never code."""

from __future__ import annotations

import ast
import logging
import os
import pickle
import re
import shutil
import stat
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rldk_tracking
from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.base import RejectedError, UnavailableError
from rldk_tracking.trackers.channel import alert_message
from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.slack import SlackNotifier, slack_payload
from tests.faults.bench import offsets
from tests.faults.processes import couriers, wait_for
from tests.faults.scenario import At, train

PACKAGE = Path(rldk_tracking.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
SECRET = "T0SECRETB0SECRETXYZ"
ALWAYS = {"grad.explosion": {"threshold": 0.0, "persistence": (1, 1), "warm_up_steps": 0}}

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"}
UNSAFE_LOADERS = {"pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load"}
"""Unpickling runs code. A checkpoint's pickle is looked at with `pickletools`, which runs none."""


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text())
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_line_evaluates_unpickles_or_starts_a_shell(path: Path) -> None:
    for name, call in calls(path):
        assert name not in FORBIDDEN_CALLS | UNSAFE_LOADERS, f"{path}:{call.lineno}: {name}"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert keywords.get("shell", "False") == "False", f"{path}:{call.lineno}: a shell"
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", f"{path}:{call.lineno}: torch.load without weights_only"
        if name.startswith("subprocess."):
            assert not call.args or not isinstance(call.args[0], (ast.JoinedStr, ast.Constant)), f"{path}:{call.lineno}"


def texts_under(folder: Path) -> dict[str, str]:
    return {str(path): path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()}


def test_secrets_appear_nowhere(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """A training with a webhook that fails, an MLflow server with a password that is not there, and a store that is."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)  # where the store that is there keeps its artifacts
    shutil.copy(empty_store, tmp_path / "there.db")
    there = MLflowTracker(tracking_uri=f"sqlite:///{tmp_path / 'there.db'}", experiment="there")
    slack = SlackNotifier(f"http://127.0.0.1:9/services/{SECRET}", allow_loopback=True)
    mlflow = MLflowTracker(run_id="0" * 32, tracking_uri=f"http://me:{SECRET}@127.0.0.1:9")
    callback = RLDKCallback(trackers=[JsonlTracker(tmp_path / "rows"), there, mlflow, slack], overrides=ALWAYS)
    seen: list[str] = []
    with caplog.at_level(logging.DEBUG):
        trainer = grpo_trainer(tmp_path / "out", max_steps=4, callbacks=[callback], save_strategy="steps", save_steps=2)
        trainer.add_callback(At({4: lambda: seen.extend(seen_of_couriers(tmp_path))}))
        trainer.train()
        assert callback.alerts, "an alert was on its way to Slack"
        shown = [repr(x) for x in (callback, slack, mlflow, callback._settings, vars(callback))]
        shown += [str(callback.state()), repr(pickle.dumps(slack)), repr(callback.run and vars(callback.run))]
        for broken in (lambda: slack.alert(callback.alerts[0]), lambda: mlflow.log({"rldk/a": 1.0}, 1)):
            try:
                broken()
            except (RejectedError, UnavailableError) as error:
                shown += [*traceback.format_exception(error), repr(error), repr(error.__cause__)]
    journal = tmp_path / "out" / "_rldk" / "run.jsonl"
    assert wait_for(lambda: len(faulty(journal)) == 2, 60), "both that are not there have failed"
    assert wait_for(lambda: offsets(journal)["mlflow"].closed, 60)
    output = capfd.readouterr()
    own = [record.getMessage() for record in caplog.records if record.name.startswith(("rldk_tracking", "urllib3"))]
    for text in (*own, output.out, output.err):
        assert SECRET not in text
    places = texts_under(tmp_path)
    assert any(place.endswith("run.courier.log") for place in places)
    assert any(place.endswith("artifacts/rldk/alerts.json") for place in places), "the store that is there"
    assert [place for place, text in places.items() if SECRET in text] == []
    assert [text for text in shown if SECRET in text] == []
    assert len(seen) >= 2
    assert [text for text in seen if SECRET in text] == []


def seen_of_couriers(folder: Path) -> list[str]:
    """What other users of the machine, and the process's own user, can read of a courier."""
    wait_for(lambda: couriers(folder), 60)
    return [text for one in couriers(folder) for text in (" ".join(one.cmdline()), str(one.environ()))]


def faulty(journal: Path) -> list[str]:
    """The destinations that have failed so far."""
    return [name for name, offset in offsets(journal).items() if offset.fault]


def test_the_courier_has_no_more_in_its_environment_than_the_training(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    tracker = MLflowTracker(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", experiment="there")
    more: list[set[tuple[str, str]]] = []

    def look() -> None:
        wait_for(lambda: couriers(tmp_path), 60)
        more.extend(set(one.environ().items()) - set(os.environ.items()) for one in couriers(tmp_path))

    train(tmp_path, [tracker], {2: look}, 2)
    assert [{name for name, _ in one} for one in more] in ([{"PYTHONPATH", "PYTHONSAFEPATH"}], [{"PYTHONSAFEPATH"}])


def test_what_is_kept_for_later_is_for_the_owner_alone(tmp_path: Path) -> None:
    mlflow = MLflowTracker(run_id="0" * 32, tracking_uri="http://127.0.0.1:9")
    callback = RLDKCallback(trackers=[JsonlTracker(tmp_path / "rows"), mlflow], overrides=ALWAYS)
    journal = tmp_path / "out" / "_rldk" / "run.jsonl"
    before = os.umask(0)
    try:
        trainer = grpo_trainer(tmp_path / "out", max_steps=3, callbacks=[callback])
        trainer.add_callback(At({3: lambda: wait_for(lambda: faulty(journal), 60)}))
        trainer.train()
    finally:
        os.umask(before)
    ours = [path for path in (*journal.parent.iterdir(), *(tmp_path / "rows").iterdir()) if path.is_file()]
    expected = {"run.jsonl", "run.mlflow.offset.json", "run.courier.lock", "run.courier.log"}
    assert expected <= {path.name for path in ours}
    for path in ours:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize(
    "address", ["http://example.com/x", "ftp://example.com/x", "http://127.0.0.1/x", "x", "https://"]
)
def test_webhooks_are_https_or_declared_loopback(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLDK_ALLOW_LOOPBACK_WEBHOOK", raising=False)
    with pytest.raises(ValueError) as refused:
        SlackNotifier(address)
    assert address not in str(refused.value) or len(address) < 3


HOSTILE = "<!channel> <https://evil|click> `$(id)` </script><img src=x onerror=1> & *bold* \n# head | cell"


def hostile_alert() -> Alert:
    return Alert(
        rule=f"reward.{HOSTILE}"[:40],
        severity="critical",
        state="firing",
        step=3,
        first_step=2,
        value=1.0,
        threshold=0.5,
        message=f"The reward function {HOSTILE} is odd.",
        advice=f"Look at {HOSTILE}.",
        evidence={HOSTILE: HOSTILE},
        key=f"rldk/reward/function/{HOSTILE}/mean",
    )


def marked_up(part: Any) -> list[str]:
    """The texts of a payload in which Slack looks for markup; in a header, which is plain text, it does not."""
    if isinstance(part, dict):
        own = [part["text"]] if part.get("type") == "mrkdwn" else []
        return own + [text for inner in part.values() for text in marked_up(inner)]
    return [text for inner in part for text in marked_up(inner)] if isinstance(part, list) else []


def test_slack_does_not_act_on_names_of_strangers() -> None:
    for alert in (hostile_alert(), replace(hostile_alert(), message="")):
        payload = slack_payload(alert_message(alert, HOSTILE, "https://mlflow.example/run"))
        for text in (payload["text"], *marked_up(payload)):
            assert "<!channel>" not in text
            assert "<https://evil" not in text


def test_html_and_markdown_of_strangers_names_stay_text() -> None:
    from rldk_tracking.charts.report import Report

    page = Report(
        title=HOSTILE,
        status="finished",
        trainer="GRPOTrainer",
        series={f"rldk/reward/function/{HOSTILE}/mean": [(1, 0.5), (2, 0.6)]},
        alerts=[hostile_alert()],
        settings={HOSTILE: HOSTILE},
    ).html()
    assert "<img src=x" not in page
    assert not re.search(r"<script[^>]*>[^<]*onerror", page)


def test_a_reward_function_with_a_hostile_name_trains(tmp_path: Path) -> None:
    def hostile(completions: list[str], **kwargs: Any) -> list[float]:
        return [float(len(text) % 3) for text in completions]

    hostile.__name__ = HOSTILE
    memory = InMemoryTracker()
    callback = RLDKCallback(trackers=[memory, JsonlTracker(tmp_path / "rows")])
    grpo_trainer(tmp_path / "out", max_steps=2, reward_funcs=hostile, callbacks=[callback]).train()
    assert [step for step, _ in memory.series["rldk/reward/mean"]] == [1, 2]
