"""Which trackers get what, and when; here without a journal, which has tests of its own."""

from __future__ import annotations

import gc
import inspect
import logging
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.rule import Rule
from rldk_tracking.journal.offset import Destination, named
from rldk_tracking.journal.publisher import FOLDER, Publisher, folder_of, news_of
from rldk_tracking.journal.settings import Settings, needs_journal
from rldk_tracking.rollout import RunInfo
from rldk_tracking.run import Run
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.webhook import WebhookNotifier
from tests.trackers.conftest import make_alert

__all__ = ["make_alert"]

OVERHEAD = "rldk/system/overhead_fraction"


class Noting(InMemoryTracker):
    """Notes every call, fails in those that it is told to, and joins its run when it is let."""

    name: ClassVar[str] = "noting"

    def __init__(self, fails_in: str = "", has_run: bool = True) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fails_in, self.has_run = fails_in, has_run

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_in:
            raise ConnectionError("not reachable")

    @property
    def joined(self) -> bool:
        return self.has_run

    def open(self, run: RunInfo) -> None:
        self.call("open")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.call("log")
        super().log(metrics, step)

    def alert(self, alert: Alert) -> None:
        self.call("alert")
        super().alert(alert)

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        self.call("status")
        super().status(status, metrics, step)

    def last_step(self) -> int | None:
        self.call("last_step")
        return super().last_step()

    def url(self) -> str | None:
        return "http://here/run"

    def close(self) -> None:
        self.call("close")


def publisher_of(*trackers: Tracker, resumed_at: int | None = None, strict: bool = False) -> Publisher:
    publisher = Publisher(strict)
    publisher.open([], RunInfo(), trackers, None, resumed_at)
    return publisher


def test_a_row_its_alerts_and_the_status_come_to_every_tracker(
    caplog: pytest.LogCaptureFixture, make_alert: Callable[..., Alert]
) -> None:
    one, two = InMemoryTracker(), InMemoryTracker()
    publisher = publisher_of(one, two, strict=True)
    alert, ended = make_alert(step=3), make_alert(step=3, state="resolved")
    with caplog.at_level(logging.INFO):
        assert publisher.row(3, {"rldk/kl/ref_k1": 1.0}, [alert, ended]) == [alert, ended]
    publisher.status("warning", 3)
    publisher.status("warning", 4)
    publisher.publish("log_table", "rldk/samples", ["a"], [[1]], 3)
    publisher.close("finished", 9)
    assert publisher.latest == (3, {"rldk/kl/ref_k1": 1.0})
    for tracker in (one, two):
        assert tracker.series == {"rldk/kl/ref_k1": [(3, 1.0)]}
        assert tracker.alerts == [alert, ended]
        assert tracker.tables == {"rldk/samples": [(3, ["a"], [[1]])]}
        assert tracker.statuses == [(0, "running"), (3, "warning"), (9, "finished")]
    said = {record.levelname: record.getMessage() for record in caplog.records if "step 3" in record.getMessage()}
    assert said.keys() == {"WARNING", "INFO"} and alert.message in said["WARNING"]


def test_a_channel_for_alerts_gets_no_rows(make_alert: Callable[..., Alert]) -> None:
    class Channel(Noting):
        takes_rows: ClassVar[bool] = False

    channel = Channel()
    publisher = publisher_of(channel)
    publisher.row(1, {"a": 1.0}, [make_alert()])
    publisher.close("finished")
    assert channel.series == {} and len(channel.alerts) == 1 and "log" not in channel.calls


def test_a_second_row_of_a_step_adds_what_is_new(make_alert: Callable[..., Alert]) -> None:
    tracker = InMemoryTracker()
    publisher = publisher_of(tracker)
    publisher.row(1, {"a": 1.0, "b": 2.0, OVERHEAD: 0.1}, [])
    publisher.row(1, {"a": 1.0, "b": 3.0, OVERHEAD: 0.2}, [make_alert()])
    assert publisher.latest == (1, {"a": 1.0, "b": 3.0, OVERHEAD: 0.2})
    publisher.row(2, {"a": 1.0, OVERHEAD: 0.2}, [])
    publisher.close("finished")
    assert tracker.series == {"a": [(1, 1.0), (2, 1.0)], "b": [(1, 2.0), (1, 3.0)], OVERHEAD: [(1, 0.1), (2, 0.2)]}
    assert len(tracker.alerts) == 1, "an alert is news of its own"
    assert publisher.latest == (2, {"a": 1.0, OVERHEAD: 0.2}), "nothing of an earlier step"


def test_a_row_without_news_is_no_row() -> None:
    tracker = Noting()
    publisher = publisher_of(tracker)
    for _ in range(2):
        publisher.row(1, {"a": 1.0}, [])
    assert tracker.calls.count("log") == 1
    publisher.close("finished")


@pytest.mark.parametrize("prefix", ["rldk/health/", "rldk/alerts/", "rldk/system/"])
def test_what_is_said_once_a_step_is_not_said_anew(prefix: str) -> None:
    assert news_of({f"{prefix}a": 0.5, f"{prefix}b": 1.0}, {f"{prefix}a": 1.0}) == {f"{prefix}b": 1.0}
    assert news_of({f"{prefix}a": 0.5}, {}) == {f"{prefix}a": 0.5}


@pytest.mark.parametrize("place", ["open", "log", "alert", "status", "close"])
def test_a_tracker_that_fails_costs_the_others_nothing(
    place: str, caplog: pytest.LogCaptureFixture, make_alert: Callable[..., Alert]
) -> None:
    broken, whole = Noting(fails_in=place), InMemoryTracker()
    with caplog.at_level(logging.ERROR):
        publisher = publisher_of(broken, whole)
        for step in (1, 2):
            publisher.row(step, {"a": 1.0}, [make_alert()])
        publisher.close("finished")
    assert whole.series == {"a": [(1, 1.0), (2, 1.0)]} and len(whole.alerts) == 2
    assert [status for _, status in whole.statuses] == ["running", "finished"]
    assert broken.calls[-1] == "close"
    faults = [record for record in caplog.records if "noting" in record.getMessage()]
    assert len(faults) == 1 and "not reachable" in str(faults[0].exc_info)


def test_faults_of_trackers_are_a_series() -> None:
    broken = Noting(fails_in="log")
    publisher = publisher_of(broken)
    assert publisher.health() == {"rldk/system/tracker_errors": 0.0, "rldk/system/trackers_down": 0.0}
    for step in (1, 2, 3):
        publisher.row(step, {"a": 1.0}, [])
    assert publisher.health()["rldk/system/tracker_errors"] == 3.0
    publisher.close("finished")
    assert Publisher().health() == {} and publisher_of().health() == {}, "nobody to tell of"


def test_a_tracker_that_finds_its_run_later_gets_the_rows_from_then_on() -> None:
    late = Noting(has_run=False)
    publisher = publisher_of(late, strict=True)
    publisher.row(1, {"a": 1.0}, [])
    publisher.join()
    assert late.calls == ["open", "open", "open"]
    late.has_run = True
    publisher.join()
    publisher.row(2, {"a": 2.0}, [])
    publisher.join()
    assert late.calls == ["open", "open", "open", "log"] and late.series == {"a": [(2, 2.0)]}
    publisher.close("finished")


def test_a_tracker_that_never_joined_is_closed_too() -> None:
    never = Noting(has_run=False)
    publisher_of(never).close("finished")
    assert never.calls[-1] == "close" and "status" not in never.calls


@pytest.mark.parametrize(("has", "expected"), [(6, [7, 8]), (0, [5, 6, 7, 8]), (None, [5, 6, 7, 8])])
def test_a_resumed_run_repeats_no_row_that_is_there(has: int | None, expected: list[int]) -> None:
    class Holding(Noting):
        def last_step(self) -> int | None:
            return has

    tracker = Holding()
    publisher = publisher_of(tracker, resumed_at=4, strict=True)
    for step in range(5, 9):
        publisher.row(step, {"a": float(step)}, [])
    publisher.close("finished")
    assert [step for step, _ in tracker.series["a"]] == expected
    assert tracker.statuses[0] == (4, "running")


@pytest.mark.parametrize(("has", "expected"), [(1, [2, 3, 5]), (4, [5]), (None, [5])])
def test_rows_that_died_with_the_client_of_the_earlier_training_are_sent(
    tmp_path: Path, has: int | None, expected: list[int]
) -> None:
    """From the journal, up to the checkpoint; what was behind it is made again."""

    class Holding(Noting):
        def last_step(self) -> int | None:
            return has

    for resumed_at in (None, 3):
        tracker = Holding()
        publisher = Publisher(strict=True)
        publisher.open([], RunInfo(), [tracker], tmp_path, resumed_at)
        for step in range(1, 5) if resumed_at is None else (4, 5):
            publisher.row(step, {"a": float(step)}, [])
        publisher.close("finished")
    assert [step for step, _ in tracker.series["a"] if step != 4] == expected


def test_a_resumed_run_whose_tracker_cannot_say_what_it_has_gets_everything() -> None:
    tracker, other = Noting(fails_in="last_step"), Noting()
    publisher = publisher_of(tracker, other, resumed_at=4)
    publisher.row(5, {"a": 1.0}, [])
    publisher.close("finished")
    assert tracker.series == other.series == {"a": [(5, 1.0)]}


def test_a_new_run_asks_for_no_earlier_step_and_may_begin_with_step_0() -> None:
    tracker = Noting()
    publisher = publisher_of(tracker)
    publisher.row(0, {"a": 1.0}, [])
    publisher.close("finished")
    assert tracker.series == {"a": [(0, 1.0)]} and "last_step" not in tracker.calls


def test_a_tracker_need_not_be_hashable() -> None:
    class Plain(InMemoryTracker):
        __hash__ = None  # type: ignore[assignment]

    tracker = Plain()
    publisher = publisher_of(tracker, strict=True)
    publisher.row(1, {"a": 1.0}, [])
    publisher.close("finished")
    assert tracker.series == {"a": [(1, 1.0)]}


def test_nothing_comes_out_before_it_is_open() -> None:
    publisher = Publisher()
    assert not publisher.is_open
    publisher.close("finished")
    assert publisher.closed and not publisher.is_open


def test_it_is_open_until_it_is_closed_and_closed_once() -> None:
    tracker = Noting()
    publisher = publisher_of(tracker)
    assert publisher.is_open
    publisher.close("stopped", 3)
    publisher.close("finished", 4)
    assert not publisher.is_open
    assert tracker.statuses == [(0, "running"), (3, "stopped")] and tracker.calls.count("close") == 1


def test_without_a_step_it_ends_with_the_last_row() -> None:
    tracker = Noting()
    publisher = publisher_of(tracker)
    publisher.row(7, {"a": 1.0}, [])
    publisher.close("crashed")
    assert tracker.statuses[-1] == (7, "crashed")


def test_the_webhooks_of_the_rules_are_trackers_too(tmp_path: Path) -> None:
    hook = {"webhook": {"address": "https://pager.example/xyz"}}
    rule = Rule(id="a.b", keys=("rldk/length/mean",), condition="level", parameters={"threshold": 1.0}, actions=[hook])
    run = Run(Settings(trackers=[], rules=[rule], output_dir=str(tmp_path)))
    run.open()
    (sent,) = run.publisher._sent
    assert isinstance(sent.tracker, WebhookNotifier) and sent.tracker.rules == {"a.b"}
    assert needs_journal([sent.tracker], True), "the courier calls them"
    run.close("finished")


def test_every_tracker_has_a_name_of_its_own() -> None:
    one, two, three = InMemoryTracker(), Noting(), InMemoryTracker()
    assert [(d.id, d.tracker) for d in named([one, two, three])] == [
        ("memory", one),
        ("noting", two),
        ("memory-2", three),
    ]


class Distant(InMemoryTracker):
    in_process: ClassVar[bool] = False


def test_where_the_journal_is(tmp_path: Path) -> None:
    info, here, distant = RunInfo(output_dir=str(tmp_path)), [InMemoryTracker()], [InMemoryTracker(), Distant()]
    assert folder_of("mine", info) == Path("mine")
    assert folder_of(None, info) == tmp_path / FOLDER
    assert folder_of(None, RunInfo()) is None
    assert not needs_journal(here, True), "who names trackers of this process wants nothing else"
    assert needs_journal(distant, True), "the courier reads it"
    assert needs_journal(here, False)
    assert FOLDER.startswith("_"), "push_to_hub leaves those out"


def test_it_keeps_nobody_alive_whose_figures_it_showed() -> None:
    class Probe:
        def __init__(self, publish: Callable[..., None]) -> None:
            self.publish = publish

    publisher = publisher_of(InMemoryTracker())
    probe = Probe(publisher.publish)
    probe.publish("log_figure", "a", "<svg/>", 1)
    alive = weakref.ref(probe)
    del probe
    gc.collect()
    assert alive() is None
    publisher.close("finished")


def test_one_that_was_closed_is_kept_by_nobody() -> None:
    publisher = publisher_of(InMemoryTracker())
    alive = weakref.ref(publisher)
    publisher.close("finished")
    del publisher
    gc.collect()
    assert alive() is None


def test_the_end_is_said_with_the_verdict_and_the_way_to_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_alert: Callable[..., Alert]
) -> None:
    publisher = Publisher()
    publisher.open([], RunInfo(), [], tmp_path / FOLDER)
    publisher.row(3, {"rldk/health/score": 0.5}, [make_alert(step=3, first_step=2)])
    alert = capsys.readouterr().err
    assert "rldk: step 3    warning   kl.high: " in alert and "try: " in alert
    publisher.close("finished", 3)
    verdict, place = capsys.readouterr().err.splitlines()
    assert verdict == "rldk: Finished, step 3. Warning: kl.high since step 2."
    assert place == f"rldk: all of it: {tmp_path}/_rldk/run.jsonl; as a page: rldk-tracking report {tmp_path}"
    publisher.close("finished", 3)
    assert capsys.readouterr().err == ""


def test_without_a_journal_the_verdict_is_said_alone(capsys: pytest.CaptureFixture[str]) -> None:
    publisher_of(InMemoryTracker()).close("finished", 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rldk: Finished, step 3. ")


@pytest.mark.parametrize("ends", [True, False])
def test_a_tracker_whose_run_ends_with_the_trainer_is_known(ends: bool) -> None:
    kind = type("Kind", (InMemoryTracker,), {"ends_with_trainer": ends})
    publisher = publisher_of(InMemoryTracker(), kind())
    assert publisher.ends_with_trainer is ends
    publisher.close("finished")
    sending = Publisher()
    sending._sent = [Destination("kind", kind())]
    assert sending.ends_with_trainer is ends, "of the courier's too"


class Placed(Noting):
    """Says which run it writes to."""

    def address(self) -> Mapping[str, str]:
        return {"id": "publisher-1"}


def test_a_second_training_in_one_run_is_said_and_marked(caplog: pytest.LogCaptureFixture) -> None:
    def trained(resumed_at: int | None = None) -> tuple[Placed, dict[str, float]]:
        tracker = Placed()
        with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
            publisher = publisher_of(tracker, resumed_at=resumed_at, strict=True)
        health = publisher.health()
        publisher.close("finished")
        return tracker, health

    first, of_first = trained()
    assert caplog.records == [] and "rldk/system/training" not in of_first and first.tables == {}
    second, of_second = trained()
    (said,) = caplog.records
    assert "the noting run already holds the rows of an earlier training" in said.getMessage()
    assert of_second["rldk/system/training"] == 2.0
    assert [row[:2] for row in second.tables["rldk/trainings"][0][2]] == [[1, "custom"], [2, "custom"]]
    caplog.clear()
    _, of_resumed = trained(resumed_at=3)
    assert caplog.records == [] and "rldk/system/training" not in of_resumed, "it goes on in the run's own series"


def test_push_to_hub_leaves_the_journal_out() -> None:
    """It holds names of servers, and texts where `log_samples` asks for them."""
    transformers = pytest.importorskip("transformers")
    from huggingface_hub.utils import filter_repo_objects

    source = inspect.getsource(transformers.Trainer.push_to_hub)
    assert 'ignore_patterns=["_*"' in source
    files = ["model.safetensors", f"{FOLDER}/run.jsonl", f"{FOLDER}/run.mlflow.offset.json"]
    assert list(filter_repo_objects(files, ignore_patterns=["_*", "checkpoint-*"])) == ["model.safetensors"]
