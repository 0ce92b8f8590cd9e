"""A language model small enough to train on a CPU in seconds, a task on which it learns, and trainers for both."""

from rldk_tracking.demo.model import tiny_model, tiny_tokenizer
from rldk_tracking.demo.task import expected_digit, prompts, reward
from rldk_tracking.demo.trainers import grpo_trainer, ppo_trainer, rloo_trainer

__all__ = [
    "expected_digit",
    "grpo_trainer",
    "ppo_trainer",
    "prompts",
    "reward",
    "rloo_trainer",
    "tiny_model",
    "tiny_tokenizer",
]
