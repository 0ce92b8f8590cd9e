"""What every source offers, one observation a step, and the source of trainers of which only the logs are known.

Names under which trainers have logged over the years become keys of the catalogue: those of TRL (PPO, GRPO, RLOO,
preference trainers), transformers, verl and OpenRLHF, with or without a `train/` prefix. Of what an evaluation logs,
`eval_<name>`, loss, reward and accuracy are taken; of one of several sets, `eval_<set>_<name>`, under the set's name.

Not translated, because the number is not what its key would promise: `val/ratio` of TRL's PPO (divided by the number
of minibatches), `objective/entropy` (a sum over a response), verl's `actor/ppo_kl`, `critic/rewards/mean` (penalised)
and `training/rollout_probs_diff_*` (of probabilities), `sampling/importance_sampling_ratio/*` (after truncation), `kl`
beside a `ratio` and nothing that says which two policies both are of, that of a distillation (to the teacher), and
OpenRLHF's `kl` (of an estimator that the log does not name: the `logprobs_diff` beside it is read).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.preference import DRIFTS, SCORED
from rldk_tracking.metrics.preference import LOGGED as PREFERENCE
from rldk_tracking.sources.aliases import (
    ALIASES,
    DIVIDED_BY_MINIBATCHES,
    EVALUATED,
    LOG_RATIO,
    NAN_COUNTERS,
    OF_ASYNC,
    OF_FUNCTION,
    OF_NONE,
    OF_PASSES,
    OF_REWARD_MODEL,
    OF_TEACHER,
    OF_VALIDATION,
    PLACES,
    STEP_TIME,
    WAITED,
)

if TYPE_CHECKING:
    from torch import Tensor

    from rldk_tracking.rollout import PolicyUpdate, Rollout
    from rldk_tracking.sources.contract import Contract


ReadTensors = Callable[[], "tuple[Rollout | None, PolicyUpdate | None]"]
"""Builds the rollout and the update of a step."""


@dataclass(frozen=True)
class Observation:
    """What a source saw of one step on this rank.

    Attributes:
        scalars: canonical keys to numbers that were measured; tensors are 0-dimensional, on any device.
        read_tensors: builds the rollout and the update. A fault in it costs them and leaves the numbers.
        logged: canonical keys to numbers of the trainer's logs. What tensors say better stands for them.
    """

    scalars: Mapping[str, float | Tensor] = field(default_factory=dict)
    read_tensors: ReadTensors = lambda: (None, None)
    logged: Mapping[str, float] = field(default_factory=dict)

    @property
    def rollout(self) -> Rollout | None:
        """What was sampled, None in steps that train on an earlier rollout."""
        return self._tensors[0]

    @property
    def update(self) -> PolicyUpdate | None:
        """What the optimiser step saw."""
        return self._tensors[1]

    @cached_property
    def _tensors(self) -> tuple[Rollout | None, PolicyUpdate | None]:
        return self.read_tensors()


class Source(Protocol):
    """Reads one family of trainers.

    Attributes:
        rows_per_rank: the most completions that a rank delivers in a step; the same on all ranks.
        honours_stop: whether the trainer obeys `control.should_training_stop`.
        rollout_seconds: how long this rank sampled and scored for the step that was read last, None where not known.
        contract: what this trainer should bring.
        missing: why something of it cannot be read, in words, as far as that is known by now.
    """

    rows_per_rank: int
    honours_stop: bool
    rollout_seconds: float | None
    contract: Contract
    missing: list[str]

    def attach(self, trainer: Any, shield: Shield) -> None:
        """Install on this trainer instance what is needed to look. Once, when training begins.

        Args:
            trainer: the one that the source was made for.
            shield: keeps faults of the reading from the trainer's methods in which it happens.
        """

    def detach(self) -> None:
        """Take out what was installed and leave nothing behind."""

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        """What there is to see of the step that has just ended. `logs` is empty where the step was not logged."""


Kind = Literal["ppo", "grpo", "rloo", "other"]


def canonical(
    logs: Mapping[str, Any],
    kind: Kind | None = None,
    *,
    num_mini_batches: int = 1,
    reward_std_within_groups: bool | None = None,
) -> dict[str, float]:
    """One entry of a trainer's logs under canonical keys; what is unknown, empty or no number is left out.

    A loss, gradient norm, KL or reward that is not finite is counted in `rldk/nan/...`; anything else that is not
    finite is left out.

    Args:
        logs: numbers, numbers written as text, tensors of one element, None.
        kind: the trainer, where it is known. `kl` is Schulman's k3 in GRPO, k1 in RLOO.
        num_mini_batches: of TRL's PPO, which divides its averages by it.
        reward_std_within_groups: whether `reward_std` is the mean spread within groups, as up to TRL 0.26, rather
            than the spread of the batch. By default told from the keys beside it.
    """
    plan, values = _plan(tuple(map(str, logs)), kind, reward_std_within_groups), list(logs.values())
    return {} if plan is None else _translated(plan, values, num_mini_batches) | _evaluation(plan.evaluated, values)


@dataclass(frozen=True)
class Plan:
    """What an entry's names stand for, by their places in it; `keys` have what counts numbers that are not finite."""

    places: dict[str, int]
    keys: list[tuple[str, int, str, str | None]]
    evaluated: dict[str, int]


@lru_cache(maxsize=256)
def _plan(written: tuple[str, ...], kind: Kind | None, within_groups: bool | None) -> Plan | None:
    """None for transformers' summary of a training that is over."""
    names = {_plain(name): place for place, name in enumerate(written)}
    if "train_runtime" in names:
        return None
    evaluated = {name[5:]: place for name, place in names.items() if name.startswith(("eval_", "eval/"))}
    trained = {name: place for name, place in names.items() if not name.startswith(("eval_", "eval/"))}
    within = "step_time" not in names if within_groups is None else within_groups
    # An evaluation of LLaMA-Factory's KTO logs its `kl` without `eval_`.
    preference = any(name in PREFERENCE for name in (*trained, *evaluated))
    # Where several names stand for one key, the one that aliases name first comes last and wins.
    ordered = sorted(trained.items(), key=lambda item: -PLACES.get(item[0], 0))
    found = ((name, place, _key(name, trained, kind, within, preference)) for name, place in ordered)
    counted = [(name, place, key, NAN_COUNTERS.get(key)) for name, place, key in found if key is not None]
    return Plan(trained, counted, evaluated)


def _evaluation(places: Mapping[str, int], values: Sequence[Any]) -> dict[str, float]:
    """What an evaluation logs, without `eval_`, under its keys.

    transformers evaluates several sets one after the other, each with a `<set>_runtime` of its own. TRL logs its own
    numbers without the set's name: those of the entry's set.
    """
    sets = [name.removesuffix("_runtime") for name in places if name.endswith("_runtime")]
    row = {}
    for name, place in places.items():
        value = number(values[place])
        if value is None or not math.isfinite(value):
            continue
        own = next((one for one in sets if name.startswith(f"{one}_")), sets[0] if len(sets) == 1 else None)
        key = EVALUATED.get(name if own is None else name.removeprefix(f"{own}_"))
        if match := OF_PASSES.fullmatch(name):
            key, own = "rldk/eval/reward", match["set"].removeprefix("eval_")
        if key is not None:
            row[key if own is None else key.replace("rldk/eval/", f"rldk/eval/{own}/")] = value
    return row


def is_evaluation(logs: Mapping[str, Any]) -> bool:
    """Whether a row of a trainer's log is an evaluation's, whatever a trainer of one's own puts beside its numbers.

    >>> is_evaluation({"eval_loss": 0.5, "eval_runtime": 2.0, "memory/max_active (GiB)": 9.0, "epoch": 1.0})
    True
    """
    of_one = [str(key) for key in logs if str(key).startswith(("eval_", "test_"))]
    return len(of_one) == len(logs.keys() - {"epoch"}) or any(key.endswith("_runtime") for key in of_one)


def distils(names: Iterable[str]) -> bool:
    """Whether a log is of a distillation and of nothing else, so that its KL is to the teacher and not to a reference.

    >>> distils(["loss", "kl", "distillation_loss"]), distils(["kl", "teacher_kl", "reward"])
    (True, False)
    """
    names = list(names)
    return any(OF_TEACHER.search(name) for name in names) and not any("reward" in name for name in names)


def named(logs: Mapping[str, Any]) -> dict[str, float]:
    """Numbers under our own keys as they are, numbers under a trainer's names translated, and nothing else."""
    own = {key: number(raw) for key, raw in logs.items() if isinstance(key, str) and key.startswith("rldk/")}
    rest = {key: raw for key, raw in logs.items() if key not in own}
    return canonical(rest) | {key: value for key, value in own.items() if value is not None}


def number(value: Any) -> float | None:
    """A number out of whatever a log holds, not finite ones included; None for what is none."""
    if type(value) is float:
        return value
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            return float(value.strip().replace(",", ""))
        except ValueError:
            return None
    try:
        if isinstance(value, (int, float)):
            return float(value)
        if not hasattr(value, "dtype"):
            return None
        elements = value.numel() if hasattr(value, "numel") else value.size
        return float(value.reshape(-1)[0]) if elements == 1 else None
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        # An integer beyond floats, a complex number, a text in an array, a tensor without data.
        return None


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    """Without a prefix for training, in the spelling of TRL: notebook tables print `Training Loss` and spaces."""
    name = re.sub(r"\s*/\s*", "/", name.strip())
    name = name.removeprefix("train/")
    known = {"Training Loss": "loss", "Validation Loss": "eval_loss"}
    return known.get(name, name[:1].lower() + name[1:])


def _translated(plan: Plan, values: Sequence[Any], num_mini_batches: int) -> dict[str, float]:
    row: dict[str, float] = {}

    def of(name: str) -> float | None:
        return number(values[plan.places[name]]) if name in plan.places else None

    for name, place, key, counter in plan.keys:
        value = number(values[place])
        if value is None or (name == LOG_RATIO and value == 0):
            continue
        if name in OF_NONE and of(OF_NONE[name][0]) == OF_NONE[name][1]:
            continue
        if math.isfinite(value):
            row[key] = value * num_mini_batches if name in DIVIDED_BY_MINIBATCHES else value
            if counter == "rldk/nan/gradients":
                # Only the gradient norm is logged unfiltered, so that a finite one means something.
                row.setdefault(counter, 0.0)
        elif counter is not None:
            row[counter] = 1.0
            row.pop(key, None)
    waited, seconds = of(WAITED), of(STEP_TIME)
    if waited is not None and seconds:
        row["rldk/async/wait_fraction"] = min(1.0, waited / seconds)
    return row


def _key(name: str, names: Mapping[str, Any], kind: Kind | None, within_groups: bool, preference: bool) -> str | None:
    if name in OF_ASYNC and WAITED in names:
        return OF_ASYNC[name]
    if name == "kl":
        # KTO's baseline is a sum over a text, of pairs that do not belong together. A trainer may have no reference.
        if preference or "ratio" in names or LOG_RATIO in names or distils(names):
            return None
        # OpenRLHF, which logs no `loss`; GRPO with an entropy bonus logs both.
        is_k1 = kind == "rloo" or ("policy_loss" in names and "loss" not in names)
        return "rldk/kl/ref_k1" if is_k1 else "rldk/kl/ref_k3"
    for of_pairs in OF_REWARD_MODEL:
        if name in of_pairs and names.keys() >= of_pairs.keys():
            return of_pairs[name]
    if match := OF_VALIDATION.fullmatch(name):
        what = "accuracy" if match["what"] == "acc" else "reward"
        return f"rldk/eval/{match['set'].replace('/', '_')}/{what}"
    if name == "reward_std":
        return "rldk/reward/group_std_mean" if within_groups else "rldk/reward/std"
    if name == "entropy" and (preference or "mean_token_accuracy" in names):
        return "rldk/train/entropy"  # of texts that are given
    known = ALIASES.get(name)
    if known in DRIFTS and SCORED in names:
        return None
    if known is None and not preference and name.startswith("rewards/") and (match := OF_FUNCTION.fullmatch(name)):
        return f"rldk/reward/function/{match['function']}/{match['statistic'] or 'mean'}"
    return known
