"""docs/trainers/trl.md: each trainer of the newest TRL, trained for a few steps, and what was read of it.

python -m tests.runs.trl_table
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import trl
from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.probes import steps
from rldk_tracking.sources.logs import canonical, number
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs.trl_trainers import ELSEWHERE, STEPS, TRAINERS

PAGE = Path(__file__).parents[2] / "docs" / "trainers" / "trl.md"
SAME: dict[str, tuple[str, ...]] = {
    "rldk/train/loss": ("loss",),
    "rldk/train/entropy": ("entropy",),
    "rldk/train/token_accuracy": ("mean_token_accuracy",),
    "rldk/grad/norm": ("grad_norm",),
    "rldk/update/learning_rate": ("learning_rate",),
    "rldk/policy/entropy": ("entropy",),
    "rldk/kl/ref_per_sequence": ("objective/kl",),
    "rldk/reward/mean": ("reward", "objective/scores", "self_distillation/reward_mean"),
    "rldk/reward/std": ("reward_std", "self_distillation/reward_std"),
    "rldk/reward/min": ("self_distillation/reward_min",),
    "rldk/reward/max": ("self_distillation/reward_max",),
    "rldk/reward/group_std_mean": ("self_distillation/group_reward_std_mean",),
    "rldk/reward/group_tied_fraction": ("frac_reward_zero_std", "self_distillation/flat_group_fraction"),
    "rldk/reward/function/score/mean": ("rewards/score/mean",),
    "rldk/reward/function/score/std": ("rewards/score/std",),
    "rldk/length/mean": ("completions/mean_length",),
    "rldk/length/min": ("completions/min_length",),
    "rldk/length/max": ("completions/max_length",),
    "rldk/length/truncated_fraction": ("completions/clipped_ratio", "completions/truncated_fraction"),
    "rldk/preference/accuracy": ("accuracy", "rewards/accuracies"),
    "rldk/preference/margin": ("margin", "rewards/margins"),
    "rldk/preference/reward_chosen": ("rewards/chosen",),
    "rldk/preference/reward_rejected": ("rewards/rejected",),
    "rldk/preference/chosen_logps": ("logps/chosen",),
    "rldk/preference/rejected_logps": ("logps/rejected",),
}
"""Key to the names under which TRL's trainers log the same number: written by hand, not read from the package."""
KL = {"GRPOTrainer": "rldk/kl/ref_k3", "RLOOTrainer": "rldk/kl/ref_k1"}
"""Which estimator a trainer logs as `kl`."""
BY_CHANCE = ("rldk/length/terminated_mean",)
"""Series that are there only where a completion of a random model happened to end."""
BESIDE = ("epoch", "step", "num_tokens", "step_time", "completions/mean_terminated_length")
"""Names that every trainer logs and that tell nothing of learning, and the one that has a series by chance."""
INTRODUCTION = """# TRL's trainers

Every trainer of TRL {version}, stable and experimental. Those that train on a CPU were trained for {steps} steps with
`RLDKCallback()`, and the tables are made of what was read. A test with the newest TRL compares them; the page is made anew by
`python -m tests.runs.trl_table`. Other releases: [Releases of TRL](versions.md).

- **From tensors**: series that are computed from what the trainer holds.
- **From its log**: series whose numbers are the trainer's own. Gradients, updates, weights, memory and speed are measured with
  every trainer, and not counted here.
- **Compared** are numbers that the trainer logs and that are in our row too, wherever from; none may differ.
- **A word?** is the number of the sentence below that names what is missing.

| trainer | from tensors | from its log | compared | differing | a word? |
| --- | --- | --- | ---: | ---: | --- |"""  # noqa: E501
OTHERS = """## Numbers that are no series

What these trainers log beside that. A rule or a chart reads each by this very name, see
[Rules of your own](../how-to/own-rules.md#any-number-that-is-logged).

| trainer | names |
| --- | --- |"""
NOT_HERE = """
`kl` of KTOTrainer is the baseline of its loss, a sum over texts with answers of other prompts, so it is not taken for a
divergence from the reference. `entropy` of trainers on given texts is `rldk/train/entropy`. A trainer that only gives another
its name, as `trl.experimental.bema_for_ref_model.DPOTrainer`, is read as that one.

## Not trained here

| trainer | why |
| --- | --- |"""  # noqa: E501


@dataclass
class Seen:
    """What was read of one trainer.

    Attributes:
        trainer: its name in `TRAINERS`.
        tensors: series that were computed from its tensors.
        log: series whose numbers are those of its log.
        others: names of its log that are no series; addressable by these names.
        compared: numbers that it logs and that are in a row as well.
        differing: key and step of those that are not equal.
        said: warnings.
    """

    trainer: str
    tensors: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    compared: int = 0
    differing: list[tuple[str, int]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


class Logged(TrainerCallback):
    """The trainer's own log of each step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, Any]] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **kwargs: Any) -> None:
        if "train_runtime" not in logs:
            self.steps.setdefault(int(state.global_step), {}).update(logs)


class Words(logging.Handler):
    """The sentences of the package's warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage().removeprefix("rldk: "))


def seen(trainer: str, folder: Path) -> Seen:
    """Train it with the callback, and see what came from where."""
    tracker, logged, words = InMemoryTracker(), Logged(), Words()
    from_tensors: set[str] = set()

    def keys_of(*tables: Any, original: Any = steps.keys_of) -> dict[str, float]:
        found: dict[str, float] = original(*tables)
        from_tensors.update(found)
        return found

    package = logging.getLogger("rldk_tracking")
    package.addHandler(words)
    try:
        with patch.object(steps, "keys_of", keys_of):
            TRAINERS[trainer](folder, [RLDKCallback(trackers=[tracker], strict=True), logged]).train()
    finally:
        package.removeHandler(words)
    found = Seen(trainer, said=words.found)
    found.tensors = sorted(from_tensors & set(tracker.series) - set(BY_CHANCE))
    named = {key for logs in logged.steps.values() for key in canonical(logs)}
    own = {key for key in tracker.series if (known := lookup(key)) and known.source in ("logs", "rollout", "update")}
    found.log = sorted(own & named - from_tensors - set(BY_CHANCE))
    found.others = sorted(name for name in unread(logged.steps.values()) if name not in BESIDE)
    for key, names in (*SAME.items(), *([(KL[trainer], ("kl",))] if trainer in KL else ())):
        row = dict(tracker.series.get(key, ()))
        for step, logs in logged.steps.items():
            value = next((value for name in names if (value := number(logs.get(name))) is not None), None)
            if value is not None and step in row and math.isfinite(value):
                found.compared += 1
                if not math.isclose(row[step], value, rel_tol=1e-4, abs_tol=1e-6):
                    found.differing.append((key, step))
    return found


def unread(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of numbers without which a log would say the same to the package."""
    found: set[str] = set()
    for logs in entries:
        whole = canonical(logs)
        for name, value in logs.items():
            if number(value) is not None and canonical({k: v for k, v in logs.items() if k != name}) == whole:
                found.add(name)
    return found


def counted(keys: list[str]) -> str:
    """How many series, with the groups that they are of."""
    groups = dict.fromkeys(key.split("/")[1] for key in keys)
    return f"{len(keys)}: {', '.join(groups)}" if keys else ""


def short(keys: list[str]) -> str:
    """Series without what all have in common."""
    names = [f"`{key.removeprefix('rldk/')}`" for key in keys]
    return f"{len(names)}: {', '.join(names)}" if names else ""


def page(results: list[Seen]) -> str:
    """The page in Markdown."""
    lines = [INTRODUCTION.format(version=trl.__version__, steps=STEPS)]
    sentences: dict[str, int] = {}
    for one in results:
        said = ", ".join(f"({sentences.setdefault(sentence, len(sentences) + 1)})" for sentence in one.said)
        numbers = [str(one.compared), str(len(one.differing)), said or "none needed"]
        lines.append(f"| {' | '.join([f'`{one.trainer}`', counted(one.tensors), short(one.log), *numbers])} |")
    lines += ["", *(f"({place}) {sentence}\n" for sentence, place in sentences.items())]
    lines += [
        OTHERS,
        *(f"| `{one.trainer}` | {', '.join(f'`{name}`' for name in one.others)} |" for one in results if one.others),
        "",
        NOT_HERE,
        *(f"| `{name}` | {why} |" for name, why in ELSEWHERE.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train them all, and write the page."""
    results = []
    for trainer in TRAINERS:
        with tempfile.TemporaryDirectory() as folder:
            results.append(seen(trainer, Path(folder)))
    PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
