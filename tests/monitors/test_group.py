from __future__ import annotations

import re
from pathlib import Path

from rldk_tracking.demo.trainers import rloo_trainer
from rldk_tracking.metrics.keys import CATALOGUE
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.trackers.memory import InMemoryTracker


def test_it_works_alone(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    rloo_trainer(tmp_path, max_steps=2, callbacks=[GroupMonitor(trackers=[tracker], strict=True)]).train()
    assert [step for step, _ in tracker.series["rldk/reward/group_tied_fraction"]] == [1, 2]
    assert "rldk/grad/layer_norm/p50" not in tracker.series, "that is another monitor's"


def test_the_docstring_names_each_group_of_series_that_tensors_give() -> None:
    named = re.search(r"Groups of series \(see `rldk-tracking keys`\): ([^.]*)\.", GroupMonitor.__doc__ or "")
    groups = {key.name.split("/")[1] for key in CATALOGUE.values() if key.source in ("rollout", "update")}
    assert named is not None and set(named[1].replace("\n", " ").replace(" ", "").split(",")) == groups
