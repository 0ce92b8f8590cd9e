"""A reward that rises while everything else says that the task is not done better."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.change import Change

LENGTH, LENGTH_CORR = "rldk/length/mean", "rldk/reward/within_group_length_corr"
DISAGREEMENT = "rldk/reward/pairwise_corr/min"
PERPLEXITY = "rldk/eval/perplexity"
UNWEIGHTED = "rldk/reward/unweighted"
KL = ("rldk/kl/ref_k1", "rldk/kl/ref_k3")
DIVERSITY = ("rldk/diversity/unique_fraction", "rldk/diversity/distinct_2")


class Hacking(Condition):
    """Breached where the reward rose and other signals contradict it. Without such a signal there is no verdict.

    One that decides alone: a held-out score that did not follow the reward, or fell. One at its ceiling has no room to
    follow and must fall. The score of a reward function with weight 0 (`UNWEIGHTED`) may be there to watch something
    else than the task, so it must be of the reward's kind, both within [0, 1], and below it. Those that need a second
    one beside them: a held-out perplexity that rose; completions that grew while length correlates with reward within
    groups (Singhal et al. 2023, arXiv:2310.03716); reward functions that contradict each other. Those that only
    support, because learning has them too: a KL beyond `kl` (Gao et al. 2022, arXiv:2210.10760: what the proxy gains
    beyond some divergence the gold score loses), diversity that fell.

    Args:
        keys: the reward that is optimised.
        pay: rise of the reward, in standard deviations of its noise, that counts as a rise.
        held_out: keys of scores that are not optimised, the best first; the best that has appeared is used.
        lag: share of the reward's rise, each in its own noise, below which a held-out score has not followed; so has
            one whose rise is within its noise.
        sure: by how much more the reward must have risen, in standard deviations: about three errors of the difference,
            with the starts of both known from a few correlated values only.
        length_corr, length_growth: rank correlation (averaged), and the length as a multiple of the first rows'.
        disagreement: the lowest correlation between two reward functions (averaged) below which they contradict.
        perplexity: multiple of its first values.
        kl: nats per token.
        ceiling: start of a held-out score within [0, 1] from which it counts as solved already.
    """

    risk_key = "rldk/health/reward_hacking_risk"
    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "proxy", "gold", "gold_key", "perplexity", "length", "length_corr", "disagreement", "kl",
        "diversity", "risk",
    )  # fmt: skip

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        pay: float = 2.0,
        held_out: tuple[str, ...] = ("rldk/reward/gold", UNWEIGHTED, "rldk/eval/reward"),
        lag: float = 0.35,
        sure: float = 5.0,
        length_corr: float = 0.5,
        length_growth: float = 1.5,
        disagreement: float = -0.3,
        perplexity: float = 1.5,
        kl: float = 0.7,
        ceiling: float = 0.9,
    ) -> None:
        super().__init__(keys)
        self.risk = None
        self.pay, self.held_out, self.lag, self.sure = pay, tuple(held_out), lag, sure
        self.most_length_corr, self.length_growth = length_corr, length_growth
        self.least_agreement, self.worse_perplexity, self.far = disagreement, perplexity, kl
        self.ceiling = ceiling
        self.gold_key: str | None = None
        self.proxy, self.gold = Change(growing=0.1), Change(early=3, growing=0.1)
        self.perplexity = Change(early=2, span=2)
        self.length, self.diversity = Change(), Change()
        self.length_corr, self.disagreement, self.kl = Change(span=15), Change(span=15), Change()

    def judge(self, step: int, row: Row) -> Finding | None:
        """Follow the reward and its witnesses."""
        value = self.read(row)
        self._follow(row)
        if value is None:
            return None
        self.proxy.add(value)
        rise = self.proxy.sigmas
        if rise is None:
            return None
        alone, paired, known = self._witnesses(rise)
        if not known:
            return None
        supporting = self._supporting()
        together = bool(paired) and len(paired) + len(supporting) >= 2
        doubt = 1.0 if alone else min(1.0, 0.4 * len(paired) + (0.2 * len(supporting) if paired else 0.0))
        self.risk = doubt * min(1.0, max(0.0, rise / self.pay))
        against = [*alone, *paired, *(supporting if paired else [])]
        evidence: dict[str, float | str] = {"reward_rise_sigmas": rise, "against": ", ".join(against) or "nothing"}
        breached = rise > self.pay and (bool(alone) or together)
        clear = not (alone or together) or rise < self.pay / 2
        return Finding(breached, clear, value, None, False, evidence, self.key)

    def _follow(self, row: Row) -> None:
        known = len(self.held_out) if self.gold_key is None else self.held_out.index(self.gold_key)
        better = next((key for key in self.held_out[:known] if key in row), None)
        if better is not None:
            self.gold_key, self.gold = better, Change(early=3, growing=0.1)
        for change, keys in (
            (self.gold, (self.gold_key,)),
            (self.perplexity, (PERPLEXITY,)),
            (self.length, (LENGTH,)),
            (self.length_corr, (LENGTH_CORR,)),
            (self.disagreement, (DISAGREEMENT,)),
            (self.kl, KL),
            (self.diversity, DIVERSITY),
        ):
            key = next((key for key in keys if key in row), None)
            if key is not None:
                change.add(row[key])

    def _witnesses(self, rise: float) -> tuple[list[str], list[str], bool]:
        """Those that decide alone, those that need a second, and whether there is any to be asked."""
        alone, paired = [], []
        gold = self.gold.sigmas
        if gold is not None and rise - gold > self.sure and self._has_not_followed(gold, rise):
            alone.append("held-out score" if self.gold_key != UNWEIGHTED else "reward function of weight 0")
        if self.perplexity.change is not None and self.perplexity.mean > self.worse_perplexity * self.perplexity.start:
            paired.append("held-out perplexity")
        grown = self.length.change is not None and self.length.mean > self.length_growth * self.length.start
        if grown and self.length_corr.change is not None and self.length_corr.mean > self.most_length_corr:
            paired.append("length")
        if self.disagreement.change is not None and self.disagreement.mean < self.least_agreement:
            paired.append("disagreement of the reward functions")
        asked = (self.gold, self.perplexity, self.length_corr, self.disagreement)
        return alone, paired, any(change.change is not None for change in asked)

    def _has_not_followed(self, gold: float, rise: float) -> bool:
        """Whether the held-out score fell, or could have risen and did not."""
        if self.gold_key == UNWEIGHTED:
            within = all(0.0 <= value <= 1.0 for value in (self.proxy.start, self.proxy.mean, self.gold.mean))
            return within and self.gold.mean < self.proxy.mean and gold < max(self.lag * rise, 1.0)
        at_ceiling = self.ceiling <= self.gold.start <= 1.0 and self.gold.mean <= 1.0
        return gold < (-self.pay if at_ceiling else max(self.lag * rise, 1.0))

    def _supporting(self) -> list[str]:
        found = []
        if self.kl.change is not None and self.kl.mean > self.far:
            found.append("KL")
        if self.diversity.sigmas is not None and self.diversity.sigmas < -self.pay:
            found.append("diversity")
        return found
