"""The whole way with nothing configured: a trainer, its `report_to`, and what stands in the store afterwards."""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import rldk_tracking
from rldk_tracking import RLDKCallback
from rldk_tracking.charts.pictures import heatmap_svg
from rldk_tracking.demo.trainers import grpo_trainer, ppo_trainer
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.trackers.slack import SlackNotifier

pytestmark = pytest.mark.slow

STEPS = 5


def history(uri: str) -> tuple[Any, dict[str, dict[int, float]]]:
    """The one run of a store, and its series: key -> step -> value. Fails where a step stands twice."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    series: dict[str, dict[int, float]] = {}
    for key in run.data.metrics:
        if key.startswith("rldk/"):
            points = client.get_metric_history(run.info.run_id, key)
            series[key] = {point.step: point.value for point in points}
            assert len(points) == len(series[key]), f"{key} has a step twice"
    return run, series


def picture(run: Any, name: str) -> str:
    """A heat-map of a run, as SVG."""
    import mlflow

    return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/rldk/charts/{name}.svg"))


def heatmaps(output: Path) -> dict[str, Any]:
    """The latest of each key in the journal of a training."""
    from rldk_tracking.history.past import load

    return dict(load(output).heatmaps)


class RewardSpy(TrainerCallback):
    """Reads the rewards and lengths of each step from the trainer by itself."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.rewards: dict[int, torch.Tensor] = {}
        self.lengths: dict[int, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (values,) = self.trainer._logs["rewards"].values()
        self.rewards[state.global_step] = torch.tensor(list(values), dtype=torch.float64)
        masks = [batch["completion_mask"] for batch in self.trainer._buffered_inputs]
        self.lengths[state.global_step] = torch.cat([mask.sum(1) for mask in masks]).double()


def test_grpo_into_mlflow(mlflow_store: str, tmp_path: Path) -> None:
    spy = RewardSpy()
    trainer = grpo_trainer(tmp_path / "out", report_to=["mlflow"], max_steps=STEPS, callbacks=[RLDKCallback(), spy])
    spy.trainer = trainer
    trainer.train()
    run, series = history(mlflow_store)
    steps = list(range(1, STEPS + 1))
    for step in steps:
        assert series["rldk/reward/mean"][step] == pytest.approx(spy.rewards[step].mean().item(), rel=1e-6)
        assert series["rldk/reward/std"][step] == pytest.approx(spy.rewards[step].std().item(), rel=1e-6)
        assert series["rldk/length/mean"][step] == pytest.approx(spy.lengths[step].mean().item(), rel=1e-6)
    for key in ("rldk/kl/ref_k1", "rldk/kl/ref_k3", "rldk/policy/entropy", "rldk/grad/norm", "rldk/health/score"):
        assert sorted(series[key]) == steps, key
    assert [key for key in series if lookup(key) is None] == []
    # One column for each step; the rewards of a step fill the bins once.
    found = heatmaps(tmp_path / "out")
    for step in steps:
        shares = [value for at, _, value in found["rldk/charts/reward_distribution"].cells() if at == step]
        assert sum(shares) == pytest.approx(1.0, abs=0.01)
    layers = found["rldk/charts/layer_gradients"]
    assert layers.steps[0] == 1 and any("layers.0" in row for row in layers.rows)
    for name in ("reward_distribution", "layer_gradients"):
        assert picture(run, name) == heatmap_svg(found[f"rldk/charts/{name}"])
    assert run.data.tags["rldk.status"] in ("finished", "running")
    assert run.info.status == "FINISHED"


def test_a_training_draws_nothing(mlflow_store: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from rldk_tracking import RLDKCallback\n"
        "from rldk_tracking.demo.trainers import grpo_trainer\n"
        "limits = {'kl.high': {'threshold': 0.0, 'persistence': (1, 1), 'warm_up_steps': 0}}\n"
        "watched = RLDKCallback(overrides=limits)\n"
        f"grpo_trainer({str(tmp_path / 'out')!r}, report_to=['mlflow'], max_steps=8, callbacks=[watched]).train()\n"
        "assert any(alert.state == 'firing' for alert in watched.alerts)\n"
        "print('drawn with:', [name for name in ('matplotlib', 'rldk_tracking.charts.figures') "
        "if name in sys.modules])"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": mlflow_store}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "drawn with: []" in done.stdout
    run, _ = history(mlflow_store)
    assert "kl.high" in picture(run, "overview"), "by the courier"


def test_ppo_into_mlflow(mlflow_store: str, tmp_path: Path) -> None:
    pytest.importorskip("trl.experimental.ppo", reason="PPOTrainer was removed from TRL in 1.13")
    ppo_trainer(tmp_path / "out", report_to=["mlflow"], max_steps=STEPS, callbacks=[RLDKCallback()]).train()
    _, series = history(mlflow_store)
    for key in (
        "rldk/kl/ref_k1",
        "rldk/kl/ref_per_sequence",
        "rldk/policy/clip_fraction",
        "rldk/value/explained_variance",
        "rldk/advantage/std",
        "rldk/reward/mean",
        "rldk/length/max",
        "rldk/grad/norm",
    ):
        assert sorted(series[key]) == list(range(1, STEPS + 1)), key


def test_no_series_is_a_constant_zero_that_was_never_measured(mlflow_store: str, tmp_path: Path) -> None:
    grpo_trainer(tmp_path / "out", report_to=["mlflow"], max_steps=STEPS, callbacks=[RLDKCallback()]).train()
    _, series = history(mlflow_store)
    zero = {key for key, points in series.items() if set(points.values()) == {0.0}}
    # Counts and shares that were counted and found to be none.
    counted = {key for key in zero if key.startswith(("rldk/nan/", "rldk/alerts/", "rldk/system/"))}
    counted |= zero & {"rldk/grad/layers_without", "rldk/grad/norm_clipped_fraction", "rldk/update/frozen_layers"}
    counted |= {key for key in zero if key.endswith(("_fraction", "_all_max", "_all_min", "/not_finite"))}
    assert zero - counted == set()
    assert not [key for key in series if key.startswith(("rldk/policy/clip", "rldk/policy/ratio", "rldk/value/"))]


def test_report_to_alone_is_enough(mlflow_store: str, tmp_path: Path) -> None:
    assert rldk_tracking.__version__
    grpo_trainer(tmp_path / "out", report_to=["mlflow", "rldk"], max_steps=2).train()
    _, series = history(mlflow_store)
    assert sorted(series["rldk/reward/mean"]) == [1, 2]


@pytest.mark.parametrize("order", [["rldk", "mlflow"], ["mlflow", "rldk"]])
def test_named_in_any_order_and_beside_a_callback_nothing_is_written_twice(
    mlflow_store: str, tmp_path: Path, order: list[str]
) -> None:
    grpo_trainer(tmp_path / "out", report_to=order, max_steps=2, callbacks=[RLDKCallback()]).train()
    _, series = history(mlflow_store)
    assert sorted(series["rldk/reward/mean"]) == [1, 2]


class SpoilRewards:
    """A reward function that ties every group for a while."""

    __name__ = "spoiled"

    def __init__(self, first: int, last: int, per_step: int) -> None:
        self.calls = 0
        self.window = range(first * per_step, last * per_step)

    def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
        self.calls += len(completions)
        tied = self.calls in self.window
        return [2.5 if tied else float(len(set(text)) % 5) for text in completions]


def test_slack_gets_one_message_for_the_alert_and_one_for_its_end(
    mlflow_store: str, tmp_path: Path, webhook: Any, caplog: pytest.LogCaptureFixture
) -> None:
    callback = RLDKCallback(slack=SlackNotifier(webhook.url, allow_loopback=True))
    trainer = grpo_trainer(
        tmp_path / "out",
        report_to=["mlflow"],
        max_steps=60,
        reward_funcs=SpoilRewards(5, 30, 32),
        callbacks=[callback],
        learning_rate=1e-5,
    )
    with caplog.at_level(logging.DEBUG):
        trainer.train()
    changes = [(a.rule, a.state) for a in callback.alerts if a.rule == "reward.no_signal"]
    assert changes == [("reward.no_signal", "firing"), ("reward.no_signal", "resolved")]
    texts = [json.dumps(message) for message in webhook.messages]
    assert len([text for text in texts if "reward.no_signal" in text]) == 2
    run, series = history(mlflow_store)
    assert max(series["rldk/alerts/firing"].values()) >= 1
    for page in (caplog.text, repr(callback), repr(run.data.tags), repr(run.data.params)):
        assert "secret" not in page


class Clock(TrainerCallback):
    """Notes when each step ended, and when the training did."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def longest_step(self) -> float:
        return max(after - before for before, after in itertools.pairwise(self.ends))


def test_a_dead_webhook_costs_training_nothing(tmp_path: Path) -> None:
    def trained(slack: Any) -> tuple[RLDKCallback, Clock, float]:
        overrides = {"kl.high": {"threshold": 0.0, "persistence": (1, 1), "warm_up_steps": 0}}
        callback, clock = RLDKCallback(slack=slack, overrides=overrides), Clock()
        trainer = grpo_trainer(tmp_path / "out", max_steps=15, callbacks=[clock, callback])
        trainer.train()
        return callback, clock, time.perf_counter() - clock.ends[-1]

    _, alive, _ = trained(False)
    dead = SlackNotifier("http://127.0.0.1:9/services/x", allow_loopback=True)
    callback, clock, end = trained(dead)
    assert "kl.high" in {alert.rule for alert in callback.alerts}, "there was something to send"
    # No step waits for it; the end of the training does once, for the time that any tracker gets there.
    assert clock.longest_step < 3 * alive.longest_step + 1
    assert end < 17


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from tests.trackers.wandb_log import load_finished

    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    callback = RLDKCallback(overrides={"kl.high": {"threshold": 0.0, "persistence": (1, 1), "warm_up_steps": 0}})
    grpo_trainer(tmp_path / "out", report_to=["wandb"], max_steps=STEPS, callbacks=[callback]).train()
    wandb.finish()
    wandb.teardown()
    log = load_finished(tmp_path)
    assert [step for step, _ in log.series("rldk/reward/mean")] == list(range(1, STEPS + 1))
    fired = [alert.rule for alert in callback.alerts if alert.state == "firing"]
    assert fired and len(log.alerts) >= len(fired)
