"""What a monitor learns of the training that it is in: the trainer, its settings, its backends."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rldk_tracking.journal.publisher import Publisher
from rldk_tracking.journal.settings import Settings
from rldk_tracking.messages.arguments import shown
from rldk_tracking.messages.seen import note
from rldk_tracking.probes.base import Training
from rldk_tracking.rollout import RunInfo
from rldk_tracking.run import Run
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.registry import trackers_for

logger = logging.getLogger(__name__)

_QUOTED = (
    "learning_rate",
    "beta",
    "kl_coef",
    "num_generations",
    "num_iterations",
    "temperature",
    "max_completion_length",
    "response_length",
    "max_grad_norm",
    "gradient_accumulation_steps",
    "per_device_train_batch_size",
    "steps_per_generation",
    "max_staleness",
    "weight_sync_steps",
    "max_inflight_tasks",
    "num_ppo_epochs",
    "num_mini_batches",
    "cliprange",
    "epsilon",
    "missing_eos_penalty",
    "warmup_steps",
    "lr_scheduler_type",
    "logging_steps",
    "max_steps",
)
"""Settings of the trainer that alerts quote. None of them is a secret or a path."""


_RUNS: dict[int, tuple[weakref.ref[Run], Publisher]] = {}
"""The present run of each trainer that lives, by the trainer's id, since TRL 0.29's KTOTrainer cannot be hashed. Its
monitors, which the trainer has, keep the run alive: a reference from here would keep the trainer."""


def run_of(trainer: Any, make: Callable[[], Run]) -> Run:
    """The run of a trainer's present `train()`, made by the first monitor that asks at train begin."""
    known, publisher = _RUNS.get(id(trainer), (lambda: None, None))
    run = known()
    # An exception ended the last `train()`, or nobody would begin again.
    if run is not None and run.is_open:
        run.close("crashed")
    elif publisher is not None and publisher.is_open:
        publisher.close("crashed")
    if run is None or run.closed:
        run = make()
        if id(trainer) not in _RUNS:
            weakref.finalize(trainer, _RUNS.pop, id(trainer), None).atexit = False
        _RUNS[id(trainer)] = weakref.ref(run), run.publisher
    return run


def reference_to(trainer: Any) -> Callable[[], Any]:
    """Gives the trainer that the user named as long as it lives; None where there was none.

    Raises:
        TypeError: it is no trainer.
    """
    if trainer is None:
        return lambda: None
    if not hasattr(trainer, "callback_handler"):
        raise TypeError(f"trainer must be a transformers or TRL trainer, got {shown(trainer)}.")
    return weakref.ref(trainer)


def make_run(trainer: Any, args: Any, state: Any, control: Any, model: Any, optimizer: Any, wishes: Settings) -> Run:
    """A run of a training that begins, with a monitor's wishes."""
    note("training")
    accelerator = getattr(trainer, "accelerator", None)
    device = None if accelerator is None else accelerator.device
    settings = Settings(policy_is_new=not has_trained(trainer))  # which other monitors add to
    settings.adopt(wishes)
    training = Training(trainer, args, model, optimizer, device)
    info = replace(run_info(trainer, args, state, control), saves_view=settings.saves_view)
    return Run(settings, info, training, find_trackers(trainer, settings))


def has_trained(trainer: Any) -> bool:
    """Whether steps of this trainer were seen in an earlier `train()`."""
    _, publisher = (None, None) if trainer is None else _RUNS.get(id(trainer), (None, None))
    return publisher is not None and publisher.latest[0] is not None


def say_late(callback: str, trainer: str) -> None:
    """Training has steps that its callback did not see begin."""
    logger.warning(
        "rldk: %s was added after %s began to train, so nothing of this training is seen: no rows, no alerts. It takes "
        "effect at the next train(). Give it in callbacks=[...], or attach(trainer) before train().",
        callback,
        trainer,
    )


def trainer_above() -> Any:
    """The trainer whose event is being handled: `self` of the nearest frame above that is a transformers Trainer."""
    # Not imported: where nobody has loaded it there is no trainer, and it takes seconds.
    trainer_class = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
    frame = sys._getframe(1)
    while frame is not None and trainer_class is not None:
        candidate = frame.f_locals.get("self") if "self" in frame.f_code.co_varnames else None
        if isinstance(candidate, trainer_class):
            return candidate
        frame = frame.f_back  # type: ignore[assignment]
    return None


def run_info(trainer: Any, args: Any, state: Any, control: Any) -> RunInfo:
    """What trackers and alerts may know of the run."""
    config = {name: getattr(args, name) for name in _QUOTED if getattr(args, name, None) is not None}
    plain = {k: v if isinstance(v, (int, float)) else str(getattr(v, "value", v)) for k, v in config.items()}
    return RunInfo(
        name=getattr(args, "run_name", None),
        output_dir=getattr(args, "output_dir", None),
        trainer="custom" if trainer is None else type(trainer).__name__,
        config=plain,
        args=args,
        state=state,
        control=control,
    )


def find_trackers(trainer: Any, settings: Settings) -> Callable[[], list[Tracker]]:
    """Gives the trackers of a trainer's callbacks, or of the runs that are open in this process."""
    callbacks = list(getattr(getattr(trainer, "callback_handler", None), "callbacks", []))
    is_alone = trainer is None

    def find() -> list[Tracker]:
        return trackers_for(None if is_alone else callbacks, settings.slack, settings.notify, settings.messages)

    return find
