"""Conditions on how far a run has come from its start, and whether the reward accounts for it."""

from __future__ import annotations

from typing import ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row, sign_of
from rldk_tracking.health.detectors import Stateful
from rldk_tracking.health.detectors.baseline import Change, median_of_sorted
from rldk_tracking.health.progress import Progress


class FromStart(Condition):
    """Breached where the value is away from the run's first values by `share` of their size.

    Args:
        direction: "up" or "down".
        share: 2.0 upwards is three times the start, 0.9 downwards a tenth of it.
        beyond: an absolute limit that the value must also pass, on the same side.
        change: smallest absolute change that matters.
        early: how many first values make up the start (their median).
        span: observations of the exponential mean that is held to the start; 1 judges single values.
        skip_zero: an exact 0 is no observation (a gradient of 0 has another rule).
        unless_learned: a change that learning explains (`Progress.excuses`) is no breach, if it came gradually: not
            within a few rows from `sudden` times as much.
        capped_key, capped, capped_share: where `capped_key` is above `capped`, a limit outside the policy stops the
            value, and `capped_share` holds in place of `share`.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "first", "start", "mean", "slow", "progress")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        direction: Literal["up", "down"],
        share: float,
        beyond: float | None = None,
        change: float = 0.0,
        early: int = 8,
        span: float = 1.0,
        zero_is_missing: bool = False,
        skip_zero: bool = False,
        unless_learned: bool = False,
        sudden: float = 5.0,
        capped_key: str | None = None,
        capped: float = 0.5,
        capped_share: float | None = None,
    ) -> None:
        super().__init__(keys, zero_is_missing=zero_is_missing)
        self.sign, self.share, self.beyond, self.change = sign_of(direction), share, beyond, change
        self.early, self.skip_zero = early, skip_zero
        self.capped_key, self.capped, self.capped_share = capped_key, capped, capped_share
        self.span, self.weight = span, 2.0 / (span + 1.0)
        self.progress = Progress() if unless_learned else None
        self.sudden = sudden
        self.slow: float | None = None
        self.mean: float | None = None
        self.first: list[float] = []
        self.start: float | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to the start."""
        if self.progress is not None:
            self.progress.add(row)
        now = self.read(row)
        if now is None or (self.skip_zero and now == 0.0):
            return None
        if self.weight < 1.0:
            self.mean = now if self.mean is None else self.mean + self.weight * (now - self.mean)
        if self.start is None:
            self.first.append(now)
            if len(self.first) >= self.early:
                self.start = median_of_sorted(sorted(self.first))
                self.first = []
            return Finding(False, True, now, key=self.key, judged=False)
        value = now if self.mean is None else self.mean
        if self.start == 0.0 and self.change == 0.0 and self.beyond is None:  # no share of nothing
            return Finding(False, True, value, key=self.key, judged=False)
        sign, share = self.sign, self.share
        if self.capped_share is not None and self.capped_key is not None and row.get(self.capped_key, 0) > self.capped:
            share = self.capped_share
        limit = self.start + sign * max(share * abs(self.start), self.change)
        if self.beyond is not None:
            limit = sign * max(sign * limit, sign * self.beyond)
        self.slow = value if self.slow is None else self.slow + 0.1 * (value - self.slow)
        gradual = abs(value) * self.sudden > abs(self.slow)
        excused = gradual and self.progress is not None and self.progress.excuses
        breached = sign * (value - limit) > 0 and not excused
        clear = sign * (value - (limit + self.start) / 2) <= 0 or excused
        found = Finding(breached, clear and not breached, value, limit, False, {"start": self.start}, self.key)
        if self.mean is not None:
            found.averaged_rows, found.now = self.span, now
        return found


class ShareOfStart(Stateful):
    """A smoothed value as a share of the run's first values."""

    STATE: ClassVar[tuple[str, ...]] = ("first", "start", "mean")

    def __init__(self, early: int = 5, span: float = 3.0) -> None:
        self.first: list[float] = []
        self.start: float | None = None
        self.mean: float | None = None
        self.early, self.weight = early, 2.0 / (span + 1.0)

    def add(self, value: float) -> float | None:
        """The share, None while the start is not known or is not positive."""
        self.mean = value if self.mean is None else self.mean + self.weight * (value - self.mean)
        if self.start is None:
            self.first.append(value)
            if len(self.first) >= self.early:
                self.start = median_of_sorted(sorted(self.first))
        return None if self.start is None or self.start <= 0 else self.mean / self.start


class Collapse(Condition):
    """Breached where at least two of entropy, diversity and reward spread are gone and the reward does not excuse it.

    See `Progress.excuses`.

    Args:
        keys: entropy.
        remains: a share of the start at or below which a quantity is gone.
        back: the share of its start above which a quantity is back.
        tied: share of tied groups from which the reward spread is gone.
    """

    risk_key = "rldk/health/policy_collapse_risk"
    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "entropy", "diversity", "spread", "risk", "progress", "gone",
    )  # fmt: skip

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        remains: float = 0.1,
        back: float = 0.3,
        tied: float = 0.9,
        diversity_keys: tuple[str, ...] = ("rldk/diversity/unique_fraction", "rldk/diversity/distinct_2"),
        spread_keys: tuple[str, ...] = ("rldk/reward/group_std_mean", "rldk/reward/std"),
        tied_key: str = "rldk/reward/group_tied_fraction",
    ) -> None:
        super().__init__(keys, zero_is_missing=True)
        self.remains, self.back, self.tied = remains, back, tied
        self.diversity_keys, self.spread_keys = tuple(diversity_keys), tuple(spread_keys)
        self.tied_key = tied_key
        self.entropy, self.diversity, self.spread = ShareOfStart(), ShareOfStart(), ShareOfStart()
        self.progress = Progress()
        self.risk = None
        self.gone: dict[str, float] = {}

    def judge(self, step: int, row: Row) -> Finding | None:
        """Ask each quantity how much of its start is left."""
        value = self.read(row)
        if value is not None:
            self._note("entropy", self.entropy.add(value))
        for name, share, keys in (
            ("diversity", self.diversity, self.diversity_keys),
            ("reward spread", self.spread, self.spread_keys),
        ):
            key = next((key for key in keys if key in row), None)
            if key is not None:
                self._note(name, share.add(row[key]))
        if row.get(self.tied_key, 0.0) >= self.tied:
            self._note("reward spread", 0.0)
        self.progress.add(row)
        solved = self.progress.excuses
        if len(self.gone) < 2:
            return None
        lost = [name for name, left in self.gone.items() if left <= self.remains]
        parts = [min(1.0, max(0.0, (1.0 - left) / (1.0 - self.remains))) for left in self.gone.values()]
        self.risk = 0.0 if solved else sum(parts) / len(parts)
        breached = len(lost) >= 2 and not solved
        evidence: dict[str, float | str] = {f"{name} left": left for name, left in self.gone.items()}
        evidence["lost"] = ", ".join(f"{name} {self.gone[name]:.0%}" for name in lost)
        clear = sum(left <= self.back for left in self.gone.values()) < 2
        return Finding(breached, clear, self.risk, None, False, evidence, self.key)

    def _note(self, name: str, left: float | None) -> None:
        if left is not None:
            self.gone[name] = left


class UnpaidDrift(Condition):
    """Breached where the KL is above the user's `threshold`, above `ceiling`, or above `soft` without a gain in reward.

    A policy must leave its reference to learn, so how far is too far depends on what it got for it. Each time the
    smoothed reward rises by `pay` standard deviations of its noise (the largest so far) over what it was, the KL of
    that moment is paid for; drift is unpaid beyond `soft` and beyond 1.5 times what was paid for. Where the reward is
    not known, `blind` is the limit in place of `soft`.

    Args:
        threshold: an absolute limit that the user gave, nats per token. It replaces the others.
        soft, blind, ceiling: nats per token. Published healthy runs stay below 0.56 in 95 % of their rows and reach
            1.3 in single ones; 10 is about what a reference gives to tokens that it finds impossible.
        sequence_scale: what the limits are multiplied with where only the sum over a response is known
            (`sequence_key`), for a response of that many tokens.
        pay: gain in reward, in standard deviations of its noise.
        reward_keys: where the reward is found.
        span: observations of the exponential mean of the KL.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "kl", "reward_key", "reward", "noise", "paid_kl", "paid_at")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        threshold: float | None = None,
        soft: float = 0.8,
        blind: float = 2.0,
        ceiling: float = 10.0,
        pay: float = 0.5,
        sequence_key: str = "rldk/kl/ref_per_sequence",
        sequence_scale: float = 40.0,
        reward_keys: tuple[str, ...] = ("rldk/reward/mean",),
        span: float = 5.0,
        zero_is_missing: bool = True,
    ) -> None:
        super().__init__((*keys, sequence_key), zero_is_missing=zero_is_missing)
        self.threshold, self.soft, self.blind, self.ceiling, self.pay = threshold, soft, blind, ceiling, pay
        self.sequence_key, self.sequence_scale = sequence_key, sequence_scale
        self.reward_keys = tuple(reward_keys)
        self.span, self.weight = span, 2.0 / (span + 1.0)
        self.kl: float | None = None
        self.reward_key: str | None = None
        self.reward = Change()
        self.noise = 0.0
        self.paid_kl = 0.0
        self.paid_at: float | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Smooth both, then hold the divergence to the limit that applies."""
        value = self.read(row)
        if value is not None:
            self._smooth(value)
        gain = self._follow_reward(row)
        if value is None or self.kl is None:
            return None
        evidence: dict[str, float | str] = {"paid_kl": self.paid_kl}
        if gain is not None:
            evidence["reward_gain_sigmas"] = gain
        scale = self.sequence_scale if self.key == self.sequence_key else 1.0
        ceiling = self.ceiling * scale
        if self.threshold is not None and self.key != self.sequence_key:
            limit = self.threshold
        elif gain is None:
            limit = self.blind * scale
        else:
            limit = min(ceiling, max(self.soft * scale, 1.5 * self.paid_kl))
        breached = self.kl > limit
        critical = breached and self.kl > ceiling
        clear = self.kl <= 0.7 * limit
        found = Finding(breached, clear, self.kl, limit, critical, evidence, self.key)
        found.averaged_rows, found.now = self.span, value
        return found

    def _smooth(self, value: float) -> None:
        """One wild row must not look like drift: a value counts as four times the mean so far at most."""
        if self.kl is None:
            self.kl = value
        else:
            scale = self.sequence_scale if self.key == self.sequence_key else 1.0
            self.kl += self.weight * (min(value, max(4.0 * self.kl, self.soft * scale)) - self.kl)

    def _follow_reward(self, row: Row) -> float | None:
        """The reward's gain since the start; notes what divergence it has paid for."""
        if self.reward_key is None:
            self.reward_key = next((key for key in self.reward_keys if key in row), None)
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
