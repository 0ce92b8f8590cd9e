#!/usr/bin/env bash
# PPO with verl, whose Tracking gets one more logger. DATA has verl's gsm8k: train.parquet and test.parquet.
#
# DATA=~/data/gsm8k bash examples/verl_ppo.sh
set -euo pipefail

export VERL_USE_EXTERNAL_MODULES=rldk_tracking.integrations.verl
export MLFLOW_TRACKING_URI=${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}

python -m verl.trainer.main_ppo \
    data.train_files="$DATA/train.parquet" \
    data.val_files="$DATA/test.parquet" \
    data.train_batch_size=256 \
    data.max_response_length=256 \
    actor_rollout_ref.model.path=Qwen/Qwen2.5-0.5B-Instruct \
    actor_rollout_ref.actor.ppo_mini_batch_size=64 \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8 \
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4 \
    critic.model.path=Qwen/Qwen2.5-0.5B-Instruct \
    critic.ppo_micro_batch_size_per_gpu=4 \
    trainer.n_gpus_per_node=1 \
    trainer.total_epochs=1 \
    trainer.project_name=sums \
    trainer.experiment_name=ppo \
    trainer.logger='["console","file","mlflow"]'
