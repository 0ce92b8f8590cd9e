"""Distance from the reference that the reward does not pay for."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.change import Change


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
        self.weight = 2.0 / (span + 1.0)
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
        evidence: dict[str, float | str] = {"smoothed": self.kl, "paid_kl": self.paid_kl}
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
        return Finding(breached, self.kl <= 0.7 * limit, value, limit, critical, evidence, self.key)

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
