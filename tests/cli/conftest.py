"""A W&B server for the commands that speak to one."""

from __future__ import annotations

from tests.charts.wandb_backend import wandb_backend  # noqa: F401
