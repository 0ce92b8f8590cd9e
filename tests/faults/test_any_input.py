"""Whatever a trainer, a reward function or a user hands over: no exception leaves a callback, and rows stay clean."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.probes.optimizer import OptimizerProbe
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.mlflow_run import Names
from tests.faults.scenario import records

NAMES = [
    "loss",
    "reward",
    "kl",
    "grad_norm",
    "learning_rate",
    "entropy",
    "objective/kl",
    "rewards/f/mean",
    "eval_loss",
    "epoch",
    "rldk/nan/weights",
    "rldk/kl/ref_k1",
]

numbers = st.one_of(
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.booleans(),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e308, 5e-324]),
)
tensors = st.sampled_from(
    [
        torch.tensor(0.5),
        torch.tensor([1.0]),
        torch.tensor(float("nan"), dtype=torch.bfloat16),
        torch.tensor(0.5, dtype=torch.float16, requires_grad=True),
        torch.tensor([]),
        torch.ones(3, 2),
        torch.tensor(1 + 2j),
        torch.tensor(True),
        torch.empty(1, device="meta"),
        torch.eye(2).to_sparse(),
        torch.quantize_per_tensor(torch.tensor([0.5]), 0.1, 0, torch.qint8),
        np.float32(0.5),
        np.array([]),
        np.array(["x"]),
        np.array([1.0, np.nan]),
    ]
)
values = st.recursive(
    st.one_of(st.none(), numbers, st.text(max_size=8), st.binary(max_size=4), tensors, st.just(object())),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
keys = st.one_of(st.sampled_from(NAMES), st.text(max_size=20), st.integers(), st.none())
logs = st.dictionaries(keys, values, max_size=8)
events = st.lists(
    st.tuples(st.sampled_from(["begin", "step", "log", "save", "evaluate", "substep"]), st.integers(-5, 40), logs),
    max_size=12,
)


def training(tracker: InMemoryTracker, **options: Any) -> tuple[RLDKCallback, dict[str, Any]]:
    """A callback in a loop that fires events by hand, as a trainer without any of our attributes does."""
    model = torch.nn.Linear(2, 2)
    callback = RLDKCallback(trackers=[tracker], **options)
    kwargs = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    return callback, kwargs


def fire(callback: RLDKCallback, kwargs: dict[str, Any], script: list[tuple[str, int, dict[Any, Any]]]) -> None:
    args = SimpleNamespace(output_dir=None, run_name="fuzz")
    state = SimpleNamespace(global_step=0, stateful_callbacks={}, is_world_process_zero=True)
    control = SimpleNamespace(should_log=False, should_save=False, should_training_stop=False)
    callback.on_train_begin(args, state, control, **kwargs)
    for event, step, content in script:
        state.global_step = step
        if event == "begin":
            callback.on_step_begin(args, state, control, **kwargs)
        elif event == "step":
            callback.on_step_end(args, state, control, **kwargs)
        elif event == "log":
            callback.on_log(args, state, control, logs=content, **kwargs)
        elif event == "save":
            callback.on_save(args, state, control, **kwargs)
        elif event == "evaluate":
            callback.on_log(
                args, state, control, logs={f"eval_{key}": value for key, value in content.items()}, **kwargs
            )
        else:
            callback.on_substep_end(args, state, control, **kwargs)
        callback.state()
    callback.on_train_end(args, state, control, **kwargs)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(events)
def test_events_of_any_kind(script: list[tuple[str, int, dict[Any, Any]]]) -> None:
    tracker = InMemoryTracker()
    callback, kwargs = training(tracker)
    logging.disable(logging.CRITICAL)
    try:
        fire(callback, kwargs, script)
    finally:
        logging.disable(logging.NOTSET)
    for key, points in tracker.series.items():
        assert isinstance(key, str)
        assert key.startswith("rldk/")
        for step, value in points:
            assert type(step) is int
            assert type(value) is float
            assert math.isfinite(value)
    if tracker.statuses:
        assert tracker.statuses[-1][1] == "finished"


def test_ten_thousand_keys_and_every_illegal_character(tmp_path: Path) -> None:
    tracker, files = InMemoryTracker(), JsonlTracker(tmp_path)
    callback, kwargs = training(tracker)
    callback._settings.trackers = [tracker, files]
    wild = {f"rewards/{chr(number)}<script>'\"`$(rm -rf)\n{{}}/mean": 0.5 for number in range(1, 10_000)}
    fire(callback, kwargs, [("log", step, {"loss": 0.5, **wild}) for step in range(1, 4)])
    assert [step for step, _ in tracker.series["rldk/train/loss"]] == [1, 2, 3]
    names = Names()
    for key in tracker.series:
        name = names[key]
        assert len(name) <= 250
        assert all(c.isalnum() or c in "_-. /" for c in name), name
    rows = [record for record in records(tmp_path / "run.jsonl") if record["type"] == "metrics"]
    assert [row["step"] for row in rows][:3] == [1, 2, 3]


def test_steps_that_go_back() -> None:
    tracker = InMemoryTracker()
    callback, kwargs = training(tracker, strict=True)
    fire(callback, kwargs, [("log", step, {"loss": float(step)}) for step in (5, 6, 2, 3, -1)])
    assert tracker.series["rldk/train/loss"] == [(5, 5.0), (6, 6.0), (2, 2.0), (3, 3.0), (-1, -1.0)]


floats = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.integers(0, 5),
    tokens=st.integers(0, 5),
    dtype=floats,
    fill=st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf, 1e38]),
    masked=st.sampled_from(["none", "all", "some"]),
    leave_out=st.sets(st.sampled_from(["logprobs", "ref_logprobs", "scores", "values", "advantages", "group_ids"])),
)
def test_rollouts_of_any_shape(
    rows: int, tokens: int, dtype: torch.dtype, fill: float, masked: str, leave_out: set[str]
) -> None:
    tracker = InMemoryTracker()
    generator = torch.Generator().manual_seed(rows * 7 + tokens)
    mask = torch.rand(rows, tokens, generator=generator) < {"none": 2.0, "all": -1.0, "some": 0.5}[masked]
    matrix = torch.full((rows, tokens), fill).to(dtype)
    fields = {
        "logprobs": matrix,
        "ref_logprobs": matrix.clone(),
        "scores": torch.full((rows,), fill).to(dtype),
        "values": matrix.clone(),
        "advantages": matrix.clone(),
        "group_ids": torch.arange(rows) // 2,
    }
    given_fields = {name: value for name, value in fields.items() if name not in leave_out}
    logging.disable(logging.CRITICAL)
    try:
        callback = RLDKCallback(trackers=[tracker])
        for step in (1, 2):
            callback.observe(Rollout(mask=mask, **given_fields), step=step, metrics={"rldk/grad/norm": fill})
        callback.close()
    finally:
        logging.disable(logging.NOTSET)
    assert all(math.isfinite(value) for points in tracker.series.values() for _, value in points)


def test_an_optimizer_of_odd_parameters_makes_its_steps() -> None:
    """What fails in a hook fails within the optimizer's step."""
    table, line = torch.nn.Embedding(6, 3, sparse=True), torch.nn.Linear(3, 1)
    model = torch.nn.Sequential(table, line)
    for broken in (False, True):
        tracker = InMemoryTracker()
        callback = RLDKCallback(trackers=[tracker])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        args = SimpleNamespace(output_dir=None)
        state, control = SimpleNamespace(global_step=0), SimpleNamespace(should_log=True)
        callback.on_train_begin(args, state, control, model=model, optimizer=optimizer)
        if broken:
            assert callback.run is not None
            probe = next(probe for probe in callback.run.probes if isinstance(probe, OptimizerProbe))
            assert probe._source is not None
            probe._source._parameters = [object()] * 3  # type: ignore[list-item]
        for step in range(1, 4):
            before = line.weight.detach().clone()
            optimizer.zero_grad()
            model(torch.tensor([0, 2, 2])).sum().backward()
            optimizer.step()
            assert not torch.equal(before, line.weight)
            state.global_step = step
            callback.on_log(args, state, control, logs={"loss": 1.0}, model=model, optimizer=optimizer)
        callback.on_train_end(args, state, control)
        assert [step for step, _ in tracker.series["rldk/train/loss"]] == [1, 2, 3]
        assert not optimizer._optimizer_step_pre_hooks


def test_strict_lets_faults_out() -> None:
    class Broken:
        @property
        def global_step(self) -> int:
            raise RuntimeError("no step")

    for strict in (True, False):
        callback, kwargs = training(InMemoryTracker(), strict=strict)
        args, control = SimpleNamespace(output_dir=None), SimpleNamespace(should_log=False)
        callback.on_train_begin(args, SimpleNamespace(global_step=0), control, **kwargs)
        if strict:
            with pytest.raises(RuntimeError, match="no step"):
                callback.on_log(args, Broken(), control, logs={"loss": 1.0}, **kwargs)
        else:
            callback.on_log(args, Broken(), control, logs={"loss": 1.0}, **kwargs)
        callback.close()
