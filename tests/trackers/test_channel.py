"""Which messages a channel is sent, and what they say."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import UnavailableError
from rldk_tracking.trackers.channel import Channel, Message, Wanted, alert_message, end_message

ALL = "kl.mild:info kl.high:warning reward.nan:critical run.crashed:critical run.hung:warning team.x:warning"
WARNINGS = ALL.removeprefix("kl.mild:info ")
NUMBERS = {"rldk/health/score": 0.9, "rldk/reward/mean": 0.5, "rldk/kl/ref_k3": 0.01, "rldk/policy/entropy": 1.25}


class List(Channel):
    """A channel that keeps what it is sent."""

    name = "list"

    def __init__(self, messages: str | None = None) -> None:
        super().__init__(messages)
        self.sent: list[Message] = []
        self.is_away = False
        self.open(RunInfo(name="run 7"))

    def send(self, message: Message) -> None:
        if self.is_away:
            raise UnavailableError("away")
        self.sent.append(message)

    @property
    def titles(self) -> list[str]:
        return [message.title.removeprefix("rldk ") for message in self.sent]


@pytest.mark.parametrize(
    ("words", "takes"),
    [
        ("", f"{WARNINGS} ended"),
        ("digest", f"{WARNINGS} ended"),
        ("critical", "reward.nan:critical run.crashed:critical"),
        ("info", "kl.mild:info"),
        (
            "Warning, critical",
            WARNINGS,
        ),
        ("kl", "kl.high:warning"),
        ("info,kl", "kl.mild:info"),
        ("kl.mild,info", "kl.mild:info"),
        ("kl.mild", ""),
        ("team.", "team.x:warning"),
        ("alerts", "kl.high:warning reward.nan:critical team.x:warning"),
        ("alerts,ended", "kl.high:warning reward.nan:critical team.x:warning ended"),
        ("crashed", "run.crashed:critical"),
        ("hung", "run.hung:warning"),
        ("hung,critical", ""),
        ("ended", "ended"),
        ("critical,ended", "reward.nan:critical run.crashed:critical ended"),
        ("kl,ended", "kl.high:warning ended"),
    ],
)
def test_words(make_alert: Callable[..., Alert], words: str, takes: str) -> None:
    channel = List(words)
    for text in ALL.split():
        rule, severity = text.split(":")
        channel.alert(make_alert(rule, severity=severity))
    channel.status("warning", {}, 20)
    channel.status("finished", NUMBERS, 20)
    sent = [" ".join(reversed(title.split(": "))) for title in channel.titles]
    found = [text.replace(" ", ":") if "run finished" not in text else "ended" for text in sent]
    assert found == takes.split()


def test_words_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="'critcal' is no severity, .* did you mean critical"):
        Wanted("critcal")
    with pytest.raises(ValueError, match="a family of your own ends with a dot"):
        Wanted("zzzz")
    with pytest.raises(ValueError, match="one of them is an address") as caught:
        Wanted("A.SECRET,critical,https://hooks.example.org/services/T/SECRET")
    assert "secret" not in str(caught.value).lower()
    for word in ("digest:soon", "digest:-1", "digest:nan:/x"):
        with pytest.raises(ValueError, match="write digest, digest:SECONDS or digest:SECONDS:FOLDER"):
            Wanted(word)


def test_a_digest_for_several_runs(tmp_path: Path, make_alert: Callable[..., Alert]) -> None:
    words = f"warning,ended,digest:60:{tmp_path}/Shared"
    runs = [List(words), List(words)]
    for number, run in enumerate(runs):
        run.open(RunInfo(name=f"run {number}"))
        run._continue({}, "json://host/SECRET")
        run.alert(make_alert())
        run.status("finished", NUMBERS, 20)
        run.flush()
    for run in runs:
        run.close()
    (message,) = runs[1].sent
    assert message.step is None, "it is of several runs"
    assert (runs[0].sent, message.title) == ([], "rldk digest: 4 messages of 2 runs")
    assert message.severity == "warning"
    first, _, end, *_ = message.text.splitlines()
    assert (first, end) == (
        "run 0:",
        "- rldk warning: run finished (step 20): Finished, step 20. Warning: kl.high since step 10.",
    )
    assert Wanted(runs[0].address()["messages"]).digest == (60.0, f"{tmp_path}/Shared"), "the courier is told of it"


def test_one_setting_for_all_channels(make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLDK_NOTIFY_MESSAGES", "alerts,crashed")
    silent, own = List(), List("ended")
    for channel in (silent, own):
        channel.status("finished", NUMBERS, 20)
        channel.alert(make_alert("run.hung"))
        channel.alert(make_alert("run.crashed", severity="critical"))
    assert silent.titles == ["critical: run.crashed"]
    assert own.titles == ["healthy: run finished"]
    assert silent.address() == {"messages": "alerts,crashed"}
    monkeypatch.setenv("RLDK_NOTIFY_MESSAGES", "alerst")
    with pytest.raises(ValueError, match="RLDK_NOTIFY_MESSAGES: 'alerst' is no"):
        List()


def test_the_end_of_an_alert_goes_where_the_alert_went(make_alert: Callable[..., Alert]) -> None:
    mild, pager = List("warning"), List("critical")
    for channel in (mild, pager):
        channel.alert(make_alert())
        channel.alert(make_alert(severity="critical"))
        channel.alert(make_alert(severity="critical", state="resolved"))
        channel.alert(make_alert(severity="critical", state="resolved"))
    assert mild.titles == ["warning: kl.high", "resolved: kl.high"]
    assert pager.titles == ["critical: kl.high", "resolved: kl.high"]
    later = List("warning")
    later.restore([("alert", (make_alert(),)), ("alert", (make_alert(severity="critical"),))])
    later.alert(make_alert(severity="critical", state="resolved"))
    assert later.titles == ["resolved: kl.high"], "also in a courier that was started again"


def test_what_was_not_taken_is_not_sent(make_alert: Callable[..., Alert]) -> None:
    channel = List()
    channel.is_away = True
    with pytest.raises(UnavailableError):
        channel.alert(make_alert())
    channel.is_away = False
    channel.alert(make_alert())
    assert len(channel.sent) == 1


def test_the_next_run_of_a_channel_has_no_alert_of_the_last(make_alert: Callable[..., Alert]) -> None:
    channel = List()
    for _ in range(2):
        channel.alert(make_alert())
        channel.close()
    channel.status("finished", NUMBERS, 20)
    assert channel.titles == ["warning: kl.high", "warning: kl.high", "healthy: run finished"]


def test_another_process_is_given_neither_functions_nor_files(tmp_path: Path) -> None:
    channel = List(f"digest:60:{tmp_path}")
    channel._continue({}, "json://host/SECRET")
    channel.link_to_pages([lambda: "https://host/run"])
    copied = pickle.loads(pickle.dumps(channel))
    assert (copied.run_name, copied.page()) == ("run 7", None)
    channel.close()


def test_how_a_run_ended(make_alert: Callable[..., Alert]) -> None:
    channel = List()
    channel.link_to_pages([lambda: None, lambda: "https://host/run"])
    channel.restore([("alert", (make_alert("reward.nan", severity="critical"),)), ("log", ({}, 1))])
    channel.alert(make_alert(notify=False))
    channel.status("crashed", NUMBERS, 20)
    channel.status("stopped", NUMBERS, 20)
    (message,) = channel.sent
    assert message.title == "rldk critical: run stopped"
    assert (message.severity, message.url, message.run) == ("critical", "https://host/run", "run 7")
    assert message.text == "Stopped, step 20. Critical: reward.nan since step 10 and 1 more."
    assert [value for _, value in message.facts] == ["0.5", "0.01", "1.25"]
    ended = end_message("finished", {"rldk/reward/mean": 0.5}, 3, [], None, None)
    assert ended.title == "rldk unknown: run finished", "too little was judged to call it healthy"
    assert (len(ended.facts), ended.severity) == (1, "info")


def test_a_run_without_a_name_has_that_of_its_folder(make_alert: Callable[..., Alert]) -> None:
    channel = List()
    for info in (RunInfo(output_dir="out/lr-3e-5"), RunInfo()):
        channel.open(info)
        channel.status("finished", NUMBERS, 20)
    assert [message.run for message in channel.sent] == ["lr-3e-5", "the run"]


def test_evidence_stays_at_home(make_alert: Callable[..., Alert]) -> None:
    message = alert_message(make_alert(evidence={"prompt": "TOP SECRET"}), "run 7", None)
    assert "TOP SECRET" not in repr(message)
    assert alert_message(make_alert(state="resolved"), None, None).advice == ""
