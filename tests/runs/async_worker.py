"""TRL's AsyncGRPOTrainer on the CPU: the trainer, its queue, its collator and its loss are its own.

What needs a server or a GPU has another in its place. The worker samples in this process, from a copy of the model that
gets its weights from the trainer's own synchronisation, and puts `RolloutSample`s on the trainer's queue. The attention
of packed rows is computed in plain PyTorch, not by FlashAttention's kernel, and the GPU's speed is not known.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rldk_tracking.demo.model import LONGEST_COMPLETION, tiny_model, tiny_tokenizer
from rldk_tracking.demo.task import prompts, reward

GENERATIONS = 4


def half_length(completions: Sequence[str]) -> list[float]:
    """Has no opinion on completions of an odd length."""
    return [len(text) / 10 if len(text) % 2 == 0 else float("nan") for text in completions]


class Engine:
    """Samples in the process, and is what the trainer sends its weights to.

    Args:
        steps_ahead: how many steps' worth of completions lie in the queue when training begins.
        per_step: completions of one step.
        syncs: whether weights that are sent arrive.
        pause_s: how long a group takes, in a thread of its own; None samples one step's worth at each synchronisation.

    Attributes:
        sampled: every sample, in the order of the queue.
    """

    def __init__(
        self, steps_ahead: int = 1, per_step: int = 8, *, syncs: bool = True, pause_s: float | None = None
    ) -> None:
        self.rollout_buffer: queue.Queue[Any] = queue.Queue()
        self.metrics_queue: queue.Queue[Any] = queue.Queue()
        self.model, self.tokenizer = tiny_model(0), tiny_tokenizer()
        self.draw = torch.Generator().manual_seed(0)
        self.sampled: list[Any] = []
        self.steps_ahead, self.per_step, self.syncs, self.pause_s = steps_ahead, per_step, syncs, pause_s
        self.version = self.seen = self.groups = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._prompts = prompts(64)

    # What the trainer asks of a rollout worker.

    def start(self) -> None:
        if self.pause_s is None:
            self.fill(self.steps_ahead * self.per_step)
        else:
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def update_model_version(self, model_version: int) -> None:
        self.seen = model_version
        if self.syncs:
            self.version = model_version
        if self.pause_s is None and model_version > 1:  # the first is sent before training begins
            self.fill(self.per_step)

    def check_health(self, stale_after_s: float) -> None:
        """Asked where nothing has come for a while: an engine without a thread of its own samples no more.

        Raises:
            RuntimeError: the trainer would wait for ever.
        """
        if self.pause_s is None:
            raise RuntimeError("the queue is empty")

    # What the trainer asks of whatever takes its weights.

    def init_weight_transfer(self) -> None:
        """There is nothing to connect to."""

    pause = resume = destroy = init_weight_transfer

    def send_weights(self, iterator: Iterator[tuple[str, Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, weights in iterator:
                if self.syncs:
                    own[name].copy_(weights)

    # Sampling.

    def _go_on(self) -> None:
        while not self._ended.wait(self.pause_s):
            self.fill(GENERATIONS)

    def fill(self, completions: int) -> None:
        from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

        for _ in range(completions // GENERATIONS):
            prompt = self._prompts[self.groups % len(self._prompts)]
            ids = self.tokenizer(prompt)["input_ids"]
            rows = [self._completion(ids) for _ in range(GENERATIONS)]
            texts = [self.tokenizer.decode(own, skip_special_tokens=True) for own, _ in rows]
            functions = np.array([reward([prompt] * GENERATIONS, texts), half_length(texts)])
            scores = np.nansum(functions, axis=0)
            for row, (own, logprobs) in enumerate(rows):
                sample = RolloutSample(
                    prompt=[{"role": "user", "content": prompt}],
                    completion=[{"role": "assistant", "content": texts[row]}],
                    input_ids=np.array([*ids, *own]),
                    completion_mask=np.array([0] * len(ids) + [1] * len(own)),
                    old_log_probs=np.array([0.0] * len(ids) + logprobs, dtype=np.float32),
                    advantage=float((scores[row] - scores.mean()) / (scores.std() + 1e-8)),
                    model_version=self.version,
                    group_id=self.groups,
                    metrics={
                        "reward": float(scores[row]),
                        "reward_std": float(scores.std()),
                        "rewards/reward": float(functions[0, row]),
                        "rewards/half_length": float(functions[1, row]),
                    },
                    enqueued_at=time.time(),
                )
                self.sampled.append(sample)
                self.rollout_buffer.put(sample)
            self.groups += 1

    @torch.no_grad()
    def _completion(self, ids: list[int]) -> tuple[list[int], list[float]]:
        """Token ids and their log-probabilities under the copy of the model."""
        sequence, logprobs = list(ids), []
        while len(logprobs) < LONGEST_COMPLETION and (not logprobs or sequence[-1] != self.tokenizer.eos_token_id):
            scores = self.model(input_ids=torch.tensor([sequence])).logits[0, -1].log_softmax(dim=-1)
            sequence.append(int(torch.multinomial(scores.exp(), 1, generator=self.draw)))
            logprobs.append(float(scores[sequence[-1]]))
        return sequence[len(ids) :], logprobs


class Attention:
    """`flash_attn_varlen_func` for sequences laid end to end, each query's keys ending where it stands."""

    @staticmethod
    def flash_attn_varlen_func(
        query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor, *_: Any, **options: Any
    ) -> Tensor:
        parts, repeat = [], query.shape[1] // key.shape[1]
        for begin, end, first, last in zip(ends_q[:-1], ends_q[1:], ends_k[:-1], ends_k[1:], strict=True):
            q, k, v = query[begin:end], key[first:last], value[first:last]
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
            scores = torch.einsum("qhd,khd->hqk", q, k) * options["softmax_scale"]
            unseen = torch.ones(len(q), len(k), dtype=torch.bool).triu(len(k) - len(q) + 1)
            parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(unseen, -torch.inf).softmax(-1), v))
        return torch.cat(parts)


def with_eager_attention(load: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: load(*args, **{**options, "attn_implementation": "eager"})


def async_trainer(
    folder: Path, engine: Engine, callbacks: Sequence[Any], patch: pytest.MonkeyPatch, **settings: Any
) -> Any:
    """The trainer with the engine in the place of a server. Skips where TRL has none."""
    asynchronous = pytest.importorskip("trl.experimental.async_grpo", reason="this TRL has no AsyncGRPOTrainer")
    from datasets import Dataset

    path = folder / "model"
    copy.deepcopy(tiny_model(0)).save_pretrained(path)
    defaults = {
        "per_device_train_batch_size": GENERATIONS,
        "gradient_accumulation_steps": 2,
        "num_generations": GENERATIONS,
        "token_budget": 0,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    module = asynchronous.async_grpo_trainer
    if find_spec("trl.experimental.async_grpo.packing") is not None:
        patch.setattr("trl.experimental.async_grpo.packing._flash_attn", lambda: Attention)
    elif hasattr(module, "create_model_from_path"):  # completions lie end to end, which eager attention knows
        patch.setattr(module, "create_model_from_path", with_eager_attention(module.create_model_from_path))
    else:
        loader = module.AutoModelForCausalLM
        patch.setattr(loader, "from_pretrained", with_eager_attention(loader.from_pretrained))
    if hasattr(module, "get_peak_flops_per_device"):
        patch.setattr(module, "get_peak_flops_per_device", lambda *_: None)
    return asynchronous.AsyncGRPOTrainer(
        model=str(path),
        args=asynchronous.AsyncGRPOConfig(output_dir=str(folder), **{**defaults, **settings}),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts(64)]),
        processing_class=tiny_tokenizer(),
        callbacks=list(callbacks),
        rollout_worker=engine,
        weight_transfer=engine,
    )
