"""What counts as a change of the schedule, on the schedules of transformers, and the response against numpy."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from rldk_tracking.metrics.keys import CATALOGUE
from rldk_tracking.probes.optimizer import RATE, ScheduleImpact
from rldk_tracking.probes.schedule import CHANGE_COLUMNS, SERIES, WINDOW, Change

LOSS, KL, GRADIENT = "rldk/train/loss", "rldk/kl/ref_k3", "rldk/grad/norm"


def follow(rates: list[float], **series: list[float]) -> list[Change]:
    """Every change of a run with these rates and these series."""
    impact, found = ScheduleImpact(), []
    keys = {"loss": LOSS, "kl": KL, "grad": GRADIENT}
    for step, rate in enumerate(rates, start=1):
        row = {RATE: rate} | {keys[name]: values[step - 1] for name, values in series.items()}
        found.append(impact.observe(step, row))
    return [change for change in [*found, impact.finish()] if change is not None]


def schedule(name: str, steps: int, warm_up: int = 0, **options: int) -> list[float]:
    """The rates that a schedule of transformers gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, warm_up, steps, scheduler_specific_kwargs=options or None)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def kinds(rates: list[float]) -> list[tuple[int, str]]:
    return [(change.step, change.kind) for change in follow(rates)]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (schedule("constant", 40), []),
        (schedule("constant_with_warmup", 40, 10), [(12, "warm_up_end")]),
        (schedule("linear", 40), [(21, "halved"), (32, "halved")]),
        (schedule("linear", 60, 20)[:40], [(22, "warm_up_end")]),
        (schedule("cosine", 200)[:100], []),
        (schedule("cosine_with_restarts", 100, num_cycles=2)[45:60], [(6, "rise")]),
        (schedule("inverse_sqrt", 40, 10)[:30], [(12, "warm_up_end")]),
        ([1.0] * 8 + [0.1] * 8 + [0.01] * 8, [(9, "drop"), (17, "drop")]),
        ([1.0] * 8 + [3.0] * 8, [(9, "rise")]),
        ([1.0] * 8 + [0.0] * 8, [(9, "zero")]),
        ([0.5] * 2, []),
        ([0.0] * 9, []),
    ],
    ids=["constant", "warm-up", "linear", "both", "cosine", "restart", "sqrt", "steps", "jump", "end", "two", "none"],
)
def test_changes_of_schedules(rates: list[float], expected: list[tuple[int, str]]) -> None:
    assert kinds(rates) == expected


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "inverse_sqrt"])
@pytest.mark.parametrize("steps", [50, 1000, 10_000])
def test_a_smooth_schedule_changes_rarely(name: str, steps: int) -> None:
    found = kinds(schedule(name, steps, steps // 10))
    assert [kind for _, kind in found].count("warm_up_end") == 1
    assert {kind for _, kind in found} <= {"warm_up_end", "halved", "zero"}
    assert len(found) < 2 * np.log2(steps) + 5


def prediction(steps: range, values: list[float], at: float) -> tuple[float, float]:
    """The value of the line through the points, and the variance of its estimate, by numpy's least squares."""
    design = np.stack([np.ones(len(steps)), np.array(steps) - at], axis=1)
    y = np.array([values[step - 1] for step in steps])
    (found, *_), (squares, *_), *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = squares / (len(steps) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return float(found), float(variance)


def test_the_response_to_a_jump_is_the_distance_from_the_line_before() -> None:
    generator = np.random.default_rng(0)
    loss = [*generator.normal(1.0, 0.1, 24), *generator.normal(2.0, 0.3, 20)]
    norm = generator.normal(5.0, 1.0, 44).tolist()
    (change,) = follow([1.0] * 24 + [2.0] * 20, loss=loss, grad=norm)
    assert (change.step, change.kind, change.rate_before, change.rate) == (25, "rise", 1.0, 2.0)
    # The row of the change, the 25th, is on neither side.
    for name, values in (("loss", loss), ("grad_norm", norm)):
        after = range(26, 26 + WINDOW)
        path, error = prediction(range(5, 25), values, np.mean(after))
        mean, error_after = prediction(after, values, np.mean(after))
        assert mean == pytest.approx(np.mean(values[25 : 25 + WINDOW]))
        assert change.response(name) == pytest.approx((mean - path) / math.sqrt(error + error_after))
    assert change.before["loss"].mean == pytest.approx(np.mean(loss[4:24]))
    assert change.response("kl") is None
    metrics = change.metrics()
    assert metrics["rldk/lr/change"] == 2.0 and metrics["rldk/lr/change_step"] == 25.0
    assert "rldk/lr/kl_response" not in metrics
    cells = dict(zip(CHANGE_COLUMNS, change.cells(), strict=True))
    assert cells["kind"] == "rise" and cells["kl before"] is None
    assert cells["loss response"] == pytest.approx(metrics["rldk/lr/loss_response"])


def test_the_response_to_a_smooth_change_is_the_gap_between_the_lines() -> None:
    values = np.random.default_rng(1).normal(1.0, 0.2, 40).tolist()
    (change,) = follow(schedule("constant_with_warmup", 40, 20), loss=values)
    assert (change.step, change.kind) == (22, "warm_up_end")
    (before, error), (after, error_after) = (
        prediction(range(*ends), values, 22) for ends in ((22 - WINDOW, 22), (23, 23 + WINDOW))
    )
    assert change.response("loss") == pytest.approx((after - before) / math.sqrt(error + error_after))


SHAPES: dict[str, Callable[[float], float]] = {
    "in proportion to the steps": lambda done: done,
    "in proportion to the rate so far": lambda done: done**2 / 2 if done < 1 else done - 0.5,
    "with the square of that": lambda done: (done**2 / 2 if done < 1 else done - 0.5) ** 2,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warm_up", [10, 20, 50])
def test_a_healthy_warm_up_does_not_answer(shape: str, warm_up: int) -> None:
    """KL rises from 0 as the policy leaves its reference: that is a trend and no jump."""
    responses = []
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(1.0, 0.15, 100)
        kl = [0.1 * SHAPES[shape](step / warm_up) * noise[step] for step in range(100)]
        changes = follow(schedule("constant_with_warmup", 100, warm_up), kl=kl)
        (change,) = [change for change in changes if change.kind == "warm_up_end"]
        responses.append(change.response("kl"))
    found = [abs(response) for response in responses if response is not None]
    assert len(found) == 30 and np.median(found) < 1.5 and np.quantile(found, 0.9) < 3.5


@pytest.mark.parametrize(("kind", "steps"), [("cosine", 400), ("linear", 200)])
def test_a_trend_under_a_decaying_rate_does_not_answer(kind: str, steps: int) -> None:
    found = []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0.0, 0.01, steps)
        kl = [0.1 + 0.002 * step + noise[step] for step in range(steps)]
        found += [change.response("kl") for change in follow(schedule(kind, steps), kl=kl)]
    known = [abs(response) for response in found if response is not None]
    assert len(known) >= 40 and np.median(known) < 1.2 and np.quantile(known, 0.9) < 3.0


@pytest.mark.parametrize("trend", [0.0, 0.002])
def test_a_rate_three_times_as_high_answers(trend: float) -> None:
    """Gradient norm and KL at three times what they were doing: the one its level, the other its slope."""
    norms, kls = [], []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0.0, 1.0, (2, 80))
        norm = [(1.0 if step < 40 else 3.0) * (1 + 0.2 * noise[0, step]) for step in range(80)]
        kl = [0.1 + trend * (step + 2 * max(0, step - 40)) + 0.005 * noise[1, step] for step in range(80)]
        (change,) = follow([1e-6] * 40 + [3e-6] * 40, grad=norm, kl=kl)
        norms.append(change.response("grad_norm"))
        kls.append(change.response("kl"))
    assert np.quantile(norms, 0.1) > 5.0
    assert np.quantile(kls, 0.1) > 3.0 if trend else abs(np.median(kls)) < 1.0


def test_a_side_ends_at_the_next_change() -> None:
    loss = [1.0, 1.1, 0.9, 1.1, 0.9, 99.0, 2.0, 2.1, 1.9, 2.1, 1.9, 99.0, 3.0, 3.1, 2.9, 3.1, 2.9]
    first, second = follow([1.0] * 5 + [0.1] * 6 + [0.01] * 6, loss=loss)
    assert first.before["loss"].mean == pytest.approx(1.0) and first.after["loss"].mean == pytest.approx(2.0)
    assert second.before["loss"].mean == pytest.approx(2.0) and second.after["loss"].mean == pytest.approx(3.0)


def test_steps_between_rows_do_not_matter() -> None:
    """A trainer that logs every fifth step has a fifth of the rows, on the same lines."""

    def logged(every: int) -> Change:
        impact = ScheduleImpact()
        for row in range(1, 31):
            kl = 0.01 * row + 0.001 * (-1) ** row
            found = impact.observe(row * every, {RATE: 1.0 if row < 20 else 3.0, KL: kl})
            if found is not None:
                return found
        raise AssertionError("no change")

    assert logged(5).response("kl") == pytest.approx(logged(1).response("kl"))


def test_too_few_rows_say_nothing() -> None:
    (change,) = follow([1.0] * 2 + [1.0, 0.1, 0.1], loss=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert change.response("loss") is None
    assert set(change.metrics()) == {"rldk/lr/change", "rldk/lr/change_step"}


def test_series_that_stand_still() -> None:
    (same,) = follow([1.0] * 5 + [2.0] * 6, loss=[1.0] * 11)
    assert same.response("loss") == 0.0
    (steady,) = follow([1.0] * 5 + [2.0] * 6, loss=[0.1 * step for step in range(11)])
    assert steady.response("loss") == 0.0
    (moved,) = follow([1.0] * 5 + [2.0] * 6, loss=[1.0] * 5 + [2.0] * 6)
    assert moved.response("loss") is None


def test_every_key_is_documented() -> None:
    values = [1.0, 2.0, 1.5, 3.0, 2.0, 4.0, 5.0, 3.0, 2.0, 1.0, 1.5]
    (change,) = follow([1.0] * 5 + [2.0] * 6, loss=values, kl=values, grad=values)
    assert set(change.metrics()) == {name for name in CATALOGUE if name.startswith("rldk/lr/")}
    assert {f"rldk/lr/{name}_response" for name in SERIES} < set(CATALOGUE)


@pytest.mark.parametrize("rate", [lambda step: 1.0 / (1 + step % 7), lambda step: 1.0], ids=["changing", "constant"])
def test_memory_does_not_grow(rate: Callable[[int], float]) -> None:
    impact = ScheduleImpact()

    def held() -> int:
        return sum(len(values) for values in impact._recent.values()) + sys.getsizeof(vars(impact))

    for step in range(100):
        impact.observe(step, {RATE: rate(step), LOSS: 1.0})
    early = held()
    for step in range(100, 5000):
        impact.observe(step, {RATE: rate(step), LOSS: 1.0})
    assert held() <= early + 2 * WINDOW * len(SERIES)
