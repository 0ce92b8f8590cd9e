"""No network, no telemetry, one thread a process: what every test, and every process that it starts, runs under."""

from __future__ import annotations

import os

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
PRIVATE = (
    "RLDK_SLACK_WEBHOOK_URL",
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_RUN_ID",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
)
"""Settings of the person who runs the tests, which must not be reached by them."""

os.environ.update(ENVIRONMENT)
for name in PRIVATE:
    os.environ.pop(name, None)
