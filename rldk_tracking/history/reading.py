"""Reads past runs from whatever they left behind.

| source | what is read |
|---|---|
| a folder | the first of the kinds below that is in it and can be read, in this order |
| a journal, `run.jsonl`, in the folder, in `_rldk` or in `rldk` | its rows, as they are; the latest training's |
| other `*.jsonl` | log entries |
| W&B's own file (`run-*.wandb`), as in `wandb/offline-run-*` | metrics |
| TensorBoard files (`events.out.tfevents.*`), also below | scalars, see `rldk_tracking.history.formats.binary` |
| a `trainer_state.json`, also inside `checkpoint-*`: the latest | its log history |
| TRL's completions (`completions/*.parquet`) | rewards and ties, see `rldk_tracking.history.completions` |
| any other file; `FILE#RUN`: one of several runs in it | by its content, see `rldk_tracking.history.files` |
| a backend's run: `mlflow:RUN_ID`, `wandb:ENTITY/PROJECT/RUN`; several: `runs_of` | metrics, see `Backend.read` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from rldk_tracking.history.files import Log, read_log
from rldk_tracking.history.formats.binary import read_events
from rldk_tracking.history.run_history import JUDGED, History, UnreadableSourceError, history
from rldk_tracking.journal.journal import journals_in
from rldk_tracking.sources.own_names import OwnNames
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import RejectedError, UnavailableError
from rldk_tracking.trackers.mlflow_server import without_credentials
from rldk_tracking.trackers.registry import able

FOLDERS = ("", "_rldk", "rldk")
"""Where below a folder its journals are: those of trainings, and that of a `JsonlTracker`."""
OURS_BUT_JUDGED = (*JUDGED, "rldk/system/overhead")
"""Series of ours that a replay has no use for."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Candidate:
    """One thing that can be read.

    Attributes:
        kind: "file", or what a folder is read as.
        path: the file or the folder.
        run: of a file with several, the one that is asked for; empty for the longest.
    """

    kind: Literal["file", "tensorboard", "completions"]
    path: Path
    run: str = ""


def read(source: str | Path, aliases: Mapping[str, str] | None = None, own: OwnNames | None = None) -> History:
    """The rows of a past run.

    Args:
        source: see the table above.
        aliases: names in the source to catalogue keys, where the source has names of its own.
        own: names outside the catalogue that are asked for.

    Raises:
        UnreadableSourceError: there is nothing to read.
        OSError: it cannot be opened.
        ImportError: a package that it takes is not installed.
    """
    name = str(source)
    store = store_of(name)
    if store is not None:
        with _refusals(name):
            also = [own.forms] if own is not None and own.forms else []
            run = store.read(name.partition(":")[2], OURS_BUT_JUDGED, *also)
        return replace(
            history(name, run.entries, run.settings, aliases, own), format=f"{store.title or store.name}'s run"
        )
    found, notes = first_readable(source, lambda candidate: read_candidate(candidate, aliases, own))
    return replace(found, notes=(*notes, *found.notes))


def store_of(source: str | Path) -> Backend | None:
    """The backend that a source is a run of; None for a file or a folder."""
    name, colon, _ = str(source).partition(":")
    return able(Backend.read).get(name) if colon else None


def runs_of(source: str) -> list[str]:
    """The single runs that a source stands for, newest first, such as `mlflow:experiment/NAME`, `wandb:ENTITY/PROJECT`.

    Raises:
        UnreadableSourceError: there are none.
        ImportError: the backend's client is not installed.
    """
    store = store_of(source)
    if store is None:
        return [source]
    with _refusals(source):
        return [f"{store.name}:{run}" for run in store.runs(source.partition(":")[2])]


@contextmanager
def _refusals(source: str) -> Iterator[None]:
    try:
        yield
    except (RejectedError, UnavailableError) as error:
        raise UnreadableSourceError(f"{source}: {error}") from error


def first_readable(source: str | Path, reader: Callable[[Candidate], Found]) -> tuple[Found, tuple[str, ...]]:
    """What a reader makes of the best candidate that it can read, and sentences on the choice.

    Every command chooses by this function, so that all of them speak of the same rows.

    Raises:
        UnreadableSourceError, OSError, ImportError: none can be read; of the best one.
    """
    if "://" in str(source):
        raise UnreadableSourceError(
            f"{without_credentials(str(source))}: a store is read run by run: set MLFLOW_TRACKING_URI to its address "
            "and name mlflow:RUN_ID or mlflow:experiment/NAME."
        )
    path = Path(source)
    candidates = list(candidates_of(path))
    first_error: ValueError | OSError | ImportError | None = None
    notes: list[str] = []
    for place, candidate in enumerate(candidates):
        try:
            found = reader(candidate)
        except (UnreadableSourceError, OSError, ImportError) as error:
            first_error = first_error or error
            notes.append(f"not read: {error}")
            continue
        if path.is_dir():
            others = [_name(other, path) for other in candidates[place + 1 :]]
            notes.append(f"reading {_name(candidate, path)}{'; also found ' + ', '.join(others) if others else ''}")
        return found, tuple(notes)
    if first_error is not None:
        raise first_error
    raise UnreadableSourceError(
        f"{source}: no trainer_state.json, checkpoint-*, run.jsonl or other *.jsonl, run-*.wandb, "
        f"events.out.tfevents.* or completions/*.parquet.{_runs_below(path)}"
    )


def candidates_of(path: Path) -> Iterator[Candidate]:
    """What a folder holds that can be read, the best first; a file is its own."""
    if not path.is_dir():
        name, _, run = str(path).rpartition("#")
        in_file = bool(name) and not path.exists() and Path(name).exists()
        yield Candidate("file", Path(name), run) if in_file else Candidate("file", path)
        return
    journals = journals_of(path)
    yield from (Candidate("file", journal) for journal in journals)
    others = [other for other in sorted(path.glob("*.jsonl")) if other.is_file() and other not in journals]
    yield from (Candidate("file", other) for other in others)
    yield from (Candidate("file", run) for run in sorted(path.glob("run-*.wandb")))
    if any(events.is_file() for events in path.rglob("events.out.tfevents.*")):
        yield Candidate("tensorboard", path)
    states = [path / "trainer_state.json", *path.glob("checkpoint-*/trainer_state.json")]
    states = [state for state in states if state.is_file()]
    if states:
        yield Candidate("file", max(states, key=_progress))
    for completions in (path, path / "completions"):
        if any(table.is_file() for table in completions.glob("*.parquet")):
            yield Candidate("completions", completions)


def journals_of(folder: Path) -> list[Path]:
    """The journals of a run's folder, the latest training's first."""
    found = (journal for place in FOLDERS for journal in reversed(journals_in(folder / place)))
    return [journal for journal in found if journal.is_file()]


def read_candidate(
    candidate: Candidate, aliases: Mapping[str, str] | None = None, own: OwnNames | None = None
) -> History:
    """The rows of one candidate. Raises as `read` does."""
    name = str(candidate.path)
    if candidate.kind == "tensorboard":
        return replace(
            history(name, read_events(candidate.path), aliases=aliases, own=own), format="TensorBoard events"
        )
    if candidate.kind == "completions":
        from rldk_tracking.history.completions import read_completions

        return replace(history(name, read_completions(candidate.path)), is_log=True, format="TRL's completions")
    log = read_log(candidate.path, candidate.run)
    found = history(name, log.entries, log.settings, aliases, own)
    notes = (*other_runs(name, log), *found.notes, *skipped_lines(log.skipped))
    return replace(found, source=f"{name}#{log.run}" if candidate.run else name, notes=notes, format=log.format)


def other_runs(name: str, log: Log) -> tuple[str, ...]:
    """A sentence on the runs beside the one that is read, where there are any."""
    if not log.others:
        return ()
    others = ", ".join(log.others[:8]) + (f" and {len(log.others) - 8} more" if len(log.others) > 8 else "")
    how = f"'{name}#{log.others[0]}' reads another"
    return (f"reading run {log.run} of {1 + len(log.others)} in the file; also found {others}; {how}",)


def skipped_lines(count: int) -> tuple[str, ...]:
    """A sentence on the lines of a journal that hold no record, where there are any."""
    if not count:
        return ()
    return (f"{'1 line holds' if count == 1 else f'{count} lines hold'} no record",)


def _name(candidate: Candidate, folder: Path) -> str:
    if candidate.kind == "tensorboard":
        return "TensorBoard files"
    return candidate.path.relative_to(folder).as_posix() if candidate.path != folder else "*.parquet"


def _runs_below(folder: Path) -> str:
    """Where else to look: the folders in a folder of runs."""
    below = [child.name for child in sorted(folder.iterdir()) if child.is_dir() and next(candidates_of(child), None)]
    return f" But its folders {', '.join(below[:8])} hold runs." if below else ""


def _progress(state: Path) -> tuple[int, bool]:
    """The step that a checkpoint's folder is named after; the state beside the checkpoints is the latest."""
    name = state.parent.name.removeprefix("checkpoint-")
    return (int(name) if name.isdigit() else 2**62, True)
