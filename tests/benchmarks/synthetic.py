"""Families of made-up runs, healthy and with one fault at any row: thousands of rows for each rule, in seconds.

    python tests/benchmarks/detection.py synthetic

A run is made rollout by rollout: completions of some prompts are drawn with a probability of success that follows the
family, so that mean, spread and ties of the reward belong together; every other series is a level, a drift and
autocorrelated noise (a first-order autoregression). Then it is written as logs are: a row a rollout, a row for many
rollouts (their mean), or many rows a rollout. Everything follows from the family's name and a seed.

A fault begins with the update of one row. What is measured on the rollout (length, entropy, reward, KL) shows it from
the row after, since the first rollout is drawn before any update; what belongs to the update (gradients, loss) shows it
in that row, and so does what was wrong before the run began (no signal, a dead critic, truncation).
"""

from __future__ import annotations

import statistics
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules, rules_for
from rldk_tracking.health.watched import row_rules

Series = dict[str, np.ndarray]
Draw = np.random.Generator

CORRELATIONS = (0.0, 0.3, 0.6, 0.85)
"""Of neighbouring rollouts' noise, by turns over the seeds."""
REWARD, SPREAD, TIED = "rldk/reward/mean", "rldk/reward/std", "rldk/reward/group_tied_fraction"
TASK, FORMAT = "rldk/reward/function/task/mean", "rldk/reward/function/format/mean"
KL, ENTROPY, CLIP = "rldk/kl/ref_k3", "rldk/policy/entropy", "rldk/policy/clip_fraction"
LENGTH, CUT = "rldk/length/mean", "rldk/length/truncated_fraction"
GRAD, LOSS, RATE, NAN = "rldk/grad/norm", "rldk/train/loss", "rldk/update/learning_rate", "rldk/nan/loss"
EXPLAINED, CRITIC = "rldk/value/explained_variance", "rldk/value/loss"
OF_UPDATE = frozenset({GRAD, LOSS, RATE, NAN, CLIP, CRITIC})
"""Series that every row has anew, also where rows share a rollout."""


@dataclass(frozen=True)
class Family:
    """A kind of healthy run.

    Attributes:
        summary: what it is.
        climb: (from, to) of the mean probability of success, over the run.
        length: the last length as a multiple of the first, low and high.
        sampling: of a row's length, in its logarithm, low and high: the scatter of few completions, each row by itself.
        entropy: the same.
        pace: rows over which a drift happens for the most part, low and high.
        interval: rollouts that a row is the mean of.
        repeats: rows that a rollout has.
        tails: degrees of freedom of the noise's Student t; None for normal noise.
        transient: how many times its level a series may begin at.
        season: rows of a period, for another part of the data and for an evaluation.
        groups: prompts a rollout.
        missing: share of values that are not there.
        critic: whether there is one, and not groups.
    """

    summary: str
    climb: tuple[float, float] = (0.3, 0.3)
    length: tuple[float, float] = (1.0, 1.0)
    sampling: tuple[float, float] = (0.0, 0.0)
    entropy: tuple[float, float] = (1.0, 1.0)
    pace: tuple[float, float] = (40.0, 120.0)
    interval: int = 1
    repeats: int = 1
    tails: float | None = None
    transient: float = 1.0
    season: int = 0
    groups: tuple[int, ...] = (8, 32, 64)
    missing: float = 0.0
    critic: bool = False


LEARNS = Family(
    "learns: reward up, entropy down, length a little up or down", (0.25, 0.7), length=(0.7, 1.6), entropy=(0.3, 0.8)
)
FAMILIES: dict[str, Family] = {
    "level": Family("learns nothing, and nothing is wrong"),
    "learns": LEARNS,
    "grows longer": replace(LEARNS, summary="learns with answers that grow", length=(1.6, 2.4)),
    "few completions": replace(LEARNS, summary="learns with a handful of completions a row", sampling=(0.3, 0.6)),
    "grows shorter": replace(LEARNS, summary="learns with answers that shrink", length=(0.35, 0.6), pace=(8, 100)),
    "solved": replace(LEARNS, summary="solves its task", climb=(0.3, 0.995), entropy=(0.04, 0.2), pace=(20, 60)),
    "transient": replace(LEARNS, summary="first rows are off by a factor that decays", transient=6.0),
    "heavy tails": replace(LEARNS, summary="noise of Student's t with three degrees of freedom", tails=3.0),
    "seasons": replace(LEARNS, summary="the data come in turns, and an evaluation every ten rows", season=10),
    "small batch": replace(LEARNS, summary="two to four prompts a rollout", groups=(2, 3, 4)),
    "every 5": replace(LEARNS, summary="a row for five rollouts", interval=5),
    "every 10": replace(LEARNS, summary="a row for ten rollouts", interval=10),
    "every 25": replace(LEARNS, summary="a row for 25 rollouts", interval=25),
    "twice": replace(LEARNS, summary="two rows a rollout", repeats=2),
    "four times": replace(LEARNS, summary="four rows a rollout", repeats=4),
    "missing": replace(LEARNS, summary="columns and values are missing", missing=0.1),
    "critic": replace(LEARNS, summary="PPO: a critic in place of groups", critic=True),
}


@dataclass(frozen=True)
class Run:
    """A run as it is judged.

    Attributes:
        family, seed: what it is made from.
        rows: keys of the catalogue to values.
        interval: rollouts a row.
        fault: its name; None where nothing is wrong.
        onset: the row whose update is at fault.
        shown: the first row in which it shows.
    """

    family: str
    seed: int
    rows: list[dict[str, float]]
    interval: int = 1
    fault: str | None = None
    onset: int = 0
    shown: int = 0


def autoregression(draw: Draw, count: int, correlation: float, tails: float | None = None) -> np.ndarray:
    """Noise of mean 0 and standard deviation 1; `tails` are degrees of freedom above 2."""
    if tails is None:
        shocks = draw.standard_normal(count)
    else:
        shocks = draw.standard_t(tails, count) * ((tails - 2) / tails) ** 0.5
    noise = np.empty(count)
    last = draw.standard_normal()
    for index, shock in enumerate(shocks * (1.0 - correlation**2) ** 0.5):
        noise[index] = last = correlation * last + shock
    return noise


def _series(family: Family, draw: Draw, count: int, correlation: float) -> Series:
    """A healthy run, a value a rollout."""

    def noise() -> np.ndarray:
        return autoregression(draw, count, correlation, family.tails)

    def moved(low: float, high: float) -> np.ndarray:
        """From 1 to a factor between the two, by `done` of the way."""
        return 1.0 + (np.exp(draw.uniform(np.log(low), np.log(high))) - 1.0) * done

    def begun() -> np.ndarray:
        """The factor by which the first rows are off."""
        factor = np.exp(draw.uniform(-0.3, 1.0) * np.log(family.transient))
        return 1.0 + (factor - 1.0) * np.exp(-time / draw.uniform(1.0, 4.0))

    time = np.arange(count) / family.interval * family.repeats
    done = 1.0 - np.exp(-time / draw.uniform(*family.pace))
    season = np.sin(2 * np.pi * time / family.season) * draw.uniform(0.5, 1.0) if family.season else np.zeros(count)
    start, end = family.climb
    logit = np.log(start / (1 - start)) + (np.log(end / (1 - end)) - np.log(start / (1 - start))) * done
    series = _rewards(family, draw, logit + 0.25 * noise() + 0.3 * season)
    length = np.exp(draw.uniform(np.log(30), np.log(1500))) * moved(*family.length) * begun() ** 0.3
    series[LENGTH] = length * np.exp(draw.uniform(0.03, 0.15) * noise() + 0.1 * season)
    if family.sampling[1] > 0.0:
        series[LENGTH] *= np.exp(draw.uniform(*family.sampling) * draw.standard_normal(count))
    series[CUT] = np.clip(draw.uniform(0.0, 0.15) * np.exp(0.4 * noise()), 0.0, 1.0)
    series[ENTROPY] = draw.uniform(0.25, 2.0) * moved(*family.entropy) * np.exp(0.06 * noise()) * begun() ** 0.2
    series[KL] = draw.uniform(0.005, 0.3) * done * np.exp(0.3 * noise())
    series[GRAD] = np.exp(draw.uniform(np.log(0.05), np.log(5.0)) + draw.uniform(0.1, 0.4) * noise()) * begun()
    series[CLIP] = np.clip(draw.uniform(0.0, 0.05) * np.exp(0.4 * noise()), 0.0, 1.0)
    series[LOSS] = draw.uniform(0.001, 0.05) * noise()
    series[RATE] = 10 ** draw.uniform(-6, -4) * np.minimum(1.0, (time + 1) / 10) * (1.0 - 0.8 * time / time[-1])
    series[NAN] = np.zeros(count)
    if family.critic:
        del series[TIED]
        explained = draw.uniform(0.2, 0.8) * (1.0 - np.exp(-time / draw.uniform(5.0, 40.0)))
        series[EXPLAINED] = explained + 0.05 * noise() * (0.2 + explained)
        series[CRITIC] = draw.uniform(0.05, 2.0) * (1.2 - explained) * np.exp(0.25 * noise()) * begun()
    return series


def _rewards(family: Family, draw: Draw, logit: np.ndarray) -> Series:
    """Mean, spread and ties of completions that succeed or fail, with prompts of differing difficulty."""
    groups, size = int(draw.choice(family.groups)), int(draw.choice((8, 16)))
    scale, low = float(draw.choice((1.0, 2.0, 10.0))), float(draw.choice((0.0, 0.0, -1.0)))
    chance = 1.0 / (1.0 + np.exp(-(logit[:, None] + draw.normal(0.0, 1.0, (len(logit), groups)))))
    hits = draw.binomial(size, chance)
    share = hits.mean(axis=1) / size
    well_formed = np.clip(0.9 + 0.03 * draw.standard_normal(len(logit)), 0.0, 1.0)
    return {
        REWARD: scale * (low + share + 0.2 * well_formed),
        SPREAD: scale * np.sqrt(share * (1.0 - share) + 0.01),
        TIED: ((hits == 0) | (hits == size)).mean(axis=1),
        TASK: scale * (low + share),
        FORMAT: scale * 0.2 * well_formed,
    }


Break = Callable[[Series, int, Draw], None]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        rules: those that are right about it.
        apply: changes the series from a rollout on.
        keys: what must be there.
        at_once: whether the row shows it whose update is at fault.
    """

    rules: tuple[str, ...]
    apply: Break
    keys: tuple[str, ...] = ()
    at_once: bool = False


def _toward(values: np.ndarray, begin: int, goal: np.ndarray | float, pace: float) -> None:
    """Go over to a goal, `exp(-t / pace)` of the way being left after t rollouts."""
    left = np.exp(-np.arange(1, len(values) - begin + 1) / pace)
    values[begin:] = left * values[begin:] + (1.0 - left) * goal


def _shorter(series: Series, begin: int, draw: Draw) -> None:
    _toward(series[LENGTH], begin, series[LENGTH][begin:] * draw.uniform(0.04, 0.12), 0.7)


def _longer(series: Series, begin: int, draw: Draw) -> None:
    length = series[LENGTH]
    usual = float(np.median(length[: begin + 1]))
    _toward(length, begin, length[begin:] * draw.uniform(4.0, 6.0) + max(0.0, 150.0 - usual), 0.7)


def _burst(series: Series, begin: int, draw: Draw) -> None:
    usual = float(np.median(series[GRAD]))
    series[GRAD][begin] = draw.uniform(2.0, 8.0) * max(20.0 * usual, (1500.0 * usual) ** 0.5, 10.0 + usual)


def _narrower(series: Series, begin: int, draw: Draw) -> None:
    _toward(series[ENTROPY], begin, series[ENTROPY][begin:] * draw.uniform(0.01, 0.05), 3.0)
    _toward(series[SPREAD], begin, 0.0, 3.0)
    if TIED in series:
        _toward(series[TIED], begin, 1.0, 3.0)
    _toward(series[REWARD], begin, float(series[REWARD].min()), 3.0)


def _worse(series: Series, begin: int, draw: Draw) -> None:
    height = float(np.ptp(np.append(series[REWARD], 0.0)))
    goal = float(series[REWARD].min()) - 0.4 * height
    _toward(series[REWARD], begin, goal + 0.02 * height * draw.standard_normal(len(series[REWARD]) - begin), 1.0)


def _away(series: Series, begin: int, draw: Draw) -> None:
    growth = np.log(draw.uniform(1.5, 2.5)) * np.arange(1, len(series[KL]) - begin + 1)
    series[KL][begin:] += 0.1 * np.exp(np.minimum(growth, np.log(draw.uniform(120.0, 400.0))))


def _tied(series: Series, begin: int, draw: Draw) -> None:
    series[REWARD][begin:] = series[REWARD].min()
    series[SPREAD][begin:] = 0.0
    if TIED in series:
        series[TIED][begin:] = 1.0


def _set(key: str, low: float, high: float) -> Break:
    def apply(series: Series, begin: int, draw: Draw) -> None:
        series[key][begin:] = draw.uniform(low, high) * (1.0 + 0.02 * draw.standard_normal(len(series[key]) - begin))

    return apply


def _times(key: str, low: float, high: float) -> Break:
    def apply(series: Series, begin: int, draw: Draw) -> None:
        series[key][begin:] *= draw.uniform(low, high)

    return apply


def _dead_component(series: Series, begin: int, draw: Draw) -> None:
    """The task's part is exactly 0 from then on; what is left of the total rises, for the policy games the form."""
    series[TASK][begin:] = 0.0
    _toward(series[FORMAT], begin, series[FORMAT][begin:] * 5.0, 20.0)
    series[REWARD][begin:] = series[FORMAT][begin:]


def _dead_critic(series: Series, begin: int, draw: Draw) -> None:
    series[EXPLAINED][begin:] = 0.0


FAULTS: dict[str, Fault] = {
    "length collapse": Fault(("length.collapse", "policy.collapse"), _shorter),
    "length explosion": Fault(("length.explosion", "length.truncated"), _longer),
    "gradient burst": Fault(("grad.explosion",), _burst, at_once=True),
    "vanishing gradients": Fault(("grad.vanishing",), _times(GRAD, 1e-6, 1e-4), at_once=True),
    "entropy collapse": Fault(
        ("entropy.collapse", "policy.collapse", "reward.no_signal", "reward.collapse"), _narrower
    ),
    "entropy explosion": Fault(("entropy.explosion",), _set(ENTROPY, 6.5, 9.0)),
    "reward collapse": Fault(("reward.collapse", "policy.collapse"), _worse),
    "KL blow-up": Fault(("kl.high", "kl.spike"), _away),
    "no signal": Fault(("reward.no_signal",), _tied, at_once=True),
    "truncation": Fault(("length.truncated",), _set(CUT, 0.6, 0.95), at_once=True),
    "clipping": Fault(("policy.clip_fraction",), _set(CLIP, 0.45, 0.8), at_once=True),
    "NaN": Fault(("nan.loss",), _set(NAN, 1.0, 1.0), at_once=True),
    "dead component": Fault(("reward.hacking", "reward.silent_function"), _dead_component, (TASK,), at_once=True),
    "dead critic": Fault(("value.explained_variance",), _dead_critic, (EXPLAINED,), at_once=True),
}
"""Name to fault."""

ROWS = 240
AFTER = 64
"""Rows of a faulty run once the fault shows: what is not found within them is missed."""
ONSETS = (0, 1, 3, 5, 7, 8, 20, 40, 63, 100)
BANDS: dict[str, tuple[int, int]] = {"0": (0, 0), "1-7": (1, 7), "8-63": (8, 63), "later": (64, 10**9)}


def made(name: str, seed: int, rows: int = ROWS, fault: str | None = None, onset: int = 0) -> Run:
    """A run of a family, with a fault that begins with the update of row `onset` where one is named."""
    family = FAMILIES[name]
    draw = np.random.default_rng([zlib.crc32(name.encode()), seed, zlib.crc32((fault or "").encode()), onset])
    correlation = CORRELATIONS[seed % len(CORRELATIONS)]
    rollouts = rows * family.interval if family.repeats == 1 else -(-rows // family.repeats)
    series = _series(family, draw, rollouts, correlation)
    shown = onset
    if fault is not None:
        broken = FAULTS[fault]
        first = onset // family.repeats + (0 if broken.at_once else 1)
        shown = first * family.repeats
        broken.apply(series, first * family.interval, draw)
    if family.repeats > 1:
        written = {key: np.repeat(values, family.repeats) for key, values in series.items()}
        for key in sorted(OF_UPDATE & written.keys() - {NAN, RATE}):
            written[key] = written[key] * np.exp(0.05 * draw.standard_normal(len(written[key])))
    else:
        written = {key: values.reshape(-1, family.interval).mean(axis=1) for key, values in series.items()}
    kept = _kept(written, family.missing, draw, FAULTS[fault] if fault is not None else None)
    table = [{key: float(kept[key][row]) for key in kept if np.isfinite(kept[key][row])} for row in range(rows)]
    if family.season:
        for row in range(family.season, rows, family.season):
            table[row]["rldk/eval/reward"] = float(written[REWARD][row] + 0.02 * draw.standard_normal())
    return Run(name, seed, table, family.interval, fault, onset, shown)


def _kept(written: Series, missing: float, draw: Draw, fault: Fault | None) -> Series:
    """What a log has of it: with `missing`, a third of the columns not at all, and holes in the others."""
    if not missing:
        return written
    needed = {REWARD, *(() if fault is None else written)}
    kept = {key: values.copy() for key, values in written.items() if key in needed or draw.random() > 1 / 3}
    for values in kept.values():
        values[draw.random(len(values)) < missing] = np.nan
    return kept


def families(seeds: Iterable[int] = range(8), rows: int = ROWS) -> Iterator[Run]:
    """Healthy runs, of every family."""
    for seed in seeds:
        for name in FAMILIES:
            yield made(name, seed, rows)


def faulty(
    seeds: Iterable[int] = range(8), onsets: Iterable[int] = ONSETS, only: Iterable[str] = tuple(FAULTS)
) -> Iterator[Run]:
    """Runs with one fault, at every onset, in the families by turns."""
    for seed in seeds:
        for number, fault in enumerate(only):
            critic = EXPLAINED in FAULTS[fault].keys
            names = [name for name, family in FAMILIES.items() if family.critic or not critic]
            for place, onset in enumerate(onsets):
                name = names[(seed * len(ONSETS) + 3 * number + place) % len(names)]
                repeats = FAMILIES[name].repeats
                yield made(name, seed, onset + AFTER + 2 * repeats, fault, onset)


def judged(run: Run) -> tuple[dict[str, list[int]], Engine]:
    """Rule to the rows in which it began to warn or was held back as a consequence, and the engine at the end."""
    engine = Engine(row_rules(rules_for("safe")), strict=True)
    fired: dict[str, list[int]] = defaultdict(list)
    for row, values in enumerate(run.rows):
        was, warned = set(engine.held_back), {alert.rule for alert in engine.firing if alert.severity != "info"}
        for alert in engine.update((row + 1) * run.interval, values):
            if alert.state == "firing" and alert.severity != "info" and alert.rule not in warned:
                fired[alert.rule].append(row)
        for rule in set(engine.held_back) - was:
            fired[rule].append(row)
    return fired, engine


@dataclass
class Measured:
    """What the rules said of all runs.

    Attributes:
        runs, rows: rule to the healthy runs, and their rows, in which it judged.
        false: rule to the family of each false firing.
        tried: (fault, band) to runs.
        delays: (fault, band) to the rows from the first that shows the fault to the first right warning.
        first: fault to the rules that were first.
    """

    runs: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    false: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    delays: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    first: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, run: Run) -> None:
        """Judge a run."""
        fired, engine = judged(run)
        if run.fault is None:
            for watch in engine.watches:
                if watch.has_judged:
                    self.runs[watch.rule.id] += 1
                    self.rows[watch.rule.id] += watch.samples
            for rule, rows in fired.items():
                self.false[rule][run.family] += len(rows)
            return
        band = next(name for name, (low, high) in BANDS.items() if low <= run.onset <= high)
        self.tried[run.fault, band] += 1
        after = [rows[-1] if rows[0] < run.shown else rows[0] for rows in fired.values()]
        right = {r: at for r, at in zip(fired, after, strict=True) if r in FAULTS[run.fault].rules and at >= run.shown}
        if right:
            rule = min(right, key=lambda name: right[name])
            self.delays[run.fault, band].append(right[rule] - run.shown)
            self.first[run.fault][rule] += 1


def measure(seeds: int) -> Measured:
    """Judge the families, healthy and with faults."""
    measured = Measured()
    for run in (*families(range(seeds)), *faulty(range(seeds))):
        measured.add(run)
    return measured


def _cell(delays: list[int], tried: int) -> str:
    if not tried:
        return ""
    late = f" ({statistics.median(delays):g}, {max(delays)})" if delays else ""
    return f"{len(delays)} of {tried}{late}"


def described(measured: Measured) -> str:
    """The tables, in Markdown."""
    lines = [f"| fault | {' | '.join(f'begins in row {band}' for band in BANDS)} | first to tell |"]
    lines.append("|---" * (len(BANDS) + 2) + "|")
    for fault in FAULTS:
        cells = [_cell(measured.delays[fault, band], measured.tried[fault, band]) for band in BANDS]
        rules = ", ".join(f"`{rule}`" for rule, _ in measured.first[fault].most_common(3))
        lines.append(f"| {' | '.join([fault, *cells, rules])} |")
    found = sum(map(len, measured.delays.values()))
    tried = sum(measured.tried.values())
    lines += ["", f"Found {found} of {tried}; in brackets the delay in rows, median and worst.", ""]
    lines += ["| rule | healthy runs | rows | false firings per 1,000 rows | in |", "|---" * 5 + "|"]
    quiet = []
    for rule in builtin_rules():
        runs, rows, false = measured.runs[rule], measured.rows[rule], measured.false[rule]
        if not runs:
            continue
        if not false:
            quiet.append(rule)
            continue
        where = ", ".join(f"{family} {count}" for family, count in false.most_common())
        lines.append(f"| `{rule}` | {runs} | {rows:,} | {1000 * sum(false.values()) / rows:.2f} | {where} |")
    runs, rows = _range(measured.runs, quiet), _range(measured.rows, quiet)
    lines.append(f"| {len(quiet)} others: {', '.join(f'`{rule}`' for rule in quiet)} | {runs} | {rows} | 0 | |")
    return "\n".join(lines)


def _range(counts: Mapping[str, int], rules: Iterable[str]) -> str:
    numbers = [counts[rule] for rule in rules]
    return f"{min(numbers):,} to {max(numbers):,}" if numbers else ""
