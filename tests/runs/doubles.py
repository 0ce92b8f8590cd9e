"""Doubles of what users and other packages make of TRL's GRPO trainer. Each is trained for real, in a second or two.

    python -m tests.runs.doubles

writes docs/trainers/doubles.md anew: how many of its series came of each, what was said, and how many numbers were
compared with the trainer's own tensors, or with its log where that is what they were taken from.
"""

from __future__ import annotations

import logging
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CellType, FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.task import reward
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.probes.contract import ContractWatch
from rldk_tracking.sources.detect import source_for
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs.test_rewards import joined_rows

PAGE = Path(__file__).parents[2] / "docs/trainers/doubles.md"
STEPS = 4
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "beta": 0.04,
    "num_iterations": 2,
    "epsilon": 0.02,
    "learning_rate": 1e-2,
}
"""Two rollouts of 16 completions, each trained on in two steps, so that there are ratios, clipping and a divergence."""
LOGGED = {
    "rldk/reward/mean": "reward",
    "rldk/length/mean": "completions/mean_length",
    "rldk/length/truncated_fraction": "completions/clipped_ratio",
    "rldk/kl/ref_k3": "kl",
    "rldk/policy/entropy": "entropy",
    "rldk/policy/clip_fraction": "clip_ratio/region_mean",
}
"""Key to the name that the trainer logs it under."""
OF_ROLLOUT = tuple(LOGGED)[:4]
LOSS = {"rldk/train/loss": "loss", "rldk/grad/norm": "grad_norm"}
NEVER_THE_SAME = ("rldk/throughput/", "rldk/resources/", "rldk/system/", "rldk/memory/", "rldk/health/memory")


@dataclass(frozen=True)
class Double:
    """One of them.

    Attributes:
        name, what: for the page.
        kind: makes its class of one that keeps what it trains on (`Spied`).
        is_stock: whether it computes what TRL's trainer computes, so that all its numbers are that trainer's.
        from_log: the first step of which it cannot be read but by its log; None where it always can.
        callbacks: made for the trainer.
        around: what surrounds the training.
        logged: keys that are taken from its log then.
    """

    name: str
    what: str
    kind: Callable[[Any], type] | None = None
    is_stock: bool = True
    from_log: int | None = None
    callbacks: Callable[[Any], list[TrainerCallback]] = lambda trainer: []
    around: Callable[[Any], Any] | None = None
    logged: tuple[str, ...] = tuple(LOGGED)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Ran:
    """A finished training of a double."""

    double: Double
    tracker: InMemoryTracker
    trainer: Any
    said: list[str]
    contract: frozenset[str]

    @property
    def of(self) -> int:
        """How many series should come."""
        return len(self.contract)

    @property
    def coverage(self) -> int:
        """How many of the contract's series came."""
        return round(self.tracker.series["rldk/system/coverage"][-1][1] * self.of)

    @property
    def words(self) -> list[str]:
        """What was said of what cannot be read."""
        return [line for line in self.said if "cannot be read whole" in line]

    def at(self, step: int) -> dict[str, float]:
        return {key: value for key, points in self.tracker.series.items() for at, value in points if at == step}

    def compared(self) -> Iterator[tuple[str, int, float, float]]:
        """Key, step, number and what it should be: by the rows that are trained on, or by the log."""
        logs = {entry["step"]: entry for entry in self.trainer.state.log_history if "loss" in entry}
        for step, entry in logs.items():
            by_log = self.double.from_log is not None and step >= self.double.from_log
            keys = (*LOSS, *self.double.logged) if by_log else LOSS
            expected = {key: entry[name] for key in keys if (name := (LOSS | LOGGED)[key]) in entry}
            if not by_log and step in self.trainer.seen:
                expected |= of_rows(self.trainer, self.trainer.seen[step])
            row = self.at(step)
            for key, value in expected.items():
                if key in row:
                    yield key, step, row[key], value


def of_rows(trainer: Any, rows: dict[str, Any]) -> dict[str, float]:
    """Numbers of a rollout, computed from what the trainer goes on with alone."""
    ids, mask = rows["completion_ids"], rows["completion_mask"].bool()
    texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
    prompts = trainer.processing_class.batch_decode(rows["prompt_ids"], skip_special_tokens=True)
    scores = torch.tensor(reward(prompts, texts), dtype=torch.float64)
    lengths, advantages = mask.sum(dim=1).double(), rows["advantages"].double()
    found = {
        "rldk/reward/mean": scores.mean(),
        "rldk/reward/std": scores.std(),
        "rldk/reward/min": scores.min(),
        "rldk/reward/max": scores.max(),
        "rldk/length/mean": lengths.mean(),
        "rldk/length/std": lengths.std(),
        "rldk/length/max": lengths.max(),
        "rldk/advantage/mean": advantages.mean(),
        "rldk/advantage/std": advantages.std(),
        "rldk/reward/per_token": scores.sum() / lengths.sum(),
    }
    unique = {tuple(row[kept].tolist()) for row, kept in zip(ids, mask, strict=True)}
    numbers = {key: float(value) for key, value in found.items()} | {
        "rldk/diversity/unique_fraction": len(unique) / len(ids)
    }
    if rows.get("old_per_token_logps") is not None:
        d = (rows["old_per_token_logps"] - rows["ref_per_token_logps"]).double()[mask]
        numbers |= {"rldk/kl/ref_k1": float(d.mean()), "rldk/kl/ref_k3": float((torch.exp(-d) - 1 + d).mean())}
    return numbers


def spied(base: Any) -> Any:
    """A trainer that keeps what it trains on. Doubles override `chosen`, which rows, and `given`, in which form."""

    class Spied(base):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            rows = self.chosen(inputs, super()._generate_and_score_completions)
            vars(self).setdefault("seen", {})[self.state.global_step + 1] = dict(rows)
            return self.given(rows)

        def chosen(self, inputs: Any, generate: Callable[[Any], Any]) -> Any:
            return generate(inputs)

        def given(self, rows: Any) -> Any:
            return rows

    return Spied


def rows_of(rows: Mapping[str, Any], some: Any) -> dict[str, Any]:
    """Some rows of a batch."""
    return {n: value[some] if isinstance(value, Tensor) and value.ndim else value for n, value in rows.items()}


def own_step(kind: Any) -> Any:
    class OwnStep(kind):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            model.train()
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
            self.accelerator.backward(loss)
            self._step += 1
            return loss.detach()

    return OwnStep


def fused_loss(kind: Any) -> Any:
    class FusedLoss(kind):  # type: ignore[misc]
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            watched = vars(self).pop("_get_per_token_logps_and_entropies")
            try:
                return super()._compute_loss(model, inputs)
            finally:
                self._get_per_token_logps_and_entropies = watched

    return FusedLoss


def own_optimizer(kind: Any) -> Any:
    class OwnOptimizer(kind):  # type: ignore[misc]
        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            kind = type("Mine", (torch.optim.AdamW,), {})
            self.optimizer = kind(self.model.parameters(), lr=self.args.learning_rate, weight_decay=0.0)
            return self.optimizer

    return OwnOptimizer


class Replace(TrainerCallback):
    """Puts another optimizer into the trainer's place in mid-run."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            fresh = torch.optim.SGD(self.trainer.model.parameters(), lr=1e-2)
            self.trainer.optimizer = self.trainer.accelerator.prepare(fresh)


def filtered(kind: Any) -> Any:
    class Filtered(kind):  # type: ignore[misc]
        def chosen(self, inputs: Any, generate: Any) -> Any:
            rows = generate(inputs)
            return rows_of(rows, rows["advantages"].abs().argsort(descending=True)[: len(inputs) // 2])

    return Filtered


def resampled(kind: Any) -> Any:
    class Resampled(kind):  # type: ignore[misc]
        def chosen(self, inputs: Any, generate: Any) -> Any:
            first, second = generate(inputs), generate(inputs)
            half = len(inputs) // 2
            joined = joined_rows(first, slice(0, half), second, slice(half, None))
            for name in ("old_per_token_logps", "ref_per_token_logps"):
                parts = [first[name][:half], second[name][half:]]
                width = joined["completion_ids"].shape[1]
                joined[name] = torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1])) for p in parts])
            return joined

    return Resampled


def unsloth(kind: Any) -> Any:
    """No class above it is called GRPOTrainer: its source text is compiled anew under another name."""
    spy, base = kind.__mro__[0], kind.__mro__[1]
    copy = copied(base, "_UnslothGRPOTrainer", base.__bases__)
    return copied(spy, "UnslothGRPOTrainer", (copy,))


def copied(kind: type, name: str, bases: tuple[type, ...]) -> type:
    """A class of the same source text under another name, whose `super()` is its own."""
    cell = CellType()

    def again(value: Any) -> Any:
        if not isinstance(value, FunctionType) or value.__closure__ is None:
            return value
        names = value.__code__.co_freevars
        cells = [
            cell if n == "__class__" else CellType(again(c.cell_contents))
            for n, c in zip(names, value.__closure__, strict=True)
        ]
        made = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells))
        made.__kwdefaults__ = value.__kwdefaults__
        return made

    parts = {n: again(value) for n, value in vars(kind).items() if n not in ("__dict__", "__weakref__")}
    cell.cell_contents = made = type(name, bases, parts)
    return made


def micro_batches(kind: Any) -> Any:
    class MicroBatches(kind):  # type: ignore[misc]
        def given(self, rows: Any) -> Any:
            half = len(rows["completion_ids"]) // 2
            return [rows_of(rows, slice(0, half)), rows_of(rows, slice(half, None))]

        def _prepare_inputs(self, batch: Any) -> Any:
            if self._step % 4 == 0:
                self.kept = self._generate_and_score_completions(batch)
            return self.kept[self._step % 2]

    return MicroBatches


def of_no_known_form(kind: Any, since: int = 0) -> Any:
    """Tensors under names of its own from a step on, also in its loss."""

    class OwnForm(micro_batches(kind)):  # type: ignore[misc]
        def given(self, rows: Any) -> Any:
            parts = super().given(rows)
            return parts if self.state.global_step < since else [{f"own_{n}": part[n] for n in part} for part in parts]

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            given = {name.removeprefix("own_"): value for name, value in inputs.items()}
            return kind._compute_loss(self, model, given)  # not by the name that may be watched

    return OwnForm


def popping(kind: Any) -> Any:
    class Popping(kind):  # type: ignore[misc]
        kept = None

        def _prepare_inputs(self, batch: Any) -> Any:
            self._buffered_inputs = self.kept
            inputs = super()._prepare_inputs(batch)
            self._buffered_inputs, self.kept = [], self._buffered_inputs
            return inputs

    return Popping


def deferred(kind: Any) -> Any:
    class Deferred(kind):  # type: ignore[misc]
        _generate_and_score_completions = None

        def _prepare_inputs(self, batch: Any) -> Any:
            type(self)._generate_and_score_completions = kind._generate_and_score_completions
            try:
                return super()._prepare_inputs(batch)
            finally:
                type(self)._generate_and_score_completions = None

    return Deferred


def rewards_apart(kind: Any) -> Any:
    class RewardsApart(kind):  # type: ignore[misc]
        """Its reward functions run where nobody sees them."""

        def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
            return super()._calculate_rewards(*args, **kwargs)

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            watched = vars(self).pop("_calculate_rewards", None)
            logs, self._logs = (
                self._logs,
                {name: type(value)() if name != "rewards" else _Nowhere() for name, value in self._logs.items()},
            )
            try:
                return super()._generate_and_score_completions(inputs)
            finally:
                self._logs = logs
                if watched is not None:
                    self._calculate_rewards = watched

    return RewardsApart


class _Nowhere(dict[str, Any]):
    def __missing__(self, name: str) -> list[Any]:
        return []


def none_for_a_tensor(kind: Any) -> Any:
    class NoneForATensor(kind):  # type: ignore[misc]
        def given(self, rows: Any) -> Any:
            self.advantages = rows["advantages"]
            order = torch.arange(len(self.advantages))
            return {**rows, "advantages": None, "row": order}

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(
                model, {**inputs, "advantages": self.advantages[inputs["row"]]}, *args, **kwargs
            )

    return NoneForATensor


@contextmanager
def reading_fails(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a version of the trainer may return what nobody foresaw, and ours fails over it."""
    patch.setattr(GroupSource, "_keep_generation", lambda self, output: output["nobody's"])
    patch.setattr(GroupSource, "_trained_on_first", lambda self, trainer, passes: [])
    yield


DOUBLES = [
    Double("TRL's GRPOTrainer", "as it is"),
    Double("own `training_step`", "a subclass with a training step of its own", own_step, is_stock=False),
    Double("fused loss", "a loss that does not call the method of the log-probabilities", fused_loss),
    Double("own optimizer", "`create_optimizer` makes one of another class", own_optimizer),
    Double(
        "replaced optimizer",
        "`trainer.optimizer` is another one from step 3 on",
        is_stock=False,
        callbacks=lambda trainer: [Replace(trainer)],
    ),
    Double("filtered rollouts", "trains on half of what it scored", filtered, is_stock=False),
    Double("resampled rollouts", "samples twice, trains on half of each", resampled, is_stock=False),
    Double("Unsloth's classes", "`UnslothGRPOTrainer(_UnslothGRPOTrainer(...))`, of which none is TRL's", unsloth),
    Double("ms-swift's rollout", "a list of micro-batches", micro_batches, is_stock=False),
    Double(
        "ms-swift's rollout, of no known form",
        "micro-batches that hold no tensor by name, also in the loss",
        of_no_known_form,
        is_stock=False,
        from_log=1,
    ),
    Double("axolotl's buffer", "micro-batches are taken out of `_buffered_inputs`", popping),
    Double("axolotl's deferred scoring", "no `_generate_and_score_completions`", deferred, is_stock=False),
    Double(
        "axolotl's deferred scoring, on-policy",
        "the same, each completion trained on once",
        deferred,
        is_stock=False,
        settings={"num_iterations": 1},
    ),
    Double("rewards apart", "reward functions run where they are not seen, and no log keeps them", rewards_apart),
    Double("None for a tensor", "`advantages` is None in what the rollout returns", none_for_a_tensor),
    Double(
        "another form in mid-run",
        "from step 3 on micro-batches that hold no tensor by name",
        lambda kind: of_no_known_form(kind, since=2),
        is_stock=False,
        from_log=3,
    ),
    Double(
        "a fault of ours",
        "reading what the rollout returns raises",
        from_log=1,
        around=reading_fails,
        logged=OF_ROLLOUT,
    ),
]


def train(double: Double, folder: Path) -> Ran:
    """Train one for real."""
    from trl import GRPOTrainer

    tracker, said = InMemoryTracker(), Said()
    settings = {**SETTINGS, "max_steps": STEPS, **double.settings}
    trainer: Any = grpo_trainer(folder, callbacks=[RLDKCallback(trackers=[tracker])], **settings)
    kind = spied(GRPOTrainer)
    trainer.__class__ = kind if double.kind is None else double.kind(kind)
    for callback in double.callbacks(trainer):
        trainer.add_callback(callback)
    contract = ContractWatch(source_for(trainer).contract).series
    logger = logging.getLogger("rldk_tracking")
    logger.addHandler(said)
    try:
        with pytest.MonkeyPatch.context() as patch:
            if double.around is None:
                trainer.train()
            else:
                with double.around(patch):
                    trainer.train()
    finally:
        logger.removeHandler(said)
    return Ran(double, tracker, trainer, said.lines, contract)


class Said(logging.Handler):
    """What is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def line(ran: Ran) -> str:
    """Of the page's table."""
    numbers = list(ran.compared())
    wrong = [1 for _, _, value, expected in numbers if not math.isclose(value, expected, rel_tol=1e-4, abs_tol=1e-6)]
    words = [re.sub(r"^rldk: \S+ \(.*?\) cannot be read whole: (.*?)\. Read: .*", r"\1", word) for word in ran.words]
    said = "; ".join(words) if words else "none needed" if ran.coverage == ran.of else "none"
    from_log = re.search(r"(\d+) of them from its logs", " ".join(ran.words))
    cells = [ran.double.name, ran.double.what, str(ran.coverage), str(ran.of), from_log[1] if from_log else "0", said]
    return "| " + " | ".join([*cells, str(len(numbers)), str(len(wrong))]) + " |"


def page(lines: list[str]) -> str:
    """The page with these lines in its table."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index("|---"), text.index("<!-- end -->")
    head = text[begin : text.index("\n", begin) + 1]
    return text[:begin] + head + "\n".join(lines) + "\n\n" + text[end:]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        found = [line(train(double, Path(made) / str(number))) for number, double in enumerate(DOUBLES)]
    PAGE.write_text(page(found), encoding="utf-8")
