"""The best and the worst completions of a step, as a table in the tracker, for users who ask for it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from rldk_tracking.probes.base import Publish
from rldk_tracking.rollout import Rollout

COLUMNS = ["step", "rank", "score", "length", "truncated", "prompt", "completion"]


class SampleTable:
    """Logs `rldk/samples` now and then: in W&B every table is an artifact version, in MLflow a file.

    Args:
        count: rows from each end of the scores.
        interval: steps between two tables.
    """

    key: ClassVar[str] = "rldk/samples"

    def __init__(self, count: int = 4, interval: int = 25) -> None:
        self.count = count
        self.interval = interval
        self._next = 0

    def offer(self, publish: Publish, rollout: Rollout | None, step: int) -> None:
        """Log this step's table if its turn has come."""
        if rollout is None or step < self._next:
            return
        rows = extremes(rollout, self.count, step)
        if rows:
            self._next = step + self.interval
            publish("log_table", self.key, COLUMNS, rows, step)


def extremes(rollout: Rollout, count: int, step: int) -> list[list[Any]]:
    """Rows of the `count` highest and the `count` lowest scores, none twice; unscored completions are left out."""
    if rollout.completions is None or rollout.scores is None:
        return []
    scores = rollout.scores.tolist()
    lengths = rollout.mask.sum(dim=1).tolist()
    truncated = rollout.truncated.tolist() if rollout.truncated is not None else [None] * len(scores)
    order = sorted((i for i, score in enumerate(scores) if math.isfinite(score)), key=lambda i: -scores[i])
    top = order[:count]
    bottom = [index for index in order[-count:] if index not in top]
    return [
        [
            step,
            rank,
            scores[index],
            int(lengths[index]),
            truncated[index],
            "" if rollout.prompts is None else rollout.prompts[index],
            rollout.completions[index],
        ]
        for rank, rows in (("highest", top), ("lowest", bottom))
        for index in rows
    ]
