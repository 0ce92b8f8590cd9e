"""GRPO whose completions come out of a queue, sampled by an engine beside the training, as TRL's AsyncGRPOTrainer.

Three things are looked at, and called as before. The queue's `get`: which completions came, how old the weights were
that sampled them, how long the trainer waited. The collator's `torch_call`: in which order they go into the rows that
the trainer packs. `compute_loss`: the log-probabilities of the weights that are trained, as the model's output has them
while the loss is computed, beside those of the engine that sampled.

The loss's ratio and its `kl` are those of the trained policy and the one that sampled: `rldk/policy/` and
`rldk/sampler/`. There is no reference.

The queue is on the main rank alone. With several ranks the rollout is that of all ranks' completions, but the
log-probabilities in it are those of the main rank's; the update is of all.
"""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.asynchronous import Flow, compute
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.contract import LOSS, Contract, stop_ids
from rldk_tracking.sources.generation import joined
from rldk_tracking.sources.logs import Observation, canonical
from rldk_tracking.sources.loss_pass import LossPass, clip_range, detached, is_training, update_of
from rldk_tracking.sources.scoring import text_of
from rldk_tracking.sources.wrapping import Wrapped

NO_ORDER = "completions cannot be told apart in its batches"
NO_LOSS = "what its loss is given, or its model's output, is of another form"
TREES = {"old_log_probs", "advantages", "token_index", "segment_id"}
"""What the loss is given of rows that are prefix trees, as in TRL 1.16."""
END_TO_END = {"old_log_probs", "advantages", "attention_mask", "completion_mask", "position_ids"}
"""What it is given of completions that lie end to end, as in TRL 1.9 to 1.15."""
ALWAYS = tuple(f"rldk/async/{name}" for name in ("staleness/mean", "staleness/max", "queue_length", "wait_seconds"))
"""What every such trainer brings of its queue."""
Report = Callable[[Mapping[str, float]], None]

REPORTS = 5
"""How often it is said within a step that a step's worth of completions was too stale: enough for async.stale."""


class AsyncSource:
    """Reads trainers that take scored completions from a queue. See `Source`."""

    honours_stop = True

    def __init__(self, trainer: Any, report: Report = lambda scalars: None) -> None:
        self.contract = of_queue(trainer)
        self.missing: list[str] = []
        self.rollout_seconds: float | None = None
        self.rows_per_rank = rows_per_rank(trainer)
        self._shield = Shield()
        self._trainer: Callable[[], Any] = lambda: None
        self._wrapped: list[Wrapped] = []
        self._report = report  # as where no completion is left to train on, and no step ends
        self._flow = Flow()
        self._stale_in_a_row = 0
        self._read_at: tuple[int, float] = (0, time.perf_counter())
        self._on_way: dict[int, Any] = {}
        """Completions that were taken and not yet packed, by the identity of their token ids."""
        self._batches: deque[list[list[Any]]] = deque()
        """Of each micro-batch that is packed and not yet trained on, the completions of each rank's row."""
        self._passes: list[LossPass] = []
        self._rollouts: list[Rollout] = []

    def attach(self, trainer: Any, shield: Shield) -> None:
        """Wrap the methods that are there."""
        self.detach()
        self._trainer, self._shield = weakref.ref(trainer), shield
        self._flow = Flow()
        self._read_at = int(trainer.state.global_step), time.perf_counter()
        collator = getattr(getattr(trainer.callback_handler, "train_dataloader", None), "collate_fn", None)
        around = [(trainer, "compute_loss", self._around_loss)]
        if trainer.rollout_queue is not None:
            around += [(trainer.rollout_queue, "get", self._around_get), (collator, "torch_call", self._around_packing)]
        for owner, name, function in around:
            if callable(getattr(owner, name, None)):
                self._wrapped.append(Wrapped(owner, name, function))
            elif name == "torch_call":
                self._say(NO_ORDER)

    def detach(self) -> None:
        """Unwrap, and let go of the last step's tensors."""
        for wrapped in self._wrapped:
            wrapped.restore()
        self._wrapped = []
        self._trainer = lambda: None
        self._on_way.clear()
        self._batches.clear()
        self._passes, self._rollouts = [], []

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        """What the step was trained on, what its loss saw, how completions came, and what only the logs say."""
        trainer = self._trainer()
        passes, self._passes = [p for p in self._passes if p.step == step - 1], []
        rollouts, self._rollouts = self._rollouts, []
        flow, self._flow = self._flow, Flow()
        (before, begin), self._read_at = self._read_at, (step, time.perf_counter())

        def read_tensors() -> tuple[Rollout | None, PolicyUpdate | None]:
            return joined(rollouts) if rollouts else None, update_of(trainer, passes) if passes else None

        is_main = trainer is not None and trainer.rollout_queue is not None
        came = compute(flow, self._read_at[1] - begin, max(1, step - before)) if is_main else {}
        return Observation(came, read_tensors, canonical(logs, "grpo"))

    def _say(self, what: str) -> None:
        """Of what cannot be read."""
        if what not in self.missing:
            self.missing.append(what)

    # Around the trainer's methods.

    def _around_get(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def get(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                sample = original(*args, **kwargs)
            finally:
                self._flow.waited_seconds += time.perf_counter() - begin
            with self._shield.at("reading a completion of the queue"):
                self._take(sample)
            return sample

        return get

    def _take(self, sample: Any) -> None:
        trainer = self._trainer()
        age = trainer.model_version - sample.model_version
        if age > getattr(trainer.args, "max_staleness", math.inf):
            self._flow.dropped += 1
            self._stale_in_a_row += 1
            times, rest = divmod(self._stale_in_a_row, completions_of_a_step(trainer))
            if rest == 0 and times <= REPORTS:  # the step may never come to its end
                self._report({"rldk/async/stale_fraction": 1.0, "rldk/async/staleness/max": float(age)})
            return
        self._stale_in_a_row = 0
        self._flow.queue_lengths.append(float(trainer.rollout_queue.qsize()))
        if NO_ORDER not in self.missing:
            self._on_way[id(sample.input_ids)] = sample

    def _around_packing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def torch_call(examples: Any, *args: Any, **kwargs: Any) -> Any:
            batch = original(examples, *args, **kwargs)
            with self._shield.at("reading the order of completions"):
                self._batches.append(self._samples_of(examples))
            return batch

        return torch_call

    def _samples_of(self, examples: Any) -> list[list[Any]]:
        """The completions of each rank's row; empty where they are not those that came out of the queue."""
        rows = [getattr(row, "samples", row) for row in examples[0]]
        try:
            return [[self._on_way.pop(id(example["input_ids"])) for example in row] for row in rows]
        except (KeyError, TypeError):
            self._say(NO_ORDER)
            return []

    def _around_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            trainer = self._trainer()
            if not is_training(trainer):
                return original(model, inputs, *args, **kwargs)
            outputs: list[Any] = []
            hook = None
            with self._shield.at("reading the loss"):
                hook = model.register_forward_hook(lambda module, given, output: outputs.append(output))
            try:
                loss = original(model, inputs, *args, **kwargs)
            finally:
                if hook is not None:
                    hook.remove()
            with self._shield.at("reading the loss"):
                self._keep(trainer, inputs, outputs[-1] if outputs else None)
            return loss

        return compute_loss

    def _keep(self, trainer: Any, inputs: Mapping[str, Any], output: Any) -> None:
        """One micro-batch of this rank: its update, and on the main rank the completions of all ranks."""
        rows = self._batches.popleft() if self._batches else []
        self._flow.staleness += [float(trainer.model_version - sample.model_version) for row in rows for sample in row]
        named = output if isinstance(output, Mapping) else {}
        logprobs, entropy = (detached(named.get(name)) for name in ("log_probs", "entropy"))
        if logprobs is None or not (inputs.keys() >= TREES or inputs.keys() >= END_TO_END):
            self._say(NO_LOSS)
            return
        places, known, owners = loss_terms(inputs)
        mask = first_of_each(torch.bincount(owners, minlength=len(rows[0]) if rows else 0))

        def by_completion(terms: Tensor) -> Tensor:
            """(n, T) of (M,)."""
            return terms.new_zeros(mask.shape).masked_scatter_(mask, terms)

        told = {"completion_mask": mask, "old_per_token_logps": by_completion(inputs["old_log_probs"][known])}
        told["advantages"] = by_completion(inputs["advantages"][known])
        logprobs = by_completion(logprobs.flatten()[places])
        entropy = None if entropy is None else by_completion(entropy.flatten()[places])
        self._passes.append(LossPass(int(trainer.state.global_step), None, told, logprobs, entropy))
        for number, row in enumerate(rows):
            self._rollouts.append(rollout_of(row, stop_ids(trainer), mask.device, None if number else logprobs))


def of_queue(trainer: Any) -> Contract:
    """Of a trainer whose policy is compared with the one that sampled; what rewards it gets its queue alone knows."""
    rollout = {"mask", "token_ids", "logprobs", "sampler_logprobs", "scores", "advantages", "group_ids"}
    sides = dict(zip(("clip_low", "clip_high"), clip_range(trainer), strict=True))
    return Contract(
        frozenset({*rollout, *(("truncated",) if stop_ids(trainer) else ())}),
        frozenset({"old_logprobs", "entropy", *(side for side, limit in sides.items() if limit is not None)}),
        frozenset({LOSS, *ALWAYS}),
    )


def loss_terms(inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The M tokens that a micro-batch's loss is taken over, completion by completion.

    Returns:
        (M,) their places in the model's output, a bool mask of them in the inputs of the loss, and (M,) the number of
        the completion that each belongs to.
    """
    if "token_index" in inputs:
        known: Tensor = inputs["token_index"] >= 0
        return inputs["token_index"][known], known, inputs["segment_id"][known]
    # What predicts a token stands before it.
    known = inputs["attention_mask"].bool() & inputs["completion_mask"].bool()
    known[:, 0] = False
    owners = (inputs["position_ids"] == 0).cumsum(dim=1) - 1
    return known.nonzero()[:, 1] - 1, known, owners[known]


def first_of_each(counts: Tensor) -> Tensor:
    """(n, T) bool, True at the first `counts` (n,) places of each row; T is the largest of them."""
    return torch.arange(int(counts.max()), device=counts.device) < counts[:, None]


def rollout_of(samples: Sequence[Any], ends: Sequence[int], device: torch.device, logprobs: Tensor | None) -> Rollout:
    """Completions of one row, by the tokens that are trained on: without the prompt and what tools wrote.

    Args:
        samples: as they came out of the queue.
        ends: tokens that end a completion.
        device: where the tensors shall be.
        logprobs: (n, T) under the weights that are trained; None where another rank has them.
    """
    kept = [torch.as_tensor(sample.completion_mask)[1:].bool() for sample in samples]

    def by_token(name: str) -> Tensor:
        own = [torch.as_tensor(getattr(sample, name))[1:][keep] for sample, keep in zip(samples, kept, strict=True)]
        return pad_sequence(own, batch_first=True).to(device)

    def by_completion(name: str) -> Tensor:
        return torch.tensor([float(sample.metrics.get(name, math.nan)) for sample in samples], device=device)

    counts = torch.stack([keep.sum() for keep in kept]).to(device)
    token_ids, sampler_logprobs = by_token("input_ids"), by_token("old_log_probs")
    last = token_ids.gather(1, (counts - 1).clamp(min=0)[:, None]).squeeze(1)
    names = [name for name in samples[0].metrics if name.startswith("rewards/")]
    return Rollout(
        mask=first_of_each(counts),
        token_ids=token_ids,
        logprobs=torch.full_like(sampler_logprobs, math.nan) if logprobs is None else logprobs,
        sampler_logprobs=sampler_logprobs,
        scores=by_completion("reward"),
        rewards={name.removeprefix("rewards/"): by_completion(name) for name in names},
        reward_weights={name.removeprefix("rewards/"): 1.0 for name in names},
        advantages=torch.tensor([float(sample.advantage) for sample in samples], device=device),
        group_ids=torch.tensor([int(sample.group_id) for sample in samples], device=device),
        truncated=~torch.isin(last, torch.tensor(ends, device=device)) & (counts > 0) if ends else None,
        prompts=tuple(text_of(sample.prompt) for sample in samples),
        completions=tuple(text_of(sample.completion) for sample in samples),
    )


def completions_of_a_step(trainer: Any) -> int:
    """Over all ranks; where batches are made by a budget of tokens, what they would be without."""
    args = trainer.args
    return int(args.per_device_train_batch_size) * int(args.gradient_accumulation_steps) * int(args.world_size)


def rows_per_rank(trainer: Any) -> int:
    """Most completions of a step; the main rank delivers those of all. With a budget of tokens it is not known."""
    counted, budget = completions_of_a_step(trainer), getattr(trainer.args, "token_budget", None)
    return counted if budget is not None and budget <= 0 else max(512, 2 * counted)
