"""Distance from the reference that the reward does not pay for."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row


class UnpaidDrift(Condition):
    """Breached where the KL is above the user's `threshold`, above `ceiling`, or above `soft` without a gain in reward.

    A policy must leave its reference to learn, so how far is too far depends on what it got for it: the smoothed
    reward's gain over its first values, in standard deviations of the reward's own noise. Where the reward is not
    known, only `threshold` and `ceiling` judge.

    Args:
        threshold: an absolute limit that the user gave, nats per token.
        soft: nats per token from which the reward must have paid.
        ceiling: nats per token that no reward excuses.
        pay: gain in reward, in its noise's standard deviations.
        reward_keys: where the reward is found.
        span: observations of the exponential means.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "kl", "reward_key", "count", "start", "reward", "noise")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        threshold: float | None = None,
        soft: float = 0.7,
        ceiling: float = 10.0,
        pay: float = 1.0,
        reward_keys: tuple[str, ...] = ("rldk/reward/mean",),
        span: float = 5.0,
        zero_is_missing: bool = True,
    ) -> None:
        super().__init__(keys, zero_is_missing=zero_is_missing)
        self.threshold, self.soft, self.ceiling, self.pay = threshold, soft, ceiling, pay
        self.reward_keys = tuple(reward_keys)
        self.weight = 2.0 / (span + 1.0)
        self.kl: float | None = None
        self.reward_key: str | None = None
        self.count = 0
        self.start = self.reward = self.noise = 0.0

    def judge(self, step: int, row: Row) -> Finding | None:
        """Smooth both, then hold the divergence to the limit that applies."""
        self._follow_reward(row)
        value = self.read(row)
        if value is None:
            return None
        self.kl = value if self.kl is None else self.kl + self.weight * (value - self.kl)
        evidence: dict[str, float | str] = {"smoothed": self.kl}
        gain = None
        if self.count >= 10:
            gain = (self.reward - self.start) / self.noise if self.noise > 0 else 0.0
            evidence["reward_gain_sigmas"] = gain
        if self.threshold is not None:
            limit = self.threshold
        elif gain is not None and gain < self.pay:
            limit = self.soft
        else:
            limit = self.ceiling
        breached = self.kl > limit
        critical = self.kl > self.ceiling
        return Finding(breached, self.kl <= 0.7 * limit, value, limit, critical, evidence, self.key)

    def _follow_reward(self, row: Row) -> None:
        if self.reward_key is None:
            self.reward_key = next((key for key in self.reward_keys if key in row), None)
        if self.reward_key is None or self.reward_key not in row:
            return
        value = row[self.reward_key]
        self.count += 1
        if self.count == 1:
            self.reward = self.start = value
            return
        share = 1.0 / min(self.count, 10)
        if self.count <= 5:
            self.start += (value - self.start) / self.count
        self.noise += (abs(value - self.reward) * 1.2533 - self.noise) * share
        self.reward += self.weight * (value - self.reward)
