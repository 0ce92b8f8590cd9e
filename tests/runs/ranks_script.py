"""Run by test_ranks.py under torchrun: trainers on several ranks, and what the rows should be by a gather of their own.

torchrun ... ranks_script.py FOLDER grpo|ppo|custom
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.task import reward
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs import conftest, ppo_spy
from tests.runs.group_spy import GroupSpy, Reader
from tests.runs.slow import rollout_keys

STEPS, GLOBAL_ROWS, GROUP = 3, 24, 8
COLLECTIVES = [
    *("all_gather_into_tensor", "all_reduce", "all_gather", "broadcast", "reduce", "gather", "scatter", "barrier"),
    *("all_gather_object", "gather_object", "broadcast_object_list", "reduce_scatter_tensor"),
]

calls: Counter[str] = Counter()


def count_our_collectives() -> None:
    """Every collective that a module of the package asks for; those of the trainers are not counted."""
    for name in COLLECTIVES:
        original = getattr(dist, name)

        def counted(*args: Any, original: Callable[..., Any] = original, name: str = name, **kwargs: Any) -> Any:
            calls[name] += sys._getframe(1).f_globals["__name__"].startswith("rldk_tracking")
            return original(*args, **kwargs)

        setattr(dist, name, counted)


def silent_on_the_second_rank(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float | None]:
    scores = conftest.shortness(completions)
    return [None] * len(scores) if os.environ["RANK"] == "1" else list(scores)


def from_all(mine: list[Any]) -> list[Any]:
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def grpo(folder: Path, callback: RLDKCallback) -> dict[int, dict[str, float]]:
    """Groups of 8 of which some lie on two ranks, and a function that scores nothing on one rank."""
    spy = GroupSpy()
    trainer = conftest.grpo_trainer(
        folder,
        max_steps=STEPS,
        callbacks=[callback, spy],
        per_device_train_batch_size=GLOBAL_ROWS // 2 // dist_world(),
        gradient_accumulation_steps=2,
        num_generations=GROUP,
        num_iterations=2,
        epsilon=0.02,
        reward_funcs=[reward, silent_on_the_second_rank],
        reward_weights=[1.0, 0.5],
    )
    spy.trainer = trainer
    trainer.train()
    reader, expected, earlier = Reader(spy), {}, []
    for number, step in spy.steps.items():
        batch, rows = from_all(reader.completions(step)), from_all(reader.trained(step))
        of_batch = rollout_keys(batch, reader.weights, earlier) if batch else {}
        earlier += [c.score for c in batch if c.score is not None]
        expected[number] = of_batch | reader.update_of(rows)
        expected[number]["rldk/grad/norm"] = step.logs["grad_norm"] if step.logs else 0.0
        expected[number]["rldk/policy/entropy"] = step.logs["entropy"] if step.logs else 0.0
        if step.logs and "num_tokens" in step.logs:  # under the trainer's own name
            expected[number]["num_tokens"] = step.logs["num_tokens"]
    return expected


def ppo(folder: Path, callback: RLDKCallback) -> dict[int, dict[str, float]]:
    from trl.experimental.ppo import ppo_trainer as module

    spy = ppo_spy.PPOSpy(module.selective_log_softmax)
    module.selective_log_softmax = spy.selective
    trainer = conftest.ppo_trainer(
        folder, max_steps=STEPS, callbacks=[callback, spy], per_device_train_batch_size=4, cliprange=0.02
    )
    trainer.train()
    expected = {}
    for number, update in spy.steps.items():
        batch = from_all(ppo_spy.completions(update, has_stop_token=True))
        expected[number] = ppo_spy.rollout(batch)
        expected[number] |= ppo_spy.policy(from_all(ppo_spy.trained(update)), trainer.args.cliprange)
        # Every rank has the same number of micro-batches.
        parts = from_all([ppo_spy.losses(update, trainer.args)])
        expected[number] |= {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
    return expected


def custom(folder: Path, callback: RLDKCallback) -> dict[int, dict[str, float]]:
    """A loop of the user's own in which another rank has nothing at each step, in two ways."""
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    expected = {}
    for step in range(1, 5):
        generator = torch.Generator().manual_seed(100 * step + rank)
        rows = 0 if ranks > 1 and rank == (step // 2 + 1) % ranks else 6
        scores = torch.randn(rows, generator=generator)
        mask = torch.arange(5) < torch.randint(1, 6, (rows, 1), generator=generator)
        rollout = Rollout(mask=mask, scores=scores, rewards={"task": scores}, reward_weights={"task": 2.0})
        callback.observe(rollout if rows or step % 2 else None, step=step)
        everything = torch.tensor(from_all(scores.tolist()))
        expected[step] = {
            "rldk/reward/mean": float(everything.double().mean()),
            "rldk/reward/std": float(everything.double().std()),
            "rldk/reward/function/task/mean": float(everything.double().mean()),
            "rldk/length/mean": float(torch.tensor(from_all(mask.sum(1).tolist())).double().mean()),
        }
    callback.close()
    return expected


def dist_world() -> int:
    return int(os.environ["WORLD_SIZE"])


def main(folder: Path, kind: str) -> None:
    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], charts=["num_tokens"], strict=kind != "grpo")
    count_our_collectives()
    expected = {"grpo": grpo, "ppo": ppo, "custom": custom}[kind](folder, callback)
    rows: dict[int, dict[str, float]] = {}
    for key, points in tracker.series.items():
        for step, value in points:
            rows.setdefault(step, {})[key] = value
    result = {"rows": rows, "calls": dict(calls), "latest": callback.run.latest if callback.run else {}}
    (folder / f"{kind}-{os.environ['RANK']}.json").write_text(json.dumps(result | {"expected": expected}))
    if dist.is_initialized():
        dist.barrier()  # gloo aborts a rank whose peer goes first
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
