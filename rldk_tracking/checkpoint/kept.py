"""The weights of checkpoints that `save_total_limit` deletes, kept for as long as later ones are compared with them.

A hard link to each file of weights, in a folder beside the checkpoints: nothing is copied, and what was deleted takes
its room on the disk until the link is gone too. The optimizer's state, which is most of a checkpoint, is not kept. The
folder's name begins with `_`, so that nothing of it is pushed to a hub.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from rldk_tracking.checkpoint.findings import step_of

FOLDER = "_rldk_kept"
WEIGHTS = ("model", "pytorch_model", "adapter_model")
"""How the names of files of weights and of their indices begin."""
CONFIGURATIONS = ("config.json", "adapter_config.json")
MOST = 3
"""Checkpoints that are kept at once: the first, and those that the scans to come are compared with."""


class KeptWeights:
    """Those of one training.

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
        """A scan of this step has ended: let go of those before it, and of the oldest of too many. The first stays."""
        later = self.checkpoints()[1:]
        for index, path in enumerate(later):
            if (step_of(path) or 0) < step or len(later) - index > MOST - 1:
                shutil.rmtree(path, ignore_errors=True)

    def forget_after(self, step: int) -> None:
        """Let go of what a training that ended unforeseen has kept after this step."""
        for path in self.checkpoints():
            if (step_of(path) or 0) > step:
                shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Let go of everything."""
        shutil.rmtree(self._folder, ignore_errors=True)


def is_weights(file: Path) -> bool:
    """Whether a file of a checkpoint holds weights, or says which file holds which."""
    if file.name in CONFIGURATIONS or file.suffix == ".safetensors":
        return True
    return file.name.startswith(WEIGHTS) and file.name.endswith((".bin", ".index.json"))
