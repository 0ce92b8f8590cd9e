"""Two moments that only accelerate's `Accelerator` knows: before gradients are clipped, and within an accumulation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from rldk_tracking.sources.wrapping import Wrapped

BeforeClipping = Callable[[float | None, Tensor | None], None]
WITHIN = ("clip_grad_norm_", "backward")


class AcceleratorWatch:
    """Stands around `clip_grad_norm_` and `backward` of one accelerator until `detach`; others are not touched.

    transformers' Trainer calls `clip_grad_norm_` once a real step, also where it does not clip, and `backward` once a
    micro-batch. TRL's PPOTrainer calls `backward` alone.

    Args:
        accelerator: accelerate's `Accelerator`.
        before_clipping: is told the limit (None where the norm is only read) and the gradient scaler's scale (None
            without one), right before gradients are clipped.
        after_micro_batch: is called after a backward pass that no optimizer step follows.
    """

    def __init__(
        self, accelerator: Any, before_clipping: BeforeClipping, after_micro_batch: Callable[[], None]
    ) -> None:
        self._accelerator: Any = accelerator
        self._before_clipping: BeforeClipping | None = before_clipping
        self._after_micro_batch: Callable[[], None] | None = after_micro_batch
        around = {"clip_grad_norm_": self._around_clipping, "backward": self._around_backward}
        self._wrapped = [Wrapped(accelerator, name, around[name]) for name in WITHIN if hasattr(accelerator, name)]

    def detach(self) -> None:
        """Put the accelerator back as it was; where others have wrapped it since, fall silent."""
        self._before_clipping = self._after_micro_batch = None
        for wrapped in self._wrapped:
            wrapped.restore()
        self._wrapped = []

    def _around_clipping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            parameters = list(parameters)
            if self._before_clipping is not None:
                limit = float(max_norm)
                self._before_clipping(limit if math.isfinite(limit) else None, scale_of(self._accelerator))
            return original(parameters, max_norm, *args, **kwargs)

        return clip_grad_norm_

    def _around_backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def backward(loss: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(loss, *args, **kwargs)
            if self._after_micro_batch is not None and not getattr(self._accelerator, "sync_gradients", True):
                self._after_micro_batch()
            return result

        return backward


def scale_of(accelerator: Any) -> Tensor | None:
    """What gradients are multiplied by under mixed precision in float16, None without a scaler."""
    scaler = getattr(accelerator, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return None
    scale: Tensor | None = scaler._get_scale_async()
    return scale
