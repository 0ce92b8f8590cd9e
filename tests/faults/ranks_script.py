"""Run by test_ranks.py under torchrun: a real trainer on several ranks, of which one may lag, fail or drift.

torchrun ... ranks_script.py '{"folder": ..., "kind": "grpo", ...}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer, ppo_trainer
from rldk_tracking.isolation import TrainingStopped
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.probes.rollouts import RolloutProbe
from rldk_tracking.ranks import Ranks
from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.memory import InMemoryTracker

RANK = int(os.environ["RANK"])


class Trouble(TrainerCallback):
    """What befalls the last rank."""

    def __init__(self, what: str | None, at: int) -> None:
        self.what = what if int(os.environ["WORLD_SIZE"]) - 1 == RANK else None
        self.at = at
        self.steps: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(int(state.global_step))
        if state.global_step != self.at or self.what is None:
            return
        if self.what == "exception":
            raise RuntimeError("this rank failed")
        if self.what == "drift":
            with torch.no_grad():
                for parameter in kwargs["model"].parameters():
                    parameter.mul_(1.5)


def sample_slowly(model: torch.nn.Module, *_: Any) -> None:
    """Before every token: this rank's machine is slower."""
    if not torch.is_grad_enabled():
        time.sleep(0.03)


class BrokenProbe(RolloutProbe):
    """A diagnostic that fails on the last rank alone, in a middle step."""

    def collect(self, data: Any) -> None:
        super().collect(data)
        if data.step == 2 and int(os.environ["WORLD_SIZE"]) - 1 == RANK:
            data.rollout = object()  # nothing that can be reduced
            raise RuntimeError("a diagnostic failed on one rank")


class Broken(Monitor):
    """Looks with that one."""

    def make_probes(self) -> list[Any]:
        return [BrokenProbe()]


def main(
    folder: str, kind: str = "grpo", trouble: str | None = None, at: int = 2, steps: int = 5, **options: Any
) -> None:
    memory = InMemoryTracker()
    options |= options.pop("other", {}) if RANK > 0 else {}
    options.pop("other", None)
    only = options.pop("only", None)  # the rank that has the callback, of which the others do not know
    if only is not None:
        Ranks.__init__.__kwdefaults__["handshake_s"] = 3.0
    monitors = [Broken()] if options.pop("broken", False) else None
    callback = RLDKCallback(trackers=[memory, JsonlTracker(Path(folder) / "rows")], monitors=monitors, **options)
    befalls = Trouble(trouble, at)
    make = {"grpo": grpo_trainer, "ppo": ppo_trainer}[kind]
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2} if kind == "grpo" else {}
    trainer = make(folder, max_steps=steps, callbacks=[*([callback] if only in (None, RANK) else []), befalls], **batch)
    if befalls.what == "slow":
        trainer.model.register_forward_pre_hook(sample_slowly)
    ended = "train"
    begin = time.monotonic()
    try:
        trainer.train()
    except TrainingStopped as stop:
        ended = f"stopped at {stop.step}"
    result = {
        "ended": ended,
        "seconds": time.monotonic() - begin,
        "steps": befalls.steps,
        "last": int(trainer.state.global_step),
        "series": memory.series,
        "alerts": [[a.rule, a.state, a.step] for a in callback.alerts],
        "told": [[a.rule, a.state, a.step] for a in memory.alerts],
    }
    (Path(folder) / f"rank-{RANK}.json").write_text(json.dumps(result))
    # gloo's thread needs the interpreter to free its last work. A group's destructor waits for that thread and lets
    # nobody have the interpreter, so the thread has to have been first.
    time.sleep(0.2)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
