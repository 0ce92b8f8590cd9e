"""Which part of a step a trainer is in, said at the beginning and end of the methods that are those parts.

| method | of | phase |
|---|---|---|
| `_generate_and_score_completions` | the trainer (GRPO, RLOO) | sampling |
| `_calculate_rewards` | the trainer (GRPO, RLOO) | reward |
| `backward` | its accelerator | backward, and "step" after it |
| `_save_checkpoint` | the trainer | saving |
| `evaluate` | the trainer | evaluation |
| `generate_completions` | the trainer (PPO) | evaluation |

A method that a trainer does not have is left out: its time is then the phase's that it lies in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

from rldk_tracking.sources.wrapping import Wrapped

Phase = Literal["starting", "sampling", "reward", "backward", "step", "saving", "evaluation", "between", "ending"]

SAMPLING = "_generate_and_score_completions"
METHODS: dict[str, Phase] = {
    SAMPLING: "sampling",
    "_calculate_rewards": "reward",
    "_save_checkpoint": "saving",
    "evaluate": "evaluation",
    "generate_completions": "evaluation",
}


class PhaseWatch:
    """Tells `beat` when a trainer's phases begin and end, until `detach`.

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
