"""Real GRPO trainings of the shapes that other packages give TRL's trainer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.task import reward
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.sources.loss_pass import is_rloo
from rldk_tracking.trackers.memory import InMemoryTracker


def trained(folder: Path, kind: type | None = None, steps: int = 3, **settings: Any) -> tuple[InMemoryTracker, Any]:
    tracker = InMemoryTracker()
    settings = {"per_device_train_batch_size": 8, "num_generations": 4, "beta": 0.04, "max_steps": steps, **settings}
    trainer: Any = grpo_trainer(folder, reward_funcs=[reward], callbacks=[RLDKCallback(trackers=[tracker])], **settings)
    if kind is not None:
        trainer.__class__ = kind
    trainer.train()
    return tracker, trainer


def logged(trainer: Any, name: str) -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def base() -> Any:
    from trl import GRPOTrainer

    return GRPOTrainer


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("rldk_tracking")]


@dataclass
class Micro:
    """What the loss of ms-swift's trainer is given beside what the model is given: (B, T) and (B,)."""

    completion_mask: Tensor
    truncated_mask: Tensor
    old_per_token_logps: Tensor
    ref_per_token_logps: Tensor
    advantages: Tensor


def masked_mean(values: Tensor, mask: Tensor) -> float:
    return float(values[mask.bool()].double().mean())


def test_rows_of_prompt_and_completion_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As ms-swift's: tensors in a mapping for the model and an object for the loss, rows padded on the right."""
    seen: list[dict[str, Any]] = []
    ratios: dict[int, list[Tensor]] = {}

    class Swift(base()):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            rows = super()._generate_and_score_completions(inputs)
            seen.append(rows)
            return [self.micro_batch({name: self.half(rows[name], at) for name in rows}) for at in (0, 1)]

        def half(self, value: Any, at: int) -> Any:
            return value[8 * at : 8 * at + 8] if isinstance(value, Tensor) and value.ndim else value

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
            rows = zip(inputs, prompts, completions, completion_ids_list, strict=True)
            return self._compute_rewards_per_func(
                [SimpleNamespace(row=r, messages=[p, c], response_token_ids=[ids]) for r, p, c, ids in rows]
            )

        def _compute_rewards_per_func(self, samples: Any) -> Any:
            inputs, (prompts, completions) = [s.row for s in samples], zip(*(s.messages for s in samples), strict=True)
            ids = [s.response_token_ids[0] for s in samples]
            return super()._calculate_rewards(inputs, list(prompts), list(completions), ids)

        def micro_batch(self, rows: Any) -> Any:
            """The last tokens of a row are the completion, and before it in some rows the prompt's end."""
            prompts, completions = rows["prompt_mask"].sum(dim=1), rows["completion_mask"].sum(dim=1)
            length = int((prompts + completions).max())
            kept = length - int(prompts.min())
            ids, mask = torch.zeros(8, length, dtype=torch.long), torch.zeros(8, length, dtype=torch.bool)
            logps = {name: torch.full((8, length), 99.0) for name in ("old", "ref")}
            with torch.no_grad():
                both = [torch.cat([rows[f"prompt_{x}"], rows[f"completion_{x}"]], dim=1) for x in ("ids", "mask")]
                old = super()._get_per_token_logps_and_entropies(self.model, *both, rows["completion_ids"].shape[1])[0]
            for row, (begin, count) in enumerate(zip(prompts.tolist(), completions.tolist(), strict=True)):
                end = begin + count
                ids[row, :begin] = rows["prompt_ids"][row][rows["prompt_mask"][row].bool()]
                ids[row, begin:end], mask[row, begin:end] = rows["completion_ids"][row, :count], True
                logps["old"][row, begin:end] = old[row, :count]
                logps["ref"][row, begin:end] = rows["ref_per_token_logps"][row, :count]
            truncated = torch.tensor([row % 4 == 0 for row in range(8)])
            batch = Micro(
                mask[:, -kept:],
                truncated,
                logps["old"][:, -kept:],
                logps["ref"][:, -kept:],
                rows["advantages"][:, None].expand(8, kept).clone(),
            )
            attended = torch.arange(length) < (prompts + completions)[:, None]
            return {"model_inputs": {"input_ids": ids, "attention_mask": attended}, "grpo_batch": batch}

        def _prepare_inputs(self, batch: Any) -> Any:
            if self._step % 4 == 0:
                self.kept = self._generate_and_score_completions(batch)
            return self.kept[self._step % 2]

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return self._compute_loss(model, inputs["model_inputs"], inputs["grpo_batch"])

        def _compute_loss(self, model: Any, model_inputs: Any, batch: Micro) -> Any:
            new, _ = self._get_per_token_logps_and_entropies(model, model_inputs, batch)
            ratio = (new - batch.old_per_token_logps).exp()
            ratios.setdefault(self.state.global_step + 1, []).append(ratio.detach()[batch.completion_mask])
            return -(ratio * batch.advantages)[batch.completion_mask].mean()

        def _get_per_token_logps_and_entropies(self, model: Any, given: Any, batch: Any, *args: Any, **kw: Any) -> Any:
            if not isinstance(batch, Micro):
                return super()._get_per_token_logps_and_entropies(model, given, batch, *args, **kw)
            kept = batch.completion_mask.shape[1]
            table = model(**given).logits[:, -kept - 1 : -1].log_softmax(dim=-1)
            return table.gather(2, given["input_ids"][:, -kept:, None]).squeeze(2), None

    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        tracker, trainer = trained(tmp_path, Swift, num_iterations=2, steps=4)
    series = {key: dict(points) for key, points in tracker.series.items()}
    assert len(seen) == 2
    for step, rows in zip((1, 3), seen, strict=True):
        lengths = rows["completion_mask"].sum(dim=1).double()
        assert series["rldk/length/mean"][step] == pytest.approx(float(lengths.mean()))
        assert series["rldk/length/truncated_fraction"][step] == 0.25, "as the trainer says it"
        assert series["rldk/advantage/std"][step] == pytest.approx(float(rows["advantages"].double().std()))
        difference = rows["old_per_token_logps"] - rows["ref_per_token_logps"]
        assert series["rldk/kl/ref_k1"][step] == pytest.approx(
            masked_mean(difference, rows["completion_mask"]), abs=1e-6
        )
        assert series["rldk/reward/mean"][step] == pytest.approx(logged(trainer, "reward")[step])
        assert series["rldk/reward/function/reward/none_fraction"][step] == 0.0
        assert "rldk/reward/group_std_mean" in series
        assert series["rldk/diversity/unique_fraction"][step] > 0
    for step, found in ratios.items():
        assert series["rldk/policy/ratio_mean"][step] == pytest.approx(
            float(torch.cat(found).double().mean()), abs=1e-6
        )
    assert abs(series["rldk/policy/ratio_mean"][2] - 1.0) > 1e-4
    assert all("entrop" in line for line in said(caplog)), "which this trainer does not compute"


def test_log_probabilities_of_rows_that_were_packed_to_the_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Unsloth's trainer: wider than the completions by the prompts' padding, and none in the loss."""
    seen: list[dict[str, Any]] = []

    class Unsloth(base()):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            rows = super()._generate_and_score_completions(inputs)
            seen.append(dict(rows))
            padding = (rows["prompt_mask"] == 0).sum(dim=1)
            longest, (count, length) = int(padding.max()), rows["completion_ids"].shape
            for name in ("old_per_token_logps", "ref_per_token_logps"):
                wide = torch.full((count, length + longest), 99.0)
                for row, begin in enumerate((longest - padding).tolist()):
                    wide[row, begin : begin + length] = rows[name][row]
                rows[name] = wide
            rows["max_left_pad"] = torch.full((count, 1), longest)
            return rows

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            both = [torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1) for x in ("ids", "mask")]
            length = inputs["completion_ids"].shape[1]
            assert self._get_per_token_logps_and_entropies(model, *both, length)[0] is None
            new = super()._get_per_token_logps_and_entropies(model, *both, length)[0]
            old_logps = inputs["old_per_token_logps"]  # of tokens, by the name that RLOO has for those of completions
            assert old_logps.shape[1] >= length
            return -(new * inputs["advantages"][:, None])[inputs["completion_mask"].bool()].mean()

        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                return None, None, None
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        tracker, trainer = trained(tmp_path, Unsloth, num_iterations=2, steps=4)
    assert not is_rloo(trainer)
    series = {key: dict(points) for key, points in tracker.series.items()}
    assert len(seen) == 2
    assert any((rows["prompt_mask"] == 0).any() for rows in seen), "prompts of several lengths"
    for step, rows in zip((1, 3), seen, strict=True):
        difference = rows["old_per_token_logps"] - rows["ref_per_token_logps"]
        k1 = masked_mean(difference, rows["completion_mask"])
        assert series["rldk/kl/ref_k1"][step] == pytest.approx(k1, abs=1e-6)
        assert series["rldk/advantage/std"][step] == pytest.approx(float(rows["advantages"].double().std()))
    assert abs(series["rldk/kl/ref_k1"][3]) > 1e-3
    assert "rldk/policy/ratio_mean" not in series
    assert sum("where they cannot be seen" in line for line in said(caplog)) == 1
