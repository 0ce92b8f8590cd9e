"""Conditions on what the reward still tells: completions that it cannot tell apart, a rise that nothing confirms."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.baseline import Change
from rldk_tracking.health.progress import Progress

PRIOR_ROWS, PRIOR_TIED = 4.0, 1.0
"""What is believed of a run before its first row: one row in four is all tied."""
LEAST_IN_A_ROW = 4
"""Rows without any spread that may be more than chance."""
OFTEN_AT_USUAL = 0.4
"""Share of rows with the very same mean reward, above which the reward says always the same."""
LENGTH, LENGTH_CORR = "rldk/length/mean", "rldk/reward/within_group_length_corr"
DISAGREEMENT = "rldk/reward/pairwise_corr/min"
PERPLEXITY = "rldk/eval/perplexity"
UNWEIGHTED = "rldk/reward/unweighted"
KL = ("rldk/kl/ref_k1", "rldk/kl/ref_k3")
DIVERSITY = ("rldk/diversity/unique_fraction", "rldk/diversity/distinct_2")


class TiedGroups(Condition):
    """Breached where hardly any group has a spread in reward: no advantage, no gradient from the reward.

    Judged is the share of groups that are tied. Where a log has no such share, a batch counts as tied if its standard
    deviation is at most `threshold` or `negligible` of the largest that was seen; where it has no standard deviation
    either, if the mean is what it was. A mean that stands at one exact value most of the time, and hardly leaves it,
    counts as tied as well: the reward function nearly always says the same.

    It is breached in two ways. *Now*: so many rows in a row with all groups tied are improbable for a run in which that
    used to happen as often as it did before (a run of one group a row is often tied, one of a hundred groups never).
    *On average*: the mean share, exponential over `span`, is above `often`; a run that is near the ceiling of its task
    (`Progress.near_ceiling`) may have `nearly_all` tied and still learn from the rest.

    `solved` chooses which half of these cases to report, see `Progress.solved`.

    Args:
        solved: True reports tied groups at the ceiling, False those elsewhere.
        threshold: a standard deviation of the reward at or below which the batch counts as tied.
        improbable: the probability below which a row of tied rows is not chance. A hundred times that is enough where
            the reward is at the lowest of the run.
        often, nearly_all: shares of tied groups; the lower end of a one-sided 95 % interval is held to them.
        ceiling: the highest reward that the task can give.
        minimum: observations before an average is judged.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "tied", "variance", "count", "in_a_row", "before", "before_tied", "progress", "last",
        "usual", "votes", "at_usual", "off_usual",
    )  # fmt: skip

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        solved: bool,
        threshold: float = 0.0,
        improbable: float = 1e-5,
        often: float = 0.75,
        nearly_all: float = 0.93,
        negligible: float = 0.02,
        ceiling: float | None = None,
        span: float = 50.0,
        minimum: int = 20,
        spread_keys: tuple[str, ...] = ("rldk/reward/group_std_mean", "rldk/reward/std"),
        mean_key: str = "rldk/reward/mean",
    ) -> None:
        super().__init__(keys)
        self.solved, self.threshold, self.improbable = solved, threshold, improbable
        self.often, self.nearly_all, self.negligible = often, nearly_all, negligible
        self.minimum = minimum
        self.progress = Progress(ceiling)
        self.span, self.weight = span, 2.0 / (span + 1.0)
        self.spread_keys, self.mean_key = tuple(spread_keys), mean_key
        self.tied = self.variance = 0.0
        self.usual: float | None = None
        self.votes = 0
        self.at_usual = self.off_usual = 0.0
        self.in_a_row = 0
        self.before, self.before_tied = PRIOR_ROWS, PRIOR_TIED
        self.last: float | None = None
        self.count = 0

    def judge(self, step: int, row: Row) -> Finding | None:
        """Count rows that are all tied, follow the average, and ask whether the reward is at its ceiling."""
        mean = row.get(self.mean_key)
        spread = next((row[key] for key in self.spread_keys if key in row), None)
        value = self._tied_share(row, mean, spread)
        self.progress.add(row)
        if mean is not None:
            self._follow_usual(mean)
        if value is None:
            return None
        self.count += 1
        weight = max(self.weight, 1.0 / self.count)
        self.variance += weight * ((value - self.tied) ** 2 * (1.0 - weight) - self.variance)
        self.tied += weight * (value - self.tied)
        if value >= self.nearly_all:
            self.in_a_row += 1
        else:
            self.before += 1 + self.in_a_row
            self.before_tied += self.in_a_row
            self.in_a_row = 0
        usual = self.before_tied / self.before
        usual = min(1.0, usual + (usual * (1.0 - usual) / self.before) ** 0.5)
        chance = usual**self.in_a_row
        now = self.in_a_row >= LEAST_IN_A_ROW and chance < self.improbable * (100.0 if self.progress.at_lowest else 1.0)
        limit = self.nearly_all if self.progress.near_ceiling else self.often
        surely = self.tied - 1.64 * (self.variance * weight) ** 0.5
        average = self.count >= self.minimum and (surely > limit or self._frozen())
        there = self.progress.solved
        breached = (now or average) and there == self.solved
        clear = there != self.solved or (value < self.nearly_all and self.tied < limit and not self._frozen())
        evidence: dict[str, float | str] = {"tied": self.tied, "rows_in_a_row": self.in_a_row}
        evidence["tie"] = "groups have completions of equal reward"
        if self.progress.mean is not None:
            evidence["reward"] = self.progress.mean
        found = Finding(breached, clear, self.tied, limit, False, evidence, self.key)
        found.judged = self.count >= LEAST_IN_A_ROW
        if now:
            found.value, found.threshold = value, self.nearly_all
        elif average and self.tied <= limit:
            found.value, found.threshold = self.at_usual, OFTEN_AT_USUAL
            evidence["tie"] = "rows have one and the same mean reward"
        else:
            found.averaged_rows, found.now = min(self.span, self.count), value
        return found

    def _tied_share(self, row: Row, mean: float | None, spread: float | None) -> float | None:
        value = self.read(row)
        if spread is not None and spread <= self.threshold:
            return 1.0
        if value is not None or self.key is not None:
            return value
        if spread is not None:
            return float(spread <= self.negligible * max(self.progress.widest, spread))
        if mean is not None and self.progress.spread is None and self.last is not None:
            return float(abs(mean - self.last) <= 1e-6 * abs(mean))
        return None

    def _follow_usual(self, mean: float) -> None:
        """The value that most means have, by majority vote (Boyer and Moore 1981), and how often it is met."""
        self.last = mean
        if self.usual is None:
            self.usual = mean
            return
        distance = abs(mean - self.usual)
        met = distance <= 1e-6 * abs(mean)
        self.at_usual += 0.05 * (met - self.at_usual)
        self.off_usual += 0.05 * (distance - self.off_usual)
        if met:
            self.votes = min(self.votes + 1, 50)
        elif self.votes > 0:
            self.votes -= 1
        else:
            self.usual = mean

    def _frozen(self) -> bool:
        """Whether about half of the means are one exact value and the others are within a tenth of it."""
        return self.usual is not None and self.at_usual > OFTEN_AT_USUAL and self.off_usual <= 0.1 * abs(self.usual)


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
        grown = self.length.change is not None and self.length.mean > self.length_growth * self.length.start > 0
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
