"""Where Trackio keeps its runs: a folder of this machine, a Space, or a server of one's own.

Its `Run` hands everything to a thread, which retries for itself or gives up in silence. The courier has to know what
was taken, so it makes the calls that this thread would make.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rldk_tracking.trackers.base import RefusedError, RejectedError, UnavailableError

Entry = dict[str, Any]
"""A row or an alert, with the fields of `trackio.typehints.LogEntry` or `AlertEntry`."""
_REFUSALS, _PASSING = (401, 403), (404, 408, 429)
"""Answers of HTTP. A Space that is being built, or asleep, is not found."""


class Store(ABC):
    """One of them. Every method raises UnavailableError or RejectedError where the store does not take it."""

    @abstractmethod
    def rows(self, entries: Sequence[Entry]) -> None:
        """Write rows of one run. Those whose `log_id` is there already are left out."""

    @abstractmethod
    def alert(self, entry: Entry) -> None:
        """Write an alert, unless its `alert_id` is there already."""

    def media(self, value: Any, project: str, run: str, step: int) -> Any:
        """What stands in a row for a table, a picture or a histogram of Trackio's; a picture's file is written."""
        import trackio

        if isinstance(value, trackio.Table):
            return value._to_dict(project, run, step)
        if hasattr(value, "_save"):
            value._save(project, run, step)
        return value._to_dict()


class Folder(Store):
    """`TRACKIO_DIR`. On a network's file system Trackio has files of lines there, which its page takes up later."""

    def __init__(self) -> None:
        from trackio import fragments, utils

        self._fragments = fragments
        self._writer = fragments.FragmentWriter() if utils.get_storage_mode() == "jsonl" else None

    def rows(self, entries: Sequence[Entry]) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        if not entries:
            return
        with _faults():
            if self._writer is not None:
                records = [self._fragments.metric_record(entry) for entry in entries]
                self._writer.write_local(records)
                return
            SQLiteStorage.bulk_log(
                **{name: entries[0][name] for name in ("project", "run", "run_id")},
                metrics_list=[entry["metrics"] for entry in entries],
                steps=[entry["step"] for entry in entries],
                timestamps=[entry["timestamp"] for entry in entries],
                log_ids=[entry["log_id"] for entry in entries],
            )

    def alert(self, entry: Entry) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        with _faults():
            if self._writer is not None:
                self._writer.write_local([self._fragments.alert_record(entry)])
                return
            lists = {f"{name}s": [entry[name]] for name in ("title", "text", "level", "step", "timestamp", "alert_id")}
            SQLiteStorage.bulk_alert(**{name: entry[name] for name in ("project", "run", "run_id")}, **lists)


class Remote(Store):
    """A Space, by its id, or a server, by its address. A Space takes the token that `huggingface_hub` finds."""

    def __init__(self, url: str, write_token: str | None) -> None:
        self._url, self._write_token = url, write_token
        self._client: Any = None

    def rows(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._call("bulk_log", logs=list(entries))

    def alert(self, entry: Entry) -> None:
        self._call("bulk_alert", alerts=[entry])

    def media(self, value: Any, project: str, run: str, step: int) -> Any:
        from gradio_client import handle_file

        stored = super().media(value, project, run, step)
        if hasattr(value, "_save"):
            upload = {"project": project, "run": run, "run_id": None, "step": step, "relative_path": None}
            path = value._get_absolute_file_path()
            self._call("bulk_upload_media", uploads=[upload | {"uploaded_file": handle_file(path)}])
        return stored

    def _call(self, name: str, **arguments: Any) -> None:
        from huggingface_hub import get_token
        from trackio.remote_client import RemoteClient

        token = None if "://" in self._url else get_token()
        with _faults():
            if self._client is None:
                self._client = RemoteClient(self._url, hf_token=token, write_token=self._write_token)
            self._client.predict(api_name=f"/{name}", hf_token=token, **arguments)


def store_of(url: str | None, write_token: str | None) -> Store:
    """The store of a run: the folder where there is no address."""
    return Folder() if url is None else Remote(url, write_token)


@contextmanager
def _faults() -> Iterator[None]:
    """Faults of sqlite and of HTTP as those that the courier knows."""
    import httpx

    try:
        yield
    except (OSError, sqlite3.OperationalError, httpx.RequestError) as error:
        raise UnavailableError(f"Trackio does not answer: {error}") from error
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in _REFUSALS:
            raise RefusedError(f"Trackio does not take the token: {status}") from error
        kind = UnavailableError if status >= 500 or status in _PASSING else RejectedError
        raise kind(f"Trackio answers {status}: {error.response.text[:200]}") from error
