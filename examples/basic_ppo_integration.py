"""PPO with everything at its defaults. TRL has a PPOTrainer up to release 1.12.

    python examples/basic_ppo_integration.py

`RLDKCallback` reads the rollouts, the optimiser, the machine and the checkpoints; `PPOMonitor` beside it adds a limit
of our own. Both share one run: no series and no alert comes twice. With `output_dir` everything is also written to a
file of JSON lines; where `report_to` names a tracker, it goes there too.
"""

import copy

from datasets import Dataset
from transformers import Qwen2ForSequenceClassification
from trl.experimental.ppo import PPOConfig, PPOTrainer

from rldk_tracking import PPOMonitor, RLDKCallback
from rldk_tracking.demo import prompts, tiny_model, tiny_tokenizer
from rldk_tracking.demo.trainers import DigitReward

policy = tiny_model()
value_config = copy.deepcopy(policy.config)
value_config.num_labels = 1
tokenizer = tiny_tokenizer()

diagnostics = RLDKCallback(output_dir="rldk_logs")
ppo = PPOMonitor(kl_threshold=2.0, output_dir="rldk_logs")

trainer = PPOTrainer(
    args=PPOConfig(
        output_dir="ppo_output",
        report_to="none",
        learning_rate=1e-3,
        total_episodes=16 * 15,
        per_device_train_batch_size=16,
        num_mini_batches=2,
        num_ppo_epochs=2,
        local_rollout_forward_batch_size=16,
        response_length=8,
        stop_token="eos",
        temperature=1.0,
        num_sample_generations=0,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    ),
    processing_class=tokenizer,
    model=policy,
    ref_model=copy.deepcopy(policy),
    reward_model=DigitReward(),
    value_model=Qwen2ForSequenceClassification(value_config),
    train_dataset=Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in prompts(256)]}),
    callbacks=[diagnostics, ppo],
)
trainer.train()

print(ppo.metrics)
for alert in diagnostics.alerts:
    print(f"step {alert.step}: {alert.title}: {alert.message}")
