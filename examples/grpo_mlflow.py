"""GRPO with its health in an MLflow run. The two lines that matter are marked.

python examples/grpo_mlflow.py                                                # into mlflow.db, in this folder
MLFLOW_TRACKING_URI=https://... python examples/grpo_mlflow.py                # into a server
mlflow ui --backend-store-uri sqlite:///mlflow.db                             # look at the former
"""

import os
import random
import re

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rldk_tracking import RLDKCallback  # one

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
GPU = torch.cuda.is_available()

os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", "sums")


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
    diagnostics = RLDKCallback()
    trainer = GRPOTrainer(
        model=MODEL,
        reward_funcs=correct,
        args=GRPOConfig(
            output_dir="grpo_output",
            run_name="grpo",
            report_to=["mlflow"],
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
        callbacks=[diagnostics],  # two
    )
    trainer.train()

    latest = diagnostics.metrics
    print(f"step {latest.step}: reward {latest.reward_mean:.2f}, entropy {latest.entropy_mean:.2f} nats per token")
    for alert in diagnostics.alerts:
        print(f"step {alert.step}: {alert.title}: {alert.message}")
