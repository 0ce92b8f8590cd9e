"""Gradients as they are before accelerate's `clip_grad_norm_` scales them down, and to which norm it does so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

Listener = Callable[[float | None, Tensor | None], None]


class ClippingWatch:
    """Stands before one accelerator's `clip_grad_norm_`, which transformers' Trainer calls once a real step.

    Args:
        accelerator: accelerate's `Accelerator`. Only this instance is touched, until `detach`.
        listener: is told the limit (None where the norm is only read) and the gradient scaler's scale (None without
            one), right before the original is called.
    """

    def __init__(self, accelerator: Any, listener: Listener) -> None:
        self._accelerator: Any = accelerator
        self._original = accelerator.clip_grad_norm_
        self._listener: Listener | None = listener

        def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            parameters = list(parameters)
            if self._listener is not None:
                limit = float(max_norm)
                self._listener(limit if math.isfinite(limit) else None, scale_of(accelerator))
            return self._original(parameters, max_norm, *args, **kwargs)

        self._installed = clip_grad_norm_
        accelerator.clip_grad_norm_ = clip_grad_norm_

    def detach(self) -> None:
        """Put the accelerator back as it was; where others have wrapped it since, fall silent."""
        self._listener = None
        if self._accelerator.__dict__.get("clip_grad_norm_") is self._installed:
            self._accelerator.clip_grad_norm_ = self._original


def scale_of(accelerator: Any) -> Tensor | None:
    """What gradients are multiplied by under mixed precision in float16, None without a scaler."""
    scaler = getattr(accelerator, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return None
    scale: Tensor | None = scaler._get_scale_async()
    return scale
