"""Rows as healthy runs have them, and what rules make of rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from string import Formatter

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.conditions.base import Condition, Finding
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()

Row = dict[str, float]


class Noise:
    """A first-order autoregression of mean 0, standard deviation 1 and the given correlation of neighbours."""

    def __init__(self, random: random.Random, correlation: float = 0.6) -> None:
        self.random, self.correlation = random, correlation
        self.value = random.gauss(0, 1)

    def __call__(self) -> float:
        self.value *= self.correlation
        self.value += (1 - self.correlation**2) ** 0.5 * self.random.gauss(0, 1)
        return self.value


def healthy_rows(seed: int, steps: int = 300, correlation: float = 0.6) -> list[Row]:
    """A run that learns: every series that a rule watches, with autocorrelated noise of the size that real runs have.

    Ranges are those of published healthy runs: KL grows to some tenths of a nat, entropy eases, gradient norms vary by
    a factor of a few, rewards rise from 0.3 to 0.7, a fifth of the groups are tied.
    """
    draw = random.Random(seed)
    names = (
        "kl", "entropy", "grad", "reward", "spread", "tied", "length", "cut", "clip", "ev", "vloss", "update", "speed",
        "loss", "unique", "corr", "margin", "logps", "sampler", "adv", "gold", "calls", "failures",
    )  # fmt: skip
    noise = {name: Noise(draw, correlation) for name in names}
    rows = []
    for step in range(steps):
        n = {name: value() for name, value in noise.items()}
        done = step / steps
        kl = 0.3 * done * (1 + 0.2 * n["kl"]) + 1e-4
        reward = 0.3 + 0.4 * done + 0.05 * n["reward"]
        tokens = 120 * (1 + 0.1 * n["length"])
        rows.append(
            {
                "rldk/nan/weights": 0.0,
                "rldk/nan/gradients": 0.0,
                "rldk/nan/loss": 0.0,
                "rldk/nan/reward": 0.0,
                "rldk/reward/function/task/none_fraction": 0.0,
                "rldk/reward/function/rare/none_fraction": 0.5 if step % 5 == 0 else 1.0,
                "rldk/kl/ref_k1": kl,
                "rldk/kl/ref_k1_stderr": 0.02,
                "rldk/kl/ref_k3": kl * 1.1,
                "rldk/policy/entropy": 1.2 - 0.5 * done + 0.05 * n["entropy"],
                "rldk/policy/clip_fraction": max(0.0, 0.05 + 0.02 * n["clip"]),
                "rldk/policy/first_epoch_ratio": 1.0 + 0.002 * n["clip"],
                "rldk/tools/call_frequency": max(0.0, 0.2 + 0.8 * done + 0.1 * n["calls"]),
                "rldk/tools/failure_frequency": min(1.0, max(0.0, 0.4 * (1 - done) + 0.05 * n["failures"])),
                "rldk/sampler/k3": 0.002 * (1 + 0.3 * abs(n["sampler"])),
                "rldk/reward/mean": reward,
                "rldk/reward/std": 0.3 + 0.03 * n["spread"],
                "rldk/reward/group_tied_fraction": min(1.0, max(0.0, 0.2 + 0.1 * n["tied"])),
                "rldk/reward/within_group_length_corr": 0.1 + 0.2 * n["corr"],
                "rldk/reward/gold": reward + 0.05 * n["gold"],
                "rldk/advantage/abs_p99": 2.5 + 0.2 * n["adv"],
                "rldk/length/mean": tokens,
                "rldk/length/truncated_fraction": min(1.0, max(0.0, 0.05 + 0.03 * n["cut"])),
                "rldk/diversity/unique_fraction": 0.95 + 0.02 * n["unique"],
                "rldk/value/explained_variance": 0.3 + 0.05 * n["ev"],
                "rldk/value/loss": 0.2 * 2 ** (0.4 * n["vloss"]),
                "rldk/grad/norm": 0.5 * 2 ** (0.6 * n["grad"]),
                "rldk/grad/layers_without": 0.0,
                "rldk/update/ratio/p50": 1e-3 * 2 ** (0.2 * n["update"]),
                "rldk/update/effective_lr": 1e-6 * 2 ** (0.2 * n["update"]),
                "rldk/update/frozen_layers": 0.0,
                "rldk/update/learning_rate": 1e-5 * min(1.0, (step + 1) / 20),
                "rldk/train/loss": 0.02 * n["loss"],
                "rldk/preference/accuracy": min(1.0, 0.75 + 0.05 * n["margin"]),
                "rldk/preference/chosen_logps": -200.0 + 4 * n["logps"],
                "rldk/resources/gpu_memory_reserved_gib": 40.0 + n["speed"],
                "rldk/resources/gpu_memory_fraction": 0.6 + 0.02 * n["speed"],
                "rldk/resources/host_memory_fraction": 0.4 + 0.02 * n["speed"],
                "rldk/resources/gpu_memory_peak_gib": 35.0,
                "rldk/resources/host_rss_gib": 4.0 + 0.02 * n["speed"],
                "rldk/throughput/step_seconds": 30.0,
                "rldk/throughput/tokens_per_second": 3000 * (1 + 0.08 * n["speed"]),
                "rldk/throughput/samples_per_second": 25 * (1 + 0.08 * n["speed"]),
                "rldk/system/trackers_down": 0.0,
            }
        )
    return rows


CONTEXT = {"learning_rate": 1e-5}


@dataclass(frozen=True)
class Case:
    """A fault and what the rule must say of it.

    Attributes:
        change: what the fault does to the row of a step, `change(step since the fault began, row)`.
        within: steps after which the rule must have fired.
        severity: of the first alert.
        resolves: whether the alert ends when the fault does.
        begin, end: the first step of the fault and the first step after it.
        everywhere: keys that healthy rows lack, with the value that they have without the fault.
    """

    change: Callable[[int, Row], Mapping[str, float]]
    within: int = 12
    severity: str = "warning"
    resolves: bool = True
    begin: int = 100
    end: int = 160
    everywhere: Mapping[str, float] | None = None


def judged(rule: str, rows: Iterable[Row]) -> tuple[list[Alert], Engine]:
    engine = Engine([RULES[rule]], CONTEXT)
    return [alert for step, row in enumerate(rows) for alert in engine.update(step, row)], engine


def faulty(case: Case, rows: list[Row]) -> list[Row]:
    changed = []
    for step, healthy in enumerate(rows):
        row = {**(case.everywhere or {}), **healthy}
        if case.begin <= step < case.end:
            row.update(case.change(step - case.begin, row))
        changed.append(row)
    return changed


@pytest.fixture(scope="session")
def healthy() -> Callable[..., list[Row]]:
    return healthy_rows


@pytest.fixture(scope="session")
def case() -> type[Case]:
    return Case


@pytest.fixture(scope="session")
def check() -> Callable[[str, Case], None]:
    """Silent on healthy runs, right on the fault, over when it is over, and the same through a stored state."""

    def run(rule: str, case: Case) -> None:
        for seed in range(3):
            rows = [{**(case.everywhere or {}), **row} for row in healthy_rows(seed)]
            alerts, engine = judged(rule, rows)
            assert alerts == [], f"{rule} alarms on a healthy run"
            assert engine.unknown() == [], f"{rule} had no data"
        rows = faulty(case, healthy_rows(7))
        alerts, _ = judged(rule, rows)
        assert alerts, f"{rule} stays silent"
        first = alerts[0]
        assert first.state == "firing"
        assert case.begin <= first.first_step <= first.step <= case.begin + case.within, (first.first_step, first.step)
        assert first.severity == case.severity
        assert "{" not in first.message and "unknown" not in first.message, first.message
        assert first.advice
        quotes_what_was_judged(rule, rows, alerts, case.begin)
        if case.resolves:
            assert alerts[-1].state == "resolved", alerts
            assert case.end <= alerts[-1].step <= case.end + 60
        else:
            assert {alert.state for alert in alerts} == {"firing"}
        for cut in (50, 101, 120, 165):
            assert restarted(rule, rows, cut) == alerts, f"{rule} judges differently after a restart at {cut}"

    return run


def quotes_what_was_judged(rule: str, rows: list[Row], alerts: list[Alert], begin: int) -> None:
    """The alert's number is beyond the limit that it names, and in the chart, unless the message says what it is."""
    engine, before = Engine([RULES[rule]], CONTEXT), None
    watch = engine._working[rule]
    fired = next(alert for alert in alerts if alert.state == "firing")
    for step, row in enumerate(rows[: fired.step + 1]):
        engine.update(step, row)
        if step == begin - 1 and watch.finding is not None:
            before = watch.finding
    assert before is None or not before.breached
    if fired.value is None or fired.threshold is None:
        return
    side = sign(fired.value - fired.threshold)
    if before is not None and before.value is not None and before.threshold is not None:
        assert side != sign(before.value - before.threshold), f"{rule}: {fired.message}"
    in_chart = fired.key is not None and rows[fired.step].get(fired.key) == fired.value
    told = ("That is a mean over", "rose", "rows, to", "rollouts")
    assert in_chart or any(words in fired.message for words in told), f"{rule}: {fired.message}"
    form = next((form for _, name, form, _ in Formatter().parse(RULES[rule].message) if name == "value"), None)
    assert form is None or format(fired.value, form) in fired.message


def sign(number: float) -> int:
    return (number > 0) - (number < 0)


def restarted(rule: str, rows: list[Row], cut: int) -> list[Alert]:
    before, after = Engine([RULES[rule]], CONTEXT), Engine([RULES[rule]], CONTEXT)
    alerts = [alert for step in range(cut) for alert in before.update(step, rows[step])]
    after.load_state(json.loads(json.dumps(before.state(), allow_nan=False)))
    return alerts + [alert for step in range(cut, len(rows)) for alert in after.update(step, rows[step])]


@pytest.fixture(scope="session")
def findings() -> Callable[..., list[Finding | None]]:
    """What a condition finds in a sequence of values of the key `x`."""

    def run(condition: Condition, values: Iterable[float], key: str = "x") -> list[Finding | None]:
        return [condition.judge(step, {key: value}) for step, value in enumerate(values)]

    return run
