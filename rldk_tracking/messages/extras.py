"""Packages that are needed for a part of this one only, and the extra that brings each."""

from __future__ import annotations

EXTRAS: dict[str, str] = {
    "accelerate": "trl",
    "datasets": "trl",
    "matplotlib": "report",
    "mlflow": "mlflow",
    "tokenizers": "trl",
    "torch": "trl",
    "tqdm": "demo",
    "transformers": "trl",
    "trl": "trl",
    "wandb": "wandb",
    "wandb_workspaces": "wandb",
}
"""Module to extra."""


def advice(subject: str, error: ImportError, extra: str | None = None) -> str | None:
    """What to install, as a sentence; None where no package of an extra is missing.

    Args:
        subject: what needs it.
        error: the failed import.
        extra: the extra that brings all that the subject needs; by default the one of the missing package.
    """
    if not isinstance(error, ModuleNotFoundError):
        return None
    missing = (error.name or "").partition(".")[0]
    if missing not in EXTRAS:
        return None
    return f"{subject} needs {missing}, which is not installed: pip install 'rldk-tracking[{extra or EXTRAS[missing]}]'"
