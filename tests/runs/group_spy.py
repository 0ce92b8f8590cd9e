"""Reads a GRPO or RLOO run out of the trainer's buffers, logs and weights, in a way of its own.

Log-probabilities are not the trainer's: they are computed anew, one completion at a time, without padding and in
float64, from copies of the weights that each step began with.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from tests.runs.slow import Completion, Trained, overlap, rollout_keys, update_keys

EOS, PAD = 1, 0


@dataclass
class Sampled:
    """This rank's rows of one generation, as the trainer shuffled them, and its logs in the order of generation."""

    number: int
    first_row: int
    batches: list[dict[str, Any]]
    logs: dict[str, Any]
    weights: dict[str, torch.Tensor]


@dataclass
class Step:
    """One optimiser step: its micro-batches with their generations, and what was sampled in it."""

    weights: dict[str, torch.Tensor]
    micro: list[tuple[dict[str, Any], Sampled]] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    logs: dict[str, Any] = field(default_factory=dict)
    weights_after: dict[str, torch.Tensor] = field(default_factory=dict)


class GroupSpy(TrainerCallback):
    def __init__(self) -> None:
        self.trainer: Any = None
        self.steps: dict[int, Step] = {}
        self._generations = 0
        self._latest: Any = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps[state.global_step + 1] = Step(self._weights())

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._look(args, self.steps[state.global_step + 1])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = self.steps[state.global_step]
        self._look(args, step)
        step.weights_after = self._weights()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.steps[state.global_step].logs = dict(logs)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.trainer.model.state_dict().items()}

    def _look(self, args: Any, step: Step) -> None:
        done = self.trainer._step - 1
        buffer = self.trainer._buffered_inputs
        if done % (args.steps_per_generation * args.num_iterations) == 0:
            rows = sum(len(batch["completion_ids"]) for batch in buffer)
            rank, ranks = self.trainer.accelerator.process_index, self.trainer.accelerator.num_processes
            # Every rank logs all ranks' rows, in the order of the ranks.
            mine = slice(rank * rows, (rank + 1) * rows)
            kept = self.trainer._logs if hasattr(self.trainer, "_logs") else self.trainer._textual_logs  # TRL 0.19
            logs = {name: list(kept[name])[-rows * ranks :][mine] for name in ("prompt", "completion", "advantages")}
            logs["rewards"] = {name: list(v)[-rows * ranks :][mine] for name, v in kept["rewards"].items()}
            self._latest = Sampled(self._generations, rank * rows, list(buffer), logs, step.weights)
            self._generations += 1
            step.sampled.append(self._latest)
        step.micro.append((buffer[done % args.steps_per_generation], self._latest))


def fresh(model: Any) -> Any:
    """A model of the same weights in float64. Not a copy: what `accelerate` puts around a model calls the original."""
    made = type(model)(model.config)
    made.load_state_dict(model.state_dict())
    return made.double().eval()


class Reader:
    """Turns what the spy kept into the numbers that the row should hold."""

    def __init__(self, spy: GroupSpy) -> None:
        self.trainer = spy.trainer
        self.args = spy.trainer.args
        self.is_rloo = type(spy.trainer).__name__ == "RLOOTrainer"
        self.policy = fresh(spy.trainer.model)
        self.reference = None if spy.trainer.ref_model is None else fresh(spy.trainer.ref_model)
        self.weights = dict(zip(self.trainer.reward_func_names, self.trainer.reward_weights.tolist(), strict=True))
        self._precise: dict[int, dict[str, torch.Tensor]] = {}
        self._known: dict[Any, tuple[list[float], list[float]]] = {}
        self._steps = spy.steps
        self._scores: dict[int, list[float]] = {}

    def rollout(self, step: Step) -> dict[str, float]:
        batch = self.completions(step)
        return rollout_keys(batch, self.weights, self._scores_before(step)) if batch else {}

    def _scores_before(self, step: Step) -> list[float]:
        earlier = list[float]()
        for number in sorted(self._steps):
            if self._steps[number] is step:
                break
            if number not in self._scores:
                batch = self.completions(self._steps[number])
                self._scores[number] = [c.score for c in batch if c.score is not None]
            earlier += self._scores[number]
        return earlier

    def overlap(self, step: Step) -> float | None:
        return overlap(self.completions(step))

    def completions(self, step: Step) -> list[Completion]:
        return [c for sampled in step.sampled for c in self._completions(sampled)]

    def update(self, step: Step) -> dict[str, float]:
        return self.update_of(self.trained(step))

    def update_of(self, rows: list[Trained]) -> dict[str, float]:
        low, high = self._clip_range()
        # A range says nothing where no step lies between sampling and any of the losses.
        if all(row.is_first for row in rows):
            low = high = None
        geometric_mean = getattr(self.args, "importance_sampling_level", None) == "sequence"
        capped = not self.is_rloo and self.args.loss_type == "cispo"
        return update_keys(rows, low, high, self.is_rloo or geometric_mean, geometric_mean, capped)

    def trained(self, step: Step) -> list[Trained]:
        """What the losses of the step saw. The trainer keeps old log-probabilities where a step lies between."""
        rows = []
        for number, (batch, sampled) in enumerate(step.micro):
            first = step.weights is sampled.weights
            keeps_old = self.is_rloo or batch.get("old_per_token_logps") is not None
            for row in range(len(batch["completion_ids"])):
                prompt, tokens, trained = self._tokens(batch, row)
                if not trained:
                    continue
                new, entropy = self._logprobs(self.policy, step.weights, prompt, tokens)
                old = self._logprobs(self.policy, sampled.weights, prompt, tokens)[0] if keeps_old else None
                rows.append(Trained(new, old, [batch["advantages"][row].item()], entropy, number, first))
        return rows

    def _clip_range(self) -> tuple[float | None, float | None]:
        if not self.is_rloo and self.args.loss_type == "cispo":
            return None, self.trainer.epsilon_high - 1
        return self.trainer.epsilon_low, self.trainer.epsilon_high

    def _completions(self, sampled: Sampled) -> list[Completion]:
        known = self._logged(sampled)
        decode: Callable[..., str] = self.trainer.processing_class.decode
        found = []
        for batch in sampled.batches:
            for row in range(len(batch["completion_ids"])):
                prompt, tokens, trained = self._tokens(batch, row)
                advantage = batch["advantages"][row].item()
                place = (decode(prompt), decode(tokens, skip_special_tokens=True), round(advantage, 4))
                group, score, rewards = known[place].pop()
                logprobs = ref = penalty = None
                if trained:
                    logprobs = self._logprobs(self.policy, sampled.weights, prompt, tokens)[0]
                if trained and self.reference is not None and self.args.beta:
                    ref = self._logprobs(self.reference, None, prompt, tokens)[0]
                if self.is_rloo and self.args.beta:
                    penalty = -self.args.beta * math.fsum(np.subtract(logprobs, ref)) if trained else 0.0
                sampler = batch.get("sampling_per_token_logps")
                found.append(
                    Completion(
                        tokens=tokens,
                        score=score,
                        group=(sampled.number, group),
                        rewards=rewards,
                        advantages=[advantage],
                        truncated=tokens[-1] not in (EOS, PAD),
                        logprobs=logprobs,
                        ref_logprobs=ref,
                        sampler_logprobs=None if sampler is None else sampler[row, : len(tokens)].tolist(),
                        penalty=penalty,
                    )
                )
        return found

    def _logged(self, sampled: Sampled) -> dict[Any, list[tuple[int, float, dict[str, float]]]]:
        """Group, score and rewards of each completion, by its prompt, text and advantage."""
        known = defaultdict(list)
        logs = sampled.logs
        for index, place in enumerate(zip(logs["prompt"], logs["completion"], logs["advantages"], strict=True)):
            rewards = {name: values[index] for name, values in logs["rewards"].items()}
            # As float32, in which the trainer adds: in float64 two sums may differ that are the same to the trainer.
            total, scored = np.float32(0.0), False
            for name, one in rewards.items():
                if not math.isnan(one):
                    total, scored = np.float32(total + np.float32(one) * np.float32(self.weights[name])), True
            group = (sampled.first_row + index) // self.trainer.num_generations
            known[(place[0], place[1], round(place[2], 4))].append(
                (group, float(total) if scored else math.nan, rewards)
            )
        return known

    def _tokens(self, batch: dict[str, Any], row: int) -> tuple[list[int], list[int], bool]:
        """Prompt, completion, and whether the trainer trains on it."""
        prompt = [t for t, m in zip(batch["prompt_ids"][row], batch["prompt_mask"][row], strict=True) if m]
        ids, mask = batch["completion_ids"][row].tolist(), batch["completion_mask"][row].tolist()
        if any(mask):
            return [int(t) for t in prompt], [t for t, m in zip(ids, mask, strict=True) if m], True
        while ids and ids[-1] == PAD:
            ids.pop()
        return [int(t) for t in prompt], ids, False

    def _logprobs(
        self, model: Any, weights: dict[str, torch.Tensor] | None, prompt: list[int], tokens: list[int]
    ) -> tuple[list[float], list[float]]:
        """Of each token of one completion, and the entropies."""
        place = (id(weights), tuple(prompt), tuple(tokens))
        if place not in self._known:
            if id(weights) not in self._precise:
                self._precise[id(weights)] = {name: value.double() for name, value in (weights or {}).items()}
            self._known[place] = self._forward(model, self._precise[id(weights)], prompt, tokens)
        return self._known[place]

    @torch.no_grad()
    def _forward(
        self, model: Any, weights: dict[str, torch.Tensor], prompt: list[int], tokens: list[int]
    ) -> tuple[list[float], list[float]]:
        inputs = {"input_ids": torch.tensor([prompt + tokens]), "use_cache": False}
        output = torch.func.functional_call(model, weights, (), inputs)
        table = (output.logits[0, len(prompt) - 1 : -1] / self.args.temperature).log_softmax(dim=-1)
        entropy = -(table.exp() * table).sum(dim=-1)
        return table[range(len(tokens)), tokens].tolist(), entropy.tolist()
