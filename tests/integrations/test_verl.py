"""A `Tracking` of the shape of verl's, whose loggers keep what they are given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.history.reading import read
from rldk_tracking.history.replay import replay
from rldk_tracking.isolation import TrainingStopped
from tests.integrations.conftest import Stack

MODULE = "verl.utils.tracking"
STEP = {"critic/score/mean": 0.5, "actor/entropy": 1.0, "actor/pg_loss": 0.1, "training/epoch": 0}


class Kept:
    """A logger. verl's file keeps lines as these."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.finished = False

    def log(self, data: Mapping[str, Any], step: int) -> None:
        assert not self.finished
        self.lines.append({"step": step, "data": dict(data)})

    def finish(self) -> None:
        self.finished = True

    def points(self, prefix: str = "rldk/") -> list[tuple[str, int]]:
        return [(key, line["step"]) for line in self.lines for key in line["data"] if key.startswith(prefix)]


def tracking_class() -> type:
    """As in verl 0.9.1: a table of loggers, all of which get every row; ended once, at the latest when it goes."""

    class Tracking:
        def __init__(
            self, project_name: str, experiment_name: str, default_backend: Any = "console", config: Any = None
        ) -> None:
            self.logger: dict[str, Any] = {name: Kept() for name in default_backend}
            self._finished = False

        def log(self, data: Any, step: int, backend: Any = None) -> None:
            for name, logger in self.logger.items():
                if backend is None or name in backend:
                    logger.log(data=data, step=step)

        def finish(self, exit_code: int = 0) -> None:
            if self._finished:
                return
            self._finished = True
            for name in ("console", "file"):
                if name in self.logger:
                    self.logger[name].finish()

        def __del__(self) -> None:
            self.finish()

    return Tracking


@pytest.fixture
def tracking(stack: Stack, tmp_path: Path) -> Any:
    kind = tracking_class()
    stack(MODULE, Tracking=kind)
    config = {"trainer": {"default_local_dir": str(tmp_path / "checkpoints")}}
    return kind("tiny", "run", ["console", "file"], config=config)


def test_each_logger_is_given_the_judged_row_once(tracking: Any, tmp_path: Path) -> None:
    loggers = [tracking.logger[name] for name in ("console", "file")]
    callback = tracking.logger["rldk"].callback
    tracking.log(data={"val-core/gsm8k/acc/mean@1": 0.25}, step=0)
    for step in (1, 2):
        tracking.log(data=STEP | {"critic/score/mean": math.nan if step == 2 else 0.5}, step=step)
    tracking.log(data={"val-core/gsm8k/acc/mean@1": 0.5}, step=2)
    assert [(alert.rule, alert.step) for alert in callback.alerts] == [("nan.reward", 2)]
    tracking.finish()
    for logger in loggers:
        points = logger.points()
        assert len(points) == len(set(points))
        assert {("rldk/reward/mean", 1), ("rldk/policy/entropy", 2), ("rldk/nan/reward", 2)} <= set(points)
        assert {("rldk/eval/gsm8k/accuracy", 0), ("rldk/eval/gsm8k/accuracy", 2)} <= set(points)
        assert logger.points("critic/") == [("critic/score/mean", 1), ("critic/score/mean", 2)]
        assert logger.finished
    assert callback.run.publisher.closed
    assert (tmp_path / "checkpoints" / "_rldk" / "run.jsonl").exists()


def test_its_file_is_replayed_as_before(tracking: Any, tmp_path: Path) -> None:
    for step in range(1, 4):
        tracking.log(data=STEP, step=step)
    lines = tracking.logger["file"].lines
    tracking.finish()
    path = tmp_path / "verl.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [(entry.step, entry.row["rldk/reward/mean"]) for entry in read(path).entries] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.5),
    ]
    assert replay(path).rows == 3


def test_what_the_environment_says_is_in_force(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLDK_OUTPUT_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("RLDK_ON_CRITICAL", "stop")
    kind = tracking_class()
    stack(MODULE, Tracking=kind)
    tracking = kind("tiny", "run", ["console"])
    with pytest.raises(TrainingStopped, match=r"nan\.reward"):
        tracking.log(data={"critic/score/mean": math.nan}, step=1)
    tracking.finish(exit_code=1)
    assert (tmp_path / "logs" / "run.jsonl").exists()


@pytest.mark.parametrize(("exit_code", "status"), [(0, "finished"), (1, "crashed")])
def test_how_it_ended_is_told(tracking: Any, exit_code: int, status: str, tmp_path: Path) -> None:
    tracking.log(data=STEP, step=1)
    tracking.finish(exit_code=exit_code)
    tracking.finish()
    last = json.loads((tmp_path / "checkpoints" / "_rldk" / "run.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (last["type"], last["status"]) == ("end", status)


def test_a_tracking_that_nobody_ends_is_ended_when_it_goes(tracking: Any) -> None:
    tracking.log(data=STEP, step=1)
    callback = tracking.logger["rldk"].callback
    tracking.__del__()
    assert callback.run.publisher.closed


@pytest.mark.parametrize("lacks", ["log", "finish"])
def test_a_tracking_of_another_shape_is_named(stack: Stack, lacks: str) -> None:
    kind = tracking_class()
    delattr(kind, lacks)
    with pytest.raises(ImportError, match=rf"this verl's Tracking has no {lacks}\(\)"):
        stack(MODULE, Tracking=kind)


def test_a_tracking_without_a_table_of_loggers_is_told(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    class Tracking:
        def __init__(self, project_name: str, experiment_name: str) -> None:
            self.loggers: list[Any] = []

        def log(self, data: Any, step: int) -> None:
            return None

        def finish(self, exit_code: int = 0) -> None:
            return None

    stack(MODULE, Tracking=Tracking)
    Tracking("tiny", "run").finish()
    assert "has no table of loggers: nothing of this training is judged" in caplog.text
