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
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import requests

from rldk_tracking.charts.mlflow import models_path, run_path, view_path
from rldk_tracking.charts.spec import VIEW_NAME

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PICTURES = Path(__file__).resolve().parents[2] / "ci-output"
HAS_PPO = find_spec("trl.experimental") is not None and find_spec("trl.experimental.ppo") is not None

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]


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


def train(folder: Path) -> dict[str, Any]:
    """A GRPO run, and a PPO run where TRL has it, each in an experiment of its own. Name to what MLflow knows of it."""
    import mlflow
    from transformers import PrinterCallback

    from rldk_tracking import RLDKCallback
    from rldk_tracking.demo.trainers import grpo_trainer, ppo_trainer

    found = {}
    for name, maker, steps in (("grpo", grpo_trainer, 12), ("ppo", ppo_trainer, 4)):
        if name == "ppo" and not HAS_PPO:
            continue
        os.environ["MLFLOW_EXPERIMENT_NAME"] = name
        mlflow.set_experiment(name)
        # A limit that the run passes at once, so that there is an alert to see.
        watched = RLDKCallback(overrides={"kl.high": {"threshold": 1e-6, "persistence": (1, 1)}}, strict=True)
        trainer = maker(
            folder / name,
            report_to=["mlflow"],
            max_steps=steps,
            callbacks=[watched],
            run_name=name,
            save_strategy="steps",
            save_steps=steps // 2,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        found[name] = mlflow.last_active_run().info
    return found


def browser_class() -> Any:
    """The browser that also takes the documentation's pictures."""
    spec = spec_from_file_location("browser", Path(__file__).resolve().parents[2] / "docs/pictures/browser.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Browser


class Pages:
    """The pages of two trained runs, in a browser."""

    def __init__(self, address: str, browser: Any, runs: dict[str, Any]) -> None:
        self.address, self.browser, self.runs = address, browser, runs

    def open(self, path: str) -> None:
        self.browser.open(f"{self.address}/{path}")

    def photograph(self, name: str) -> None:
        self.browser.photograph(PICTURES / f"{name}.png")

    def until_drawn(self, section: str, key: str) -> None:
        """Scroll to a section, until one of its charts shows a curve of this series."""
        self.browser.wait(f"({SCROLL})({section!r})")
        self.browser.wait(f"({DRAWN})({key!r})")

    def text(self) -> str:
        return str(self.browser.evaluate("document.body.innerText"))


SCROLL = """section => {
    const leaves = [...document.querySelectorAll('*')].filter(e => !e.childElementCount)
    const found = leaves.filter(e => e.textContent.trim() === section)
    found.at(-1)?.scrollIntoView()
    return found.length > 0
}"""
DRAWN = """key => [...document.querySelectorAll('.js-plotly-plot')].some(plot => {
    const isDrawn = [...plot.querySelectorAll('path.js-line')].some(l => /[ML].*[ML]/.test(l.getAttribute('d') || ''))
    // The legend stands beside the plot, in the same card.
    for (let card = plot; card && card.querySelectorAll('.js-plotly-plot').length <= 1; card = card.parentElement)
        if (card.textContent.includes(`(${key})`)) return isDrawn
    return false
})"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    import mlflow

    folder = tmp_path_factory.mktemp("browser")
    before, here = mlflow.get_tracking_uri(), Path.cwd()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.chdir(folder)
    mlflow.set_tracking_uri(uri)
    site = None
    try:
        mlflow.MlflowClient(uri).search_experiments()
        site = Site(folder)
        found = train(folder)
        site.wait()
        with browser_class()((1600, 900)) as browser:
            yield Pages(site.address, browser, found)
    finally:
        if site is not None:
            site.close()
        os.chdir(here)
        mlflow.set_tracking_uri(before)
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            os.environ.pop(variable, None)


SHOWN = {
    "Health and alerts": "rldk/health/score",
    "Rollouts": "rldk/reward/mean",
    "KL and policy": "rldk/kl/ref_k3",
    "Value and advantage": "rldk/advantage/std",
    "Length and diversity": "rldk/length/mean",
    "Gradients and updates": "rldk/grad/norm",
    "Checkpoints": "rldk/checkpoint/score",
    "Resources": "rldk/throughput/step_seconds",
}
"""Section to a series that it draws for every trainer."""
needs_ppo = pytest.mark.skipif(not HAS_PPO, reason="this TRL has no PPOTrainer (removed in 1.13)")
RUNS = ["grpo", pytest.param("ppo", marks=needs_ppo)]


@pytest.mark.parametrize("name", RUNS)
def test_the_views_address_shows_named_sections_with_curves(pages: Pages, name: str) -> None:
    pages.open(view_path(pages.runs[name].experiment_id))
    own = {"Value and advantage": "rldk/value/explained_variance"} if name == "ppo" else {}
    for section, key in (SHOWN | own).items():
        pages.until_drawn(section, key)
    assert VIEW_NAME in pages.text()
    pages.until_drawn("Health and alerts", "rldk/health/score")
    pages.photograph(f"view-{name}")


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_page_shows_note_picture_and_alerts(pages: Pages, name: str) -> None:
    info = pages.runs[name]
    pages.open(run_path(info.experiment_id, info.run_id))
    pages.browser.wait("document.body.innerText.includes('Show more')")
    pages.browser.evaluate("[...document.querySelectorAll('a, button')].find(x => x.innerText == 'Show more').click()")
    # The picture of what broke has arrived and is one.
    pages.browser.wait("[...document.images].some(i => i.src.includes('overview.svg') && i.naturalWidth > 400)")
    page = str(pages.browser.evaluate("document.body.innerHTML"))
    assert re.search(r"<strong>Finished, step \d+. Warning: kl.high since step", page)
    assert re.search(r"<td>kl.high\W*</td>", page)
    assert ">Charts of all runs</a>" in page
    assert "viewStateShareKey=rldk-rl-health" in page
    assert re.search(r"<td>rldk/policy/entropy\W*</td>", page)
    assert ("rldk/value/explained_variance" in page) is (name == "ppo")
    assert "&amp;#" not in page, "an escape is shown as it is written"
    pages.photograph(f"run-{name}")


def test_the_checkpoints_are_models(pages: Pages) -> None:
    pages.open(models_path(pages.runs["grpo"].experiment_id))
    pages.browser.wait("document.body.innerText.includes('checkpoint-12')")
    assert "checkpoint-6" in pages.text()
    pages.photograph("models-grpo")


@pytest.mark.parametrize("picture", ["reward_distribution", "layer_gradients"])
def test_the_heat_maps_are_artifacts_that_the_page_shows(pages: Pages, picture: str) -> None:
    info = pages.runs["grpo"]
    pages.open(run_path(info.experiment_id, info.run_id, f"artifacts/rldk/charts/{picture}.svg"))
    pages.browser.wait("[...document.querySelectorAll('img')].some(i => i.naturalWidth > 400)")
    pages.photograph(f"artifact-{picture}")
