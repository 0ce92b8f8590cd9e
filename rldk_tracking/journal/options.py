"""Options that are given outside the code: in the environment, or in a file `rldk.yaml` beside the script.

    # rldk.yaml; paths are relative to it  the same in the environment
    rules: strict                        # RLDK_RULES=strict
    overrides:                           # RLDK_OVERRIDES='{kl.high: {threshold: 0.2}}'
      kl.high: {threshold: 0.2}
    charts: [tools/failure_frequency]    # RLDK_CHARTS=tools/failure_frequency

An argument in the code goes before the environment, and the environment before the file. To add an option, add a line
to `OPTIONS`; what is in force of it is then `Options().pick("level", argument)`.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rldk_tracking.health.presets import SUFFIXES
from rldk_tracking.journal.judge import Actions
from rldk_tracking.journal.settings import OnCritical, Settings
from rldk_tracking.messages.arguments import NO_WORDS, YES_WORDS, flag, listed, mapping, nearest, number, shown, word
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.channel import Channel, Wanted
from rldk_tracking.trackers.notify import channels
from rldk_tracking.trackers.slack import SlackNotifier

logger = logging.getLogger(__name__)

FILE = "rldk.yaml"
FILE_ENVIRONMENT = "RLDK_CONFIG"
"""Environment variable: the path of a file that is read instead."""


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        read: from the place of a value, for messages, and the value as it is written, to the value that the code takes.
            Raises TypeError or ValueError where it cannot be.
        default: in force where nobody gives it.
        is_secret: it is never shown.
    """

    read: Callable[[str, Any], Any]
    default: Any = None
    is_secret: bool = False


def _text(place: str, value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        return value
    raise TypeError(f"{place} must be a text, got {shown(value)}.")


def _switch(place: str, value: Any) -> bool:
    written = str(value).strip().lower()
    return written in YES_WORDS or (written not in NO_WORDS and flag(place, value))


def _share(place: str, value: Any) -> float:
    return number(place, yaml.safe_load(value) if isinstance(value, str) else value, above=0, high=1)


def _names(place: str, value: Any) -> list[str]:
    return listed(place, value.replace(",", " ").split() if isinstance(value, str) else value, str, "[a, b]")


def _lines(place: str, value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(listed(place, value, str, "[discord://ID/TOKEN]"))


def _messages(place: str, value: Any) -> str:
    try:
        return Wanted(value if isinstance(value, str) else ",".join(listed(place, value, str, "[alerts, ended]"))).words
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def _mapping(place: str, value: Any) -> dict[str, Any]:
    return mapping(place, yaml.safe_load(value) if isinstance(value, str) else value, "{name: value}")


OPTIONS: dict[str, Option] = {
    "rules": Option(_text, "safe"),
    "overrides": Option(_mapping, {}),
    "level": Option(partial(word, words=("light", "standard", "full")), "standard"),
    "on_critical": Option(partial(word, words=("alert", "stop")), "alert"),
    "slack_webhook_url": Option(_text, is_secret=True),
    "notify_urls": Option(_lines, is_secret=True),
    "notify_messages": Option(_messages),
    "output_dir": Option(_text),
    "charts": Option(_names, ()),
    "log_samples": Option(_switch, False),
    "performance_benchmarks": Option(_mapping),
    "max_overhead": Option(_share, 0.02),
    "strict": Option(_switch, False),
    "view": Option(_switch, True),
}
"""Name in the file, and in capitals after RLDK_ in the environment, to what is known of it."""


@dataclass(frozen=True)
class Given:
    """A value from outside the code, and where it stands: an environment variable, or the path of a file."""

    value: Any
    origin: str


class Options:
    """What the environment and the file give, read once.

    Attributes:
        given: option to what is given.

    Raises:
        ValueError, TypeError: a value cannot be, the file cannot be read or has something else in it, or two files or
            two lines contradict each other. The message names the place, and quotes no secret.
    """

    def __init__(self) -> None:
        path = settings_file()
        self.given: dict[str, Given] = {} if path is None else _in_file(path)
        for name, option in OPTIONS.items():
            variable = environment_name(name)
            if written := os.environ.get(variable):
                self.given[name] = Given(_read(option, variable, written), variable)
        for variable in os.environ:
            _say_misspelt(variable)

    def pick(self, name: str, argument: Any) -> Any:
        """The value that is in force: the argument, unless it is None, or what is given outside, or the default."""
        if argument is not None:
            return argument
        return self.given[name].value if name in self.given else OPTIONS[name].default

    def settings(
        self,
        trackers: list[Tracker] | None = None,
        rules: Any = None,
        overrides: Any = None,
        *,
        on_critical: OnCritical | None = None,
        slack: Any = None,
        output_dir: str | os.PathLike[str] | None = None,
        strict: bool | None = None,
    ) -> Settings:
        """A run's settings by these arguments of a monitor, each None where it is left out.

        Raises:
            ValueError, TypeError: one of them, or what is given outside in its place, cannot be.
        """
        arguments = {"rules": rules, "overrides": overrides, "output_dir": output_dir}
        messages, notify = self.pick("notify_messages", None), None
        if slack is None and trackers is None and (of_file := self._of_file("slack_webhook_url")):
            try:
                slack = SlackNotifier(of_file.value, messages=messages)
            except ValueError as error:
                raise ValueError(f"{of_file.origin}: slack_webhook_url: {error}.") from None
        if trackers is None and (of_file := self._of_file("notify_urls")):
            try:
                notify = list[Channel](channels(of_file.value, messages))
            except ValueError as error:
                raise ValueError(f"{of_file.origin}: notify_urls: {error}") from None
        try:
            settings = Settings(
                trackers,
                self.pick("rules", rules),
                self.pick("overrides", overrides),
                self.pick("on_critical", on_critical),
                slack,
                self.pick("output_dir", output_dir),
                strict=self.pick("strict", strict),
                saves_view=self.pick("view", None),
                notify=notify,
                messages=messages,
            )
            Actions(settings.all_rules())  # raises now, not in training, for rules and webhooks that cannot be
        except ValueError as error:
            outside = [name for name, argument in arguments.items() if argument is None and name in self.given]
            if not outside:
                raise
            where = ", ".join(f"{name} is set by {self.given[name].origin}" for name in outside)
            raise ValueError(f"{error} ({where})") from error
        return settings

    def _of_file(self, name: str) -> Given | None:
        """What the file gives; that of the environment is known by its variable, in later processes too."""
        given = self.given.get(name)
        return None if given is None or given.origin == environment_name(name) else given

    def shown(self) -> dict[str, tuple[str, str]]:
        """Option to the value that is in force where the code gives none, and where it is from. Secrets are masked."""
        found = {}
        for name, option in OPTIONS.items():
            value = self.pick(name, None)
            words = "none" if value in (None, (), {}) else "***" if option.is_secret else str(value)
            found[name] = words, self.given[name].origin if name in self.given else "default"
        return found


def environment_name(option: str) -> str:
    """The variable of an option."""
    return f"RLDK_{option.upper()}"


def settings_file() -> Path | None:
    """The file that counts: the one that RLDK_CONFIG names, or `rldk.yaml` beside the script or in the working folder.

    Raises:
        ValueError: there is no such file, or both folders have one.
    """
    if named := os.environ.get(FILE_ENVIRONMENT):
        if not Path(named).is_file():
            raise ValueError(f"{FILE_ENVIRONMENT} must be the path of a settings file, and {named!r} is none.")
        return Path(named)
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folders = [Path.cwd(), *([Path(script).parent] if script else [])]
    found = sorted({(folder / FILE).resolve() for folder in folders if (folder / FILE).is_file()})
    if len(found) > 1:
        raise ValueError(
            f"two settings files, {found[0]} in the working folder or beside the script and {found[1]}: remove one, or "
            f"say which is meant by {FILE_ENVIRONMENT}."
        )
    return found[0] if found else None


def _in_file(path: Path) -> dict[str, Given]:
    """What a settings file gives."""
    try:
        written = path.read_text(encoding="utf-8")
        tree, data = yaml.compose(written, yaml.SafeLoader), yaml.safe_load(written) or {}
    except yaml.MarkedYAMLError as error:  # which quotes the line, and that may hold a secret
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
        raise ValueError(f"{path}:{line}: {error.problem}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}.") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold options, such as `rules: strict`, got {shown(data)}.")
    lines: dict[str, int] = {}
    for key, _ in tree.value if tree is not None else ():
        line = key.start_mark.line + 1
        if key.value not in OPTIONS:
            raise ValueError(f"{path}:{line}: there is no option {shown(key.value)}{nearest(key.value, OPTIONS)}")
        if key.value in lines:
            raise ValueError(f"{path}:{line}: {key.value} is given in line {lines[key.value]} already: remove one.")
        lines[key.value] = line
    found = {}
    for name, given in data.items():
        if given is not None:
            value = _read(OPTIONS[name], f"{path}:{lines[name]}: {name}", given)
            if name == "output_dir" or (name == "rules" and value.endswith(SUFFIXES)):
                value = str(path.parent / value)
            found[name] = Given(value, str(path))
    return found


def _read(option: Option, place: str, written: Any) -> Any:
    """The value of what is written at a place."""
    try:
        return option.read(place, written)
    except yaml.YAMLError as error:
        raise ValueError(f"{place} is no YAML: {' '.join(str(error).split())}") from None
    except (TypeError, ValueError):
        if option.is_secret:
            raise ValueError(f"{place} must be a text.") from None
        raise


@functools.cache
def _say_misspelt(variable: str) -> None:
    """Say, once, that a variable is none of ours and looks like one."""
    known = [environment_name(name) for name in OPTIONS]
    if variable.startswith("RLDK_") and variable not in known:
        for close in difflib.get_close_matches(variable, known, 1, 0.85):
            logger.warning("rldk: there is no setting %s; did you mean %s?", variable, close)
