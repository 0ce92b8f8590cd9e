"""A reward that rises while everything else says that the task is not done better."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.change import Change


class Hacking(Condition):
    """Breached where the reward rose and a second signal contradicts it. Without a second signal there is no verdict.

    Signals: a held-out or gold score that did not rise with the reward, or fell; a held-out perplexity that rose; a
    correlation of reward and length
    within groups; a KL beyond `kl`; diversity that fell; reward functions that contradict each other (Gao et al. 2022,
    arXiv:2210.10760, for the divergence of proxy and gold with KL; Singhal et al. 2023, arXiv:2310.03716, for length).

    Args:
        keys: the reward that is optimised.
        pay: rise of the reward, in standard deviations of its noise, that counts as a rise.
        held_out: keys of scores that are not optimised, any of them.
        lag: share of the reward's rise, in each one's own noise, below which a held-out score has not followed.
        perplexity: a held-out perplexity of so many times its first values has risen.
        signals: how many of the weaker signals must agree where there is no held-out score.
    """

    risk_key = "rldk/health/reward_hacking_risk"
    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "proxy", "gold", "gold_key", "perplexity", "diversity", "latest", "risk",
    )  # fmt: skip

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        pay: float = 2.0,
        held_out: tuple[str, ...] = ("rldk/reward/gold", "rldk/eval/reward"),
        lag: float = 0.25,
        length_corr: float = 0.5,
        kl: float = 0.7,
        perplexity: float = 1.5,
        signals: int = 2,
    ) -> None:
        super().__init__(keys)
        self.risk = None
        self.pay, self.held_out, self.lag, self.signals = pay, tuple(held_out), lag, signals
        self.limits = {
            "rldk/reward/within_group_length_corr": length_corr,
            "rldk/kl/ref_k3": kl,
            "rldk/reward/pairwise_corr": 0.3,
        }
        self.proxy, self.diversity = Change(), Change()
        self.gold, self.perplexity = Change(early=3), Change(early=2, span=2)
        self.worse_perplexity = perplexity
        self.gold_key: str | None = None
        self.latest: dict[str, float] = {}

    def judge(self, step: int, row: Row) -> Finding | None:
        """Follow the reward and its witnesses."""
        value = self.read(row)
        if self.gold_key is None:
            self.gold_key = next((key for key in self.held_out if key in row), None)
        if self.gold_key is not None and self.gold_key in row:
            self.gold.add(row[self.gold_key])
        for key in self.limits:
            if key in row:
                self.latest[key] = row[key]
        diverse = row.get("rldk/diversity/unique_fraction", row.get("rldk/diversity/distinct_2"))
        if diverse is not None:
            self.diversity.add(diverse)
        if "rldk/eval/perplexity" in row:
            self.perplexity.add(row["rldk/eval/perplexity"])
        if value is None:
            return None
        self.proxy.add(value)
        rise = self.proxy.sigmas
        against, known = self._witnesses(rise)
        if rise is None or not known:
            return None
        decisive = "held-out score" in against
        doubt = 1.0 if decisive else len(against) / max(self.signals, known)
        self.risk = doubt * min(1.0, max(0.0, rise / self.pay))
        breached = rise > self.pay and (decisive or len(against) >= self.signals)
        evidence: dict[str, float | str] = {"reward rise": rise, **self.latest}
        if against:
            evidence["against"] = ", ".join(against)
        return Finding(breached, not against or rise < self.pay / 2, value, None, False, evidence, self.key)

    def _witnesses(self, rise: float | None) -> tuple[list[str], int]:
        """Names of the signals that contradict the reward, and how many signals there are."""
        against, known = [], 0
        gold = self.gold.sigmas
        if gold is not None:
            known += 1
            if rise is not None and gold < self.lag * rise:
                against.append("held-out score")
        if self.perplexity.change is not None:
            known += 1
            if self.perplexity.mean > self.worse_perplexity * self.perplexity.start:
                against.append("held-out perplexity")
        if self.diversity.sigmas is not None:
            known += 1
            if self.diversity.sigmas < -self.pay:
                against.append("diversity")
        words = {
            "rldk/reward/within_group_length_corr": "length",
            "rldk/kl/ref_k3": "KL",
            "rldk/reward/pairwise_corr": "disagreement of rewards",
        }
        for key, value in self.latest.items():
            known += 1
            bad = value < -self.limits[key] if key.endswith("pairwise_corr") else value > self.limits[key]
            if bad:
                against.append(words[key])
        return against, known
