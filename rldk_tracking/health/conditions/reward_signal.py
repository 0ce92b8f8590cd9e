"""Conditions on what the reward still tells: completions that it cannot tell apart, a rise that nothing confirms."""

from __future__ import annotations

from typing import Annotated

from rldk_tracking.health.conditions.base import (
    REWARD_MEAN,
    REWARD_SPREADS,
    AtLeastOne,
    Condition,
    Correlation,
    Count,
    Finding,
    NonNegative,
    Progress,
    Row,
    Share,
    Span,
    condition,
    first_of,
)
from rldk_tracking.health.detectors import remembered
from rldk_tracking.health.detectors.baseline import Change

PRIOR_ROWS, PRIOR_TIED = 4.0, 1.0
"""What is believed of a run before its first row: one row in four is all tied."""
LEAST_IN_A_ROW = 4
"""Rows without any spread that may be more than chance."""
OFTEN_AT_USUAL = 0.4
"""Share of rows with the very same mean reward, above which the reward says always the same."""


@condition("ties")
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
    """

    solved: Annotated[bool, "True reports tied groups at the ceiling of the task, False those elsewhere"]
    threshold: Annotated[float, "a standard deviation of the reward at or below which the batch counts as tied"] = 0.0
    improbable: Annotated[
        Share,
        "the probability below which a row of tied rows is not chance. A hundred times that is enough where the reward "
        "is at the lowest of the run",
    ] = 1e-5
    often: Annotated[Share, "share of tied groups to which the lower end of a one-sided 95 % interval is held"] = 0.75
    nearly_all: Annotated[Share, "the same near the ceiling; and from which a row is all tied"] = 0.93
    negligible: Annotated[Share, "of the largest spread, up to which a batch counts as tied"] = 0.02
    ceiling: Annotated[float | None, "the highest reward that the task can give"] = None
    span: Span = 50.0
    minimum: Annotated[Count, "observations before an average is judged"] = 20
    spread_keys: Annotated[tuple[str, ...], "where the spread of the reward is found"] = REWARD_SPREADS
    mean_key: Annotated[str, "where the mean reward is found"] = REWARD_MEAN
    tied: float = remembered(0.0)
    variance: float = remembered(0.0)
    count: int = remembered(0)
    in_a_row: int = remembered(0)
    before: float = remembered(PRIOR_ROWS)
    before_tied: float = remembered(PRIOR_TIED)
    progress: Progress = remembered()
    last: float | None = remembered()
    usual: float | None = remembered()
    votes: int = remembered(0)
    at_usual: float = remembered(0.0)
    off_usual: float = remembered(0.0)

    def __post_init__(self) -> None:
        self.progress = Progress(self.ceiling)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Count rows that are all tied, follow the average, and ask whether the reward is at its ceiling."""
        mean = row.get(self.mean_key)
        value = self._tied_share(row, mean)
        self.progress.add(row)
        if mean is not None:
            self._follow_usual(mean)
        if value is None:
            return None
        self.count += 1
        weight = max(2.0 / (self.span + 1.0), 1.0 / self.count)
        self.variance += weight * ((value - self.tied) ** 2 * (1.0 - weight) - self.variance)
        self.tied += weight * (value - self.tied)
        if value >= self.nearly_all:
            self.in_a_row += 1
        else:
            self.before += 1 + self.in_a_row
            self.before_tied += self.in_a_row
            self.in_a_row = 0
        now = self.in_a_row >= LEAST_IN_A_ROW and self._is_improbable()
        limit = self.nearly_all if self.progress.near_ceiling else self.often
        surely = self.tied - 1.64 * (self.variance * weight) ** 0.5
        average = self.count >= self.minimum and (surely > limit or self._is_frozen())
        there = self.progress.solved
        breached = (now or average) and there == self.solved
        clear = there != self.solved or (value < self.nearly_all and self.tied < limit and not self._is_frozen())
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

    def _is_improbable(self) -> bool:
        """Whether so many tied rows are more than chance, by how often a row was tied before."""
        usual = self.before_tied / self.before
        usual = min(1.0, usual + (usual * (1.0 - usual) / self.before) ** 0.5)
        return bool(usual**self.in_a_row < self.improbable * (100.0 if self.progress.at_lowest else 1.0))

    def _tied_share(self, row: Row, mean: float | None) -> float | None:
        value = self.read(row)
        key = first_of(self.spread_keys, row)
        if key is not None and row[key] <= self.threshold:
            return 1.0
        if value is not None or self.key is not None:
            return value
        if key is not None:
            return float(row[key] <= self.negligible * max(self.progress.widest, row[key]))
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

    def _is_frozen(self) -> bool:
        """Whether about half of the means are one exact value and the others are within a tenth of it."""
        return self.usual is not None and self.at_usual > OFTEN_AT_USUAL and self.off_usual <= 0.1 * abs(self.usual)


UNWEIGHTED = "rldk/reward/unweighted"
OTHERS = {
    "perplexity": ("rldk/eval/perplexity",),
    "length": ("rldk/length/mean",),
    "length_corr": ("rldk/reward/within_group_length_corr",),
    "disagreement": ("rldk/reward/pairwise_corr/min",),
    "kl": ("rldk/kl/ref_k1", "rldk/kl/ref_k3"),
    "diversity": ("rldk/diversity/unique_fraction", "rldk/diversity/distinct_2"),
}
"""What else is followed, and the series that tell of it, the best first."""


@condition("hacking")
class Hacking(Condition):
    """Breached where the reward rose and other signals contradict it. Without such a signal there is no verdict.

    One that decides alone: a held-out score that did not follow the reward, or fell. One at its ceiling has no room to
    follow and must fall. The score of a reward function with weight 0 (`UNWEIGHTED`) may be there to watch something
    else than the task, so it must be of the reward's kind, both within [0, 1], and below it. Those that need a second
    one beside them: a held-out perplexity that rose; completions that grew while length correlates with reward within
    groups (Singhal et al. 2023, arXiv:2310.03716); reward functions that contradict each other. Those that only
    support, because learning has them too: a KL beyond `kl` (Gao et al. 2022, arXiv:2210.10760: what the proxy gains
    beyond some divergence the gold score loses), diversity that fell.
    """

    risk_key = "rldk/health/reward_hacking_risk"

    pay: Annotated[NonNegative, "rise of the reward, in standard deviations of its noise, that counts as a rise"] = 2.0
    held_out: Annotated[
        tuple[str, ...], "keys of scores that are not optimised, the best first; the best that has appeared is used"
    ] = ("rldk/reward/gold", UNWEIGHTED, "rldk/eval/reward")
    lag: Annotated[
        NonNegative,
        "share of the reward's rise, each in its own noise, below which a held-out score has not followed; so has one "
        "whose rise is within its noise",
    ] = 0.35
    sure: Annotated[
        NonNegative,
        "by how much more the reward must have risen, in standard deviations: about three errors of the difference, "
        "with the starts of both known from a few correlated values only",
    ] = 5.0
    length_corr: Annotated[Correlation, "rank correlation of length and reward (averaged)"] = 0.5
    length_growth: Annotated[AtLeastOne, "the length as a multiple of the first rows'"] = 1.5
    disagreement: Annotated[
        Correlation, "the lowest correlation between two reward functions (averaged) below which they contradict"
    ] = -0.3
    perplexity: Annotated[AtLeastOne, "multiple of its first values"] = 1.5
    kl: Annotated[NonNegative, "nats per token"] = 0.7
    ceiling: Annotated[float, "start of a held-out score within [0, 1] from which it counts as solved already"] = 0.9
    proxy: Change = remembered(lambda: Change(growing=0.1))
    gold: Change = remembered(lambda: Change(early=3, growing=0.1))
    gold_key: str | None = remembered()
    others: dict[str, Change] = remembered(
        lambda: {
            "perplexity": Change(early=2, span=2),
            "length": Change(),
            "length_corr": Change(span=15),
            "disagreement": Change(span=15),
            "kl": Change(),
            "diversity": Change(),
        }
    )

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
        better = first_of(self.held_out[:known], row)
        if better is not None:
            self.gold_key, self.gold = better, Change(early=3, growing=0.1)
        if self.gold_key is not None and self.gold_key in row:
            self.gold.add(row[self.gold_key])
        for name, keys in OTHERS.items():
            key = first_of(keys, row)
            if key is not None:
                self.others[name].add(row[key])

    def _witnesses(self, rise: float) -> tuple[list[str], list[str], bool]:
        """Those that decide alone, those that need a second, and whether there is any to be asked."""
        known = {name: change for name, change in self.others.items() if change.change is not None}
        perplexity, length, length_corr = (known.get(name) for name in ("perplexity", "length", "length_corr"))
        disagreement = known.get("disagreement")
        alone, paired = [], []
        gold = self.gold.sigmas
        if gold is not None and rise - gold > self.sure and self._has_not_followed(gold, rise):
            alone.append("held-out score" if self.gold_key != UNWEIGHTED else "reward function of weight 0")
        if perplexity is not None and perplexity.mean > self.perplexity * perplexity.start:
            paired.append("held-out perplexity")
        grown = length is not None and length.mean > self.length_growth * length.start > 0
        if grown and length_corr is not None and length_corr.mean > self.length_corr:
            paired.append("length")
        if disagreement is not None and disagreement.mean < self.disagreement:
            paired.append("disagreement of the reward functions")
        asked = (gold, perplexity, length_corr, disagreement)
        return alone, paired, any(each is not None for each in asked)

    def _has_not_followed(self, gold: float, rise: float) -> bool:
        """Whether the held-out score fell, or could have risen and did not."""
        if self.gold_key == UNWEIGHTED:
            within = all(0.0 <= value <= 1.0 for value in (self.proxy.start, self.proxy.mean, self.gold.mean))
            return within and self.gold.mean < self.proxy.mean and gold < max(self.lag * rise, 1.0)
        at_ceiling = self.ceiling <= self.gold.start <= 1.0 and self.gold.mean <= 1.0
        return gold < (-self.pay if at_ceiling else max(self.lag * rise, 1.0))

    def _supporting(self) -> list[str]:
        found = []
        kl, diversity = self.others["kl"], self.others["diversity"].sigmas
        if kl.change is not None and kl.mean > self.kl:
            found.append("KL")
        if diversity is not None and diversity < -self.pay:
            found.append("diversity")
        return found
