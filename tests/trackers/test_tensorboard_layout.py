"""The layout as TensorBoard reads it, over series that the tracker wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.tensorboard import TensorBoardTracker, layout

pytest.importorskip("tensorboard", reason="needs tensorboard")

ROW = {"rldk/kl/ref_k3": 0.1, "rldk/kl/ref_k1": 0.1, "rldk/reward/mean": 0.5, "rldk/value/loss": 1.0}


def read(folder: Path) -> tuple[dict[str, dict[str, list[str]]], set[str]]:
    """The layout that is shown, and the names of the series."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    events = EventAccumulator(str(folder)).Reload()
    tag = "custom_scalars__config__"
    found: dict[str, dict[str, list[str]]] = {}
    if tag in events.Tags()["tensors"]:
        shown = layout_pb2.Layout()
        shown.ParseFromString(events.Tensors(tag)[-1].tensor_proto.string_val[0])
        found = {c.title: {chart.title: list(chart.multiline.tag) for chart in c.chart} for c in shown.category}
    return found, set(events.Tags()["scalars"])


def test_each_pattern_is_of_one_series() -> None:
    made = layout(ROW, "PPOTrainer")
    assert list(made) == ["Rollouts", "KL and policy", "Value and advantage"]
    kind, patterns = made["KL and policy"]["KL to the reference"]
    assert kind == "Multiline"
    assert [[name for name in ROW if re.search(pattern, name)] for pattern in patterns] == [
        ["rldk/kl/ref_k3"],
        ["rldk/kl/ref_k1"],
    ]


def test_names_of_strangers_are_no_patterns() -> None:
    ((_, patterns),) = layout({"rldk/reward/function/a(.*/mean"})["Rollouts"].values()
    assert re.search(patterns[0], "rldk/reward/function/a(.*/mean")
    assert not re.search(patterns[0], "rldk/reward/function/a(b/mean")


def test_the_page_has_the_sections_of_the_series_that_came(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    callback = TensorBoardCallback(SummaryWriter(str(tmp_path)))
    tracker = TensorBoardTracker(callback)
    tracker.open(RunInfo(trainer="PPOTrainer"))
    tracker.log(ROW, 1)
    tracker.log(ROW, 2)
    tracker.log(ROW | {"rldk/checkpoint/score": 1.0}, 3)
    callback.tb_writer.close()
    shown, series = read(tmp_path)
    assert list(shown) == ["Rollouts", "KL and policy", "Value and advantage", "Checkpoints"]
    for charts in shown.values():
        for patterns in charts.values():
            for pattern in patterns:
                assert sum(re.search(pattern, name) is not None for name in series) == 1
