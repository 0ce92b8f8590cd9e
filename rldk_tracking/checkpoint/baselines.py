"""With which other weights each checkpoint of a training is compared: the one before, the first, the reference."""

from __future__ import annotations

import logging
from pathlib import Path

from rldk_tracking.checkpoint.findings import Scan, step_of
from rldk_tracking.checkpoint.kept import KeptWeights

logger = logging.getLogger(__name__)


class Baselines:
    """Those of one training.

    Args:
        reference: the model that training began from, where it is a folder.
        keep_in: the trainer's output folder, where weights are to be kept that would be deleted before they are
            compared with; None keeps nothing.
    """

    def __init__(self, reference: Path | None, *, keep_in: Path | None = None) -> None:
        self._paths: dict[str, Path] = {} if reference is None else {"reference": reference}
        self._kept = None if keep_in is None else KeptWeights(keep_in)
        self._told: set[str] = set()

    def begin(self, output_dir: Path, step: int) -> None:
        """Go on from the checkpoint at this step: those that an earlier training left in the folder are known. From
        step 0 nothing is."""
        if self._kept is not None:
            self._kept.forget_after(step)
        kept = [] if self._kept is None else self._kept.checkpoints()
        found = {number: path for path in [*kept, *output_dir.glob("checkpoint-*")] if (number := step_of(path))}
        earlier = {number: path for number, path in found.items() if number <= step}
        if earlier:
            self._paths |= {"first": earlier[min(earlier)], "previous": earlier[max(earlier)]}

    def take(self, path: Path) -> dict[str, Path]:
        """What a checkpoint that was just saved is to be compared with; it is itself what the next one is."""
        against = dict(self._paths)
        held = self._keep(path)
        self._paths["previous"] = held
        self._paths.setdefault("first", held)
        return against

    def scanned(self, found: Scan) -> None:
        """A scan has ended: let go of what nothing will be compared with, and say once what could not be compared."""
        if self._kept is not None and found.step is not None:
            self._kept.release(found.step)
        first = self._paths.get("first")
        if "first" in found.compared or first is None or first.name == found.path.name or "first" in self._told:
            return
        self._told.add("first")
        logger.warning(
            "rldk: rldk/checkpoint/drift ends: %s, from which it is measured, was deleted by save_total_limit. "
            "CheckpointMonitor(reference=...) measures it from a folder that stays.",
            first.name,
        )

    def close(self) -> None:
        """Let go of everything."""
        if self._kept is not None:
            self._kept.clear()

    def _keep(self, path: Path) -> Path:
        if self._kept is None:
            return path
        try:
            return self._kept.keep(path)
        except OSError as error:
            if "links" not in self._told:
                self._told.add("links")
                logger.warning("rldk: no hard links to what is saved (%s): it is compared while it is there.", error)
            return path
