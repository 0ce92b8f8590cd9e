"""What the doctor says of this machine, and what it says where something is missing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from rldk_tracking.cli import doctor
from rldk_tracking.cli.main import main
from rldk_tracking.messages.packages import install_line
from rldk_tracking.trackers.mlflow_backend import where

ROOT = Path(__file__).parents[2]
ALL_MISSING: dict[str, str | None] = dict.fromkeys(doctor.installed())


def by_topic(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.topic: finding for finding in findings}


def test_this_environment_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["torch"] == metadata.version("torch")
    trainers = {finding["topic"]: finding["usable"] for finding in report["trainers"]}
    assert trainers["GRPOTrainer, RLOOTrainer"]
    assert trainers["PPOTrainer"] == (find_spec("trl.experimental.ppo") is not None)
    assert {finding["topic"] for finding in report["trackers"]} >= {"MLflow", "W&B"}


def test_text_names_every_package_and_section(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*doctor.PACKAGES, "trainers", "trackers", "machine", "alerts"))


def test_a_missing_package_names_the_extra() -> None:
    assert install_line("trl") in doctor.trainers(ALL_MISSING)[0].detail
    found = by_topic(doctor.trackers(ALL_MISSING))
    assert install_line("mlflow") in found["MLflow"].detail
    assert install_line("wandb") in found["W&B"].detail
    without_trl = doctor.trainers({**ALL_MISSING, "torch": "2.13.0", "transformers": "5.0"})
    assert not by_topic(without_trl)["TRL"].usable


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (doctor.TESTED[0], "one of the releases that are tested"),
        ("0.17.0", f"older than {doctor.TESTED[0]}"),
        ("0.25.1", "between 0.24.0 and 0.29.1"),
        ("1.10.0", "between 1.9.0 and 1.12.0"),
        ("99.0.0.dev0", f"newer than {doctor.TESTED[-1]}"),
    ],
)
def test_a_release_of_trl_is_tested_or_not(version: str, words: str) -> None:
    found = doctor.trainers({**ALL_MISSING, "torch": "2.13.0", "transformers": "5.0", "trl": version})
    assert words in by_topic(found)["TRL"].detail and by_topic(found)["TRL"].usable


@pytest.mark.parametrize(("version", "views"), [("3.14.9", False), ("3.15.0", True), ("3.17.2", True), ("4.0", True)])
def test_saved_views_depend_on_the_version(version: str, views: bool) -> None:
    detail = by_topic(doctor.trackers({**ALL_MISSING, "mlflow": version}))["MLflow"].detail
    assert ("saved views need" not in detail) == views


def test_no_trainer_is_code_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "installed", lambda: ALL_MISSING)
    assert doctor.run(argparse.Namespace(format="text")) == 1
    assert "not installed" in capsys.readouterr().out


def test_the_webhook_is_told_but_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T0/B0/verysecret")
    for form in ("text", "json"):
        main(["doctor", "--format", form])
        shown = capsys.readouterr().out
        assert "RLDK_SLACK_WEBHOOK_URL is set" in shown
        assert "verysecret" not in shown
        assert "hooks.slack.com" not in shown
    monkeypatch.delenv("RLDK_SLACK_WEBHOOK_URL")
    assert [finding.usable for finding in doctor.channels(ALL_MISSING)] == [False, False]


def test_gpu_is_read_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    class Driver:
        NVMLError = pynvml.NVMLError

        @staticmethod
        def nvmlDeviceGetCount() -> int:
            return 2

        @staticmethod
        def nvmlDeviceGetHandleByIndex(index: int) -> int:
            return index

        @staticmethod
        def nvmlDeviceGetName(handle: int) -> str:
            return f"device {handle}"

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    for name in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName"):
        monkeypatch.setattr(pynvml, name, getattr(Driver, name))
    assert doctor.gpu() == doctor.Finding("NVIDIA GPU", True, "device 0, device 1")

    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert not doctor.gpu().usable


def test_what_bites_in_a_long_training_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = {**ALL_MISSING, "mlflow": "3.17.2", "wandb": "0.31.0"}
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow.example.org")
    said = " ".join(doctor.notes(versions))
    for words in ("WANDB_MODE=offline", "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER=false", "MLFLOW_TRACKING_PASSWORD"):
        assert words in said
    for form in ("text", "json"):
        main(["doctor", "--format", form])
        shown = capsys.readouterr().out
        assert "secret" not in shown and "http://mlflow.example.org" in shown and "RETRY_AFTER" in shown
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert doctor.notes(versions) == [] == doctor.notes(ALL_MISSING)


@pytest.mark.parametrize(
    "words",
    [
        "`WANDB_MODE=offline` trains without the server",
        "**W&B, `wandb.finish()` in mid-run.** The run is over for W&B",
        "MLflow prints the address when a run ends, and W&B's console capture stores what is printed",
        "`MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER=false`",
    ],
)
def test_the_docs_say_what_bites(words: str) -> None:
    text = (ROOT / "docs" / "trackers.md").read_text(encoding="utf-8")
    assert words in " ".join(text.partition("## Known limits\n")[2].split())


def test_an_address_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@[x")
    assert where() == "MLFLOW_TRACKING_URI is no address"
    assert "secret" not in " ".join(doctor.notes({**ALL_MISSING, "mlflow": "3.17.2"}))


def test_nothing_but_the_report_is_written() -> None:
    result = subprocess.run([sys.executable, "-m", "rldk_tracking.cli.main", "doctor"], capture_output=True, text=True)
    assert result.stderr == "" and "rldk-tracking demo" in result.stdout.splitlines()[-1]


def test_settings_are_shown_with_their_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rldk.yaml").write_text("slack_webhook_url: https://hooks.slack.com/verysecret\nlevel: full\n")
    monkeypatch.setenv("RLDK_RULES", "quiet")
    assert main(["doctor", "--format", "json"]) == 0
    shown = capsys.readouterr().out
    found = json.loads(shown)
    assert found["settings"]["rules"] == {"value": "quiet", "origin": "RLDK_RULES"}
    assert found["settings"]["level"] == {"value": "full", "origin": str(tmp_path.resolve() / "rldk.yaml")}
    assert [one["usable"] for one in found["alerts"] if one["topic"] == "Slack"] == [True]
    assert "verysecret" not in shown
    monkeypatch.setenv("RLDK_RULES", "saef")
    assert main(["doctor"]) == 1
    assert "unknown preset 'saef'; did you mean safe? (rules is set by RLDK_RULES)" in capsys.readouterr().out
