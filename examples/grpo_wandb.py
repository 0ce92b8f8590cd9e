"""GRPO with its health in a W&B run, by the name in `report_to` alone: no callback is passed.

python examples/grpo_wandb.py                        # offline where W&B has no key
wandb leet                                           # look at it in the terminal
"""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import rldk_tracking  # noqa: F401  makes the name "rldk" known
from rldk_tracking.demo import prompts, reward, tiny_model, tiny_tokenizer

os.environ.setdefault("WANDB_PROJECT", "grpo")
if "WANDB_API_KEY" not in os.environ:
    os.environ.setdefault("WANDB_MODE", "offline")

trainer = GRPOTrainer(
    model=tiny_model(),
    reward_funcs=reward,
    args=GRPOConfig(
        output_dir="grpo_output",
        report_to=["wandb", "rldk"],
        max_steps=20,
        learning_rate=3e-3,
        beta=0.0,
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=8,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        run_name="grpo",
    ),
    train_dataset=Dataset.from_dict({"prompt": prompts(256)}),
    processing_class=tiny_tokenizer(),
)
trainer.train()
