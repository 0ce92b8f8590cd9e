"""`rldk-tracking mcp [SOURCE ...]`: answer an agent's questions about runs, by the Model Context Protocol on stdio.

The tools are the methods of `rldk_tracking.history.queries.Runs`. They read, and nothing but what is below the sources:
by default the working folder. Standard output is the protocol's alone.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import rldk_tracking
from rldk_tracking.cli.replay import FAULTS, unreadable
from rldk_tracking.trackers.lines import line_of

INSTRUCTIONS = (
    "Diagnostics of reinforcement-learning trainings. list_runs names the runs; verdict says how one is; open_alerts "
    "has the evidence; explain_rule says what an alert means and what to try. Unknown is not healthy: too little was "
    "judged."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "sources", nargs="*", default=["."], metavar="SOURCE", help="folders, logs, mlflow:experiment/NAME, ..."
    )
    parser.add_argument(
        "--rules", default="safe", help="for runs that were not watched: safe, strict, quiet, or a file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client closes standard input."""
    from mcp.server.mcpserver import MCPServer
    from mcp.types import ToolAnnotations

    from rldk_tracking.history.queries import Runs

    try:
        runs = Runs(arguments.sources, arguments.rules)
    except FAULTS as fault:
        raise SystemExit(str(fault)) from fault
    server = MCPServer(
        "rldk-tracking", instructions=INSTRUCTIONS, version=rldk_tracking.__version__, log_level="WARNING"
    )
    for tool in (runs.list_runs, runs.verdict, runs.open_alerts, runs.explain_rule, runs.series, runs.compare):
        about = inspect.cleandoc(tool.__doc__ or "")
        server.add_tool(_answering(tool), description=about, annotations=ToolAnnotations(read_only_hint=True))
    server.run("stdio")
    return 0


def _answering(tool: Callable[..., Any]) -> Callable[..., Any]:
    """A tool whose errors are sentences, whose numbers are JSON's, and that prints nothing into the protocol."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(tool)
    def answer(**arguments: Any) -> Any:
        try:
            with redirect_stdout(sys.stderr):
                found = tool(**arguments)
        except KeyError as fault:
            raise ToolError(str(fault.args[0])) from fault
        except FAULTS as fault:
            raise ToolError(unreadable(str(next(iter(arguments.values()), "")), fault).reason) from fault
        return found if isinstance(found, str) else json.loads(line_of(found))

    return answer
