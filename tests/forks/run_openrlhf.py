"""OpenRLHF's own training step, statistics and loggers on a CPU, and what this package reads of what they wrote.

Its trainer needs GPUs: vLLM samples, DeepSpeed trains, and its actors ask Ray for one each. So the batch of a step and
the model are made here; `ActorPPOTrainer.training_step`, `_compute_rollout_stats`, `compute_eval_metrics` and the
loggers are its own. In an environment of its own:

    python -m pip install torch==2.13.0 accelerate aiohttp datasets einops isort jsonlines loralib optree \
        peft pylatexenc "ray[default]==2.55.0" sympy torchdata torchmetrics "transformers==5.15.0" \
        tensorboard wandb "mlflow>=3.8" -e .
    python -m pip install --no-deps openrlhf==0.11.2
    python tests/forks/run_openrlhf.py
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import accelerate  # noqa: F401  before anything stands in for what it looks for
import datasets  # noqa: F401
import peft  # noqa: F401
import torch
import transformers.integrations  # noqa: F401
from result import Result, Training, replayed

STEPS, SIZE, PER_PROMPT, LONGEST = 12, 16, 4, 8
ABSENT = ("deepspeed", "flash_attn", "vllm", "bitsandbytes")
NO_TENSORS = "which no log has: they need the tensors, and OpenRLHF's trainer calls no callback"
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


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules that OpenRLHF imports and that need CUDA. Nothing of them is called."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] in ABSENT else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return MagicMock(name=spec.name, __path__=[], __spec__=spec)

    def exec_module(self, module: Any) -> None:
        """There is nothing in it."""


class Policy(torch.nn.Module):
    """Log-probabilities that a shift moves, in the place of OpenRLHF's `Actor`."""

    def __init__(self, old: torch.Tensor) -> None:
        super().__init__()
        self.old = old
        self.shift = torch.nn.Parameter(torch.tensor(0.01))

    def forward(self, sequences: torch.Tensor, action_mask: torch.Tensor, **_: Any) -> tuple[torch.Tensor, Any]:
        entropy = torch.full(action_mask.shape, 0.7)
        return self.old + self.shift * torch.linspace(-1, 1, LONGEST), SimpleNamespace(entropy=entropy)


def step_of(
    generator: torch.Generator, step: int, estimator: str, entropy: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    """What OpenRLHF logs of a step, and the same quantities straight from the tensors under this package's keys."""
    from openrlhf.models import PolicyLoss
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer
    from openrlhf.trainer.ppo_utils.experience import Experience
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    lengths = torch.randint(2, LONGEST + 1, (SIZE,), generator=generator)
    mask = torch.arange(LONGEST) < lengths[:, None]
    old = -torch.randn(SIZE, LONGEST, generator=generator).abs()
    base = old + 0.2 * torch.randn(SIZE, LONGEST, generator=generator)
    rewards = torch.rand(SIZE, generator=generator) + 0.02 * step
    groups = rewards.reshape(-1, PER_PROMPT)
    spread = groups.std(dim=1)
    experience = Experience(
        sequences=torch.zeros(SIZE, LONGEST + 3, dtype=torch.long),
        attention_mask=torch.ones(SIZE, LONGEST + 3, dtype=torch.long),
        action_mask=mask,
        action_log_probs=old,
        base_action_log_probs=base,
        rollout_log_probs=old,
        advantages=(rewards - rewards.mean())[:, None].expand(-1, LONGEST),
        response_length=lengths.float(),
        total_length=lengths + 3.0,
        truncated=(lengths == LONGEST).float(),
        info={"reward": rewards, "return": rewards, "group_reward_std": spread.repeat_interleave(PER_PROMPT)},
    )
    policy = Policy(old)
    kl = SimpleNamespace(use_loss=True, init_coef=0.01, estimator=estimator, unbiased_gradient=False)
    actor = SimpleNamespace(entropy_coef=0.0 if entropy else None, aux_loss_coef=0.0)
    norm = 0.5 + 0.01 * step
    trainer = SimpleNamespace(
        args=SimpleNamespace(
            algo=SimpleNamespace(kl=kl), actor=actor, train=SimpleNamespace(dynamic_batch_enable=False)
        ),
        actor=policy,
        actor_optim=None,
        actor_scheduler=SimpleNamespace(get_last_lr=lambda: [1e-6]),
        actor_loss_fn=PolicyLoss(0.005, 0.005),
        aux_loss=False,
        ema_model=None,
        replay_buffer=None,
        strategy=SimpleNamespace(
            ring_attn_group=None,
            backward=lambda loss, *_: loss.backward(),
            optimizer_step=lambda *_, **__: None,
            get_grad_norm=lambda _: norm,
        ),
    )
    info = {"dp_size": 1, "batch_num_tokens": mask.sum(), "global_batch_size": torch.tensor(SIZE)}
    status = ActorPPOTrainer.training_step(trainer, experience, 0.01, 0, info)
    # One micro-batch on one rank: what `ppo_train` makes of it are means.
    logged = {
        key: float(value.float().mean()) if isinstance(value, torch.Tensor) else value
        for key, value in status["metrics"].items()
    }
    logged |= BasePPOTrainer._compute_rollout_stats(SimpleNamespace(), [experience])
    logged |= {"timing/ppo_train": 1.0, "generated_samples": ["77:7777", 1.0]}
    new, _ = policy(experience.sequences, mask)
    ratio, advantages = (new - old).exp(), experience.advantages
    clipped = ratio.clamp(0.995, 1.005) * advantages < ratio * advantages
    expected = {
        "rldk/reward/mean": rewards.mean(),
        "rldk/reward/std": rewards.std(),
        "rldk/reward/group_std_mean": spread.mean(),
        "rldk/length/mean": lengths.float().mean(),
        "rldk/length/truncated_fraction": (lengths == LONGEST).float().mean(),
        "rldk/kl/ref_k1": (new - base)[mask].mean(),
        "rldk/policy/clip_fraction": clipped[mask].float().mean(),
        "rldk/grad/norm": torch.tensor(norm),
        "rldk/update/learning_rate": torch.tensor(1e-6),
    }
    if entropy:
        expected["rldk/policy/entropy"] = torch.tensor(0.7)
    return logged, {key: float(value.detach()) for key, value in expected.items()}


def evaluated(generator: torch.Generator) -> tuple[dict[str, Any], float]:
    """What OpenRLHF logs of an evaluation, and the mean reward."""
    from openrlhf.trainer.ppo_trainer import compute_eval_metrics

    rewards = torch.rand(8, generator=generator)
    samples = [
        SimpleNamespace(prompts=[f"p{i // 4}"], rewards=float(one), response_length=None, truncated=None)
        for i, one in enumerate(rewards)
    ]
    prompts = ["p0", "p1"]
    loader = [(["math", "math"], prompts, prompts, prompts)]
    return compute_eval_metrics(loader, samples, 4), float(rewards.mean())


def log(folder: Path, kind: str, estimator: str, entropy: bool) -> dict[str, dict[int, float]]:
    """Twelve steps by one of OpenRLHF's loggers; returns what is expected of them."""
    from openrlhf.utils.logging_utils import TensorboardLogger, WandbLogger

    wandb = SimpleNamespace(key="0" * 40, org=None, project="tiny", group=None, run_name="run")
    arguments = SimpleNamespace(logger=SimpleNamespace(wandb=wandb, tensorboard_dir=str(folder / "tensorboard")))
    logger = (WandbLogger if kind == "W&B" else TensorboardLogger)(arguments)
    generator = torch.Generator().manual_seed(0)
    points: dict[str, dict[int, float]] = {}
    for step in range(1, STEPS + 1):
        logged, values = step_of(generator, step, estimator, entropy)
        logger.log_train(step, logged)
        if step % 4 == 0:
            of_eval, reward = evaluated(generator)
            logger.log_eval(step, of_eval)
            values["rldk/eval/math/reward"] = reward
        for key, value in values.items():
            points.setdefault(key, {})[step] = value
    logger.close()
    if kind == "W&B":
        __import__("wandb").teardown()  # which waits until the file is whole
    return points


def main() -> None:
    """Run all, and write the result."""
    sys.meta_path.insert(0, StandIn())
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    trainings = []
    for kind, estimator, entropy in (("TensorBoard", "k1", True), ("TensorBoard", "k3", False), ("W&B", "k3", True)):
        folder = Path(tempfile.mkdtemp())
        os.environ["WANDB_DIR"] = str(folder)
        points = log(folder, kind, estimator, entropy)
        source = folder / "tensorboard" if kind == "TensorBoard" else next(folder.rglob("offline-run-*"))
        trainings.append(replayed(f"PPO, kl by {estimator}, {kind}", str(source), source.name, points, EXPECTED))
    cannot = "its actors ask Ray for a GPU each (`@ray.remote(num_gpus=1)`), vLLM samples and DeepSpeed trains."
    trainings.append(Training("train_ppo_ray", "python -m openrlhf.cli.train_ppo_ray", cannot=cannot))
    result = Result(
        "OpenRLHF",
        date.today().isoformat(),
        "its training step and statistics on tensors, its loggers",
        {one: version(one) for one in ("openrlhf", "torch", "transformers", "wandb")},
        trainings,
        [f"Stubbed, and nothing of them is called: {', '.join(ABSENT)}, which need CUDA."],
    )
    for one in trainings:
        sys.stdout.write(
            f"{one.trainer}: {one.series} series, {one.compared} compared, {len(one.differing)} differing\n"
        )
        sys.stdout.writelines(f"  {line}\n" for line in one.differing[:5])
    result.write("openrlhf")


if __name__ == "__main__":
    main()
