"""The shortest training that a transformers trainer can do, under the callback, with something to write at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from rldk_tracking import RLDKCallback
from rldk_tracking.probes.base import Probe

STEPS = 4


class LastRow(Probe):
    """Has a number that is known only when training is over."""

    def end(self) -> Mapping[str, float]:
        return {"rldk/last": 7.0}


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: Any, labels: Any) -> Any:
        return {"loss": (self.layer(x) - labels).square().mean()}


class _Callback(RLDKCallback):
    def __init__(self, probes: Sequence[Probe], **options: Any) -> None:
        super().__init__(**options)
        self._more = probes

    def make_probes(self) -> Sequence[Probe]:
        return [*super().make_probes(), *self._more]


def train(folder: Path, report_to: str, *probes: Probe, times: int = 1, **options: Any) -> RLDKCallback:
    """Train for `STEPS` steps; returns the callback.

    Args:
        folder: of the outputs.
        report_to: the trainer's.
        probes: what looks at it beside the usual.
        times: how often the trainer trains.
        options: of the callback.
    """
    callback = _Callback(probes, **options)
    trainer = transformers.Trainer(
        model=_Model(),
        args=transformers.TrainingArguments(
            output_dir=str(folder / "out"),
            report_to=report_to,
            max_steps=STEPS,
            logging_steps=1,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=[{"x": torch.ones(1), "labels": torch.ones(1)}] * 32,
        callbacks=[callback],
    )
    for _ in range(times):
        trainer.train()
    return callback
