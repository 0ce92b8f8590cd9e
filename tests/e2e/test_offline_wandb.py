"""A W&B run without a network, uploaded later: everything arrives once, however often somebody asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.wandb import WandbTracker
from tests.trackers.wandb_backend import WandbBackend

pytestmark = pytest.mark.slow

wandb = pytest.importorskip("wandb", reason="needs wandb")

FIRING = Alert(
    rule="kl.high",
    severity="warning",
    state="firing",
    step=3,
    first_step=2,
    value=0.3,
    threshold=0.2,
    message="KL to the reference is 0.3 nats per token.",
    advice="Raise beta.",
    key="rldk/kl/ref_k3",
)


@pytest.fixture
def backend() -> Iterator[WandbBackend]:
    server = WandbBackend()
    yield server
    server.close()


def train_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run."""
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    run = wandb.init(project="p")
    tracker = WandbTracker()
    tracker.open(RunInfo(trainer="GRPOTrainer"))
    for step in range(1, 8):
        tracker.log({"rldk/health/score": 1.0, "rldk/kl/ref_k3": 0.1 * step}, step)
    rewards = Heatmap("Rewards", ("1 to 2", "0 to 1"), (1, 4), ((0.5, 0.25), (0.5, 0.75)), edges=(0.0, 1.0, 2.0))
    tracker.log_heatmap("rldk/charts/reward_distribution", rewards, 7)
    tracker.alert(FIRING)
    tracker.status("finished", {}, 7)
    tracker.close()
    place = Path(run.dir).parent
    wandb.finish()
    wandb.teardown()
    return place


def call(server: WandbBackend, *command: str) -> str:
    environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "x" * 40, "WANDB_MODE": "online"}
    result = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return result.stdout + result.stderr


def test_what_is_uploaded_twice_arrives_once(
    backend: WandbBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = train_offline(tmp_path, monkeypatch)
    assert backend.operations == [], "an offline run speaks to nobody"
    for _ in range(2):
        call(backend, "rldk_tracking.cli.main", "sync", str(tmp_path / "rldk"))
        call(backend, "wandb", "sync", str(place))
    steps = [row["train/global_step"] for row in backend.rows if "rldk/kl/ref_k3" in row]
    assert steps == list(range(1, 8))
    assert [alert["title"] for alert in backend.alerts] == ["rldk warning: kl.high"]
    name = "rldk/charts/reward_distribution"  # its picture is drawn by another process, and may come with a later row
    (picture,), (table,), (histogram,) = (
        [row[key] for row in backend.rows if key in row] for key in (name, f"{name}_table", f"{name}_histogram")
    )
    assert (picture["_type"], table["_type"]) == ("html-file", "table-file")
    assert (histogram["_type"], histogram["values"]) == ("histogram", [0.75, 0.25])
