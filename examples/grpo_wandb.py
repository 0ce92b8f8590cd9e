"""GRPO with its health in a W&B run, by the name in `report_to` alone: no callback is passed.

python examples/grpo_wandb.py                        # offline where W&B has no key
wandb leet                                           # look at it in the terminal
rldk-tracking charts wandb ENTITY/sums               # save the charts as a view of the project
"""

import os
import random
import re

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import rldk_tracking  # noqa: F401  makes the name "rldk" known

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
GPU = torch.cuda.is_available()

os.environ.setdefault("WANDB_PROJECT", "sums")
if "WANDB_API_KEY" not in os.environ:
    os.environ.setdefault("WANDB_MODE", "offline")


def sums(number: int) -> Dataset:
    """Questions, with a column that the reward function is given."""
    pairs = [(random.randint(1, 50), random.randint(1, 50)) for _ in range(number)]
    questions = [f"What is {a} + {b}? Answer with the number alone: " for a, b in pairs]
    return Dataset.from_dict({"prompt": questions, "answer": [a + b for a, b in pairs]})


def correct(completions: list[str], answer: list[int], **_: object) -> list[float]:
    """1 where the first number is the right one, 0.1 for another number, 0 without any."""
    numbers = [re.search(r"\d+", completion) for completion in completions]
    return [
        0.0 if found is None else 1.0 if int(found.group()) == right else 0.1
        for found, right in zip(numbers, answer, strict=True)
    ]


if __name__ == "__main__":
    trainer = GRPOTrainer(
        model=MODEL,
        reward_funcs=correct,
        args=GRPOConfig(
            output_dir="grpo_output",
            run_name="grpo",
            report_to=["wandb", "rldk"],
            max_steps=20,
            learning_rate=1e-5,
            beta=0.02,
            per_device_train_batch_size=16,
            num_generations=8,
            max_completion_length=32,
            logging_steps=1,
            save_steps=10,
            use_cpu=not GPU,
            bf16=GPU,
        ),
        train_dataset=sums(512),
    )
    trainer.train()
