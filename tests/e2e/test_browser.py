"""What a person sees in MLflow: its own pages, served on loopback, in a real browser.

Screenshots are left in `ci-output/`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests

from rldk_tracking.charts.mlflow import view_path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PICTURES = Path(__file__).resolve().parents[2] / "ci-output"
PLOTS = 3
"""A plot is drawn when it comes into sight, and a row of so many is."""
HAS_PPO = find_spec("trl.experimental") is not None and find_spec("trl.experimental.ppo") is not None

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")


class Site:
    """An MLflow server over the store in a folder, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.address}/health", timeout=1).ok:
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)


def open_page(url: str, profile: Path, picture: str, seconds: int) -> subprocess.Popen[str]:
    """A browser that runs the page's scripts for a time, photographs it, and prints it as HTML."""
    assert CHROMIUM is not None
    PICTURES.mkdir(exist_ok=True)
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"),
        *(f"--user-data-dir={profile}", "--window-size=1600,1400", f"--virtual-time-budget={seconds * 1000}"),
        *(f"--screenshot={PICTURES / picture}", "--dump-dom", url),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def train(folder: Path) -> dict[str, Any]:
    """A GRPO run, and a PPO run where TRL has it, in one experiment. Name to what MLflow knows of the run."""
    import mlflow
    from transformers import PrinterCallback

    from rldk_tracking import RLDKCallback
    from rldk_tracking.demo.trainers import grpo_trainer, ppo_trainer

    found = {}
    for name, maker, steps in (("grpo", grpo_trainer, 20), ("ppo", ppo_trainer, 3)):
        if name == "ppo" and not HAS_PPO:
            continue
        # A limit that the run passes at once, so that there is an alert to see.
        watched = RLDKCallback(overrides={"kl.high": {"threshold": 1e-6, "persistence": (1, 1)}}, strict=True)
        trainer = maker(folder / name, report_to=["mlflow"], max_steps=steps, callbacks=[watched], run_name=name)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found[name] = mlflow.last_active_run().info
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The view's page, and each run's page, as HTML."""
    import mlflow

    folder = tmp_path_factory.mktemp("browser")
    before, here = mlflow.get_tracking_uri(), Path.cwd()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ.update({"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "browser"})
    os.chdir(folder)
    mlflow.set_tracking_uri(uri)
    site = None
    browsers: dict[str, subprocess.Popen[str]] = {}
    try:
        mlflow.MlflowClient(uri).search_experiments()
        site = Site(folder)
        found = train(folder)
        site.wait()
        experiment = found["grpo"].experiment_id
        paths = {"view": view_path(experiment)}
        paths |= {name: f"#/experiments/{experiment}/runs/{info.run_id}" for name, info in found.items()}
        for name, path in paths.items():
            seconds = 40 if name == "view" else 15
            browsers[name] = open_page(f"{site.address}/{path}", folder / name / "profile", f"{name}.png", seconds)
        yield {name: browser.communicate(timeout=120)[0] for name, browser in browsers.items()}
    finally:
        for browser in browsers.values():
            browser.kill()
        if site is not None:
            site.close()
        os.chdir(here)
        mlflow.set_tracking_uri(before)
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            os.environ.pop(variable, None)


def test_the_views_address_shows_named_sections_with_curves(pages: dict[str, str]) -> None:
    page = pages["view"]
    sections = ["Health and alerts", "Rollouts", "KL and policy", "Value and advantage", "Length and diversity"]
    sections += ["Gradients and updates", "Resources"]
    headings = re.findall(r">([^<>]+)<", page)
    assert [name for name in sections if name not in headings] == []
    assert "RL health (rldk)" in headings
    assert len(re.findall(r'class="[^"]*\bjs-plotly-plot\b', page)) >= PLOTS
    assert re.search(r'<path class="[^"]*\bjs-line\b', page), "no curve is drawn"
    assert "(rldk/health/score)" in page
    for name in pages.keys() - {"view"}:
        assert name in headings


def test_the_runs_page_shows_note_and_alerts(pages: dict[str, str]) -> None:
    page = pages["grpo"]
    assert "<strong>Finished, step 20. Warning: kl.high since step" in page
    assert "<td>kl.high</td>" in page
    assert ">Charts of all runs</a>" in page
    assert "viewStateShareKey=rldk-rl-health" in page
    assert "<td>rldk/policy/entropy</td>" in page
    assert "&amp;#" not in page, "an escape is shown as it is written"


@pytest.mark.skipif(not HAS_PPO, reason="this TRL has no PPOTrainer (removed in 1.13)")
def test_a_ppo_run_shows_its_critic(pages: dict[str, str]) -> None:
    assert "<td>rldk/value/explained_variance</td>" in pages["ppo"]
