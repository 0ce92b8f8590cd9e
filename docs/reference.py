"""Makes the pages under `reference/` from the code when the site is built, so that none of them is a copy.

Commands, series and rules are what the command line prints of itself: `COMMAND --help`, `keys`, `explain`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import mkdocs_gen_files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["COLUMNS"] = "100"  # of the help texts, whatever the terminal

from rldk_tracking.cli.main import COMMANDS, main  # noqa: E402

PYTHON = {
    "Callbacks": ("RLDKCallback", "attach", "RLDKMonitor", "CustomRLDKCallback", "RLDKMetrics"),
    "Monitors of a part": (
        *("PPOMonitor", "AdvancedPPOMonitor", "PPOMetrics", "GroupMonitor", "CheckpointMonitor", "CheckpointMetrics"),
    ),
    "A training loop of your own": ("Rollout", "PolicyUpdate"),
    "Rules and alerts": ("Rule", "Alert", "TrainingStopped"),
    "Trackers and channels": ("MLflowTracker", "WandbTracker", "JsonlTracker", "InMemoryTracker", "SlackNotifier"),
    "Past runs and pages": ("replay", "RLDKDashboard"),
}
"""Public names in the order of the page."""
GROUPS = {
    "health": "What the rules say of the run, see the [health score](health-score.md).",
    "reward": "Rewards of the completions.",
    "kl": "Distance from the reference model.",
    "policy": "The policy and its update.",
    "value": "The critic.",
    "length": "Lengths of completions.",
    "preference": "DPO and relatives.",
    "grad": "Gradients, before clipping.",
    "update": "What the optimizer's step changed.",
    "checkpoint": "Saved weights.",
}
"""What stands above the table of a group."""


def printed(*words: str) -> str:
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(list(words))
    return out.getvalue()


def write(name: str, text: str) -> None:
    """A page of the site."""
    with mkdocs_gen_files.open(name, "w") as page:
        page.write(text)


def python_page() -> str:
    """The public names, by what they are for; mkdocstrings fills in their docstrings."""
    parts = ["# Python\n\nEvery name is imported from `rldk_tracking`.\n"]
    for title, names in PYTHON.items():
        parts.append(f"## {title}\n")
        for name in names:  # what is inherited stands with the first callback alone
            inherited = str(name == "RLDKCallback").lower()
            parts.append(f"::: rldk_tracking.{name}\n    options: {{inherited_members: {inherited}}}\n")
    return "\n".join(parts)


def cli_page() -> str:
    """The help of each command."""
    parts = ["# Command line\n\n`python -m rldk_tracking` is the same command.\n", _block(printed("--help"))]
    for name in COMMANDS:
        parts += [f"## {name}\n", _block(printed(name, "--help"))]
    return "\n".join(parts)


def keys_page() -> str:
    """The series, a table for each group."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key in json.loads(printed("keys", "--format", "json")):
        groups[key["name"].split("/")[1]].append(key)
    parts = [
        "# Series\n\nWhat is missing is absent, never 0. The same in the terminal: `rldk-tracking keys [PREFIX]`. "
        "*Better* says which way is, all else equal; *from* where the number comes from: `rollout` and `update` are "
        "computed from tensors, or taken from the trainer's logs where there are none.\n"
    ]
    for group in sorted(groups, key=lambda name: (name.startswith("<"), name)):
        parts.append("## of any group\n" if group.startswith("<") else f"## {group}\n")
        if group in GROUPS:
            parts.append(GROUPS[group] + "\n")
        parts.append("| series | unit | meaning and formula | better | from |\n|---|---|---|---|---|")
        for key in groups[group]:
            formula = f"<br><small>{_cell(key['formula'])}</small>" if key["formula"] else ""
            better = {"none": ""}.get(key["direction"], key["direction"])
            cells = [f"`{key['name']}`", _cell(key["unit"]), _cell(key["meaning"]) + formula, better, key["source"]]
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


def rules_page() -> str:
    """Every built-in rule with its page, by family."""
    rules = re.findall(r"^([a-z]+\.[a-z_]+) +(\w+) +(.+)$", printed("explain"), re.MULTILINE)
    parts = [
        "# Rules\n\nAn alert says what, since which step, by how much, and what to try first. How to change one: "
        "[Silence or tune a rule](../how-to/tune-rules.md). The same in the terminal: `rldk-tracking explain RULE`.\n"
    ]
    parts.append("| rule | severity | why |\n|---|---|---|")
    parts += [f"| [{name}](#{name}) | {severity} | {_cell(why)} |" for name, severity, why in rules]
    parts.append("")
    family = ""
    for name, _, _ in rules:
        if name.partition(".")[0] != family:
            family = name.partition(".")[0]
            parts.append(f"## {family}\n")
        parts.append(_rule(printed("explain", name)))
    return "\n".join(parts)


def _rule(text: str) -> str:
    """The page of a rule as Markdown: paragraphs, lists, and as it stands what is aligned in columns."""
    title, _, body = text.partition("\n")
    name, _, severity = title.partition(" ")
    parts = [f"### {name} {{ #{name} }}\n", f"*{severity.strip('() ')}*\n"]
    for part in re.split(r"\n(?=\S)", f"\n{body}"):
        heading, _, rest = part.strip("\n").partition("\n") if not part.startswith(("\n ", " ")) else ("", "", part)
        if heading:
            parts.append(f"**{_plain(heading)}**\n")
        columns = re.search(r"\S {2,}\S", rest)
        parts.append(_block(_dedented(rest)) if columns else _plain(_dedented(rest)) + "\n")
    return "\n".join(parts)


def health_page() -> str:
    """The series of the health score, in full."""
    return f"""# Health score

`rldk/health/score` is the first chart of a run: 1 while no alert is open, at most 0.5 with a warning, at most 0.1 with
a critical one. It goes by the worst severity first, then by how many families of rules have it, so that every run
without a critical alert stands above every run with one. A family that no rule has judged does not count, and with none
judged the score is absent: unknown is not healthy.

The formulas, as `rldk-tracking keys health` prints them:

{_block(printed("keys", "health"))}"""


def _block(text: str) -> str:
    return f"```text\n{text.strip()}\n```\n"


def _dedented(text: str) -> str:
    lines = [line[2:] if line.startswith("  ") else line for line in text.strip("\n").splitlines()]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text in which nothing is markup but code in backticks."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(
        part if part.startswith("`") and len(part) > 1 else re.sub(r"[*_<\[\]|`]", r"\\\g<0>", part) for part in parts
    )


def _cell(text: str) -> str:
    return _plain(" ".join(text.split()))


def main_page() -> str:
    """What there is."""
    return (
        "# Reference\n\nThese pages are made from the code.\n\n"
        "- [Python](python.md): the public names, with their arguments.\n"
        "- [Command line](cli.md): the commands and their exit codes.\n"
        "- [Series](keys.md): every `rldk/...` with unit, meaning, formula and source.\n"
        "- [Rules](rules.md): what each watches, why, and what to try when it fires.\n"
        "- [Health score](health-score.md): how one number is made of them.\n"
        "- [Trainers](../trainers.md) and [trackers](../trackers.md): what is read from which, and written where.\n"
    )


write("reference/index.md", main_page())
write("reference/python.md", python_page())
write("reference/cli.md", cli_page())
write("reference/keys.md", keys_page())
write("reference/rules.md", rules_page())
write("reference/health-score.md", health_page())
for source, page in (("CHANGELOG.md", "changelog.md"), ("CONTRIBUTING.md", "contributing.md")):
    write(
        page,
        (ROOT / source).read_text(encoding="utf-8").replace("(docs/", "(").replace("(CHANGELOG.md", "(changelog.md"),
    )
