"""With which other weights each checkpoint of a training is compared: the one before, the first, the reference.

Those that `save_total_limit` deletes are kept for as long as later ones are compared with them: a hard link to each
file of weights, in a folder beside the checkpoints. Nothing is copied; what was deleted takes its space on the disk
until the link is gone too. The optimizer's state, which is most of a checkpoint, is not kept. The folder's name begins
with `_`, so that nothing of it is pushed to a hub.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from rldk_tracking.checkpoint.findings import Scan, step_of

logger = logging.getLogger(__name__)

FOLDER = "_rldk_kept"
WEIGHTS = ("model", "pytorch_model", "adapter_model")
"""How the names of files of weights and of their indices begin."""
CONFIGURATIONS = ("config.json", "adapter_config.json")
MOST = 3
"""Checkpoints that are kept at once: the first, and those that the scans to come are compared with."""


class Baselines:
    """The other weights of one training.

    Args:
        reference: the model that training began from, where it is a folder.
        keep_in: the trainer's output folder, where weights are to be kept that would be deleted before they are
            compared with; None keeps nothing.
    """

    def __init__(self, reference: Path | None, *, keep_in: Path | None = None) -> None:
        self._paths: dict[str, Path] = {} if reference is None else {"reference": reference}
        self._kept = None if keep_in is None else KeptWeights(keep_in)
        self._warned: set[str] = set()

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
        kept = self._keep(path)
        self._paths["previous"] = kept
        self._paths.setdefault("first", kept)
        return against

    def scanned(self, found: Scan) -> None:
        """A scan has ended: delete what nothing will be compared with, and say once what could not be compared."""
        if self._kept is not None and found.step is not None:
            self._kept.release(found.step)
        first = self._paths.get("first")
        if "first" in found.compared or first is None or first.name == found.path.name or "first" in self._warned:
            return
        self._warned.add("first")
        logger.warning(
            "rldk: rldk/checkpoint/drift ends: %s, from which it is measured, was deleted by save_total_limit. "
            "CheckpointMonitor(reference=...) measures it from a folder that stays.",
            first.name,
        )

    def close(self) -> None:
        """Delete all that is kept."""
        if self._kept is not None:
            self._kept.clear()

    def _keep(self, path: Path) -> Path:
        if self._kept is None:
            return path
        try:
            return self._kept.keep(path)
        except OSError as error:
            if "links" not in self._warned:
                self._warned.add("links")
                logger.warning("rldk: no hard links to what is saved (%s): it is compared while it is there.", error)
            return path


class KeptWeights:
    """Hard links to the weights of one training's checkpoints.

    Args:
        output_dir: the folder in which the checkpoints lie.
    """

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir / FOLDER

    def keep(self, checkpoint: Path) -> Path:
        """Link a checkpoint's weights; returns the folder that holds them.

        Raises:
            OSError: the file system has no hard links, or the checkpoint is gone.
        """
        kept = self._folder / checkpoint.name
        kept.mkdir(parents=True, exist_ok=True)
        for file in checkpoint.iterdir():
            if is_weights(file) and not (kept / file.name).exists():
                os.link(file, kept / file.name)
        return kept

    def checkpoints(self) -> list[Path]:
        """What is kept, by step."""
        found = {step: path for path in self._folder.glob("checkpoint-*") if (step := step_of(path)) is not None}
        return [found[step] for step in sorted(found)]

    def release(self, step: int) -> None:
        """A scan of this step has ended: delete those before it, and the oldest of too many. The first stays."""
        later = self.checkpoints()[1:]
        for index, path in enumerate(later):
            if (step_of(path) or 0) < step or len(later) - index > MOST - 1:
                shutil.rmtree(path, ignore_errors=True)

    def forget_after(self, step: int) -> None:
        """Delete what a training that ended unforeseen has kept after this step."""
        for path in self.checkpoints():
            if (step_of(path) or 0) > step:
                shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Delete all that is kept."""
        shutil.rmtree(self._folder, ignore_errors=True)


def is_weights(file: Path) -> bool:
    """Whether a file of a checkpoint holds weights, or says which file holds which."""
    if file.name in CONFIGURATIONS or file.suffix == ".safetensors":
        return True
    return file.name.startswith(WEIGHTS) and file.name.endswith((".bin", ".index.json"))
