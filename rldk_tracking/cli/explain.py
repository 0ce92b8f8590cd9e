"""`rldk-tracking explain RULE`: the page of a rule; without a rule, one line for each."""

from __future__ import annotations

import argparse
import sys

from rldk_tracking.messages.arguments import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("rule", nargs="?", help="id of a rule, such as kl.high")
    parser.add_argument("--rules", default="safe", help="safe, strict, quiet, or a YAML file of your own")


def run(arguments: argparse.Namespace) -> int:
    """Print the page. Returns 0, or 2 where there is no such rule."""
    from rldk_tracking.health.explain import explain, summary
    from rldk_tracking.health.presets import rules_for

    try:
        rules = rules_for(arguments.rules)
    except (ValueError, OSError) as fault:
        raise SystemExit(f"--rules: {fault}") from fault
    if arguments.rule is None:
        for rule in rules:
            print(printable(f"{rule.id:32s} {rule.severity:10s}{summary(rule)}".rstrip()))
        return 0
    try:
        page = explain(arguments.rule.strip().lower(), rules)
    except KeyError as fault:
        sys.stderr.write(f"{printable(fault.args[0])}\n")
        return 2
    print(page)
    return 0
