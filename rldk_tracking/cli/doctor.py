"""`rldk-tracking doctor`: what is installed, which trainers and trackers that serves, and what is set, and where.

Secrets are named as present or absent, never shown.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import textwrap
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rldk_tracking
from rldk_tracking.journal.options import Options
from rldk_tracking.messages.arguments import printable
from rldk_tracking.messages.packages import install_line
from rldk_tracking.trackers.registry import ask

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft")
"""Those of trainers; each backend names its own."""
TESTED = ("0.18.2", "0.19.1", "0.24.0", "0.29.1", "1.0.0", "1.9.0", "1.12.0", "1.16.0")
"""Releases of TRL that this package is tested with, see docs/trainers/versions.md."""
NEWEST_PPO = "1.12"
"""The last minor release of TRL that has PPOTrainer."""
ADDRESSES = {"Slack": "slack_webhook_url", "Other channels": "notify_urls"}
"""Channel to the option that holds its address."""
NEXT = (
    "next: `rldk-tracking demo` shows a healthy and a broken run; `rldk-tracking run -- COMMAND` or, in a trainer of "
    "yours, callbacks=[RLDKCallback()]"
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: what it is about, whether it can be used, and why not or what to add."""

    topic: str
    usable: bool
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Returns 1 where no trainer, or no tracker, can be served, or a setting cannot be."""
    versions = installed()
    options, wrong = settings()
    hints = notes(versions)
    sections = {
        "trainers": trainers(versions),
        "trackers": trackers(versions),
        "machine": [gpu()],
        "alerts": channels(versions),
    }
    for topic, option in ADDRESSES.items():
        place = options.get(option, ("", ""))[1]
        if Path(place).is_file():
            in_file = Finding(topic, not wrong, f"{option} is set in {place}")
            sections["alerts"] = [in_file if one.topic == topic else one for one in sections["alerts"]]
    if arguments.format == "json":
        findings: dict[str, Any] = {name: [asdict(one) for one in found] for name, found in sections.items()}
        findings["settings"] = {name: {"value": value, "origin": origin} for name, (value, origin) in options.items()}
        findings["wrong settings"] = wrong
        print(
            json.dumps(
                {"rldk-tracking": rldk_tracking.__version__, "packages": versions, **findings, "notes": hints}, indent=2
            )
        )
    else:
        print(as_text(versions, sections, options, wrong, hints))
    served = all(any(finding.usable for finding in sections[name]) for name in ("trainers", "trackers"))
    return 0 if served and not wrong else 1


def settings() -> tuple[dict[str, tuple[str, str]], str]:
    """Option to its value, secrets masked, and where it is set; and what is wrong with them, or an empty text."""
    options: dict[str, tuple[str, str]] = {}
    try:
        options = Options().shown()
        Options().settings()
    except (TypeError, ValueError, ImportError) as error:
        return options, str(error)
    return options, ""


def installed() -> dict[str, str | None]:
    """Version of each package that matters here, None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in (*PACKAGES, *(name for names in ask(lambda backend: backend.packages).values() for name in names)):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def trainers(versions: dict[str, str | None]) -> list[Finding]:
    """Which trainers can be watched."""
    if versions["torch"] is None:
        return [Finding("any", False, f"torch is not installed: {install_line('trl')}")]
    found = [Finding("custom loop", True, "monitor.observe(Rollout(...), step=...)")]
    if versions["transformers"] is None:
        return [*found, Finding("transformers Trainer", False, install_line("trl"))]
    found.append(Finding("transformers Trainer", True, "loss, gradients, weights, resources, rules on logs"))
    if versions["trl"] is None:
        return [*found, Finding("TRL", False, install_line("trl"))]
    found.append(Finding("TRL", True, tested(versions["trl"])))
    found.append(Finding("GRPOTrainer, RLOOTrainer", True, "rollouts, gradients, weights, logs"))
    found.append(Finding("DPO and relatives", True, "gradients, weights, logs"))
    if has_ppo():
        found.append(Finding("PPOTrainer", True, "rollouts, values, gradients, weights, logs"))
    else:
        why = f"TRL {versions['trl']} has none; it was removed after {NEWEST_PPO}: pip install 'trl=={NEWEST_PPO}.*'"
        found.append(Finding("PPOTrainer", False, why))
    return found


def tested(version: str) -> str:
    """What is known of a release of TRL, in words."""
    if version in TESTED:
        return f"{version} is one of the releases that are tested"
    own = _numbers(version)
    before = [known for known in TESTED if _numbers(known) < own]
    after = [known for known in TESTED if _numbers(known) > own]
    if not before:
        return f"{version} is older than {TESTED[0]}, the oldest that is tested: what cannot be read is said"
    if not after:
        return f"{version} is newer than {TESTED[-1]}, the newest that is tested: what cannot be read is said"
    return f"{version} lies between {before[-1]} and {after[0]}, which are tested"


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def has_ppo() -> bool:
    """Whether TRL has PPOTrainer: by its files, since importing them warns and takes seconds."""
    trl = find_spec("trl")
    folder = Path(trl.origin).parent if trl is not None and trl.origin is not None else Path()
    return any((folder / name).exists() for name in ("experimental/ppo", "trainer/ppo_trainer.py"))


def trackers(versions: dict[str, str | None]) -> list[Finding]:
    """Which backends can be written to."""
    return _checked(versions, takes_rows=True)


def channels(versions: dict[str, str | None]) -> list[Finding]:
    """Where alerts are sent beside that."""
    return _checked(versions, takes_rows=False)


def _checked(versions: dict[str, str | None], takes_rows: bool) -> list[Finding]:
    found = []
    for backend, check in ask(lambda backend: (backend, backend.check(versions))).values():
        if check is not None and backend.kind.takes_rows == takes_rows:
            found.append(Finding(backend.title or backend.name, *check))
    return found


def notes(versions: dict[str, str | None]) -> list[str]:
    """What to know of the trackers before a long training. See docs/trackers.md."""
    return [note for notes in ask(lambda backend: backend.notes(versions)).values() for note in notes]


def gpu() -> Finding:
    """Whether the driver's library answers, and what it names."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Finding("NVIDIA GPU", False, f"none seen ({error}); GPU series will be missing")
    try:
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(device) for device in devices]
    except pynvml.NVMLError as error:
        return Finding("NVIDIA GPU", False, f"the driver answers, the device does not ({error})")
    finally:
        pynvml.nvmlShutdown()
    return Finding("NVIDIA GPU", bool(names), ", ".join(str(name) for name in names) or "none seen")


def as_text(
    versions: dict[str, str | None],
    sections: dict[str, list[Finding]],
    options: dict[str, tuple[str, str]],
    wrong: str,
    hints: list[str],
) -> str:
    """The report for a terminal."""
    lines = [f"rldk-tracking {rldk_tracking.__version__}, Python {platform.python_version()}", "", "packages"]
    lines += [f"  {name:<18}{version or 'not installed'}" for name, version in versions.items()]
    for name, findings in sections.items():
        lines += ["", name]
        for finding in findings:
            lines.append(f"  {'yes' if finding.usable else 'no ':<5}{finding.topic:<30}{finding.detail}")
    lines += ["", "settings"]
    for name, (value, origin) in options.items():
        lines.append(printable(f"  {name:<24}{value:<20} {origin}"))
    if wrong:
        lines += [f"  cannot be: {printable(wrong)}"]
    if hints:
        lines += ["", "good to know"]
        for hint in hints:
            lines += textwrap.wrap(hint, 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([*lines, "", NEXT])
