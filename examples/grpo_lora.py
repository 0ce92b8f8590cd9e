"""GRPO of a LoRA adapter. Updates and checkpoints are judged by the effective weights, `W + scale * B A`.

python examples/grpo_lora.py
rldk-tracking checkpoint grpo_output                 # what was saved
"""

import random
import re

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from rldk_tracking import RLDKCallback

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
GPU = torch.cuda.is_available()


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
            report_to="none",
            max_steps=20,
            learning_rate=1e-4,
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
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[diagnostics],
    )
    trainer.train()

    latest = diagnostics.metrics
    print(f"step {latest.step}: reward {latest.reward_mean:.2f}, gradient norm {latest.grad_norm:.3g}")
    for alert in diagnostics.alerts:
        print(f"step {alert.step}: {alert.title}: {alert.message}")
