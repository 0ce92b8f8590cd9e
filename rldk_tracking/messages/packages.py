"""Other packages: those that a part of this one needs, and those that bring something for it.

A package brings objects as entry points. It declares, in its `pyproject.toml`,

    [project.entry-points."rldk_tracking.trackers"]
    mine = "my_package.tracker:MyBackend"

and is found wherever it is installed. One that cannot be used costs a warning with its name, and nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rldk_tracking.isolation import Shield

T = TypeVar("T")

logger = logging.getLogger(__name__)

TRACKERS, MONITORS, RULES = "rldk_tracking.trackers", "rldk_tracking.monitors", "rldk_tracking.rules"


@dataclass(frozen=True)
class Extension:
    """An object of another package.

    Attributes:
        name: of the entry point.
        package: the distribution that brings it.
        value: the object.
    """

    name: str
    package: str
    value: Any


@cache
def extensions(group: str) -> tuple[Extension, ...]:
    """The objects of a group that can be imported, by the names of their packages."""
    entries = {(_package(entry), entry.name): entry for entry in metadata.entry_points(group=group)}
    loaded = {key: tried(*key, partial(_load, *key, entry)) for key, entry in sorted(entries.items())}
    return tuple(found for found in loaded.values() if found is not None)


def _load(package: str, name: str, entry: metadata.EntryPoint) -> Extension:
    return Extension(name, package, entry.load())


def tried(package: str, name: str, work: Callable[[], T]) -> T | None:
    """What an object of another package gives; None, and one warning that names the package, where it fails."""
    results: list[T] = []
    for _, error in Shield().each([work], lambda each: results.append(each())):
        leave_out(package, name, f"{type(error).__name__}: {error}")
    return results[0] if results else None


@cache
def leave_out(package: str, name: str, why: str) -> None:
    """Say, once, that something of another package is not used."""
    logger.warning("rldk: %r of the package %s is left out: %s", name, package, why)


def _package(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value.partition(":")[0]


NAME = "rldk-tracking"


@cache
def install_line(*extras: str) -> str:
    """The command that adds extras of this package, from where it was installed: one that works in this environment.

    An installation that came from elsewhere than an index remembers the place (PEP 610, `direct_url.json`): a checkout,
    an archive, a repository. Where the package is only on the path, its checkout is the place.

    >>> install_line("mlflow").startswith("pip install ")
    True
    """
    place, asked = _installed_from(), f"[{','.join(extras)}]"
    if place is None:
        return f"pip install '{NAME}{asked}'"
    url, is_editable = place
    if is_editable:
        return f"pip install -e '{url2pathname(urlsplit(url).path)}{asked}'"
    return f"pip install '{NAME}{asked} @ {url}'"


def _installed_from() -> tuple[str, bool] | None:
    """Address of what was installed, and whether as editable; None for an index, and where it is gone."""
    checkout = Path(__file__).parents[2]
    try:
        written = metadata.distribution(NAME).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return (checkout.as_uri(), True) if (checkout / "pyproject.toml").is_file() else None
    origin = json.loads(written or "{}")
    url = origin.get("url", "")
    if url.startswith("file:") and not Path(url2pathname(urlsplit(url).path)).exists():
        return None
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    return (url, origin.get("dir_info", {}).get("editable", False)) if url else None


EXTRAS: dict[str, str] = {
    "accelerate": "trl",
    "apprise": "notify",
    "datasets": "trl",
    "matplotlib": "report",
    "mcp": "mcp",
    "mlflow": "mlflow",
    "tokenizers": "trl",
    "torch": "trl",
    "tqdm": "demo",
    "trackio": "trackio",
    "transformers": "trl",
    "trl": "trl",
    "wandb": "wandb",
    "wandb_workspaces": "wandb",
}
"""Module to extra."""


def imported(module: str, subject: str) -> Any:
    """A module of an extra, for the subject that needs it.

    Raises:
        ImportError: it is not installed; the message says how it is.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{subject} needs {module}: {install_line(EXTRAS[module])}") from error


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
    return f"{subject} needs {missing}, which is not installed: {install_line(extra or EXTRAS[missing])}"
