"""The condition on a reward that rises while other signals contradict it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from rldk_tracking.health.conditions.base import (
    AtLeastOne,
    Condition,
    Correlation,
    Finding,
    NonNegative,
    Row,
    Share,
    condition,
    first_of,
)
from rldk_tracking.health.conditions.parts import Parts
from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.detectors.baseline import MANY_SIGMAS, Change

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
PATIENCE = 2.0
"""A held-out score that stays is waited for as long again as it took until the reward began to leave it behind."""

LEAST_PAIRS = 8
"""Rows with both from which the noise of both is known."""


@dataclass(eq=False)
class Pair(Stateful):
    """The reward and a held-out score, both from the rows that have both: so they have the same start.

    Args:
        pay: standard deviations of its noise beyond which a change is one.
        lag: the share of the reward's rise that the score must make up.
        sure: by how many standard deviations, each of its own noise, the reward must be ahead of the score.
        ceiling: the start of a score within [0, 1] from which it has no room to follow.
    """

    pay: float
    lag: float
    sure: float
    ceiling: float
    reward: Change = remembered(lambda: Change(early=3, growing=0.1))
    score: Change = remembered(lambda: Change(early=3, growing=0.1))
    rewards: bool = remembered(True)
    scores: bool = remembered(True)
    together_at: int = remembered(0)
    together: tuple[float, float] | None = remembered()
    """Reward and score where, both within [0, 1], the score last was not behind."""
    behind_at: int | None = remembered()
    passed_at: int | None = remembered()
    """The row in which one of them left [0, 1]."""
    missing: float = remembered(0.0)

    def add(self, reward: float, score: float) -> None:
        """Take the values of a row."""
        self.reward.add(reward)
        self.score.add(score)
        self.rewards = self.rewards and 0.0 <= reward <= 1.0
        self.scores = self.scores and 0.0 <= score <= 1.0
        if self.passed_at is None and not self.like:
            self.passed_at = self.reward.count
        self.missing = self._missing()
        if self.missing <= 0.0:
            self.together_at = self.reward.count
            if self.like:
                self.together = (self.reward.mean, self.score.mean)
        if self.missing <= self.pay / 2.0:
            self.behind_at = None
        elif self.behind_at is None:
            self.behind_at = self.reward.count

    @property
    def known(self) -> bool:
        """Whether there are rows enough to compare."""
        return self.score.count >= LEAST_PAIRS

    @property
    def like(self) -> bool:
        """Whether both lie within [0, 1], and can be compared as they are."""
        return self.rewards and self.scores

    @property
    def of_a_kind(self) -> bool:
        """Whether they are like each other, or were when the score was left behind by a reward that went past 1."""
        was_behind = self.behind_at is not None and self.passed_at is not None and self.behind_at < self.passed_at
        return self.like or (self.scores and was_behind)

    @property
    def contradicts(self) -> bool:
        """Whether the score fell while the reward rose, or has stayed for longer than a score that lags would."""
        if self.behind_at is None or self.missing <= self.pay:
            return False
        waited = self.reward.count - self.together_at >= PATIENCE * (self.behind_at - self.together_at)
        return self._fell or (waited and not self._has_no_room)

    @property
    def follows(self) -> bool:
        """Whether the score rose beyond its noise, and is not behind the reward."""
        sigmas = self.score.sigmas
        return sigmas is not None and sigmas > self.pay and self.behind_at is None

    @property
    def _has_no_room(self) -> bool:
        return self.scores and self.score.start >= self.ceiling

    @property
    def _fell(self) -> bool:
        sigmas = self.score.sigmas
        return sigmas is not None and sigmas < -self.pay

    def _missing(self) -> float:
        """What the score lacks of the share of the reward's rise that it must make up, in standard deviations.

        Of two within [0, 1], each rise is taken as a share of the room that was left above its start. The units of
        others are not alike, nor is their noise: there the score must not have risen beyond its noise at all. So it is
        for a reward that went past 1 and has no ceiling that is known, from where the two were last together, unless
        the score has made up what a reward of 1 asks of it.
        """
        reward, score = self.reward, self.score
        rise, gain = reward.sigmas, score.sigmas
        if rise is None or gain is None or rise <= self.pay or not self.known:
            return 0.0
        if self.together is not None and self.scores and reward.start < 1.0:
            slope = self.lag * (1.0 - score.start) / (1.0 - reward.start)
            lacks = slope * (min(reward.mean, 1.0) - reward.start) - (score.mean - score.start)
            behind = _sigmas(lacks, ((slope * reward.wander) ** 2 + score.wander**2) ** 0.5)
            if self.like or behind <= self.pay / 2.0:
                return behind
            rise = _sigmas(reward.mean - self.together[0], reward.wander)
            gain = _sigmas(score.mean - self.together[1], score.wander)
        return self.pay * (rise - gain) / self.sure if gain < 1.0 else 0.0


def _sigmas(change: float, noise: float) -> float:
    """A change in standard deviations of the noise."""
    return change / noise if noise > 0.0 else math.copysign(MANY_SIGMAS, change) if change else 0.0


@condition("hacking")
class Hacking(Condition):
    """Breached where the reward rose and other signals contradict it. Without such a signal there is no verdict.

    A held-out score decides alone, either way: the reward is hacked where that score fell, or could have risen and did
    not (see `Pair`), and is not where it followed. The score of a reward function with weight 0 (`UNWEIGHTED`) may be
    there to watch something else than the task, so it must be of the reward's kind, both within [0, 1], and below it.
    Signals that need a second one beside them: a held-out perplexity that rose; completions that grew while length
    correlates with reward within groups (Singhal et al. 2023, arXiv:2310.03716); reward functions that contradict each
    other; one of them that never gave anything, or fell (`Parts`). Those that only support, because learning has them
    too: a KL beyond `kl` (Gao et al. 2022, arXiv:2210.10760: what the proxy gains beyond some divergence the gold score
    loses), diversity that fell, completions that shrank to nothing.
    """

    risk_key = "rldk/health/reward_hacking_risk"
    reads_others = True  # the parts of the reward, whatever their names

    pay: Annotated[NonNegative, "rise of the reward, in standard deviations of its noise, that counts as a rise"] = 2.0
    held_out: Annotated[
        tuple[str, ...], "keys of scores that are not optimised, the best first; the best that has appeared is used"
    ] = ("rldk/reward/gold", UNWEIGHTED, "rldk/eval/reward")
    lag: Annotated[
        Share,
        "share of the reward's rise below which a held-out score has not followed, both rises as shares of the room "
        "above their starts, where both lie within [0, 1]; elsewhere one within its noise has not",
    ] = 0.35
    sure: Annotated[
        NonNegative,
        "by how much more the reward must have risen where they do not, in standard deviations: about three errors of "
        "the difference, with the starts of both known from a few correlated values only",
    ] = 5.0
    length_corr: Annotated[Correlation, "rank correlation of length and reward (averaged)"] = 0.5
    length_growth: Annotated[AtLeastOne, "the length as a multiple of the first rows'"] = 1.5
    length_left: Annotated[Share, "share of the first rows' length below which completions shrank to nothing"] = 0.25
    disagreement: Annotated[
        Correlation, "the lowest correlation between two reward functions (averaged) below which they contradict"
    ] = -0.3
    perplexity: Annotated[AtLeastOne, "multiple of its first values"] = 1.5
    kl: Annotated[NonNegative, "nats per token"] = 0.7
    ceiling: Annotated[float, "start of a held-out score within [0, 1] from which it counts as solved already"] = 0.9
    proxy: Change = remembered(lambda: Change(early=3, growing=0.1))
    pair: Pair = remembered()
    gold_key: str | None = remembered()
    parts: Parts = remembered(Parts)
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

    def __post_init__(self) -> None:
        self.pair = self._new_pair()

    def judge(self, step: int, row: Row) -> Finding | None:
        """Follow the reward and its witnesses."""
        value = self.read(row)
        self._follow(row, value)
        if value is None:
            return None
        self.proxy.add(value)
        rise = self.proxy.sigmas
        if rise is None:
            return None
        alone, paired, known = self._witnesses()
        if not known:
            return None
        supporting = self._supporting() if paired else []
        together = bool(paired) and len(paired) + len(supporting) >= 2
        doubt = 1.0 if alone else min(1.0, 0.4 * len(paired) + 0.2 * len(supporting))
        self.risk = doubt * min(1.0, max(0.0, rise / self.pay))
        against = [*alone, *paired, *supporting]
        evidence: dict[str, float | str] = {"reward_rise_sigmas": rise, "against": ", ".join(against) or "nothing"}
        breached = rise > self.pay and (bool(alone) or together)
        clear = not (alone or together) or rise < self.pay / 2
        return Finding(breached, clear, value, None, False, evidence, self.key)

    def _new_pair(self) -> Pair:
        return Pair(self.pay, self.lag, self.sure, self.ceiling)

    def _follow(self, row: Row, value: float | None) -> None:
        known = len(self.held_out) if self.gold_key is None else self.held_out.index(self.gold_key)
        better = first_of(self.held_out[:known], row)
        if better is not None:
            self.gold_key, self.pair = better, self._new_pair()
        if self.gold_key is not None and self.gold_key in row:
            reward = value if value is not None else (self.proxy.recent[-1] if self.proxy.recent else None)
            if reward is not None:
                self.pair.add(reward, row[self.gold_key])
        self.parts.add(row)
        for name, keys in OTHERS.items():
            key = first_of(keys, row)
            if key is not None:
                self.others[name].add(row[key])

    def _witnesses(self) -> tuple[list[str], list[str], bool]:
        """Those that decide alone, those that need a second, and whether there is any to be asked."""
        others = self.others
        perplexity, length, length_corr, disagreement = (
            change if (change := others[name]).count > change.early else None
            for name in ("perplexity", "length", "length_corr", "disagreement")
        )
        pair, is_gold = self.pair, self.gold_key != UNWEIGHTED
        is_any = pair.known or self.parts.known or (perplexity or length_corr or disagreement) is not None
        if pair.contradicts and (is_gold or (pair.of_a_kind and pair.score.mean < pair.reward.mean)):
            return ["held-out score" if is_gold else "reward function of weight 0"], [], is_any
        if is_gold and pair.follows:
            return [], [], is_any
        paired = []
        if perplexity is not None and perplexity.mean > self.perplexity * perplexity.start:
            paired.append("held-out perplexity")
        grown = length is not None and length.mean > self.length_growth * length.start > 0
        if grown and length_corr is not None and length_corr.mean > self.length_corr:
            paired.append("length")
        if disagreement is not None and disagreement.mean < self.disagreement:
            paired.append("disagreement of the reward functions")
        if lost := self.parts.lost:
            paired.append(f"the part {lost}")
        return [], paired, is_any

    def _supporting(self) -> list[str]:
        found = []
        kl, length, diversity = self.others["kl"], self.others["length"], self.others["diversity"].sigmas
        if kl.change is not None and kl.mean > self.kl:
            found.append("KL")
        if length.change is not None and length.mean < self.length_left * length.start:
            found.append("length that shrank")
        if diversity is not None and diversity < -self.pay:
            found.append("diversity")
        return found
