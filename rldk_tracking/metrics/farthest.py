"""Which few layers get a series of their own: those farthest from the rest, and always the same ones.

| key | formula |
|---|---|
| rldk/grad/layer/<layer> | Euclidean norm of the layer's gradient |
| rldk/update/layer_ratio/<layer> | change of the layer's weights in one optimizer step / their norm |

A hundred layers as a hundred series help nobody, and the farthest of each step would be a different one each time. So
a layer that is shown stays shown: FIRST layers are chosen once SETTLED measurements have been seen, and the rest of the
SHOWN places is kept for layers that go astray later. All layers are in the quantiles, and in the pictures that go with
each checkpoint. Dots in names become underscores, since a dot is a path to W&B.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

SHOWN, FIRST = 8, 4
"""Places, and those that are taken at the beginning."""
SETTLED = 5
"""Measurements before the first are chosen: in the first step half of an adapter has no gradient yet."""
MEMORY = 0.8
"""Weight of the past in a layer's distance."""
FARTHEST = 20.0
"""Distance of a layer at 0, and the largest that counts: e^20."""
ASTRAY = math.log(4.0)
"""How much farther than a layer that is shown another must be to take one of the places that are left."""


class FarthestLayers:
    """Chooses layers by the running mean of |log(value / median over layers)|. Memory: one number a layer."""

    def __init__(self) -> None:
        self._distances: dict[str, float] = {}
        self._seen = 0
        self.shown: list[str] = []

    def take(self, values: Mapping[str, float]) -> dict[str, float]:
        """What is shown of one measurement: layer to value. A value that is not a number >= 0 is left out."""
        known = {layer: value for layer, value in values.items() if math.isfinite(value) and value >= 0}
        positive = [value for value in known.values() if value > 0]
        if not positive:
            return {layer: known[layer] for layer in self.shown if layer in known}
        middle = math.log(statistics.median(positive))
        for layer, value in known.items():
            distance = min(FARTHEST, abs(math.log(value) - middle)) if value > 0 else FARTHEST
            before = self._distances.get(layer, distance)
            self._distances[layer] = MEMORY * before + (1 - MEMORY) * distance
        self._seen += 1
        if self._seen >= SETTLED:
            self._choose()
        return {layer: known[layer] for layer in self.shown if layer in known}

    def _choose(self) -> None:
        by_distance = sorted(self._distances, key=lambda layer: -self._distances[layer])
        if len(by_distance) <= SHOWN:
            self.shown = list(self._distances)
        elif not self.shown:
            self.shown = by_distance[:FIRST]
        else:
            least = min(self._distances[layer] for layer in self.shown)
            astray = [layer for layer in by_distance if self._distances[layer] > least + ASTRAY]
            new = [layer for layer in astray if layer not in self.shown]
            self.shown += new[: SHOWN - len(self.shown)]


def series(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    """Layer to value as keys."""
    return {f"{prefix}/{layer.replace('.', '_')}": value for layer, value in values.items()}
