"""Real AsyncGRPO trainings whose engine samples in the process: each number against the tensors and the log."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.model import tiny_model
from rldk_tracking.history.replay import replay
from rldk_tracking.sources.logs import named
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs.async_worker import GENERATIONS, Engine, async_trainer

STEPS = 6


class Spy:
    """What each micro-batch trained on, scored anew: every completion alone, by the plain model."""

    def __init__(self, trainer: Any, engine: Engine) -> None:
        self.steps: dict[int, list[dict[str, Any]]] = {}
        self.plain = tiny_model(0)
        self.trainer, self.engine, self.taken = trainer, engine, 0
        self.original, trainer.compute_loss = trainer.compute_loss, self.compute_loss

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        samples = self.engine.sampled[self.taken : self.taken + GENERATIONS]
        self.taken += GENERATIONS
        self.plain.load_state_dict(self.trainer.model.state_dict())
        batch = self.steps.setdefault(self.trainer.state.global_step + 1, [])
        batch.append({"samples": samples, "version": self.trainer.model_version, "d": [self.score(s) for s in samples]})
        return self.original(model, inputs, *args, **kwargs)

    @torch.no_grad()
    def score(self, sample: Any) -> np.ndarray:
        """Log-ratio of each token that is trained on, of the model to the engine."""
        ids = torch.tensor(sample.input_ids)[None]
        scores = self.plain(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return (scores.numpy() - sample.old_log_probs[1:])[sample.completion_mask[1:] == 1]


class Ran:
    """A finished training."""

    def __init__(
        self, folder: Path, engine: Engine, patch: pytest.MonkeyPatch, *, spied: bool = False, **settings: Any
    ) -> None:
        self.engine, self.tracker = engine, InMemoryTracker()
        self.callback = RLDKCallback(trackers=[self.tracker], strict=True, log_samples=True)
        self.trainer = async_trainer(folder, engine, [self.callback], patch, **{"max_steps": STEPS, **settings})
        self.spy: Any = Spy(self.trainer, engine) if spied else None
        self.stalled = ""
        try:
            self.trainer.train()
        except RuntimeError as error:
            self.stalled = str(error)

    @property
    def rules(self) -> list[tuple[str, int]]:
        return [(alert.rule, alert.step) for alert in self.callback.alerts if alert.state == "firing"]

    def series(self, key: str) -> dict[int, float]:
        return dict(self.tracker.series[key])

    def logged(self, name: str) -> dict[int, float]:
        return {entry["step"]: entry[name] for entry in self.trainer.state.log_history if name in entry}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """A healthy training, in which two steps' worth of completions wait in the queue."""
    with pytest.MonkeyPatch.context() as patch:
        yield Ran(tmp_path_factory.mktemp("async"), Engine(steps_ahead=2), patch, spied=True)


def expected(batches: list[dict[str, Any]]) -> dict[str, float]:
    """The step's numbers, in plain loops over its completions."""
    samples = [sample for batch in batches for sample in batch["samples"]]
    ages = [batch["version"] - sample.model_version for batch in batches for sample in batch["samples"]]
    tokens = [float(d) for batch in batches for row in batch["d"] for d in row]
    weighed = [(d, s.advantage) for b in batches for s, row in zip(b["samples"], b["d"], strict=True) for d in row]
    scores = [sample.metrics["reward"] for sample in samples]
    lengths = [int(sample.completion_mask.sum()) for sample in samples]
    judged = [v for sample in samples if not math.isnan(v := sample.metrics["rewards/half_length"])]
    groups = {
        sample.group_id: [s.metrics["reward"] for s in samples if s.group_id == sample.group_id] for sample in samples
    }
    clipped = [(d < math.log(0.8) and a < 0) or (d > math.log(1.2) and a > 0) for d, a in weighed]
    ended = [int(sample.input_ids[-1]) == 1 for sample in samples]
    return {
        "rldk/reward/mean": np.mean(scores),
        "rldk/reward/std": np.std(scores, ddof=1),
        "rldk/reward/function/reward/mean": np.mean([sample.metrics["rewards/reward"] for sample in samples]),
        "rldk/reward/function/half_length/mean": np.mean(judged),
        "rldk/reward/group_std_mean": np.mean([np.std(own, ddof=1) for own in groups.values()]),
        "rldk/reward/group_tied_fraction": np.mean([np.std(own) < 1e-8 for own in groups.values()]),
        "rldk/advantage/mean": np.mean([sample.advantage for sample in samples]),
        "rldk/advantage/std": np.std([sample.advantage for sample in samples], ddof=1),
        "rldk/length/mean": np.mean(lengths),
        "rldk/length/max": max(lengths),
        "rldk/length/eos_fraction": np.mean(ended),
        "rldk/sampler/k3": np.mean([math.exp(d) - 1 - d for d in tokens]),
        "rldk/sampler/logp_diff_mean": np.mean(np.abs(tokens)),
        "rldk/sampler/logp_diff_max": max(abs(d) for d in tokens),
        "rldk/sampler/ess": sum(math.exp(d) for d in tokens) ** 2 / sum(math.exp(2 * d) for d in tokens) / len(tokens),
        "rldk/policy/ratio_mean": np.mean(np.exp(tokens)),
        "rldk/policy/approx_kl": np.mean([d * d / 2 for d in tokens]),
        "rldk/policy/clip_fraction": np.mean(clipped),
        "rldk/async/staleness/mean": np.mean(ages),
        "rldk/async/staleness/max": max(ages),
    }


def test_every_number_is_that_of_the_completions(ran: Ran) -> None:
    assert set(ran.spy.steps) == set(range(1, STEPS + 1)) and len(ran.spy.steps[1]) == 2
    for step, batches in ran.spy.steps.items():
        for key, value in expected(batches).items():
            assert ran.series(key)[step] == pytest.approx(value, rel=1e-4, abs=1e-6), (key, step)
    assert max(ran.series("rldk/policy/clip_fraction").values()) > 0, "else nothing is clipped in these runs"
    assert max(ran.series("rldk/async/staleness/mean").values()) == 1.0


def test_the_oracle_is_what_the_trainer_logs_of_its_loss(ran: Ran) -> None:
    """TRL averages over micro-batches, each a mean over its tokens."""
    for step, batches in ran.spy.steps.items():
        tokens = [np.concatenate(batch["d"]) for batch in batches]
        assert ran.logged("kl")[step] == pytest.approx(np.mean([np.mean(np.exp(d) - 1 - d) for d in tokens]), abs=1e-6)
        assert ran.logged("ratio")[step] == pytest.approx(np.mean([np.exp(d).mean() for d in tokens]), abs=1e-5)
    assert ran.series("rldk/policy/entropy") == pytest.approx(ran.logged("entropy"), rel=1e-5)


def test_how_completions_come_is_what_the_trainer_logs(ran: Ran) -> None:
    assert ran.series("rldk/async/queue_length") == pytest.approx(ran.logged("sample/rollout_queue_size"))
    assert ran.series("rldk/async/sync_seconds") == pytest.approx(ran.logged("perf/weight_sync_s"))
    assert set(ran.series("rldk/async/dropped").values()) == {0.0}
    waits = ran.logged("perf/rollout_wait_s")  # which begins a little earlier and ends a little later
    assert all(0 <= wait <= waits[step] + 1e-3 for step, wait in ran.series("rldk/async/wait_seconds").items())


def test_a_healthy_training_is_silent_and_has_no_reference(ran: Ran) -> None:
    assert ran.stalled == "" and ran.rules == []
    assert not [key for key in ran.tracker.series if key.startswith("rldk/kl/")]
    assert set(ran.series("rldk/health/async").values()) == {1.0}


def test_samples_have_their_texts(ran: Ran) -> None:
    known = [(s.prompt[0]["content"], s.completion[0]["content"], s.metrics["reward"]) for s in ran.engine.sampled]
    ((step, _, rows),) = ran.tracker.tables["rldk/samples"]
    assert step == 1 and len(rows) == 8
    for _, _, score, _, _, prompt, completion in rows:
        assert any(own[:2] == (prompt, completion) and own[2] == pytest.approx(score) for own in known)


def test_nothing_is_left_on_the_trainer(ran: Ran) -> None:
    assert ran.trainer.compute_loss == ran.spy.compute_loss
    assert "get" not in vars(ran.trainer.rollout_queue)


def test_the_log_alone_has_the_same_names(ran: Ran, tmp_path: Path) -> None:
    rows = {entry["step"]: named(entry) for entry in ran.trainer.state.log_history if "loss" in entry}
    for row in rows.values():
        own = {key for key in row if key.startswith("rldk/async/")}
        assert own >= {
            f"rldk/async/{name}" for name in ("staleness/mean", "staleness/max", "queue_length", "wait_seconds")
        }
        assert not [key for key in row if key.startswith("rldk/kl/")]
    for key, name in {"rldk/sampler/k3": "kl", "rldk/policy/ratio_mean": "ratio"}.items():
        assert {step: row[key] for step, row in rows.items()} == ran.logged(name)
    waits, times = ran.logged("perf/rollout_wait_s"), ran.logged("perf/step_s")
    shares = {step: row["rldk/async/wait_fraction"] for step, row in rows.items() if "rldk/async/wait_fraction" in row}
    assert shares == {step: waits[step] / times[step] for step in times}
    log = tmp_path / "trainer_state.json"
    log.write_text(json.dumps({"log_history": ran.trainer.state.log_history}))
    assert replay(log).alerts == []


def test_what_is_dropped_is_what_the_trainer_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(tmp_path, Engine(steps_ahead=4), monkeypatch, max_staleness=2, max_steps=5)
    dropped = ran.series("rldk/async/dropped")
    assert {step: n for step, n in dropped.items() if n} == ran.logged("sample/dropped_stale_total") == {4: 4.0}
    assert ran.series("rldk/async/stale_fraction") == {1: 0, 2: 0, 3: 0, 4: 4 / (4 + 8), 5: 0}
    # One micro-batch of two is taken before the weights are sent, and trained on after that.
    assert ran.logged("sample/staleness_max") == {1: 0, 2: 1, 3: 2, 4: 2, 5: 2}
    assert ran.series("rldk/async/staleness/max") == {1: 0, 2: 1, 3: 2, 4: 3, 5: 3}
    assert ran.series("rldk/async/staleness/mean") == {1: 0, 2: 1, 3: 2, 4: 2.5, 5: 2.5}


@pytest.mark.parametrize("limit", [4, 100])
def test_weights_that_never_arrive_are_found(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the limit they grow old; beyond it all is thrown away, and the trainer waits for ever."""
    engine = Engine(steps_ahead=12 if limit == 4 else 2, syncs=False)
    ran = Ran(tmp_path, engine, monkeypatch, max_staleness=limit, max_steps=38, learning_rate=1e-6)
    assert ran.stalled == ("the queue is empty" if limit == 4 else "")
    assert ran.rules == [("async.stale", 4 if limit == 4 else 35)]


def test_an_engine_that_is_too_slow_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = Ran(tmp_path, Engine(pause_s=0.25), monkeypatch, max_steps=9)
    assert ran.rules == [("async.starved", 8)]
    waits = ran.logged("perf/rollout_wait_s")
    measured = ran.series("rldk/async/wait_seconds")
    assert sum(waits.values()) * 0.8 < sum(measured.values()) <= sum(waits.values()) + 0.01
