"""What a saved checkpoint was found to be, as the metadata of an artifact in W&B.

An artifact of its own, whose only file holds the metadata once more: no weights are uploaded, and its versions, one for
each checkpoint, can be compared and filtered by verdict, score and drift. Where the user has transformers upload the
checkpoints (WANDB_LOG_MODEL=checkpoint), it says which version of which artifact holds the weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

TYPE = "checkpoint-health"
FILE = "checkpoint.json"
PREFIX = "rldk/checkpoint/"


def log_model(
    wandb: Any, run: Any, args: Any, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int
) -> None:
    """One version of the run's artifact, with the checkpoint's name as its alias.

    Args:
        wandb, run: the module and the open run.
        args: the trainer's settings, None without a trainer.
        name: of the checkpoint, such as `checkpoint-200`.
        metrics: finite numbers under their keys.
        params: short texts.
        step: the checkpoint's.
    """
    numbers = {key.removeprefix(PREFIX).replace("/", "_"): value for key, value in metrics.items()}
    metadata = {"step": step, **params, **numbers}
    weights = uploaded(run, args, step)
    if weights is not None:
        metadata["weights"] = weights
    artifact = wandb.Artifact(
        name=f"checkpoint-health-{run.id}",
        type=TYPE,
        description="What was found in each saved checkpoint. It holds no weights.",
        metadata=metadata,
    )
    # W&B takes two artifacts with the same files for one version, whatever their metadata.
    with artifact.new_file(FILE) as file:
        json.dump(metadata, file)
    run.log_artifact(artifact, aliases=[name])


def uploaded(run: Any, args: Any, step: int) -> str | None:
    """The version that transformers' WandbCallback makes of a checkpoint, None where it makes none.

    Its name has the run's id, or the run's name where the trainer's `run_name` is another than its `output_dir`.
    """
    if args is None or os.environ.get("WANDB_LOG_MODEL", "").lower() != "checkpoint":
        return None
    named = getattr(args, "run_name", None) not in (None, args.output_dir)
    return f"model-{run.name if named else run.id}:checkpoint_global_step_{step}"
