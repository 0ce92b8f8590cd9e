"""What a run in parts holds of its earlier ones, read from a real store."""

from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.charts.earlier import IN_EVERY_ROW, MOST_POINTS, Earlier


@pytest.fixture
def run_id(client: Any) -> str:
    """A run with rows of steps 1 to 5, of which one was sent twice."""
    from mlflow.entities import Metric

    run = client.create_run(client.create_experiment("tests")).info.run_id
    for step in (1, 2, 3, 3, 4, 5):
        values = {IN_EVERY_ROW: 0.0, "rldk/reward/mean": 0.1 * step, "loss": 1.0}
        client.log_batch(run, metrics=[Metric(key, value, step, step) for key, value in values.items()])
    return str(run)


def test_the_steps_before_come_first_and_once(client: Any, run_id: str) -> None:
    earlier = Earlier(client, run_id, 4)
    series = earlier.before({"rldk/reward/mean": [(4, 9.0)], "loss": [(4, 9.0)]})
    assert series["rldk/reward/mean"] == [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3)), (4, 9.0)]
    assert series["loss"] == [(4, 9.0)], "what no chart shows is not read"
    assert earlier.left_out is None


def test_a_run_of_one_part_has_nothing_before(client: Any, run_id: str) -> None:
    earlier = Earlier(client, run_id, 1)
    assert earlier.before({"rldk/reward/mean": [(1, 0.1)]}) == {"rldk/reward/mean": [(1, 0.1)]}
    assert earlier.left_out is None


def test_too_many_steps_stay_in_the_store(client: Any, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.charts.earlier.MOST_STEPS", 2)
    earlier = Earlier(client, run_id, 4)
    assert earlier.before({"rldk/reward/mean": [(4, 9.0)]}) == {"rldk/reward/mean": [(4, 9.0)]}
    assert earlier.left_out == 3


def test_the_points_stay_few(client: Any, run_id: str) -> None:
    present = [(step, 1.0) for step in range(4, 4 + 3 * MOST_POINTS)]
    points = Earlier(client, run_id, 4).before({"rldk/reward/mean": present})["rldk/reward/mean"]
    assert len(points) <= MOST_POINTS + 1
    assert (points[0], points[-1]) == ((1, 0.1), present[-1])
