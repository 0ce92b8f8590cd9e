from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.messages.packages import TRACKERS, Extension, install_line, leave_out
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers import registry
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.registry import able, ask, backends, resumed, tracker_class, trackers_for
from rldk_tracking.trackers.reporter import ReporterTracker
from rldk_tracking.trackers.slack import SlackNotifier
from rldk_tracking.trackers.tensorboard import TensorBoardTracker
from rldk_tracking.trackers.wandb import WandbTracker
from tests.trackers.wandb_log import load_finished

transformers = pytest.importorskip("transformers", reason="needs transformers")

WEBHOOK = "https://hooks.slack.com/services/T0/B0/x"


def callbacks_of(*names: str) -> list[Any]:
    """As a trainer has them: its own first, then those that `report_to` names, then a user's and the printer."""
    from transformers.integrations import integration_utils
    from transformers.trainer_callback import DefaultFlowCallback, PrinterCallback

    class Users(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, *args: Any, **kwargs: Any) -> None:
            return None

    found = [integration_utils.INTEGRATION_TO_CALLBACK[name] for name in names]
    return [kind() for kind in (DefaultFlowCallback, *found, Users, PrinterCallback)]


def kinds(trackers: list[Tracker]) -> list[type[Tracker]]:
    return [type(tracker) for tracker in trackers]


def test_each_backend_has_its_tracker() -> None:
    callbacks = callbacks_of("mlflow", "wandb", "tensorboard")
    found = trackers_for(callbacks)
    assert kinds(found) == [MLflowTracker, WandbTracker, TensorBoardTracker]
    assert isinstance(found[2], TensorBoardTracker)
    assert found[2].callback is callbacks[3]


def test_several_reporters_are_all_served(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    class Other(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, *args: Any, **kwargs: Any) -> None:
            return None

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "other", Other)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "third", type("Third", (Other,), {}))
    found = trackers_for(callbacks_of("third", "other"))
    assert kinds(found) == [ReporterTracker] * 2
    assert [type(tracker.callback).__name__ for tracker in found if isinstance(tracker, ReporterTracker)] == [
        "Third",
        "Other",
    ]


def test_two_callbacks_of_one_run_are_one_tracker() -> None:
    from transformers.integrations import MLflowCallback

    class Relative(MLflowCallback):  # type: ignore[misc]
        """As DagsHub's."""

    assert kinds(trackers_for([MLflowCallback(), Relative()])) == [MLflowTracker]


def test_ourselves_and_backends_without_series_are_no_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    class Ours(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, *args: Any, **kwargs: Any) -> None:
            return None

    class Quiet(transformers.TrainerCallback):  # type: ignore[misc]
        pass

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "rldk", Ours)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "quiet", Quiet)
    assert trackers_for([Ours(), Quiet()]) == []


def test_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLDK_SLACK_WEBHOOK_URL", raising=False)
    assert trackers_for([]) == []
    assert kinds(trackers_for([], slack=WEBHOOK)) == [SlackNotifier]
    mine = SlackNotifier(WEBHOOK)
    assert trackers_for([], slack=mine)[-1] is mine
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", WEBHOOK)
    assert kinds(trackers_for([])) == [SlackNotifier]
    assert trackers_for([], slack=False) == []


def test_slack_links_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MLflowTracker, "url", lambda self: "https://host/run")
    *_, slack = trackers_for(callbacks_of("mlflow"), slack=WEBHOOK)
    assert isinstance(slack, SlackNotifier)
    assert slack.page() == "https://host/run"


@pytest.mark.slow
def test_in_a_real_trainer(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three backends at once, each in the run that transformers opened, each row at its step."""
    import mlflow
    import torch
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Users(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trackers = trackers_for(trainer.callback_handler.callbacks)
            self.trackers = trackers
            for tracker in self.trackers:
                tracker.open(RunInfo(args=args, state=state, control=control))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for tracker in self.trackers:
                tracker.log({"rldk/a": state.global_step / 2}, state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # MLflow's run has ended by now, and TensorBoard's file is closed.
            for tracker in self.trackers:
                if not tracker.ends_with_trainer:
                    tracker.log({"rldk/last": 1.0}, state.global_step)
                tracker.close()

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, x: Any, labels: Any) -> Any:
            return {"loss": (self.layer(x) - labels).square().mean()}

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    wandb.teardown()
    users = Users()
    trainer = transformers.Trainer(
        model=Model(),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"),
            report_to=["mlflow", "wandb", "tensorboard"],
            max_steps=4,
            logging_steps=1,
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=[{"x": torch.ones(1), "labels": torch.ones(1)}] * 32,
        callbacks=[users],
    )
    trainer.train()
    wandb.finish()
    wandb.teardown()
    expected = [(step, step / 2) for step in range(1, 5)]

    (run,) = store.client.search_runs([store.experiment_id, "0"])
    assert store.history(run.info.run_id, "rldk/a") == expected
    assert store.history(run.info.run_id, "rldk/last") == [(4, 1.0)]
    assert store.history(run.info.run_id, "grad_norm"), "the trainer's own series are in the same run"
    assert run.info.status == "FINISHED"
    assert mlflow.active_run() is None
    log = load_finished(tmp_path)
    assert log.series("rldk/a") == expected
    assert log.series("rldk/last") == [(4, 1.0)]
    assert log.series("train/grad_norm")
    (place,) = {path.parent for path in (tmp_path / "out").rglob("events.out.tfevents.*")}
    found = EventAccumulator(str(place))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("rldk/a")] == expected


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_missing_package_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks = callbacks_of(name)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=re.escape(install_line(name))):
        trackers_for(callbacks)


class Noted(InMemoryTracker):
    """Of another package."""

    name = "noted"


class NotedBackend(Backend):
    kind = Noted
    fails = False

    def is_open(self) -> bool:
        if self.fails:
            raise KeyError("secret")
        return True


class SwanBackend(Backend):
    """Has a tracker of its own for a callback that transformers brings."""

    kind = type("Swan", (InMemoryTracker,), {"name": "swan"})
    callback = "SwanLabCallback"


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets what other packages bring."""

    def bring(*values: Any) -> None:
        found = tuple(Extension(f"of_{number}", "other-package", value) for number, value in enumerate(values))
        monkeypatch.setattr(registry, "extensions", lambda group: found if group == TRACKERS else ())
        registry._others.cache_clear()

    registry._others.cache_clear()
    leave_out.cache_clear()
    yield bring
    registry._others.cache_clear()
    leave_out.cache_clear()


def test_a_backend_of_another_package(others: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLDK_SLACK_WEBHOOK_URL", raising=False)
    others(NotedBackend)
    assert list(backends())[-2:] == ["noted", "reporter"], "what joins any callback is asked last"
    assert tracker_class("noted") is Noted
    assert kinds(trackers_for([])) == kinds(trackers_for(None)) == [Noted]
    assert kinds(trackers_for(callbacks_of("tensorboard"))) == [TensorBoardTracker, Noted]


def test_a_callback_goes_to_the_backend_that_knows_it(others: Callable[..., None]) -> None:
    from transformers.integrations import SwanLabCallback

    callback = SwanLabCallback.__new__(SwanLabCallback)
    assert kinds(trackers_for([callback], slack=False)) == [ReporterTracker]
    others(SwanBackend())
    assert kinds(trackers_for([callback], slack=False)) == [SwanBackend.kind]
    assert trackers_for(None, slack=False) == [], "no run of it is open"


def test_a_broken_backend_costs_one_warning_that_names_its_package(
    others: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Abstract(Backend):
        def __init__(self) -> None:
            raise RuntimeError("no service")

    class Impostor(Backend):
        kind = MLflowTracker

    others(NotedBackend, Abstract, 5, Impostor)
    monkeypatch.setattr(NotedBackend, "fails", True)
    for _ in range(2):
        assert trackers_for(callbacks_of(), slack=False) == []
    assert isinstance(backends()["mlflow"], registry.MLflowBackend)
    assert [message.partition(" is left out: ")[::2] for message in caplog.messages] == [
        ("rldk: 'of_1' of the package other-package", "RuntimeError: no service"),
        ("rldk: 'of_2' of the package other-package", "it is no rldk_tracking.trackers.backend.Backend"),
        ("rldk: 'of_3' of the package other-package", "there is a backend named 'mlflow' already"),
        ("rldk: 'noted' of the package other-package", "KeyError: 'secret'"),
    ]


def test_what_each_backend_can_do() -> None:
    assert list(able(Backend.read)) == list(able(Backend.written_back)) == ["mlflow", "wandb"]
    assert list(able(Backend.missing)) == ["wandb"]
    stores = {name: found.demo.report_to for name, found in backends().items() if found.demo is not None}
    assert stores == {"jsonl": "none", "mlflow": "mlflow", "wandb": "wandb"}
    assert set(ask(lambda backend: backend.name)) == set(backends())
    assert all(name == found.kind.name for name, found in backends().items())


def test_nothing_is_sent_to_a_tracker_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="nothing to send to a tracker named 'none'"):
        resumed("none", {}, {})
    with pytest.raises(ValueError, match="cannot be continued"):
        resumed("jsonl", {}, {})
