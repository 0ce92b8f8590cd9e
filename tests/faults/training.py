"""A training in a process of its own, for tests that end it: `python training.py '{"folder": ..., ...}'`.

Prints `step N W` when step N is over and logged, where W are the milliseconds that the step before it waited for us.
What it was told to do at some step happens after that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.slack import SlackNotifier
from rldk_tracking.trackers.wandb import WandbTracker
from tests.faults.scenario import Outcome, clock

RANK, RANKS = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))


class End(TrainerCallback):
    """Ends the process of the last rank after a step, as it is told: in the next one's first instant, or its middle."""

    def __init__(self, how: str | None, step: int, middle: bool, outcome: Outcome) -> None:
        self.how, self.step, self.middle = how if RANK == RANKS - 1 else None, step, middle
        self.outcome = outcome

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if RANK == 0 and "train_runtime" not in logs:
            wait = 1000 * self.outcome.waits.get(state.global_step - 1, 0.0)
            print(f"step {state.global_step} {wait:.3f}", flush=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.middle:
            self._end(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Completions are sampled, and gradients computed."""
        if self.middle:
            self._end(state.global_step)

    def _end(self, step: int) -> None:
        if self.how is None or step < self.step:
            return
        if self.how == "exception that is long in printing":
            sys.excepthook = lambda *raised: (time.sleep(3), sys.__excepthook__(*raised))[1]
        if self.how.startswith("exception"):
            raise RuntimeError("the training failed")
        if self.how == "memory":
            raise MemoryError("CUDA out of memory")
        if self.how == "exit":
            sys.exit(3)
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}[self.how])


def forking(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward function that has a child look at each batch, as sandboxes for code do."""
    child = os.fork()
    if child == 0:
        print("a child leaves", flush=True)
        sys.exit(0)
    os.waitpid(child, 0)
    return [float(len(text) % 3) for text in completions]


def main(
    folder: str,
    tracking_uri: str | None = None,
    run_id: str | None = None,
    slack_url: str | None = None,
    wandb_id: str | None = None,
    steps: int = 12,
    end: str | None = None,
    at: int = 8,
    middle: bool = False,
    resume: str | bool | None = None,
    restore_callbacks: bool = False,
    save_steps: int = 0,
    produced: str = "produced",
    forks: bool = False,
    **options: Any,
) -> None:
    """Train; see the module."""
    # A process that a shell started in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    trackers: list[Any] = []
    if tracking_uri is not None:
        trackers.append(MLflowTracker(run_id=run_id, tracking_uri=tracking_uri))
    if slack_url is not None:
        trackers.append(SlackNotifier(slack_url, allow_loopback=True))
    if wandb_id is not None:
        import wandb

        trackers.append(WandbTracker(wandb.init(project="p", id=wandb_id, dir=folder)))
    # The last of those in the process: what it was given, the others were given too.
    trackers.append(JsonlTracker(Path(folder) / produced))
    callback, outcome = RLDKCallback(trackers=trackers, **options), Outcome()
    more: dict[str, Any] = {"save_strategy": "steps", "save_steps": save_steps} if save_steps else {}
    if forks:
        more["reward_funcs"] = forking
    if RANKS > 1:
        more |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    trainer = grpo_trainer(
        folder,
        max_steps=steps,
        callbacks=[callback, End(end, at, middle, outcome)],
        restore_callback_states_from_checkpoint=restore_callbacks,
        **more,
    )
    with clock(outcome, lambda: int(trainer.state.global_step)):
        trainer.train(resume_from_checkpoint=resume)
    changes = [[a.rule, a.state, a.step, a.first_step] for a in callback.alerts]
    print(json.dumps({"alerts": changes, "end": outcome.end}), flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
