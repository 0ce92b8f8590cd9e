"""What counts as a change of the schedule, on the schedules of transformers, and the response against scipy."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import get_scheduler

from rldk_tracking.keys import CATALOGUE
from rldk_tracking.metrics.schedule import COLUMNS, RATE, SERIES, WINDOW, Change, ScheduleImpact

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


def test_the_response_is_welchs() -> None:
    generator = np.random.default_rng(0)
    loss = [*generator.normal(1.0, 0.1, 20), *generator.normal(2.0, 0.3, 20)]
    norm = generator.normal(5.0, 1.0, 40).tolist()
    (change,) = follow([1.0] * 20 + [2.0] * 20, loss=loss, grad=norm)
    assert (change.step, change.kind, change.rate_before, change.rate) == (21, "rise", 1.0, 2.0)
    # The row of the change, the 21st, is on neither side.
    for name, values in (("loss", loss), ("grad_norm", norm)):
        expected = stats.ttest_ind(values[21 : 21 + WINDOW], values[10:20], equal_var=False).statistic
        assert change.response(name) == pytest.approx(expected)
    assert change.before["loss"].mean == pytest.approx(np.mean(loss[10:20]))
    assert change.response("kl") is None
    metrics = change.metrics()
    assert metrics["rldk/lr/change"] == 2.0 and metrics["rldk/lr/change_step"] == 21.0
    assert "rldk/lr/kl_response" not in metrics
    cells = dict(zip(COLUMNS, change.cells(), strict=True))
    assert cells["kind"] == "rise" and cells["kl before"] is None
    assert cells["loss response"] == pytest.approx(metrics["rldk/lr/loss_response"])


def test_a_side_ends_at_the_next_change() -> None:
    loss = [1.0, 1.1, 0.9, 1.0, 99.0, 2.0, 2.1, 1.9, 2.0, 99.0, 3.0, 3.1, 2.9, 3.0]
    first, second = follow([1.0] * 4 + [0.1] * 5 + [0.01] * 5, loss=loss)
    assert first.before["loss"].mean == pytest.approx(1.0) and first.after["loss"].mean == pytest.approx(2.0)
    assert second.before["loss"] == first.after["loss"] and second.after["loss"].mean == pytest.approx(3.0)


def test_too_few_rows_say_nothing() -> None:
    (change,) = follow([1.0] * 2 + [1.0, 0.1, 0.1], loss=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert change.response("loss") is None
    assert set(change.metrics()) == {"rldk/lr/change", "rldk/lr/change_step"}


def test_series_that_stand_still() -> None:
    (same,) = follow([1.0] * 5 + [2.0] * 5, loss=[1.0] * 10)
    assert same.response("loss") == 0.0
    (moved,) = follow([1.0] * 5 + [2.0] * 5, loss=[1.0] * 5 + [2.0] * 5)
    assert moved.response("loss") is None


def test_every_key_is_documented() -> None:
    values = [1.0, 2.0, 1.5, 3.0, 2.0, 4.0, 5.0, 3.0, 2.0, 1.0]
    (change,) = follow([1.0] * 5 + [2.0] * 5, loss=values, kl=values, grad=values)
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
    assert held() <= early + WINDOW * len(SERIES)
