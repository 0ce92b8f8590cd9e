"""Completions leave the process only where samples are asked for: then as a table of the best and the worst."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.task import ASK, reward
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs.group_spy import GroupSpy

STEPS = 3


class Everything(Tracker):
    """A backend that notes whatever it is given, by whichever method."""

    name: ClassVar[str] = "everything"
    threaded: ClassVar[bool] = False

    def __init__(self) -> None:
        self.given: list[Any] = []

    def open(self, run: RunInfo) -> None:
        self.given.append((run.name, run.trainer, dict(run.config)))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.given.append((dict(metrics), step))

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self.given.append((key, columns, rows, step))

    def log_figure(self, key: str, svg: str, step: int) -> None:
        self.given.append((key, svg, step))

    def alert(self, alert: Alert) -> None:
        self.given.append(vars(alert) if hasattr(alert, "__dict__") else repr(alert))

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        self.given.append((status, dict(metrics), step))


def marked(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """The task's reward, a little different for every completion, so that highest and lowest are single ones."""
    return [score + 1e-4 * index for index, score in enumerate(reward(prompts, completions))]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[InMemoryTracker, GroupSpy]:
    tracker, spy = InMemoryTracker(), GroupSpy()
    callback = RLDKCallback(trackers=[tracker], log_samples=True)
    folder = tmp_path_factory.mktemp("samples")
    trainer = grpo_trainer(folder, max_steps=STEPS, callbacks=[callback, spy], reward_funcs=marked)
    spy.trainer = trainer
    trainer.train()
    return tracker, spy


def test_the_table_holds_the_highest_and_the_lowest(sampled: tuple[InMemoryTracker, GroupSpy]) -> None:
    tracker, spy = sampled
    ((step, columns, rows),) = tracker.tables["rldk/samples"]
    assert step == 1
    (generation,) = spy.steps[1].sampled
    logs = generation.logs
    order = sorted(zip(logs["rewards"]["marked"], logs["prompt"], logs["completion"], strict=True))
    shown = [dict(zip(columns, row, strict=True)) for row in rows]
    for rank, expected in (("highest", order[-4:][::-1]), ("lowest", order[:4][::-1])):
        found = [(row["score"], row["prompt"], row["completion"]) for row in shown if row["rank"] == rank]
        assert [texts for _, *texts in found] == [texts for _, *texts in expected]
        assert [score for score, *_ in found] == pytest.approx([score for score, *_ in expected])
    for row in shown:
        assert row["length"] == min(len(row["completion"]) + 1, 10)
        assert row["truncated"] == (len(row["completion"]) == 10)


def texts_of(run: Callable[[], GroupSpy]) -> set[str]:
    """Prompts, and completions that are long enough to be found nowhere by chance."""
    spy = run()
    logs = [sampled.logs for step in spy.steps.values() for sampled in step.sampled]
    texts = {text for log in logs for text in (*log["prompt"], *log["completion"])}
    return {text for text in texts if len(text) > 5 or text.endswith(ASK)}


def test_without_samples_no_text_leaves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker, spy = Everything(), GroupSpy()

    def run() -> GroupSpy:
        callback = RLDKCallback(trackers=[tracker, JsonlTracker(tmp_path / "copy.jsonl")], rules="strict")
        trainer = grpo_trainer(tmp_path, max_steps=STEPS, callbacks=[callback, spy], learning_rate=0.1)
        spy.trainer = trainer
        trainer.train()
        return spy

    with caplog.at_level(logging.DEBUG, logger="rldk_tracking"):
        texts = texts_of(run)
    assert len(texts) > 10
    assert len(tracker.given) > STEPS
    written = (tmp_path / "copy.jsonl").read_text()
    assert "rldk/reward/mean" in written
    given = [repr(tracker.given), written, *(record.getMessage() for record in caplog.records)]
    quoted = [text for text in texts if any(f"'{text}'" in one or f'"{text}"' in one for one in given)]
    assert quoted == []
    assert not any("rldk/samples" in one for one in given)
