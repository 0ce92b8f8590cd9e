"""Started on several ranks by test_trl_grpo.py: trains one step and writes what this rank's source saw."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from rldk_tracking import demo
from rldk_tracking.isolation import Shield
from rldk_tracking.sources.trl_grpo import GroupSource


class Look(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        source.attach(trainer, Shield())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "train_runtime" in logs:
            return
        seen = source.read(state.global_step, logs)
        rollout, update = seen.rollout, seen.update
        earned = torch.tensor(demo.reward(rollout.prompts, rollout.completions))
        found = {
            "scores_are_earned": torch.allclose(rollout.scores, earned),
            "scores": rollout.scores.tolist(),
            "groups": rollout.group_ids.tolist(),
            "prompts": rollout.prompts,
            "advantages": rollout.advantages.tolist(),
            "logprobs_known": bool(rollout.logprobs[rollout.mask].isfinite().all()),
            "update_rows": len(update.mask),
            "rows": source.rows_per_rank,
            "logged": logs["reward"],
        }
        (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found), encoding="utf-8")


folder = Path(sys.argv[1])
settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 4}
trainer = demo.grpo_trainer(folder / "out", max_steps=1, callbacks=[Look()], **settings)
source = GroupSource(trainer)
trainer.train()
