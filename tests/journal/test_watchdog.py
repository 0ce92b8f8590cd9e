"""Says that a training crashed or hangs, and nothing of one that is only slow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watched import as_data, silence_of
from rldk_tracking.journal import heartbeat
from rldk_tracking.journal.beats import ELSEWHERE, GONE, RUNNING, STOPPED, Beat, host_name, read_beats
from rldk_tracking.journal.heartbeat import Heartbeat
from rldk_tracking.journal.watchdog import Quiet, Sight, Watchdog, not_arrived

BEAT = Beat(
    time=1000.0,
    step=3,
    phase="step",
    events=20,
    limit_s=120.0,
    began=900.0,
    pid=4711,
    created=890.0,
    host="node1",
    rank=0,
    ranks=1,
    stacks="run.stacks.txt",
)
IN_TRAIN = 'Main thread (innermost frame first):\n  File "/j.py", line 7 in ask\n  File "/t.py", line 1 in train\n'


def watchdog(rules: list[Rule] | None = None, firing: list[Alert] | None = None) -> Watchdog:
    data = as_data(rules_for() if rules is None else rules)
    return Watchdog(Path("run.jsonl"), 4711, 890.0, data, firing or [])


def seen(beat: Beat | None = BEAT, process: str = RUNNING, stacks: str | None = None, **other: Any) -> Sight:
    return Sight(beat, process, stacks=lambda: stacks, **other)


class Looks:
    """Looks once a second, on plain data, and keeps what comes of it."""

    def __init__(self, dog: Watchdog) -> None:
        self.dog, self.now, self.alerts = dog, 5000.0, list[Alert]()

    def __call__(self, seconds: float, sight: Sight, step: int = 3, end: Any = None) -> list[Alert]:
        found = []
        for _ in range(round(seconds)):
            self.now += 1.0
            found += self.dog.judge(self.now, sight, step, end)
        self.alerts += found
        return found


def looks(**given: Any) -> Looks:
    """Of a watchdog that has seen the training move."""
    made = Looks(watchdog(**given))
    made(1, seen(replace(BEAT, events=19)))
    made(1, seen())
    return made


def names(alerts: list[Alert]) -> list[tuple[str, str, str]]:
    return [(alert.rule, alert.severity, alert.state) for alert in alerts]


# Healthy runs of many shapes, with a real heartbeat on a clock that is moved.


class Run:
    """A training and its watchdog, second by second."""

    def __init__(self, folder: Path, clock: SimpleNamespace, rules: list[Rule]) -> None:
        self.clock, self.folder = clock, folder
        self.heart = Heartbeat(folder, "run", 0, 1, silence_of(rules))
        self.looks = Looks(watchdog(rules))
        self.step = 0

    def phase(self, phase: str, seconds: float) -> list[Alert]:
        """A phase begins and lasts for so long."""
        self.heart.beat(phase, self.step)
        return self.silence(seconds)

    def silence(self, seconds: float) -> list[Alert]:
        before, self.clock.now = int(self.clock.now), self.clock.now + seconds
        (beat,) = read_beats(self.folder, "run")
        return self.looks(int(self.clock.now) - before, seen(beat), self.step)

    def steps(self, number: int, sampling: float, rest: float) -> None:
        for _ in range(number):
            self.phase("step", 0.01)
            self.phase("sampling", sampling)
            self.phase("reward", rest / 4)
            self.phase("sampling", 0.02)
            for _ in range(2):
                self.phase("step", rest / 4)
                self.phase("backward", rest / 4)
            self.step += 1
            self.phase("between", 0.01)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: clock.now, time=lambda: clock.now))

    def made(preset: str = "safe", **overrides: Any) -> Run:
        hung = {"stacks": False, **overrides}
        return Run(tmp_path, clock, rules_for(preset, {"run.hung": hung}))

    return made


@pytest.mark.parametrize("preset", ["safe", "strict", "quiet"])
@pytest.mark.parametrize(("sampling", "rest"), [(0.06, 0.04), (40.0, 20.0), (500.0, 600.0)])
def test_steps_of_any_length_are_no_hang(run, preset: str, sampling: float, rest: float) -> None:
    training = run(preset)
    training.phase("starting", 300)
    training.steps(8, sampling, rest)
    assert training.looks.alerts == []


def test_a_first_sampling_of_twenty_minutes_is_no_hang(run) -> None:
    training = run()
    training.phase("starting", 1200)
    training.steps(1, 1200.0, 40.0)
    training.steps(5, 10.0, 40.0)
    assert training.looks.alerts == []


def test_a_first_compilation_behind_a_short_part_of_the_same_phase_is_no_hang(run) -> None:
    training = run()
    training.phase("step", 0.01)
    training.phase("sampling", 2)
    training.phase("step", 900)
    training.phase("backward", 900)
    assert training.looks.alerts == []


def test_evaluation_and_saving_have_a_history_of_their_own(run) -> None:
    training = run()
    for _ in range(4):
        training.steps(10, 6.0, 12.0)
        training.phase("evaluation", 50 * 18)
        training.phase("between", 0.01)
        training.phase("saving", 400)
        training.phase("between", 0.01)
    assert training.looks.alerts == []


def test_what_happens_rarely_between_two_steps_is_no_hang_the_second_time(run) -> None:
    training = run(threshold=30.0)
    training.steps(3, 1.0, 1.0)
    training.phase("between", 50)  # an evaluation of the user's own, in a callback
    assert names(training.looks.alerts) == [("run.hung", "warning", "firing")]
    training.steps(300, 0.5, 0.5)
    assert names(training.looks.alerts)[1:] == [("run.hung", "warning", "resolved")]
    training.looks.alerts.clear()
    training.phase("between", 90)
    assert training.looks.alerts == []


def test_the_end_may_take_any_time(run) -> None:
    training = run()
    training.steps(3, 1.0, 1.0)
    training.phase("ending", 5000)
    assert training.looks.alerts == []


# Hangs.


@pytest.mark.parametrize("phase", ["sampling", "reward", "backward", "step", "between", "saving", "evaluation"])
def test_a_hang_is_said_with_its_phase(run, phase: str) -> None:
    training = run()
    for _ in range(3):
        training.steps(4, 2.0, 4.0)
        training.phase("evaluation", 20.0)
        training.phase("saving", 3.0)
    assert training.looks.alerts == []
    limit = 200 if phase == "evaluation" else 120
    if phase != "saving":
        training.phase("between", 0.01)
    assert training.phase(phase, limit) == []
    (alert,) = training.silence(5)
    assert (alert.rule, alert.severity, alert.state) == ("run.hung", "warning", "firing")
    assert (alert.evidence["phase"], alert.step, alert.first_step) == (phase, 12, 12)
    assert alert.value == pytest.approx(limit, abs=3) and alert.threshold == pytest.approx(limit, abs=1)
    assert f" in {phase} of step 12: its process is running." in alert.message
    assert names(training.silence(limit + 2)) == [("run.hung", "critical", "firing")]
    assert names(training.phase("step", 2)) == [("run.hung", "critical", "resolved")]


def test_a_training_that_never_begins_hangs(run) -> None:
    training = run()
    assert training.phase("starting", 1799) == []
    # The watchdog has seen no sign of life, but it has seen the whole limit pass.
    (alert,) = training.silence(5)
    assert alert.evidence["phase"] == "starting" and alert.threshold == 1800.0


def test_the_rule_can_be_changed_and_switched_off() -> None:
    changed = rules_for(
        overrides={"run.hung": {"severity": "critical", "message": "Silent for {value:.0f} s, {stacks}."}}
    )
    made = looks(rules=changed)
    (alert,) = made(130, seen(stacks=IN_TRAIN))
    assert alert.severity == "critical"
    assert alert.message == 'Silent for 121 s, File "/j.py", line 7 in ask\nFile "/t.py", line 1 in train.'
    off = looks(rules=rules_for(overrides={"run.hung": {"enabled": False}}))
    assert off(9000, seen(replace(BEAT, limit_s=None))) == []
    assert names(off(3, seen(process=GONE))) == [("run.crashed", "critical", "firing")]
    neither = looks(rules=rules_for(overrides={name: {"enabled": False} for name in ("run.hung", "run.crashed")}))
    assert neither(500, seen(process=GONE)) == []


def test_a_rule_of_the_users_own() -> None:
    mine = Rule(
        id="mine.slow",
        keys=("rldk/run/silent_seconds",),
        condition="written",
        parameters={"when": 'last("rldk/run/silent_seconds") > 30'},
        message="Silent for {value:.0f} s in {phase}.",
    )
    (alert,) = looks(rules=[mine])(40, seen())
    assert alert.message == "Silent for 31 s in step."
    limits = {"rldk/run/silent_seconds": 30.0, "rldk/run/limit_seconds": 1e6}
    mine = Rule(id="mine.slow", keys=tuple(limits), condition="levels", parameters={"limits": limits})
    (alert,) = looks(rules=[mine])(40, seen())
    assert (alert.evidence["rldk/run/limit_seconds"], alert.evidence["phase"]) == (120.0, "step")


def test_where_the_main_thread_stands_is_evidence() -> None:
    (alert,) = looks()(125, seen(stacks=IN_TRAIN))
    assert alert.evidence["stacks"] == 'File "/j.py", line 7 in ask\nFile "/t.py", line 1 in train'
    assert alert.evidence["stacks_file"] == "run.stacks.txt"
    deep = "Main thread (innermost frame first):\n" + '  File "/x.py", line 1 in train\n' * 90
    (alert,) = looks()(125, seen(stacks=deep))
    assert 900 < len(alert.evidence["stacks"]) <= 1000
    (alert,) = looks()(125, seen())
    assert "stacks" not in alert.evidence


def test_a_process_that_was_stopped_is_said_to_be() -> None:
    (alert,) = looks()(125, seen(process=STOPPED))
    assert alert.message.endswith("in step of step 3: its process is stopped (SIGSTOP).")


def test_rows_in_the_journal_are_signs_of_life_too() -> None:
    made = looks()
    for step in range(4, 8):  # a disk that takes rows and no beats
        assert made(100, seen(), step) == []
    assert names(made(125, seen(), 8)) == [("run.hung", "warning", "firing")]
    assert made.alerts[0].step == 8


def test_where_no_beat_can_be_written_or_read_nothing_is_known() -> None:
    made = looks()
    assert made(500, seen(can_write=False)) == []
    assert made(500, seen(None)) == []


# Time.


def test_a_clock_that_jumps_is_no_silence() -> None:
    made = looks()
    made(60, seen())
    for jump in (7200.0, -7200.0, 1e9):
        made.now += jump
        assert made(60, seen()) == []
    assert names(made(130, seen())) == [("run.hung", "warning", "firing")]


def test_who_slept_itself_counts_anew() -> None:
    quiet = Quiet()
    assert [quiet.look(now, "a") for now in (0.0, 1.0, 2.5, 4.0)] == [0.0, 1.0, 2.5, 4.0]
    assert not quiet.has_changed
    assert quiet.look(3604.0, "a") == 0.0
    assert quiet.look(3605.0, "a") == 1.0
    assert quiet.look(3655.0, "a") == 51.0
    assert (quiet.look(3656.0, "b"), quiet.has_changed) == (0.0, True)
    assert (quiet.look(3650.0, "b"), quiet.look(3652.0, "b")) == (0.0, 2.0)


def test_one_that_has_just_begun_must_see_the_whole_limit_itself() -> None:
    made = Looks(watchdog())
    old = replace(BEAT, time=-1e6)  # the beat lies far back
    assert made(120, seen(old)) == []
    assert names(made(3, seen(old))) == [("run.hung", "warning", "firing")]


# Crashes.


def test_a_process_that_is_gone_has_crashed() -> None:
    made = looks()
    assert made(1, seen(process=GONE)) == []  # its end may be on its way into the journal
    (alert,) = made(60, seen(process=GONE))
    assert (alert.rule, alert.severity, alert.state, alert.step) == ("run.crashed", "critical", "firing", 3)
    assert alert.message == (
        "Training crashed at step 3: its process 4711 is gone and no exception was seen: killed, or out of memory."
    )


def test_a_process_that_was_not_found_once_is_not_gone() -> None:
    made = looks()
    for _ in range(5):
        assert made(1, seen(process=GONE)) == []
        assert made(1, seen()) == []


def test_a_process_that_is_gone_after_its_end_has_not() -> None:
    made = looks()
    assert made(1, seen(process=GONE)) == []
    assert made(60, seen(None, process=GONE), end={"type": "end", "status": "finished", "exception": None}) == []
    assert looks()(60, seen(None, process=GONE), end={"type": "end", "status": "stopped"}) == []


def test_an_end_by_an_exception_is_a_crash_and_quotes_it() -> None:
    text = "Traceback (most recent call last):\n" + 80 * "  File x\n" + "torch.OutOfMemoryError: CUDA out of memory."
    end = {"type": "end", "status": "crashed", "step": 17, "exception": text}
    (alert,) = looks()(5, seen(None, process=RUNNING), 17, end)
    assert alert.message == "Training crashed at step 17: torch.OutOfMemoryError: CUDA out of memory."
    assert str(alert.evidence["exception"]).endswith("CUDA out of memory.")
    assert alert.evidence["exception"] == text
    long = {**end, "exception": "ValueError: " + "x" * 5000}
    (alert,) = looks()(5, seen(None), 17, long)
    assert len(alert.message) < 400 and len(str(alert.evidence["exception"])) == 1000


@pytest.mark.parametrize("exception", [None, "", "  \n"])
def test_an_end_by_an_exception_that_nobody_saw(exception) -> None:
    (alert,) = looks()(5, seen(None), 17, {"status": "crashed", "exception": exception})
    assert alert.message == (
        "Training crashed at step 17: it ended without a word and no exception was seen: killed, or out of memory."
    )


def test_a_state_that_is_not_known_is_no_crash() -> None:
    assert looks()(60, seen(process=ELSEWHERE)) == []


# Afterwards.


def crash() -> Alert:
    (alert,) = looks()(5, seen(process=GONE))
    return alert


def test_a_crash_is_over_when_steps_come_again() -> None:
    was = Alert(**json.loads(json.dumps(crash().as_dict())))
    made = Looks(watchdog(firing=[was]))
    starting = replace(BEAT, pid=5000, phase="starting", events=1, limit_s=1800.0)
    assert made(600, seen(starting)) == []
    starting = replace(starting, events=2)
    assert made(600, seen(starting)) == [], "it has not made a step yet"
    assert made(10, seen(replace(starting, phase="step", events=3)), 3) != []
    (over,) = made.alerts
    assert (over.rule, over.state, over.first_step) == ("run.crashed", "resolved", 3)
    assert over.message.endswith(was.message)


def test_a_crash_is_not_over_where_the_resumed_training_hangs() -> None:
    made = Looks(watchdog(firing=[crash()]))
    assert names(made(130, seen())) == [("run.hung", "warning", "firing")]


def test_a_crash_that_was_said_is_not_said_again() -> None:
    assert Looks(watchdog(firing=[crash()]))(60, seen(process=GONE)) == []


def test_a_hang_that_was_said_goes_on_until_something_happens() -> None:
    (was,) = looks()(125, seen())
    was = replace(was, first_step=2)
    made = Looks(watchdog(firing=[was]))  # the watchdog itself was started anew
    assert made(115, seen()) == []
    (worse,) = made(130, seen())
    assert (worse.rule, worse.severity, worse.first_step) == ("run.hung", "critical", 2)
    assert names(made(5, seen(replace(BEAT, events=21)))) == [("run.hung", "critical", "resolved")]


def test_a_hang_is_over_where_the_training_ends() -> None:
    made = looks()
    made(125, seen())
    assert names(made(1, seen(None), end={"status": "finished"})) == [("run.hung", "warning", "resolved")]


def test_a_hang_that_is_killed_is_a_crash_too() -> None:
    made = looks()
    made(125, seen())
    assert names(made(5, seen(process=GONE))) == [("run.crashed", "critical", "firing")]


def test_rules_that_cannot_be_read_are_as_built_in(caplog: pytest.LogCaptureFixture) -> None:
    data = {"run.hung": {"keys": 3}, "run.crashed": {"condition": "magic"}, "other.rule": {}}
    made = Looks(Watchdog(Path("run.jsonl"), 4711, 890.0, data))
    made(1, seen(replace(BEAT, events=19)))
    assert names(made(130, seen())) == [("run.hung", "warning", "firing")]
    assert names(made(3, seen(process=GONE))) == [("run.crashed", "critical", "firing")]
    assert len(caplog.records) == 3


def test_look_reads_the_beat_of_the_trainings_own_process(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, silence_of(rules_for(overrides={"run.hung": {"stacks": False}})))
    heart.beat("step", 7)
    created = psutil.Process().create_time()
    dog = Watchdog(tmp_path / "run.jsonl", os.getpid(), created, as_data(rules_for()))
    found = [alert for second in range(1850) for alert in dog.look(float(second), 3)]
    assert [(alert.rule, alert.step, alert.threshold) for alert in found] == [("run.hung", 7, 1800.0)]
    for pid, then in ((os.getppid(), created), (os.getpid(), created - 100)):  # an earlier training's beat
        other = Watchdog(tmp_path / "run.jsonl", pid, then, as_data(rules_for()))
        sight: list[Sight] = []
        other.judge = lambda now, seen, *rest, kept=sight: kept.append(seen) or []  # type: ignore[method-assign]
        other.look(0.0, 3)
        assert sight[0].beat is None
    heart.close()


# Ranks.


def ranks(*events: int, **changes: Any) -> list[tuple[Beat, str]]:
    return [
        (replace(BEAT, rank=rank, ranks=len(events), host=f"node{rank // 2}", events=count, **changes), RUNNING)
        for rank, count in enumerate(events)
    ]


def test_the_ranks_that_did_not_arrive_are_named() -> None:
    peers = ranks(20, 20, 17, 20)
    peers[2] = (replace(peers[2][0], phase="reward"), STOPPED)
    own = peers[0][0]
    (alert,) = looks()(125, seen(own, peers=lambda: peers))
    expected = "of 4 ranks did not arrive: rank 2 on node1 (stopped (SIGSTOP), phase reward of step 3)"
    assert alert.message.endswith(f"its process is running; {expected}.")
    assert alert.evidence["ranks"] == expected


def test_ranks_at_the_same_event_are_said_to_be() -> None:
    own = ranks(20, 20)[0][0]
    assert not_arrived(own, ranks(20, 20)) == "all 2 ranks stand at the same event"


@pytest.mark.parametrize("state", [STOPPED, GONE])
def test_a_rank_that_stands_at_the_same_event_and_does_not_run_is_named(state: str) -> None:
    peers = ranks(20, 20)
    peers[1] = (peers[1][0], state)
    assert not_arrived(peers[0][0], peers).startswith(f"of 2 ranks did not arrive: rank 1 on node0 ({state}, ")


def test_a_rank_whose_step_is_behind_did_not_arrive_whatever_its_count() -> None:
    peers = ranks(20, 90)
    peers[1] = (replace(peers[1][0], step=2), GONE)
    assert not_arrived(peers[0][0], peers) == "of 2 ranks did not arrive: rank 1 on node0 (gone, phase step of step 2)"


def test_a_rank_that_never_beat_or_did_in_an_earlier_training_was_not_seen() -> None:
    peers = ranks(20, 99, 20)
    peers[1] = (replace(peers[1][0], time=BEAT.began - 100.0), ELSEWHERE)
    assert not_arrived(peers[0][0], peers) == "of 3 ranks did not arrive: rank 1 (never seen)"
    more = [*peers, *[(replace(BEAT, rank=7, events=99), RUNNING)]]  # of a training with more ranks
    assert not_arrived(peers[0][0], more) == "of 3 ranks did not arrive: rank 1 (never seen)"


def test_many_ranks_are_counted() -> None:
    peers = ranks(*[20] * 2, *[10] * 998)
    text = not_arrived(peers[0][0], peers)
    assert text.startswith("of 1000 ranks did not arrive: rank 2 on node1") and text.endswith(" and 990 more")
    assert len(text) < 600


# Processes.

CHILD = """
import sys, time
from pathlib import Path
from rldk_tracking.health.conditions.silence import Silence
from rldk_tracking.journal.heartbeat import Heartbeat

folder, rank, ranks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rule = Silence(("rldk/run/silent_seconds",), threshold=2.0, times=2.0, first=4.0)

def wait_for_the_others(step):
    reached = folder / f"reached-{rank}"
    reached.write_text(str(step))
    while any(int((folder / f"reached-{other}").read_text() or 0) < step for other in range(ranks)):
        time.sleep(0.01)

def train():
    heart = Heartbeat(folder, "run", rank, ranks, rule)
    heart.beat("starting", 0)
    for step in range(10**6):
        heart.beat("step", step)
        time.sleep(0.02)
        heart.beat("reward")
        time.sleep(0.02)
        heart.beat("backward")
        wait_for_the_others(step)
        heart.beat("between", step + 1)

train()
"""


class Job:
    """Ranks as processes of this host, and the watchdog of rank 0."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder = folder
        for rank in range(ranks):
            (folder / f"reached-{rank}").write_text("-1")
        command = [sys.executable, "-c", CHILD, str(folder)]
        self.ranks = [subprocess.Popen([*command, str(rank), str(ranks)], env=os.environ) for rank in range(ranks)]
        rules = rules_for(overrides={"run.hung": {"threshold": 2.0, "times": 2.0, "first": 4.0}})
        first = psutil.Process(self.ranks[0].pid)
        self.dog = Watchdog(folder / "run.jsonl", first.pid, first.create_time(), as_data(rules))

    def until(self, rule: str, state: str, seconds: float = 30.0) -> Alert:
        """Look until the alert comes; another one is a fault."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for alert in self.dog.look(time.monotonic(), 0):
                if (alert.rule, alert.state) == (rule, state):
                    return alert
                assert alert.rule == rule and alert.severity == "critical", alert  # it may have become more severe
            time.sleep(0.1)
        raise AssertionError(f"no {rule} {state}")

    def until_steps(self, number: int) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = read_beats(self.folder, "run", 0)
            assert self.dog.look(time.monotonic(), 0) == []
            if found and found[0].step >= number:
                return
            time.sleep(0.1)
        raise AssertionError("no steps")

    def send(self, rank: int, what: signal.Signals) -> None:
        self.ranks[rank].send_signal(what)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Callable[[int], Job]]:
    jobs: list[Job] = []

    def start(ranks: int) -> Job:
        jobs.append(Job(tmp_path, ranks))
        return jobs[-1]

    yield start
    for process in [process for job in jobs for process in job.ranks]:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_process_that_is_stopped_hangs_until_it_goes_on(job) -> None:
    training = job(1)
    training.until_steps(5)
    training.send(0, signal.SIGSTOP)
    alert = training.until("run.hung", "firing")
    assert "its process is stopped (SIGSTOP)" in alert.message
    training.send(0, signal.SIGCONT)
    assert training.until("run.hung", "resolved").step >= 5
    training.until_steps(50)  # it trains on as before


def test_a_process_that_is_killed_has_crashed(job) -> None:
    training = job(1)
    training.until_steps(5)
    training.send(0, signal.SIGKILL)
    alert = training.until("run.crashed", "firing")
    assert alert.step >= 5 and "no exception was seen" in alert.message


@pytest.mark.slow
def test_the_rank_that_is_stopped_is_named(job) -> None:
    training = job(2)
    training.until_steps(5)
    training.send(1, signal.SIGSTOP)
    alert = training.until("run.hung", "firing")
    assert "its process is running; of 2 ranks did not arrive: rank 1 on " in alert.message
    assert f"rank 1 on {host_name()} (stopped (SIGSTOP), phase " in alert.message
    assert "wait_for_the_others" in str(alert.evidence["stacks"]).splitlines()[0]
    assert alert.evidence["phase"] == "backward"
    training.send(1, signal.SIGCONT)
    training.until("run.hung", "resolved")


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named(job) -> None:
    training = job(2)
    training.until_steps(5)
    training.send(1, signal.SIGKILL)
    assert f"rank 1 on {host_name()} (gone, phase " in training.until("run.hung", "firing").message
