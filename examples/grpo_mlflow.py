"""GRPO with its health in an MLflow run. The two lines that matter are marked.

python examples/grpo_mlflow.py
mlflow ui --backend-store-uri sqlite:///mlflow.db
"""

import os

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rldk_tracking import RLDKCallback  # one
from rldk_tracking.demo import prompts, reward, tiny_model, tiny_tokenizer

os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", "grpo")

diagnostics = RLDKCallback()
trainer = GRPOTrainer(
    model=tiny_model(),
    reward_funcs=reward,
    args=GRPOConfig(
        output_dir="grpo_output",
        report_to=["mlflow"],
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
    callbacks=[diagnostics],  # two
)
trainer.train()

latest = diagnostics.metrics
print(f"step {latest.step}: reward {latest.reward_mean:.2f}, entropy {latest.entropy_mean:.2f} nats per token")
for alert in diagnostics.alerts:
    print(f"step {alert.step}: {alert.title}: {alert.message}")
