"""verl's own metric functions on real tensors, written by its own loggers, and what this package reads of them.

Its trainer needs a GPU: every rollout that it has is a server of vLLM or SGLang. So each step's batch is made here,
its functions compute what `ray_trainer.py` would log, and `verl.utils.tracking.Tracking` writes it. In an environment
of its own:

    python -m pip install torch==2.13.0 accelerate codetiming datasets dill hydra-core "numpy>=2" orjson pandas peft \
        "pyarrow>=19" pylatexenc "ray[default]>=2.41.0" torchdata "tensordict>=0.9.1,<=0.10.0" \
        "transformers>=5.5.3,<5.11" tensorboard "mlflow>=3.8" -e .
    python -m pip install --no-deps verl==0.9.1
    python tests/forks/run_verl.py
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from result import Result, Training, replayed

STEPS, GROUPS, PER_GROUP, PROMPT, LONGEST, BETA = 12, 8, 4, 5, 9, 0.05
NO_TENSORS = "which no log has: they need the tensors, and verl's trainer calls no callback"
EXPECTED = {
    NO_TENSORS: [
        "rldk/advantage/std",
        "rldk/diversity/distinct_2",
        "rldk/kl/ref_p99",
        "rldk/nan/reward",
        "rldk/policy/ess",
        "rldk/reward/group_tied_fraction",
    ],
}


def batch(generator: torch.Generator, step: int, *, critic: bool) -> Any:
    """What a step of verl's trainer has: B prompts and responses, padded left and right."""
    from verl import DataProto

    size = GROUPS * PER_GROUP
    lengths = torch.randint(2, LONGEST + 1, (size,), generator=generator)
    mask = (torch.arange(LONGEST) < lengths[:, None]).long()

    def normal(scale: float) -> torch.Tensor:
        return scale * torch.randn(size, LONGEST, generator=generator)

    rollout = -normal(1.0).abs()
    old = rollout + normal(0.01)
    scores = torch.zeros(size, LONGEST)
    scores[torch.arange(size), lengths - 1] = torch.rand(size, generator=generator) + 0.02 * step
    tensors = {
        "prompts": torch.zeros(size, PROMPT, dtype=torch.long),
        "responses": torch.ones(size, LONGEST, dtype=torch.long) * mask,
        "attention_mask": torch.cat([torch.ones(size, PROMPT, dtype=torch.long), mask], dim=1),
        "response_mask": mask,
        "rollout_log_probs": rollout,
        "old_log_probs": old,
        "log_probs": old + normal(0.05),
        "ref_log_prob": old + normal(0.2),
        "token_level_scores": scores,
        "token_level_rewards": scores,
        "entropys": 1 + normal(0.1).abs(),
    }
    if critic:
        tensors |= {"values": 0.3 + normal(0.1), "vpreds": 0.3 + normal(0.1)}
    groups = np.repeat(np.arange(GROUPS), PER_GROUP).astype(str).astype(object)
    found = DataProto.from_dict(tensors=tensors, non_tensors={"uid": groups})
    found.meta_info["global_token_num"] = tensors["attention_mask"].sum(dim=1).tolist()
    return found


def metrics_of(data: Any, step: int, *, critic: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """What verl logs of a step, and the same quantities straight from the tensors under this package's keys."""
    from verl.trainer.ppo import core_algos, metric_utils, ray_trainer
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
    from verl.utils.debug.metrics import calculate_debug_metrics
    from verl.workers.config import FSDPActorConfig

    tensors, mask = data.batch, data.batch["response_mask"].bool()
    logged: dict[str, Any] = {"training/global_step": step, "training/epoch": 0}
    logged |= calculate_debug_metrics(data)
    logged |= compute_rollout_correction_and_rejection_mask(
        tensors["old_log_probs"], tensors["rollout_log_probs"], tensors["response_mask"]
    )[2]
    if critic:
        data, penalty = ray_trainer.apply_kl_penalty(data, core_algos.FixedKLController(BETA))
        logged |= penalty
        advantages, returns = core_algos.compute_gae_advantage_return(
            tensors["token_level_rewards"],
            tensors["values"],
            tensors["response_mask"],
            torch.tensor(1.0),
            torch.tensor(0.95),
        )
        value_loss, clipped = core_algos.compute_value_loss(
            tensors["vpreds"], returns, tensors["values"], tensors["response_mask"], cliprange_value=0.2
        )
        logged |= {"critic/vf_loss": value_loss.item(), "critic/vf_clipfrac": clipped.item(), "critic/lr": 1e-5}
    else:
        advantages, returns = core_algos.compute_grpo_outcome_advantage(
            tensors["token_level_rewards"], tensors["response_mask"], data.non_tensor_batch["uid"]
        )
        kl = core_algos.kl_penalty(tensors["log_probs"], tensors["ref_log_prob"], "low_var_kl")
        kl_loss = core_algos.agg_loss(kl, tensors["response_mask"], "token-mean")
        logged |= {"actor/kl_loss": kl_loss.item(), "actor/kl_coef": BETA}
    tensors["advantages"], tensors["returns"] = advantages, returns
    config = FSDPActorConfig(strategy="fsdp", rollout_n=PER_GROUP, ppo_micro_batch_size_per_gpu=4)
    loss, of_policy = core_algos.compute_policy_loss_vanilla(
        tensors["old_log_probs"], tensors["log_probs"], advantages, tensors["response_mask"], "token-mean", config
    )
    entropy = core_algos.agg_loss(tensors["entropys"], tensors["response_mask"], "token-mean")
    logged |= of_policy | {"actor/pg_loss": loss.item(), "actor/entropy": entropy.item()}
    logged |= {"actor/grad_norm": 0.5 + 0.01 * step, "actor/lr": 1e-6}
    seconds = {"gen": 1.0, "step": 2.0 + 0.1 * step, "update_actor": 0.5}
    logged |= metric_utils.compute_data_metrics(data, use_critic=critic)
    logged |= metric_utils.compute_timing_metrics(data, seconds)
    logged |= metric_utils.compute_throughout_metrics(data, seconds, n_gpus=1)
    if step % 4 == 0:
        rewards = np.random.default_rng(step).random(16)
        trainer = SimpleNamespace()
        logged |= ray_trainer.RayPPOTrainer._val_metrics_update(
            trainer, ["gsm8k"] * 16, [str(i // 2) for i in range(16)], {"reward": rewards.tolist()}, []
        )
    return logged, expected(tensors, mask, loss, step, critic=critic)


def expected(
    tensors: Mapping[str, torch.Tensor], mask: torch.Tensor, loss: torch.Tensor, step: int, *, critic: bool
) -> dict[str, float]:
    """The same quantities in plain tensor arithmetic."""
    scores, lengths = tensors["token_level_scores"].sum(dim=1), mask.sum(dim=1).float()
    to_sampler = (tensors["old_log_probs"] - tensors["rollout_log_probs"])[mask]
    found = {
        "rldk/reward/mean": scores.mean(),
        "rldk/reward/min": scores.min(),
        "rldk/reward/max": scores.max(),
        "rldk/length/mean": lengths.mean(),
        "rldk/length/min": lengths.min(),
        "rldk/length/max": lengths.max(),
        "rldk/length/truncated_fraction": (lengths == LONGEST).float().mean(),
        "rldk/advantage/mean": tensors["advantages"][mask].mean(),
        "rldk/policy/entropy": tensors["entropys"][mask].mean(),
        "rldk/sampler/k3": (to_sampler.exp() - 1 - to_sampler).mean(),
        "rldk/train/loss": loss,
        "rldk/grad/norm": torch.tensor(0.5 + 0.01 * step),
        "rldk/update/learning_rate": torch.tensor(1e-6),
        "rldk/throughput/step_seconds": torch.tensor(2.0 + 0.1 * step),
    }
    if critic:
        found["rldk/value/mean"] = tensors["values"][mask].mean()
        kl = (tensors["old_log_probs"] - tensors["ref_log_prob"]) * mask
        found["rldk/kl/ref_k1"] = (kl.sum(dim=1) / lengths).mean()
    else:
        log_ratio = (tensors["ref_log_prob"] - tensors["log_probs"])[mask]
        found["rldk/kl/ref_k3"] = (log_ratio.exp() - 1 - log_ratio).mean()
    return {key: float(value) for key, value in found.items()}


def log(folder: Path, *, critic: bool) -> dict[str, dict[int, float]]:
    """Twelve steps by verl's loggers; returns what is expected of them."""
    from verl.utils.tracking import Tracking

    os.environ["VERL_FILE_LOGGER_PATH"] = str(folder / "verl.jsonl")
    os.environ["TENSORBOARD_DIR"] = str(folder / "tensorboard")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    generator = torch.Generator().manual_seed(0)
    points: dict[str, dict[int, float]] = {}
    console = io.StringIO()
    with contextlib.redirect_stdout(console):
        tracking = Tracking("tiny", "run", ["console", "file", "tensorboard", "mlflow"], config={"trainer": {}})
        for step in range(1, STEPS + 1):
            logged, values = metrics_of(batch(generator, step, critic=critic), step, critic=critic)
            tracking.log(data=logged, step=step)
            for key, value in values.items():
                points.setdefault(key, {})[step] = value
        tracking.finish()
    # Under Ray each line of the console has the process that printed it before it.
    lines = [f"(TaskRunner pid=17) {line}" for line in console.getvalue().splitlines()]
    (folder / "console.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return points


def main() -> None:
    """Run all, and write the result."""
    import mlflow

    trainings = []
    for name, critic in (("PPO", True), ("GRPO", False)):
        folder = Path(tempfile.mkdtemp())
        points = log(folder, critic=critic)
        run = mlflow.MlflowClient().search_runs([e.experiment_id for e in mlflow.MlflowClient().search_experiments()])[
            0
        ]
        sources = {"file": str(folder / "verl.jsonl")}
        if critic:
            sources["console"] = str(folder / "console.log")
            sources["TensorBoard"] = str(folder / "tensorboard")
            sources["MLflow"] = f"mlflow:{run.info.run_id}"
        for logger, source in sources.items():
            shown = f"{source.split(':')[0]}:RUN_ID" if ":" in source else Path(source).name
            trainings.append(replayed(f"{name}, {logger}", source, shown, points, EXPECTED))
    trainings.append(
        Training(
            "main_ppo under Ray",
            "python -m verl.trainer.main_ppo",
            cannot="its only rollouts are servers of vLLM and SGLang (`_ROLLOUT_REGISTRY`), which need a GPU.",
        )
    )
    names = ("verl", "torch", "tensordict", "mlflow")
    result = Result(
        "verl",
        date.today().isoformat(),
        "its metric functions on tensors, its loggers",
        {one: version(one) for one in names},
        trainings,
        ["Nothing is stubbed: `compute_data_metrics`, `compute_policy_loss_vanilla`, `apply_kl_penalty`, "
         "`compute_rollout_correction_and_rejection_mask`, `_val_metrics_update` and `Tracking` are verl's."],
    )  # fmt: skip
    for one in trainings:
        sys.stdout.write(
            f"{one.trainer}: {one.series} series, {one.compared} compared, {len(one.differing)} differing\n"
        )
        sys.stdout.writelines(f"  {line}\n" for line in one.differing[:5])
    result.write("verl")


if __name__ == "__main__":
    main()
