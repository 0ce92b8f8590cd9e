"""`rldk-tracking charts wandb ENTITY/PROJECT`: save the charts as a view of a W&B project."""

from __future__ import annotations

import argparse

from rldk_tracking.messages.arguments import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("backend", choices=("wandb",), help="MLflow's view needs no command: a run writes it itself")
    parser.add_argument("project", type=place, metavar="ENTITY/PROJECT")


def run(arguments: argparse.Namespace) -> int:
    """Save the view and print its address."""
    from rldk_tracking.charts.wandb import RefusedError, save_view

    entity, project = arguments.project
    try:
        view = save_view(entity, project)
    except (ImportError, RefusedError) as fault:
        raise SystemExit(str(fault)) from fault
    words = {"made": "saved", "updated": "brought up to date", "unchanged": "there already"}
    print(f"The view with {view.charts} charts is {words[view.outcome]}: {printable(view.url)}")
    return 0


def place(text: str) -> tuple[str, str]:
    """ENTITY/PROJECT as its two parts.

    Raises:
        argparse.ArgumentTypeError: it has not two.
    """
    entity, slash, project = text.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise argparse.ArgumentTypeError(f"write ENTITY/PROJECT, such as my-team/my-project, not {text!r}")
    return entity, project
