"""What people are sent of a run: alerts, their ends, and how the run ended; each message once.

Which of them a channel wants is a list of words, "critical,kl,ended":

| word | wanted is |
|---|---|
| info, warning, critical | alerts of this severity; without any of the three, those from the channel's least one on |
| kl, reward, run, ... | alerts of this family of rules; `kl.high` those of one rule, `team.` of a family of your own |
| alerts | alerts of every rule but the next two |
| crashed, hung | that the training crashed or hangs: the alerts of `run.crashed` and `run.hung` |
| ended | how the run ended: its verdict, three numbers, a link |
| digest | all of that in one message every ten minutes, for all runs of the channel together; `digest:60` every 60 s |
| digest:60:/folder | the same, where runs on several machines, or of several users, meet in a folder, see `Digest` |

Without a word there is everything, as single messages. `ended` alone is that and no alert.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rldk_tracking.charts.incidents import ALWAYS_SHOWN, incidents_of, verdict, verdict_word
from rldk_tracking.charts.spec import chart_of
from rldk_tracking.health.alert import SEVERITIES, Alert, Severity, add_alert
from rldk_tracking.health.rule import FAMILIES
from rldk_tracking.messages.arguments import nearest, number
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.digest import PERIOD_S, Digest
from rldk_tracking.trackers.records import Call

MESSAGES = "RLDK_NOTIFY_MESSAGES"
"""Environment variable: the words of every channel that has none of its own."""
ALERTS, ENDED, DIGEST = "alerts", "ended", "digest"
_RULES = {"crashed": "run.crashed", "hung": "run.hung"}
_NUMBERS = 3


@dataclass(frozen=True)
class Message:
    """What is said, before a channel gives it its form.

    Attributes:
        title: a few words.
        text: a sentence.
        severity: of an alert, or of a run's verdict; "info" for good news.
        step: the trainer's; None for several runs.
        run: the run's name.
        facts: names and values.
        advice: what to try first, "" for nothing.
        url: the run's page, where one is known.
    """

    title: str
    text: str
    severity: Severity
    step: int | None
    run: str
    facts: tuple[tuple[str, str], ...] = ()
    advice: str = ""
    url: str | None = None


def alert_message(alert: Alert, run: str | None, url: str | None) -> Message:
    """An alert or its end. Evidence is left out, as it may quote samples."""
    facts = [("Rule", alert.rule), ("Step", f"{alert.step} (first seen at {alert.first_step})")]
    facts += [(name, f"{value:.6g}") for name, value in _values(alert) if value is not None]
    is_over = alert.state == "resolved"
    advice = "" if is_over else alert.advice
    severity: Severity = "info" if is_over else alert.severity
    text = alert.message or alert.title
    return Message(alert.title, text, severity, alert.step, run or "the run", tuple(facts), advice, url)


def _values(alert: Alert) -> tuple[tuple[str, float | None], ...]:
    return ("Value", alert.value), ("Threshold", alert.threshold)


def end_message(
    status: str, metrics: Mapping[str, float], step: int, alerts: Iterable[Alert], run: str | None, url: str | None
) -> Message:
    """How a run ended: the verdict, and the first three of its numbers that are always of interest."""
    incidents = incidents_of(alerts)
    word = verdict_word(metrics, incidents)
    facts = [(chart_of(key).title, f"{metrics[key]:.6g}") for key in ALWAYS_SHOWN if key in metrics][:_NUMBERS]
    severity: Severity = "critical" if word == "critical" else "warning" if word == "warning" else "info"
    text = verdict(status, step, metrics, incidents)
    return Message(f"rldk {word}: run {status}", text, severity, step, run or "the run", tuple(facts), url=url)


class Wanted:
    """Which messages a channel wants.

    Args:
        words: as above, separated by commas.

    Raises:
        ValueError: a word means nothing.

    Examples:
        >>> Wanted("critical,kl").ended
        False
        >>> Wanted("").ended
        True
    """

    def __init__(self, words: str = "") -> None:
        said = {word.strip() for word in words.split(",")} - {""}
        digest = {word for word in said if word.lower().partition(":")[0] == DIGEST}
        given = {word.lower() for word in said - digest}
        known = [*SEVERITIES, *FAMILIES, *_RULES, ALERTS, ENDED, DIGEST]
        if any("/" in word for word in given):  # a secret: words are quoted, and stand in the journal
            raise ValueError("one of them is an address, and no severity, family of rules or kind of message")
        for word in sorted(given):
            if word not in known and "." not in word:
                raise ValueError(
                    f"{word[:40]!r} is no severity, family of rules or kind of message, and a family of your own ends "
                    f"with a dot{nearest(word, known)}"
                )
        self.words = ",".join(sorted(given | digest))
        self.digest = _digest(max(digest)) if digest else None
        """Seconds and folder."""
        self._severities = given & {*SEVERITIES}
        self._kinds = given - {*SEVERITIES, ENDED}
        self.ended = ENDED in given or not given
        self._alerts = given != {ENDED}

    def takes(self, alert: Alert, least: Severity) -> bool:
        """Whether an alert is wanted. `least` counts where no severity is named."""
        if not self._alerts or (self._severities and alert.severity not in self._severities):
            return False
        if not self._severities and SEVERITIES.index(alert.severity) < SEVERITIES.index(least):
            return False
        return not self._kinds or any(_is_about(word, alert.rule) for word in self._kinds)


def _digest(word: str) -> tuple[float, str]:
    seconds, _, folder = word.partition(":")[2].partition(":")
    try:
        return number("its seconds", float(seconds or PERIOD_S), low=0), folder
    except ValueError:
        raise ValueError("write digest, digest:SECONDS or digest:SECONDS:FOLDER") from None


def _is_about(word: str, rule: str) -> bool:
    if word == ALERTS:
        return rule not in _RULES.values()
    word = _RULES.get(word, word)
    return rule == word or rule.startswith(f"{word.rstrip('.')}.")


class Channel(Tracker):
    """Brings a run's messages, and no series, to people. It is the courier that does.

    Args:
        messages: words, see above; by default those in `RLDK_NOTIFY_MESSAGES`.
        min_severity: alerts below it are not sent, unless `messages` names severities.

    Raises:
        ValueError: a word means nothing.
    """

    in_process: ClassVar[bool] = False
    takes_rows: ClassVar[bool] = False
    repeatable: ClassVar[bool] = False

    def __init__(self, messages: str | None = None, min_severity: Severity = "warning") -> None:
        self._wanted = wanted(messages)
        self._min_severity: Severity = min_severity
        self._sent: dict[str, tuple[str, str]] = {}
        self._alerts: list[Alert] = []
        self._pages: list[Callable[[], str | None]] = []
        self._known_page: str | None = None
        self._digest: Digest | None = None
        self.run_name: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pages": [], "_digest": None}

    @abstractmethod
    def send(self, message: Message) -> None:
        """Bring it there now. Raises as the calls of a tracker do."""

    def link_to(self, trackers: Iterable[Tracker]) -> None:
        """Messages link to the run's page in the first of these trackers that has one when the message is sent."""
        self.link_to_pages(tracker.url for tracker in trackers if tracker is not self)

    def link_to_pages(self, pages: Iterable[Callable[[], str | None]]) -> None:
        """The same by functions that give a page's address, or None as long as there is none."""
        self._pages = list(pages)

    def page(self) -> str | None:
        """Address of the run's page, where one is known by now."""
        return next((address for page in self._pages if (address := page())), self._known_page)

    def address(self) -> Mapping[str, str]:
        return {"messages": self._wanted.words} if self._wanted.words else {}

    def secrets(self) -> Mapping[str, str]:
        page = self.page()
        return {"page": page} if page else {}

    def _continue(self, secrets: Mapping[str, str], meeting: str) -> None:
        """For `resume`: what this process knows. `meeting` is the same for all runs of one channel, and secret."""
        self._known_page = secrets.get("page")
        self._digest = Digest.of(meeting, *self._wanted.digest) if self._wanted.digest else None

    def open(self, run: RunInfo) -> None:
        self.run_name = run.name or (Path(run.output_dir).name if run.output_dir else None)

    def restore(self, past: Iterable[Call]) -> None:
        for method, args in past:
            if method == "alert":
                add_alert(self._alerts, args[0])
                if args[0].notify and self._is_wanted(args[0]):
                    self._sent[args[0].rule] = (args[0].state, args[0].severity)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Series are for other trackers."""

    def alert(self, alert: Alert) -> None:
        """Send it, unless it is not wanted, not for people (`Alert.notify`), or known there already."""
        add_alert(self._alerts, alert)
        news = (alert.state, alert.severity)
        if not alert.notify or not self._is_wanted(alert) or self._sent.get(alert.rule) == news:
            return
        self._send_alert(alert)
        self._sent[alert.rule] = news

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        """Say how the run ended. A crash is said by the alert of `run.crashed`."""
        if status in ("finished", "stopped") and self._wanted.ended:
            self._tell(end_message(status, metrics, step, self._alerts, self.run_name, self.page()))

    def flush(self) -> None:
        if self._digest is not None:
            self._digest.send_what_is_due(self._send_digest)

    def close(self) -> None:
        if self._digest is not None:
            self._digest.leave(self._send_digest)
        self._sent.clear()
        self._alerts.clear()

    def _is_wanted(self, alert: Alert) -> bool:
        """Whether it is one of those that are sent. The end of an alert that was sent always is."""
        is_end_of_sent = alert.state == "resolved" and self._sent.get(alert.rule, ("", ""))[0] == "firing"
        return is_end_of_sent or self._wanted.takes(alert, self._min_severity)

    def _send_alert(self, alert: Alert) -> None:
        self._tell(alert_message(alert, self.run_name, self.page()))

    def _tell(self, message: Message) -> None:
        if self._digest is None:
            self.send(message)
        else:
            self._digest.add(message.run, f"{message.title} (step {message.step}): {message.text}", message.severity)

    def _send_digest(self, runs: Mapping[str, list[str]], severity: Severity, left_out: int) -> None:
        count = sum(map(len, runs.values())) + left_out
        text = "\n".join(line for run, lines in runs.items() for line in (f"{run}:", *(f"- {one}" for one in lines)))
        more = f"\nand {left_out} more" if left_out else ""
        title = f"rldk digest: {count} message{'s' * (count > 1)} of {len(runs)} run{'s' * (len(runs) > 1)}"
        self.send(Message(title, text + more, severity, None, "several runs"))


def wanted(messages: str | None) -> Wanted:
    """What the words mean; by default those of the environment. Raises ValueError, which names the variable."""
    if messages is not None:
        return Wanted(messages)
    try:
        return Wanted(os.environ.get(MESSAGES, ""))
    except ValueError as error:
        raise ValueError(f"{MESSAGES}: {error}") from None
