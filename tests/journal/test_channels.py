"""Real trainings and real couriers that tell channels of three kinds, on loopback."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journal.conftest import Training, eventually
from tests.trackers.receivers import Chat, Mailbox, chat, mailbox, ntfy

pytestmark = pytest.mark.slow
pytest.importorskip("apprise", reason="needs apprise")

__all__ = ["chat", "mailbox", "ntfy"]
Start = Callable[..., Training]


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Start]:
    made: list[Training] = []

    def start(urls: str, name: str = "", **options: Any) -> Training:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(Training(folder, {"RLDK_NOTIFY_URLS": urls}, notify=True, pause=0.02, **options))
        return made[-1]

    yield start
    for training in made:
        training.end()


def test_each_channel_gets_what_it_wants_once(train: Start, chat: Chat, ntfy: Chat, mailbox: Mailbox) -> None:
    urls = f"critical={chat.address} kl,ended={ntfy.address}\n{mailbox.url}"
    chat.answers = [(503, {}), (503, {})]
    training = train(urls, steps=12, alert_at=5, worse_at=8)
    assert training.wait() == 0
    assert "delivered True" in " ".join(training.said)
    assert chat.titles == ["rldk critical: reward.nan"], "it was away at first"
    assert (ntfy.titles, len(ntfy.ends)) == (["rldk warning: kl.high"], 1)
    assert ntfy.ends[0]["title"] == "rldk critical: run finished"
    assert mailbox.titles == ["rldk warning: kl.high", "rldk critical: reward.nan", "rldk critical: run finished"]
    assert "Finished, step 12. Critical: reward.nan since step 8 and 1 more." in mailbox.text(2)
    assert "imported apprise False" in training.said
    written = [path.read_text() for path in (training.folder / "_rldk").iterdir()]
    assert "SECRET" not in " ".join([*written, *training.said, training.errors()])
    assert training.courier is not None and "SECRET" not in " ".join(training.courier.cmdline())


def test_a_training_that_is_killed(train: Start, chat: Chat, ntfy: Chat, mailbox: Mailbox) -> None:
    urls = f"critical={chat.address} kl,ended={ntfy.address} crashed={mailbox.url}"
    training = train(urls, kill_at=6)
    assert training.wait() == -signal.SIGKILL
    eventually(lambda: all(training.offset(name).get("closed") for name in ("notify", "notify-2", "notify-3")))
    assert (chat.titles, mailbox.titles) == (["rldk critical: run.crashed"],) * 2
    assert ntfy.requests == 0


def test_what_is_refused_for_ever_is_said_once(train: Start, chat: Chat, ntfy: Chat) -> None:
    chat.answers = [(404, {})] * 99
    training = train(f"{chat.address} discrod://SECRET {ntfy.address}", steps=12, alert_at=3, worse_at=6, timeout=5.0)
    assert training.wait() == 0
    assert chat.requests == 5, "two alerts and the end, and two of them once more at the end"
    eventually(lambda: len(ntfy.ends) == 1)
    assert ntfy.titles == ["rldk warning: kl.high", "rldk critical: reward.nan"], "the others are none the worse"
    said = training.errors()
    refused = "rldk: a message was not sent: channel 1 of RLDK_NOTIFY_URLS refuses the message (404)"
    assert said.count(refused) == 1
    unknown = "channel 2 of RLDK_NOTIFY_URLS: apprise knows no such scheme; did you mean discord?"
    assert said.count(f"rldk: nothing can be sent to notify-2: {unknown}") == 1
    assert "SECRET" not in said


def test_two_runs_in_one_digest(train: Start, chat: Chat, tmp_path: Path) -> None:
    urls = f"digest:600:{tmp_path}/digests={chat.address}"
    first = train(urls, "one", steps=5, alert_at=3, until_enough=True)
    first.until("step 4")
    eventually(lambda: any((tmp_path / "digests").rglob("*.jsonl")))
    second = train(urls, "two", steps=5, alert_at=2)
    assert second.wait() == 0
    assert chat.requests == 0, "the first run is there still, and not enough time is over"
    assert first.wait() == 0
    (digest,) = chat.messages + chat.ends
    assert digest["title"] == "rldk digest: 4 messages of 1 run", "both have one name"
    assert digest["message"].count("kl.high (step") == digest["message"].count("run finished") == 2
    assert not any(os.path.exists(path) for path in (tmp_path / "digests").rglob("*.run"))
