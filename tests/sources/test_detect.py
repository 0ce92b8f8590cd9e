"""Which source a trainer gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking import demo
from rldk_tracking.sources.detect import source_for
from rldk_tracking.sources.logs import LogsSource
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.sources.trl_ppo import PPOSource

ARGS = SimpleNamespace(per_device_train_batch_size=2, gradient_accumulation_steps=3, num_ppo_epochs=2)


def named(*names: str) -> Any:
    """An instance of a class of the last name that descends from classes of the others."""
    kind: type = object
    for name in names:
        kind = type(name, (kind,), {"args": ARGS})
    return kind()


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("GRPOTrainer",), GroupSource),
        (("RLOOTrainer",), GroupSource),
        (("GRPOTrainer", "MyTrainer"), GroupSource),
        (("PPOTrainer",), PPOSource),
        (("PPOTrainer", "MyTrainer"), PPOSource),
        (("Trainer", "DPOTrainer"), LogsSource),
        (("Trainer",), LogsSource),
    ],
)
def test_the_class_or_an_ancestor_decides(names: tuple[str, ...], kind: type) -> None:
    assert type(source_for(named(*names))) is kind


def test_whatever_is_read_of_grpo_is_enough() -> None:
    """A class of another name that scores groups, as copies of TRL's trainers have it."""
    has = {"_generate_and_score_completions": print, "_get_per_token_logps_and_entropies": print}
    has |= {"_logs": {"rewards": {}}, "num_generations": 4, "args": ARGS}
    assert type(source_for(type("UnslothTrainer", (), dict(has))())) is GroupSource
    assert source_for(type("UnslothRLOOTrainer", (), dict(has))())._kind == "rloo"  # type: ignore[attr-defined]
    for name in has.keys() - {"args"}:
        lacking = {key: value for key, value in has.items() if key != name}
        assert type(source_for(type("Distiller", (), lacking)())) is LogsSource
    assert type(source_for(type("Distiller", (), {**has, "_logs": {"prompt": []}})())) is LogsSource


def test_real_trainers(tmp_path: Path) -> None:
    assert isinstance(source_for(demo.grpo_trainer(tmp_path, beta=0.0)), GroupSource)
    assert isinstance(source_for(demo.rloo_trainer(tmp_path, beta=0.0)), GroupSource)


@pytest.mark.parametrize("name", ["GRPOTrainer", "PPOTrainer", "Trainer"])
def test_every_source_has_what_the_protocol_asks_for(name: str) -> None:
    source = source_for(named(name))
    assert source.rows_per_rank >= 1
    assert source.honours_stop is (name != "PPOTrainer")
    assert source.missing == [] and source.rollout_seconds is None
    assert all(callable(getattr(source, method)) for method in ("attach", "detach", "read"))
