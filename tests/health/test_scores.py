"""Scores, each in [0, 1]."""

from __future__ import annotations

import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import theilslopes

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules, rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.scores import score
from rldk_tracking.metrics.keys import CATALOGUE

RULES = builtin_rules()

REWARD = "rldk/reward/mean"

PART = "rldk/health/"


def scored(rows, rules=None) -> tuple[dict[str, float], Engine]:
    engine = Engine(RULES.values() if rules is None else [RULES[name] for name in rules])
    for step, row in enumerate(rows):
        engine.update(step, row)
    return engine.scores(), engine


def test_a_healthy_run_scores_one(healthy) -> None:
    scores, engine = scored(healthy(0))
    assert scores["rldk/health/score"] == 1.0
    assert scores["rldk/health/stability"] > 0.75
    assert engine.convergence == "improving" and scores["rldk/health/convergence"] == 0.75
    low, slope, high = (scores[f"rldk/health/convergence_slope{end}"] for end in ("_low", "", "_high"))
    assert low < slope < high and slope == pytest.approx(0.4 / 300, rel=0.3)
    assert scores["rldk/health/policy_collapse_risk"] < 0.7
    assert scores["rldk/health/reward_hacking_risk"] < 0.5
    assert scores["rldk/health/memory_efficiency"] == pytest.approx(35 / 40, abs=0.1)
    bounded = [value for key, value in scores.items() if "slope" not in key]
    assert all(0.0 <= value <= 1.0 for value in bounded)


def test_only_parts_that_are_known_are_there() -> None:
    scores, _ = scored([{"rldk/nan/weights": 0.0}] * 3)
    assert scores == {f"{PART}nan": 1.0, "rldk/health/score": 1.0}
    assert scored([{"loss": 1.0}] * 30)[0] == {}


def test_alerts_lower_their_part_and_the_whole() -> None:
    warning = [{"rldk/length/truncated_fraction": 0.99, "rldk/nan/weights": 0.0}] * 10
    scores, _ = scored(warning)
    assert (scores[f"{PART}length"], scores[f"{PART}nan"], scores["rldk/health/score"]) == (0.5, 1.0, 0.5)
    critical = [row | {"rldk/nan/weights": 1.0} for row in warning]
    scores, _ = scored(warning + critical)
    assert scores["rldk/health/score"] == pytest.approx(0.1 / 1.5)


def test_info_costs_nothing() -> None:
    climb = [{"rldk/reward/mean": t / 50, "rldk/reward/std": 0.3} for t in range(50)]
    solved = [{"rldk/reward/mean": 1.0, "rldk/reward/std": 0.0, "rldk/reward/group_tied_fraction": 1.0}] * 30
    scores, engine = scored(climb + solved)
    assert [alert.rule for alert in engine.firing] == ["reward.saturated"]
    assert scores["rldk/health/score"] == 1.0
    assert engine.convergence == "solved" and scores["rldk/health/convergence"] == 1.0


def test_a_collapse_is_diverging() -> None:
    rows = [{"rldk/reward/mean": 0.8 + 0.01 * (t % 3)} for t in range(60)] + [{"rldk/reward/mean": 0.0}] * 20
    scores, engine = scored(rows)
    assert engine.convergence == "diverging" and scores["rldk/health/convergence"] == 0.0


def test_noise_is_a_plateau() -> None:
    rows = [{"rldk/reward/mean": 0.3 + 0.1 * ((t * 7919) % 13) / 13} for t in range(120)]
    assert scored(rows)[1].convergence == "plateau"


def test_stability_needs_rows_and_falls_with_spikes(healthy) -> None:
    assert "rldk/health/stability" not in scored(healthy(1, 10))[0]
    rows = [
        row | ({"rldk/grad/norm": 500.0} if step > 60 and step % 2 else {}) for step, row in enumerate(healthy(1, 90))
    ]
    assert 0.3 < scored(rows)[0]["rldk/health/stability"] < 0.7


@pytest.mark.parametrize("order", [("warning", "critical"), ("critical", "warning")])
def test_the_worst_alert_of_a_family_counts(order: tuple[str, str]) -> None:
    parameters = {"threshold": 1.0}
    engine = Engine(
        [
            Rule(id=f"user.{name}", keys=("x",), condition="level", parameters=parameters, severity=name, clear_after=1)
            for name in order
        ]
    )
    engine.update(0, {"x": 2.0})
    assert engine.scores() == {f"{PART}user": 0.1, "rldk/health/score": 0.1}


def test_stability_is_the_mean_over_about_twenty_rows() -> None:
    """An exponential mean of span 20 over the rows after the first, of which the last is not counted yet."""
    broken = [False] * 30 + [True] * 5 + [False] * 10
    scores, _ = scored([{"rldk/nan/weights": float(value)} for value in broken], ["nan.weights"])
    share = 0.0
    for value in broken[:-1][1:]:
        share += (value - share) * 2 / 21
    assert scores["rldk/health/stability"] == pytest.approx(1 - share)
    always, _ = scored([{"rldk/nan/weights": 1.0}] * 21, ["nan.weights"])
    assert always["rldk/health/stability"] == pytest.approx((19 / 21) ** 19), "what precedes the first row is stable"


@pytest.mark.parametrize(("gain", "verdict"), [(0.5, "improving"), (0.0, "plateau"), (-0.5, "diverging")])
def test_preference_training_is_judged_by_its_margin(gain: float, verdict: str) -> None:
    rows = [{"rldk/preference/margin": gain * step / 100 + 0.05 * (-1) ** step} for step in range(100)]
    scores, engine = scored(rows)
    assert engine.convergence == verdict
    assert scores["rldk/health/convergence_slope"] == pytest.approx(gain / 100, abs=1e-3)


def test_a_reward_goes_before_a_margin() -> None:
    rows = [{"rldk/reward/mean": 0.01 * step, "rldk/preference/margin": -0.01 * step} for step in range(60)]
    assert scored(rows)[1].convergence == "improving"


def dead_rows(steps: int = 60) -> list[dict[str, float]]:
    """A run with a learning rate 20 times too high: dead within seven rows."""
    draw, rows = random.Random(4), []
    for step in range(steps):
        left = max(0.0, 1.0 - step / 6.0)
        kl = 0.0 if step == 0 else 5.0 * draw.lognormvariate(0, 1.2)
        rows.append(
            {
                "rldk/nan/weights": 0.0,
                "rldk/reward/mean": 0.4 * left + 0.003,
                "rldk/reward/std": 0.3 * left + (0.002 if step % 5 else 0.0),
                "rldk/reward/group_tied_fraction": min(1.0, 0.2 + 0.8 * (1 - left)),
                "rldk/policy/entropy": 1.6 * left + (0.06 if step > 50 else 0.01) + 0.27 * (step < 12),
                "rldk/diversity/unique_fraction": 0.9 * left + 0.05,
                "rldk/kl/ref_k1": kl,
                "rldk/kl/ref_k3": kl,
                "rldk/grad/norm": draw.lognormvariate(0, 1.2),
                "rldk/train/loss": draw.gauss(0, 1),
            }
        )
    return rows


def test_a_dead_run_is_not_said_to_be_well() -> None:
    engine = Engine(rules_for())
    resolved = []
    for step, row in enumerate(dead_rows()):
        resolved += [alert.rule for alert in engine.update(step, row) if alert.state == "resolved"]
        scores = engine.scores()
        if step < 5:
            assert f"{PART}entropy" not in scores, "nothing has judged it"
        if step >= 20:
            assert scores["rldk/health/convergence"] == 0.0 and engine.convergence == "diverging"
            for family in ("policy", "reward", "entropy", "diversity"):
                assert scores[f"{PART}{family}"] <= 0.5, (step, family, engine.held_back)
        if step >= 30:
            assert scores["rldk/health/stability"] < 0.85
    assert "policy.collapse" not in resolved
    (collapse,) = [alert for alert in engine.firing if alert.rule == "policy.collapse"]
    assert {"entropy.collapse", "diversity.collapse"} <= set(collapse.consequences)


@given(st.integers(0, 25), st.integers(0, 25), st.integers(0, 25), st.integers(0, 25))
def test_the_score_goes_by_severity_first(c1: int, w1: int, c2: int, w2: int) -> None:
    one, two = (score([0.1] * c + [0.5] * w + [1.0] * 3) for c, w in ((c1, w1), (c2, w2)))
    assert 0.0 < one <= 1.0
    assert (one > two) == ((c1, w1) < (c2, w2))


def test_four_warnings_are_better_than_one_critical_alert() -> None:
    assert score([0.5] * 4) == pytest.approx(0.2) and score([0.1]) == pytest.approx(0.1)


PLAIN_RULES = {
    "a.cause": ("a", 0, ("b.*",)),
    "b.held": ("b", 0, ()),
    "b.late": ("b2", 3, ()),
    "c.own": ("c", 0, ()),
}


@given(
    st.lists(
        st.fixed_dictionaries({}, optional={key: st.sampled_from([0.0, 2.0, 9.0]) for key in ("a", "b", "b2", "c")}),
        max_size=30,
    )
)
def test_families_and_score_are_what_the_catalogue_says(rows: list[dict[str, float]]) -> None:
    parameters = {"threshold": 1.0, "critical": 5.0}
    rules = [
        Rule(id=name, keys=(key,), condition="level", parameters=parameters, clear_after=1, reopen_steps=0,
             warm_up_samples=warm_up, silences=silences)
        for name, (key, warm_up, silences) in PLAIN_RULES.items()
    ]  # fmt: skip
    engine = Engine(rules)
    for step, row in enumerate(rows):
        engine.update(step, row)
    fires: dict[str, str] = {}
    judged: dict[str, int] = {}
    held: set[str] = set()
    for row in rows:
        for name, (key, warm_up, _) in PLAIN_RULES.items():
            if key not in row:
                continue
            judged[name] = judged.get(name, 0) + 1
            value = row[key] if judged[name] > warm_up else 0.0
            if value <= 1.0:
                fires.pop(name, None)
                held.discard(name)
        if "a.cause" not in fires and not row.get("a", 0.0) > 1.0:
            held.clear()
        for name, (key, warm_up, _) in PLAIN_RULES.items():
            if row.get(key, 0.0) > 1.0 and judged[name] > warm_up:
                severity = "critical" if row[key] > 5.0 or fires.get(name) == "critical" else "warning"
                if name.startswith("b.") and "a.cause" in fires:
                    if name not in fires:
                        held.add(name)
                else:
                    fires[name] = severity
                    held.discard(name)
    expected: dict[str, float] = {}
    for name, (_, warm_up, _) in PLAIN_RULES.items():
        if judged.get(name, 0) > warm_up:
            severity = fires.get(name) or (fires.get("a.cause") if name in held else None)
            part = f"{PART}{name[0]}"
            expected[part] = min(expected.get(part, 1.0), {None: 1.0, "warning": 0.5, "critical": 0.1}[severity])
    if expected:
        c, w = (list(expected.values()).count(value) for value in (0.1, 0.5))
        expected["rldk/health/score"] = 0.1 / (c + w / (w + 1)) if c else 0.1 + 0.4 / w if w else 1.0
    assert engine.scores() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_stability_is_what_the_catalogue_says(seed: int) -> None:
    draw = random.Random(seed)
    keys = ("rldk/kl/ref_k1", "rldk/grad/norm", "rldk/train/loss")
    rows = [
        {key: draw.lognormvariate(0, 0.3 + 0.6 * seed) for key in keys} | {"rldk/nan/weights": 0.0} for _ in range(90)
    ]
    for count in (21, 40, 90):
        variations = []
        for key in keys:
            values = [row[key] for row in rows[:count]]
            changes = [abs(b - a) for a, b in pairwise(values)][-20:]
            variations.append(statistics.median(changes) / statistics.median([abs(v) for v in values[-48:]]))
        v = statistics.median(variations)
        scores, _ = scored(rows[:count], ["nan.weights"])
        assert scores["rldk/health/stability"] == pytest.approx(1 / (1 + (v / 2) ** 2))
        assert scores["rldk/health/spike_free_fraction"] == 1.0
        two = [{key: row[key] for key in (*keys[:2], "rldk/nan/weights")} for row in rows[:count]]
        smaller = min(variations[:2])
        assert scored(two, ["nan.weights"])[0]["rldk/health/stability"] == pytest.approx(1 / (1 + (smaller / 2) ** 2))
        one = [{key: row[key] for key in (keys[2], "rldk/nan/weights")} for row in rows[:count]]
        assert scored(one, ["nan.weights"])[0]["rldk/health/stability"] == 1.0


def noise_of(values: list[float]) -> float:
    """Of single rows, as the catalogue says: of how the series bends, or of rows eight apart."""
    bends = [1.2533 / 6**0.5 * abs(c - 2 * b + a) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    noise, moved, square = 0.0, 0.0, 0.0
    for row in range(2, len(values)):
        noise += (bends[row - 2] - noise) / min(row - 1, 100)
        if row >= 8:
            move, weight = values[row] - values[row - 8], 1 / min(row - 7, 100)
            square += weight * (min(abs(move - moved), 5 * 2**0.5 * noise) ** 2 - square)
            moved += weight * (move - moved)
    return max(noise, min((square / 2) ** 0.5, 3 * noise))


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("fall", [0.0, 3.0])
@pytest.mark.parametrize("count", [8, 20, 31, 32, 50, 130])
def test_convergence_is_what_the_catalogue_says(count: int, fall: float, every: int) -> None:
    draw = random.Random(count)
    points = [
        (every * i, 0.01 * i + draw.gauss(0, 0.3) - (fall if i > count / 2 and i != 40 else 0.0)) for i in range(count)
    ]
    engine = Engine([])
    for step, value in points:
        engine.update(step, {REWARD: value})
    length = 1
    while count // length >= 32:
        length *= 2
    blocks = [points[i : i + length] for i in range(0, count - length + 1, length)]
    steps, values = ([statistics.fmean(pair[i] for pair in block) for block in blocks] for i in (0, 1))
    slope, _, low, high = theilslopes(values, steps)
    scores = engine.scores()
    assert scores["rldk/health/convergence_slope"] == pytest.approx(slope)
    assert scores["rldk/health/convergence_slope_low"] == pytest.approx(low)
    assert scores["rldk/health/convergence_slope_high"] == pytest.approx(high)
    n = len(blocks)
    s = sum((b > a) - (b < a) for i, a in enumerate(values) for b in values[i + 1 :])
    certain = (s - (s > 0) + (s < 0)) / (n * (n - 1) * (2 * n + 5) / 18) ** 0.5
    noise = noise_of([value for _, value in points])
    effect = slope * length * every * n / noise
    quarters = [statistics.fmean(values[i : i + n // 4]) for i in range(n - n // 4 + 1)]
    matters, best = (max(quarters) - min(quarters)) / 4, quarters.index(max(quarters))
    lost, regained = quarters[best] - quarters[-1], quarters[-1] - min(quarters[best:])
    fell = lost > 3 * noise and lost > matters and regained < matters
    if n * length >= 32 and (fell or (certain < -3.3 and effect < -0.6)):
        expected = 0.0
    else:
        expected = 0.75 if certain > 2.6 and effect > 0.6 else 0.5
    assert scores["rldk/health/convergence"] == expected


def test_the_risk_of_collapse_is_what_the_catalogue_says() -> None:
    series = {
        "rldk/policy/entropy": [1.0, 1.2, 0.9, 1.1, 1.0, 0.5, 0.3, 0.2],
        "rldk/diversity/unique_fraction": [0.9, 0.8, 0.9, 1.0, 0.9, 0.9, 0.8, 0.7],
        "rldk/reward/std": [0.3, 0.2, 0.3, 0.4, 0.3, 0.1, 0.05, 0.01],
    }
    rows = [{key: values[i] for key, values in series.items()} for i in range(8)]
    scores, _ = scored(rows, ["policy.collapse"])
    parts = []
    for values in series.values():
        mean = values[0]
        for value in values[1:]:
            mean += 2 / (3 + 1) * (value - mean)
        left = mean / statistics.median(values[:5])
        parts.append(min(1.0, max(0.0, (1 - left) / 0.9)))
    assert scores["rldk/health/policy_collapse_risk"] == pytest.approx(statistics.fmean(parts))


@pytest.mark.parametrize(
    ("witness", "risk"),
    [
        ({"rldk/reward/gold": lambda t: 0.5}, 1.0),
        ({"rldk/eval/perplexity": lambda t: 10.0 + t}, 0.4),
        ({"rldk/eval/perplexity": lambda t: 10.0 + t, "rldk/kl/ref_k1": lambda t: 2.0}, 0.6),
        ({"rldk/eval/perplexity": lambda t: 10.0, "rldk/kl/ref_k1": lambda t: 2.0}, 0.0),
    ],
)
def test_the_risk_of_hacking_is_what_the_catalogue_says(witness, risk: float) -> None:
    rows = [{REWARD: 0.1 + 0.02 * t + 0.01 * (t % 3), **{key: f(t) for key, f in witness.items()}} for t in range(60)]
    assert scored(rows, ["reward.hacking"])[0]["rldk/health/reward_hacking_risk"] == pytest.approx(risk)


def test_a_formula_names_no_other_page_alone() -> None:
    formulas = [key.formula for key in CATALOGUE.values() if key.name.startswith("rldk/health/")]
    assert not [text for text in formulas if text.startswith(("see ", "from "))]
