"""`rldk-tracking doctor`: what is installed, which trainers and trackers that serves, and what is configured.

Secrets are named as present or absent, never shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import textwrap
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import rldk_tracking
from rldk_tracking.trackers.mlflow_server import URI_ADVICE, has_password, is_http, without_credentials

PACKAGES = (
    *("torch", "transformers", "trl", "accelerate", "peft"),
    *("mlflow", "wandb", "wandb-workspaces", "tensorboard", "trackio"),
)
NEWEST_PPO = "1.12"
"""The last minor release of TRL that has PPOTrainer."""
VIEWS_SINCE = (3, 15)
"""The first MLflow whose pages show saved views."""


NEXT = "next: `rldk-tracking demo` shows a healthy and a broken run; in a trainer of yours, callbacks=[RLDKCallback()]"


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
    """Print the report. Returns 1 where no trainer, or no tracker, can be served."""
    versions = installed()
    hints = notes(versions)
    sections = {"trainers": trainers(versions), "trackers": trackers(versions), "machine": [gpu()], "alerts": [slack()]}
    if arguments.format == "json":
        findings = {name: [asdict(finding) for finding in found] for name, found in sections.items()}
        print(
            json.dumps(
                {"rldk-tracking": rldk_tracking.__version__, "packages": versions, **findings, "notes": hints}, indent=2
            )
        )
    else:
        print(as_text(versions, sections, hints))
    served = all(any(finding.usable for finding in sections[name]) for name in ("trainers", "trackers"))
    return 0 if served else 1


def installed() -> dict[str, str | None]:
    """Version of each package that matters here, None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def trainers(versions: dict[str, str | None]) -> list[Finding]:
    """Which trainers can be watched."""
    if versions["torch"] is None:
        return [Finding("any", False, "torch is not installed: pip install 'rldk-tracking[trl]'")]
    found = [Finding("custom loop", True, "monitor.observe(Rollout(...), step=...)")]
    if versions["transformers"] is None:
        return [*found, Finding("transformers Trainer", False, "pip install 'rldk-tracking[trl]'")]
    found.append(Finding("transformers Trainer", True, "loss, gradients, weights, resources, rules on logs"))
    if versions["trl"] is None:
        return [*found, Finding("TRL", False, "pip install 'rldk-tracking[trl]'")]
    found.append(Finding("GRPOTrainer, RLOOTrainer", True, "rollouts, gradients, weights, logs"))
    found.append(Finding("DPO and relatives", True, "gradients, weights, logs"))
    if has_ppo():
        found.append(Finding("PPOTrainer", True, "rollouts, values, gradients, weights, logs"))
    else:
        why = f"TRL {versions['trl']} has none; it was removed after {NEWEST_PPO}: pip install 'trl=={NEWEST_PPO}.*'"
        found.append(Finding("PPOTrainer", False, why))
    return found


def has_ppo() -> bool:
    """Whether TRL has PPOTrainer: by its files, since importing them warns and takes seconds."""
    trl = find_spec("trl")
    folder = Path(trl.origin).parent if trl is not None and trl.origin is not None else Path()
    return any((folder / name).exists() for name in ("experimental/ppo", "trainer/ppo_trainer.py"))


def trackers(versions: dict[str, str | None]) -> list[Finding]:
    """Which backends can be written to."""
    found = [Finding("JSON lines, memory", True, "always there")]
    if versions["mlflow"] is None:
        found.append(Finding("MLflow", False, "pip install 'rldk-tracking[mlflow]'"))
    else:
        has_views = _numbers(versions["mlflow"]) >= VIEWS_SINCE
        lacking = "" if has_views else "; saved views need MLflow 3.15 or newer"
        found.append(Finding("MLflow", True, mlflow_store() + lacking))
    if versions["wandb"] is None:
        found.append(Finding("W&B", False, "pip install 'rldk-tracking[wandb]'"))
    else:
        mode = os.environ.get("WANDB_MODE")
        found.append(Finding("W&B", True, f"WANDB_MODE is {mode}" if mode else "mode as wandb decides"))
    for topic, name in (("TensorBoard", "tensorboard"), ("Trackio", "trackio")):
        is_there = versions[name] is not None
        found.append(Finding(topic, is_there, f"report_to={name!r}" if is_there else f"pip install {name}"))
    if versions["transformers"] is not None:
        found.append(Finding("any other name of report_to", True, "through its transformers callback"))
    return found


def mlflow_store() -> str:
    """Where MLflow writes, without user and password."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        return f"writes to {without_credentials(uri)}" if uri else "writes to MLflow's default store (working folder)"
    except ValueError:
        return "MLFLOW_TRACKING_URI is no address"


def notes(versions: dict[str, str | None]) -> list[str]:
    """What to know of the trackers before a long training. See docs/trackers.md."""
    found = []
    uri, mode = os.environ.get("MLFLOW_TRACKING_URI", ""), os.environ.get("WANDB_MODE", "")
    if versions["wandb"] is not None and mode not in ("offline", "disabled"):
        found.append(
            "W&B: where its server does not answer, wandb.init raises after about 100 s and training does not begin. "
            "WANDB_MODE=offline trains without the server, and `wandb sync` uploads the run later."
        )
    if versions["mlflow"] is not None and is_http(uri):
        found.append(
            "MLflow: transformers and TRL write to the server in the training thread. A dead server stops a step for "
            "about 250 s, a busy one for as long as its Retry-After header says. MLFLOW_HTTP_REQUEST_MAX_RETRIES=1 and "
            "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER=false keep that short."
        )
    if has_password(uri):
        found.append(f"MLFLOW_TRACKING_URI holds a password. {URI_ADVICE}")
    return found


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


def slack() -> Finding:
    """Whether a webhook is configured. Its address is a secret and is not shown."""
    if os.environ.get("RLDK_SLACK_WEBHOOK_URL"):
        return Finding("Slack", True, "RLDK_SLACK_WEBHOOK_URL is set")
    return Finding("Slack", False, "RLDK_SLACK_WEBHOOK_URL is not set; alerts go to the trackers only")


def as_text(versions: dict[str, str | None], sections: dict[str, list[Finding]], hints: list[str]) -> str:
    """The report for a terminal."""
    lines = [f"rldk-tracking {rldk_tracking.__version__}, Python {platform.python_version()}", "", "packages"]
    lines += [f"  {name:<18}{version or 'not installed'}" for name, version in versions.items()]
    for name, findings in sections.items():
        lines += ["", name]
        for finding in findings:
            lines.append(f"  {'yes' if finding.usable else 'no ':<5}{finding.topic:<30}{finding.detail}")
    if hints:
        lines += ["", "good to know"]
        for hint in hints:
            lines += textwrap.wrap(hint, 110, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, "", NEXT])


def _numbers(version: str | None) -> tuple[int, ...]:
    parts = (version or "0").split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)
