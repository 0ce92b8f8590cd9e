"""What Trackio's stores answer, and the lines that it has on a network's file system."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.base import RefusedError, UnavailableError
from rldk_tracking.trackers.trackio import TrackioTracker
from rldk_tracking.trackers.trackio_store import Remote

pytest.importorskip("trackio", reason="needs trackio")


def test_what_the_store_does_not_take(trackio_courier: TrackioTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    def locked(**_: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(SQLiteStorage, "bulk_log", locked)
    with pytest.raises(UnavailableError, match="locked"):
        trackio_courier.log({"rldk/a": 1.0}, 1)


def test_on_a_networks_file_system_there_are_lines(
    trackio_courier: TrackioTracker,
    trackio_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_alert: Callable[..., Alert],
) -> None:
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    trackio_courier.log({"rldk/a": 1.0}, 3)
    trackio_courier.alert(make_alert())
    lines = [
        json.loads(line) for path in trackio_folder.glob("inbox/*/*.jsonl") for line in path.read_text().splitlines()
    ]
    assert {(line["kind"], line["step"], line["run_id"]) for line in lines} == {
        ("metric", 3, trackio_courier.address()["id"]),
        ("alert", 12, trackio_courier.address()["id"]),
    }


@pytest.mark.parametrize(("url", "given"), [("somebody/space", "hf_ours"), ("https://example.org/", None)])
def test_a_space_alone_is_given_the_users_token(monkeypatch: pytest.MonkeyPatch, url: str, given: str | None) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_ours")
    store = Remote(url, None)
    store._client = SimpleNamespace(predict=lambda **call: asked.append(call["hf_token"]))
    store.alert({})
    assert asked == [given]


@pytest.mark.parametrize(("status", "error"), [(401, RefusedError), (404, UnavailableError), (503, UnavailableError)])
def test_what_a_server_answers(status: int, error: type[Exception]) -> None:
    import httpx

    def answer(**_: Any) -> None:
        httpx.Response(status, request=httpx.Request("POST", "http://example.org")).raise_for_status()

    store = Remote("somebody/space", None)
    store._client = SimpleNamespace(predict=answer)
    with pytest.raises(error, match=str(status)):
        store.alert({})
