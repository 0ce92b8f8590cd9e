"""How old the samples are where sampling and training run side by side, and which of the two waits for the other.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/async/staleness/mean | versions | host | lower
        How many synchronisations old the weights are that sampled what is trained on.
        = mean over the step's completions of the version of the trainer's weights in the loss - the version that
        sampled; from logs alone that of the moment when the trainer takes a completion, up to one less
    rldk/async/staleness/max | versions | host | lower | max over ranks
        That of the oldest completion.
        = maximum, likewise
    rldk/async/stale_fraction | 1 | host | lower | max over ranks
        Share of the completions that are staler than the run allows (TRL: max_staleness) when the trainer takes them,
        and are thrown away; their sampling was for nothing.
        = dropped / completions taken from the queue since the last row; not from logs
    rldk/async/dropped | completions | host | lower | sum over ranks
        How many these are.
        = since the last row
    rldk/async/queue_length | completions | host | none | max over ranks
        Completions that are sampled and scored and wait for the trainer.
        = mean over the completions taken since the last row, of what was left in the queue
    rldk/async/wait_seconds | s | host | lower | max over ranks
        How long the trainer waited for completions.
        = in a step; TRL's perf/rollout_wait_s
    rldk/async/wait_fraction | 1 | host | lower | max over ranks
        Share of its time that the trainer waits for completions.
        = wait_seconds / time from one step's end to the next one's
    rldk/async/sync_seconds | s | logs | lower | max over ranks
        How long it takes to bring the trainer's weights to the engine that samples; the trainer waits meanwhile.
        = mean over the synchronisations since the last log; TRL's perf/weight_sync_s
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rldk_tracking.metrics.columns import finite


@dataclass
class Flow:
    """What came to the trainer since the last row.

    Attributes:
        staleness: versions, of each completion that was trained on.
        dropped: completions that were thrown away as stale.
        queue_lengths: at each completion that was taken and not dropped.
        waited_seconds: in the queue.
    """

    staleness: list[float] = field(default_factory=list)
    dropped: int = 0
    queue_lengths: list[float] = field(default_factory=list)
    waited_seconds: float = 0.0


def compute(flow: Flow, seconds: float | None = None, steps: int = 1) -> dict[str, float]:
    """`rldk/async/...` of the rank that takes the completions.

    Args:
        flow: since the last row.
        seconds: since the last row; None before the first.
        steps: of the trainer, in this time.

    >>> found = compute(Flow([1, 3], dropped=1, queue_lengths=[5, 4, 3], waited_seconds=3.0), seconds=4.0)
    >>> found["rldk/async/staleness/mean"], found["rldk/async/stale_fraction"], found["rldk/async/wait_fraction"]
    (2.0, 0.25, 0.75)
    """
    taken = flow.dropped + len(flow.queue_lengths)
    metrics: dict[str, float | None] = {
        "rldk/async/staleness/mean": _mean(flow.staleness),
        "rldk/async/staleness/max": max(flow.staleness, default=None),
        "rldk/async/dropped": float(flow.dropped),
        "rldk/async/stale_fraction": flow.dropped / taken if taken else None,
        "rldk/async/queue_length": _mean(flow.queue_lengths),
        "rldk/async/wait_seconds": flow.waited_seconds / steps,
    }
    if seconds:
        metrics["rldk/async/wait_fraction"] = min(1.0, flow.waited_seconds / seconds)
    return finite(metrics)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
