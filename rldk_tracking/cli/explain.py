"""`rldk-tracking explain RULE`: the page of a rule; without a rule, the list of them."""

from __future__ import annotations

import argparse
import sys

from rldk_tracking.messages.terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("rule", nargs="?", help="id of a rule, such as kl.high")


def run(arguments: argparse.Namespace) -> int:
    """Print the page. Returns 0, or 2 where there is no such rule."""
    from rldk_tracking.health.catalogue import RULES
    from rldk_tracking.health.explain import explain, summary

    if arguments.rule is None:
        for rule in RULES.values():
            print(f"{rule.id:32s} {rule.severity:10s}{summary(rule)}")
        return 0
    try:
        page = explain(arguments.rule.strip().lower())
    except KeyError as fault:
        sys.stderr.write(f"{printable(fault.args[0])}\n")
        return 2
    print(page)
    return 0
