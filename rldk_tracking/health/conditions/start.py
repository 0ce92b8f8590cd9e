"""Conditions on how far a run has come from its start, and whether the reward accounts for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from rldk_tracking.health.conditions.base import (
    PROGRESS,
    REWARD_MEAN,
    REWARD_SPREADS,
    AtLeastOne,
    Condition,
    Count,
    Direction,
    Finding,
    NonNegative,
    Progress,
    Range,
    Row,
    Share,
    Span,
    ZeroIsMissing,
    condition,
    first_of,
    sign_of,
    smoothed,
)
from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.detectors.baseline import Change, Start


@condition("from_start")
class FromStart(Condition):
    """Breached where the value is away from the run's first values by `share` of their size.

    Within the first values too, once one is unlike those before it (`Start`), if the start is above 0.
    """

    direction: Direction
    share: Annotated[NonNegative, "2.0 upwards is three times the start, 0.9 downwards a tenth of it"]
    beyond: Annotated[float | None, "an absolute limit that the value must also pass, on the same side"] = None
    change: Annotated[NonNegative, "smallest absolute change that matters"] = 0.0
    early: Annotated[Count, "of how many first values those that are alike make up the start (their median)"] = 8
    span: Span = 1.0
    zero_is_missing: ZeroIsMissing = False
    skip_zero: Annotated[bool, "an exact 0 is no observation (a gradient of 0 has another rule)"] = False
    unless_learned: Annotated[
        bool,
        "a change that learning explains is no breach, if it came gradually: the reward climbed, is at its best, and "
        "still rises or is tied at the top",
    ] = False
    sudden: Annotated[AtLeastOne, "gradually is not within a few rows from so many times as much"] = 5.0
    capped_key: Annotated[str | None, "a series that says that a limit outside the policy stops the value"] = None
    capped: Annotated[NonNegative, "above which its mean over 16 observations says so"] = 0.5
    capped_share: Annotated[NonNegative | None, "what holds then in place of `share`"] = None
    start: Start = remembered()
    mean: float | None = remembered()
    slow: float | None = remembered()
    cut: float = remembered(0.0)
    progress: Progress | None = remembered()

    def __post_init__(self) -> None:
        self.sign, self.weight = sign_of(self.direction), 2.0 / (self.span + 1.0)
        self.start = Start(self.early)
        self.progress = Progress() if self.unless_learned else None

    def reads(self) -> Iterable[str]:
        """What tells of the progress and of the limit, too."""
        return (*self.keys, self.capped_key or "", *(() if self.progress is None else PROGRESS))

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to the start."""
        if self.progress is not None:
            self.progress.add(row)
        self.cut += (row.get(self.capped_key or "", self.cut) - self.cut) / 16
        now = self.read(row)
        if now is None or (self.skip_zero and now == 0.0):
            return None
        value = self.mean = now if self.weight == 1.0 else smoothed(self.mean, now, self.weight)
        start = self.start.value
        if start is None:
            self.start.add(now)
            return self.learns(now)
        if start == 0.0 and self.change == 0.0 and self.beyond is None and self.start.is_known:  # no share of nothing
            return self.learns(value)
        sign, share = self.sign, self.share
        if self.capped_share is not None and self.cut > self.capped:
            share = self.capped_share
        limit = start + sign * max(share * abs(start), self.change)
        if self.beyond is not None:
            limit = sign * max(sign * limit, sign * self.beyond)
        self.slow = smoothed(self.slow, value, 0.1)
        is_gradual = abs(value) * self.sudden > abs(self.slow)
        excused = is_gradual and self.progress is not None and self.progress.excuses
        breached = sign * (value - limit) > 0 and not excused
        middle = (limit + start) / 2
        clear = sign * (value - middle) <= 0 or excused
        found = Finding(breached, clear and not breached, value, limit, False, {"start": start}, self.key)
        if not self.start.is_known:
            is_like = self.start.is_like(now, middle)
            self.start.add(now, is_like)
            found.breached, found.judged = breached and not is_like, False
        if self.weight < 1.0:
            found.averaged_rows, found.now = self.span, now
        return found


@dataclass(eq=False)
class ShareOfStart(Stateful):
    """A smoothed value as a share of the run's first values."""

    early: int = 5
    span: float = 3.0
    start: Start = remembered()
    mean: float | None = remembered()

    def __post_init__(self) -> None:
        self.start = Start(self.early)

    def add(self, value: float) -> float | None:
        """The share, None while the start is not known or is not positive."""
        self.mean = smoothed(self.mean, value, 2.0 / (self.span + 1.0))
        if not self.start.is_known:
            start = self.start.value
            self.start.add(value, start is None or value > start / 3)
        start = self.start.value
        return None if start is None or start <= 0 else self.mean / start


@condition("collapse")
class Collapse(Condition):
    """Breached where at least two of entropy, diversity and reward spread are gone and the reward does not excuse it.

    The reward excuses it as `Progress.excuses` says.
    """

    risk_key = "rldk/health/policy_collapse_risk"
    zero_is_missing = True
    reads_others = True  # once it has judged, it judges every row

    remains: Annotated[float, Range(0, 0.99), "a share of the start at or below which a quantity is gone"] = 0.1
    back: Annotated[Share, "the share of its start above which a quantity is back"] = 0.3
    tied: Annotated[Share, "share of tied groups from which the reward spread is gone"] = 0.9
    diversity_keys: Annotated[tuple[str, ...], "where the diversity is found"] = (
        "rldk/diversity/unique_fraction", "rldk/diversity/distinct_2",
    )  # fmt: skip
    spread_keys: Annotated[tuple[str, ...], "where the reward spread is found"] = REWARD_SPREADS
    tied_key: Annotated[str, "where the share of tied groups is found"] = "rldk/reward/group_tied_fraction"
    entropy: ShareOfStart = remembered(ShareOfStart)
    diversity: ShareOfStart = remembered(ShareOfStart)
    spread: ShareOfStart = remembered(ShareOfStart)
    progress: Progress = remembered(Progress)
    gone: dict[str, float] = remembered(dict)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Ask each quantity how much of its start is left."""
        value = self.read(row)
        if value is not None:
            self._note("entropy", self.entropy.add(value))
        if (key := first_of(self.diversity_keys, row)) is not None:
            self._note("diversity", self.diversity.add(row[key]))
        if (key := first_of(self.spread_keys, row)) is not None:
            self._note("reward spread", self.spread.add(row[key]))
        if row.get(self.tied_key, 0.0) >= self.tied:
            self._note("reward spread", 0.0)
        self.progress.add(row)
        if len(self.gone) < 2:
            return None
        solved = self.progress.excuses
        lost = [name for name, left in self.gone.items() if left <= self.remains]
        parts = [min(1.0, max(0.0, (1.0 - left) / (1.0 - self.remains))) for left in self.gone.values()]
        self.risk = 0.0 if solved else sum(parts) / len(parts)
        breached = len(lost) >= 2 and not solved
        evidence: dict[str, float | str] = {}
        if breached:
            evidence = {f"{name} left": left for name, left in self.gone.items()}
            evidence["lost"] = ", ".join(f"{name} {self.gone[name]:.0%}" for name in lost)
        clear = len([left for left in self.gone.values() if left <= self.back]) < 2
        return Finding(breached, clear, self.risk, None, False, evidence, self.key)

    def _note(self, name: str, left: float | None) -> None:
        if left is not None:
            self.gone[name] = left


@condition("unpaid_drift")
class UnpaidDrift(Condition):
    """Breached where the KL is above the user's `threshold`, above `ceiling`, or above `soft` without a gain in reward.

    A policy must leave its reference to learn, so how far is too far depends on what it got for it. Each time the
    smoothed reward rises by `pay` standard deviations of its noise (the largest so far) over what it was, the KL of
    that moment is paid for; drift is unpaid beyond `soft` and beyond 1.5 times what was paid for. Where the reward is
    not known, `blind` is the limit in place of `soft`.

    Published healthy runs stay below 0.56 nats per token in 95 % of their rows and reach 1.3 in single ones; 10 is
    about what a reference gives to tokens that it finds impossible.
    """

    threshold: Annotated[float | None, "an absolute limit, nats per token. It replaces the others"] = None
    soft: Annotated[NonNegative, "nats per token that need not be paid for"] = 0.8
    blind: Annotated[NonNegative, "the limit where the reward is not known, nats per token"] = 2.0
    ceiling: Annotated[float, "the limit that no reward pays for, nats per token"] = 10.0
    pay: Annotated[NonNegative, "gain in reward, in standard deviations of its noise"] = 0.5
    sequence_key: Annotated[str, "the sum over a response, where only that is known"] = "rldk/kl/ref_per_sequence"
    sequence_scale: Annotated[
        NonNegative, "what the limits are multiplied with then, for a response of that many tokens"
    ] = 40.0
    reward_keys: Annotated[tuple[str, ...], "where the reward is found"] = (REWARD_MEAN,)
    span: Span = 5.0
    zero_is_missing: ZeroIsMissing = True
    kl: float | None = remembered()
    reward_key: str | None = remembered()
    reward: Change = remembered(Change)
    noise: float = remembered(0.0)
    paid_kl: float = remembered(0.0)
    paid_at: float | None = remembered()

    def __post_init__(self) -> None:
        self.keys = (*self.keys, self.sequence_key)

    def reads(self) -> Iterable[str]:
        """What tells of the reward, too."""
        return (*self.keys, *self.reward_keys)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Smooth both, then hold the divergence to the limit that applies."""
        value = self.read(row)
        scale = self.sequence_scale if self.key == self.sequence_key else 1.0
        if value is not None:
            # One wild row must not look like drift: a value counts as four times the mean so far at most.
            bound = value if self.kl is None else max(4.0 * self.kl, self.soft * scale)
            self.kl = smoothed(self.kl, min(value, bound), 2.0 / (self.span + 1.0))
        gain = self._follow_reward(row)
        if value is None or self.kl is None:
            return None
        evidence: dict[str, float | str] = {"paid_kl": self.paid_kl}
        if gain is not None:
            evidence["reward_gain_sigmas"] = gain
        ceiling = self.ceiling * scale
        if self.threshold is not None and self.key != self.sequence_key:
            limit = self.threshold
        elif gain is None:
            limit = self.blind * scale
        else:
            limit = min(ceiling, max(self.soft * scale, 1.5 * self.paid_kl))
        breached = self.kl > limit
        critical, clear = breached and self.kl > ceiling, self.kl <= 0.7 * limit
        found = Finding(breached, clear, self.kl, limit, critical, evidence, self.key)
        found.averaged_rows, found.now = self.span, value
        return found

    def _follow_reward(self, row: Row) -> float | None:
        """The reward's gain since the start; notes what divergence it has paid for."""
        if self.reward_key is None:
            self.reward_key = first_of(self.reward_keys, row)
        if self.reward_key is None:
            return None
        if self.reward_key in row:
            self.reward.add(row[self.reward_key])
        if self.reward.change is None:
            return None
        self.noise = max(self.noise, self.reward.noise)
        if self.paid_at is None:
            self.paid_at = self.reward.start
        if self.reward.mean > self.paid_at and self.reward.mean >= self.paid_at + self.pay * self.noise:
            self.paid_at, self.paid_kl = self.reward.mean, max(self.paid_kl, self.kl or 0.0)
        return self.reward.sigmas
