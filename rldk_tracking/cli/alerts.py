"""`rldk-tracking alerts wandb ENTITY/PROJECT`: have W&B itself tell the team's Slack about low health and alerts."""

from __future__ import annotations

import argparse

from rldk_tracking.cli.charts import place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("backend", choices=("wandb",))
    parser.add_argument("project", type=place, metavar="ENTITY/PROJECT")
    parser.add_argument("--channel", help="the Slack channel, where the team has several")


def run(arguments: argparse.Namespace) -> int:
    """Make what is not there, and say which is which."""
    from rldk_tracking.charts.wandb import RefusedError, save_automations

    entity, project = arguments.project
    try:
        found = save_automations(entity, project, arguments.channel)
    except (ImportError, RefusedError) as fault:
        raise SystemExit(str(fault)) from fault
    for automation in found:
        print(f"{automation.name}: {'made' if automation.made else 'there already'}")
    return 0
