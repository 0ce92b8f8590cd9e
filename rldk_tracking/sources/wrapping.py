"""A method of one object with something around it until it is put back, and what stands around a trainer's methods:

| class | of | what it tells |
|---|---|---|
| `AcceleratorWatch` | the accelerator | when gradients are about to be clipped, and the end of a micro-batch |
| `PhaseWatch` | the trainer and its accelerator | which part of a step the trainer is in |
| `Stopwatch` | any object | how long some of its methods take |
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import Tensor

_ABSENT = object()
_LAYER = "_rldk_layer"


class Wrapped:
    """Replaces `owner.name` from construction to `restore`. Several may lie over each other, and go in any order.

    Args:
        owner: the object whose method is wrapped.
        name: the method.
        around: takes the original, bound to its owner, and returns the function that is called in its place.
    """

    def __init__(self, owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._owner = owner
        self._name = name
        self._is_restored = False
        self._before = vars(owner).get(name, _ABSENT)
        self._installed = around(getattr(owner, name))
        setattr(self._installed, _LAYER, self)
        setattr(owner, name, self._installed)

    def restore(self) -> None:
        """Put the method back as it was, unless somebody has wrapped it again since: then theirs must stay whole.

        Where that was another of these, this one goes with it.
        """
        self._is_restored = True
        layer: Wrapped | None = self
        while layer is not None and layer._is_restored:
            layer = layer._lift()

    def _lift(self) -> Wrapped | None:
        """Put back what was there before, and return the layer that lies bare then."""
        if vars(self._owner).get(self._name) is not self._installed:
            return None
        if self._before is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)
        below = getattr(self._before, _LAYER, None)
        # Who wraps with `functools.wraps` takes our mark along.
        return below if isinstance(below, Wrapped) and below._installed is self._before else None


def local_variables(trainer: Any, method: str) -> set[str]:
    """Names of the local variables of a method, of the trainer's class and of those above it."""
    found: set[str] = set()
    for kind in type(trainer).__mro__:
        code = getattr(inspect.unwrap(vars(kind)[method]), "__code__", None) if method in vars(kind) else None
        if code is not None:
            found |= {*code.co_varnames, *code.co_cellvars}
    return found


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


Phase = Literal["starting", "sampling", "reward", "backward", "step", "saving", "evaluation", "between", "ending"]

SCORING = "_generate_and_score_completions"
METHODS: dict[str, Phase] = {
    SCORING: "sampling",
    "_calculate_rewards": "reward",
    "_save_checkpoint": "saving",
    "evaluate": "evaluation",
    "generate_completions": "evaluation",
}


class PhaseWatch:
    """Tells `beat` when a trainer's phases begin and end, until `detach`.

    | method | of | phase |
    |---|---|---|
    | `_generate_and_score_completions` | the trainer (GRPO, RLOO) | sampling |
    | `_calculate_rewards` | the trainer (GRPO, RLOO) | reward |
    | `backward` | its accelerator | backward, and "step" after it |
    | `_save_checkpoint` | the trainer | saving |
    | `evaluate` | the trainer | evaluation |
    | `generate_completions` | the trainer (PPO) | evaluation |

    A method that a trainer does not have is left out: its time is then the phase's that it lies in.

    Args:
        trainer: a transformers or TRL trainer.
        beat: takes the phase that begins, and returns the one that it ends. It must not raise.
    """

    def __init__(self, trainer: Any, beat: Callable[[Phase], Phase]) -> None:
        self._beat = beat
        self._wrapped = [
            Wrapped(trainer, name, self._around(phase, None))
            for name, phase in METHODS.items()
            if callable(getattr(trainer, name, None))
        ]
        accelerator = getattr(trainer, "accelerator", None)
        if callable(getattr(accelerator, "backward", None)):
            # What follows a backward pass is the rest of the step, also in a loop that says of no step's beginning.
            self._wrapped.append(Wrapped(accelerator, "backward", self._around("backward", "step")))

    def detach(self) -> None:
        """Put the methods back as they were."""
        for wrapped in self._wrapped:
            wrapped.restore()
        self._wrapped = []

    def _around(self, phase: Phase, after: Phase | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """What to call in a method's place: it says that `phase` begins, and at its end that `after` does.

        Without `after` it is the phase that was before: a reward lies within sampling, sampling within evaluation.
        """

        def around(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def method(*args: Any, **kwargs: Any) -> Any:
                before = self._beat(phase)
                try:
                    return original(*args, **kwargs)
                finally:
                    self._beat(before if after is None else after)

            return method

        return around


EXCHANGES = ("gather", "gather_for_metrics")
"""Methods of an accelerator in which TRL's trainers wait for each other after sampling. The rank that lags waits least.

Waiting in a backward pass, or for another rank's reward function in GRPO, is not seen, and of a GPU only what the host
waits for."""
BESIDE_STEPS = tuple(name for name, phase in METHODS.items() if phase in ("saving", "evaluation"))
"""Methods of a trainer that are no part of a step."""


class Stopwatch:
    """How long the calls of some methods of an object take, until `detach`. A call within another counts once.

    Args:
        owner: the object.
        names: its methods; those that it does not have are left out.

    Attributes:
        seconds: the time so far.
    """

    def __init__(self, owner: Any, names: Iterable[str]) -> None:
        self.seconds = 0.0
        self._taken = 0.0
        self._inside = False
        self._wrapped = [Wrapped(owner, name, self._around) for name in names if callable(getattr(owner, name, None))]

    def take(self) -> float:
        """Seconds since the last call."""
        taken, self._taken = self._taken, self.seconds
        return self.seconds - taken

    def detach(self) -> None:
        """Put the methods back as they were."""
        for wrapped in self._wrapped:
            wrapped.restore()
        self._wrapped = []

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # one of the methods calls the other
                return original(*args, **kwargs)
            self._inside, begin = True, time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begin
                self._inside = False

        return timed
