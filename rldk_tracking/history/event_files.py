"""Scalars out of a TensorBoard folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """One entry a step, steps in order; of a step that was written twice (a resumed run) the later value holds.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise ImportError("Reading TensorBoard files needs tensorboard: pip install tensorboard.") from error
    values: dict[int, dict[str, tuple[float, float]]] = {}
    for path in sorted(path for path in folder.rglob("events.out.tfevents.*") if path.is_file()):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                at = values.setdefault(event.step, {})
                if tag not in at or event.wall_time >= at[tag][0]:
                    at[tag] = (event.wall_time, event.value)
    for step in sorted(values):
        yield {"step": step} | {tag: value for tag, (_, value) in values[step].items()}
