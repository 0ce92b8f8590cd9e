"""A trainer that has none of what the package reads: one warning, and what its logs say."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.trackers.memory import InMemoryTracker

OF_EVERY_TRAINER = {
    *("args", "accelerator", "callback_handler", "control", "lr_scheduler", "model", "model_wrapped", "optimizer"),
    *("processing_class", "state", "train_dataset", "eval_dataset", "is_in_train", "is_fsdp_enabled"),
}


def hides(kind: type[Any]) -> type[Any]:
    """A class of which this package sees only what every transformers Trainer has, as if TRL had renamed the rest."""

    class Hidden(kind):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            asking = sys._getframe(1).f_globals.get("__name__", "")
            known = name.startswith("__") or hasattr(Trainer, name) or name in OF_EVERY_TRAINER
            if asking.startswith("rldk_tracking.") and not asking.startswith("rldk_tracking.demo") and not known:
                raise AttributeError(name)
            return super().__getattribute__(name)

    Hidden.__name__ = kind.__name__
    return Hidden


@pytest.mark.parametrize("strict", [True, False])
def test_one_warning_and_the_logs(strict: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = InMemoryTracker()
    trainer = grpo_trainer(tmp_path, max_steps=3, callbacks=[RLDKCallback(trackers=[memory], strict=strict)])
    trainer.__class__ = hides(type(trainer))
    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        trainer.train()
    assert [step for step, _ in memory.series["rldk/reward/mean"]] == [1, 2, 3], "from the logs"
    assert [step for step, _ in memory.series["rldk/grad/norm"]] == [1, 2, 3], "from the optimiser, as ever"
    (warning,) = [record for record in caplog.records if record.name.startswith("rldk_tracking")]
    assert warning.levelno == logging.WARNING
    assert "GRPOTrainer" in warning.getMessage() and "rldk/advantage/" in warning.getMessage()
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
