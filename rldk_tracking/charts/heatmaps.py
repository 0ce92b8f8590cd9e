"""The heat-maps of a run: how the rewards are distributed, and which layers get gradient, over the steps."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import ArrayLike

from rldk_tracking.charts.cadence import Cadence
from rldk_tracking.charts.distribution import Distribution
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.layers import LayersOverSteps
from rldk_tracking.charts.spec import GRADIENTS, REWARDS

TITLES = {
    REWARDS: "Rewards of the completions",
    GRADIENTS: "Gradient norm of each layer over the steps, dark where large",
}


class Heatmaps:
    """The heat-maps of one run, in memory that does not grow with it."""

    def __init__(self) -> None:
        self._rewards = Distribution(TITLES[REWARDS])
        self._gradients = LayersOverSteps(TITLES[GRADIENTS])
        self._cadence = Cadence()
        self._news: set[str] = set()
        self._measured: Mapping[str, float] | None = None

    def take(self, step: int, scores: ArrayLike | None, gradients: Mapping[str, float] | None) -> None:
        """What a step brought: the score of each completion, and the gradient norm of each layer.

        The same object a second time is an old measurement and counts nowhere.
        """
        self._cadence.count()
        if scores is not None:
            self._rewards.add(step, scores)
            self._news.add(REWARDS)
        if gradients and gradients is not self._measured:
            self._measured = gradients
            self._gradients.add(step, gradients)
            self._news.add(GRADIENTS)

    @property
    def due(self) -> bool:
        """Whether enough has come for a new version."""
        return self._cadence.due and bool(self._news)

    def made(self) -> dict[str, Heatmap]:
        """Those that have changed since the last call."""
        self._cadence.done()
        news, self._news = self._news, set()
        found = {REWARDS: self._rewards.heatmap(), GRADIENTS: self._gradients.heatmap()}
        return {key: heatmap for key, heatmap in found.items() if heatmap is not None and key in news}
