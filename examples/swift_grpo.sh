#!/usr/bin/env bash
# GRPO with ms-swift, whose plugin file is in this package.
#
# bash examples/swift_grpo.sh
set -euo pipefail

package=$(python -c 'import rldk_tracking; print(rldk_tracking.__path__[0])')
export MLFLOW_TRACKING_URI=${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}

swift rlhf \
    --rlhf_type grpo \
    --model Qwen/Qwen2.5-0.5B-Instruct \
    --dataset AI-MO/NuminaMath-TIR#1000 \
    --reward_funcs accuracy format \
    --num_generations 8 \
    --max_completion_length 256 \
    --beta 0.02 \
    --learning_rate 1e-6 \
    --max_steps 200 \
    --logging_steps 1 \
    --log_entropy true \
    --report_to mlflow \
    --external_plugins "$package/integrations/swift.py" \
    --callbacks rldk
