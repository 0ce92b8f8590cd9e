"""How fast training goes.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/throughput/step_seconds | s | host | lower | max over ranks
        Wall time of a step, of the slowest rank.
        = from the end of one step to that of the next, without evaluation and saving
    rldk/throughput/tokens_per_second | 1/s | host | higher | sum over ranks
        Response tokens of all ranks.
        = tokens / time of the step
    rldk/throughput/samples_per_second | 1/s | host | higher | sum over ranks
        Completions of all ranks.
        = completions / time of the step
    rldk/throughput/rollout_fraction | 1 | host
        Share of the step that goes into sampling and scoring.
        = time of sampling and scoring / time of the step
"""

from __future__ import annotations

from torch import Tensor


class ThroughputMeter:
    """Measures from one reading to the next; the first reading yields nothing.

    >>> meter = ThroughputMeter()
    >>> meter.read(1, 10.0)
    {}
    >>> meter.read(2, 12.0, tokens=100)
    {'rldk/throughput/step_seconds': 2.0, 'rldk/throughput/tokens_per_second': 50.0}
    """

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def read(
        self,
        step: int,
        now: float,
        *,
        tokens: float | Tensor | None = None,
        samples: float | None = None,
        rollout_seconds: float | None = None,
    ) -> dict[str, float | Tensor]:
        """The keys of the steps since the last reading.

        Args:
            step: the present global step. Where it has not advanced, or has gone back, the clock starts anew.
            now: when it ended, in seconds of a clock that never goes back. It may stand still in what shall not count.
            tokens, samples: how many this rank worked on since the last reading.
            rollout_seconds: how long this rank sampled and scored since the last reading.
        """
        last, self._last = self._last, (step, now)
        if last is None or step <= last[0] or now <= last[1]:
            return {}
        seconds = now - last[1]
        metrics: dict[str, float | Tensor] = {"rldk/throughput/step_seconds": seconds / (step - last[0])}
        if tokens is not None:
            metrics["rldk/throughput/tokens_per_second"] = tokens / seconds
        if samples is not None:
            metrics["rldk/throughput/samples_per_second"] = samples / seconds
        if rollout_seconds is not None:
            metrics["rldk/throughput/rollout_fraction"] = min(1.0, rollout_seconds / seconds)
        return metrics
