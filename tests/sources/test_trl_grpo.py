"""What the source says of real GRPO and RLOO trainings, against what the weights and the task say themselves."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM, TrainerCallback

from rldk_tracking import demo
from rldk_tracking.demo.task import ASK
from rldk_tracking.history.unweighted import unweighted_score
from rldk_tracking.isolation import Shield
from rldk_tracking.metrics import reward
from rldk_tracking.metrics.columns import Table
from rldk_tracking.sources.contract import stop_ids
from rldk_tracking.sources.generation import keys_of
from rldk_tracking.sources.trl_grpo import GroupSource, generation_of

pytestmark = pytest.mark.slow

TOKENIZER = demo.tiny_tokenizer()
LONGEST = 10


def per_token(
    model: Any, prompt_ids: list[list[int]], completion_ids: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of each token, one unpadded completion at a time; NaN beyond a completion's end."""
    logprobs = torch.full(completion_ids.shape, torch.nan)
    entropy = torch.full(completion_ids.shape, torch.nan)
    with torch.no_grad():
        for row, (prompt, length) in enumerate(zip(prompt_ids, lengths.tolist(), strict=True)):
            ids = torch.tensor([prompt + completion_ids[row, :length].tolist()])
            logits = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
            logprobs[row, :length] = logits[range(length), completion_ids[row, :length]]
            entropy[row, :length] = -(logits.exp() * logits).sum(dim=-1)
    return logprobs, entropy


def same(ours: Tensor | None, theirs: Tensor, mask: Tensor, tolerance: float = 2e-4) -> None:
    """Equal at the tokens of the mask."""
    assert ours is not None
    assert torch.allclose(ours[mask].float(), theirs[mask], atol=tolerance), (ours[mask] - theirs[mask]).abs().max()


class Witness(TrainerCallback):
    """Keeps copies of the weights before each step, and the micro-batches that the step trained on."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.initial = self._copy()
        self.before: dict[int, Any] = {}
        self.trained: dict[int, list[dict[str, Any]]] = {}

    def _copy(self) -> Any:
        # A deep copy would share the forward function that newer trainers bind to their model.
        model = Qwen2ForCausalLM(self.trainer.model.config)
        model.load_state_dict(self.trainer.model.state_dict())
        return model.eval()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before[state.global_step + 1] = self._copy()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._note(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._note(state.global_step)

    def _note(self, step: int) -> None:
        buffer = self.trainer._buffered_inputs
        # The trainer has counted this micro-batch already.
        self.trained.setdefault(step, []).append(dict(buffer[(self.trainer._step - 1) % len(buffer)]))


def train(kind: str, folder: Path, reader: Any, steps: int = 3, **settings: Any) -> Witness:
    trainer = getattr(demo, f"{kind}_trainer")(folder, max_steps=steps, **settings)
    witness = Witness(trainer)
    trainer.add_callback(witness)
    reader.watch(trainer).train()
    return witness


ALIGNED = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8, "num_generations": 4}
CONFIGURATIONS = {
    "aligned": ("grpo", {**ALIGNED, "beta": 0.04}, {1, 2, 3}),
    "no reference": ("grpo", {**ALIGNED, "beta": 0.0}, {1, 2, 3}),
    "two iterations": ("grpo", {**ALIGNED, "beta": 0.04, "num_iterations": 2}, {1, 3}),
    "several steps a generation": ("grpo", {**ALIGNED, "beta": 0.0, "steps_per_generation": 4}, {1, 3}),
    "several generations a step": (
        "grpo",
        {**ALIGNED, "beta": 0.04, "gradient_accumulation_steps": 4, "steps_per_generation": 2},
        {1, 2, 3},
    ),
    "generations across steps": (
        "grpo",
        {**ALIGNED, "beta": 0.0, "gradient_accumulation_steps": 3, "steps_per_generation": 2},
        {1, 2, 3},
    ),
    "rloo": ("rloo", {**ALIGNED, "beta": 0.04}, {1, 2, 3}),
    "rloo, two iterations": ("rloo", {**ALIGNED, "beta": 0.0, "num_iterations": 2}, {1, 3}),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_rollouts_and_updates_are_what_the_weights_and_the_task_say(name: str, tmp_path: Path, reader: Any) -> None:
    kind, settings, sampled_in = CONFIGURATIONS[name]
    witness = train(kind, tmp_path, reader, **settings)
    assert reader.source.missing == []
    assert {step for step, seen in reader.observations.items() if seen.rollout is not None} == sampled_in
    known: dict[tuple[int, ...], int] = {}
    for step in (1, 2, 3):
        observation = reader.observations[step]
        rollout = observation.rollout
        if rollout is not None:
            check_rollout(rollout, witness, step, settings)
            assert len(rollout.mask) <= reader.source.rows_per_rank
            for prompt, ids, length in zip(rollout.prompts, rollout.token_ids, rollout.mask.sum(dim=1), strict=True):
                known[tuple(TOKENIZER(prompt)["input_ids"] + ids[: int(length)].tolist())] = step
        check_update(observation.update, witness, step, known, kind)
        assert len(observation.update.mask) <= reader.source.rows_per_rank


def check_rollout(rollout: Any, witness: Witness, step: int, settings: dict[str, Any]) -> None:
    texts = [
        TOKENIZER.decode(ids[mask], skip_special_tokens=True)
        for ids, mask in zip(rollout.token_ids, rollout.mask, strict=True)
    ]
    assert rollout.completions == tuple(texts)
    # Scores stand at the completions that earned them.
    assert torch.allclose(rollout.scores, torch.tensor(demo.reward(rollout.prompts, texts)))
    assert torch.equal(rollout.rewards["reward"], rollout.scores) and rollout.reward_weights == {"reward": 1.0}
    # A group is one prompt's completions; its advantages have the mean 0, and follow the scores.
    sizes = rollout.group_ids.unique(return_counts=True)[1]
    assert (sizes == settings["num_generations"]).all()
    for group in rollout.group_ids.unique():
        members = rollout.group_ids == group
        assert len({rollout.prompts[row] for row in members.nonzero().flatten()}) == 1
        if rollout.non_score_rewards is None:
            assert abs(float(rollout.advantages[members].mean())) < 1e-3
            centred = rollout.scores[members] - rollout.scores[members].mean()
            assert (centred.sign() == rollout.advantages[members].sign())[centred.abs() > 1e-4].all()
    # The end-of-sequence token is one of the counted ones.
    for ids, mask, cut in zip(rollout.token_ids, rollout.mask, rollout.truncated, strict=True):
        kept = ids[mask].tolist()
        assert TOKENIZER.eos_token_id not in kept[:-1]
        assert (kept[-1] in (TOKENIZER.eos_token_id, TOKENIZER.pad_token_id)) == (not cut)
        assert len(kept) == LONGEST or not cut
    prompts = [TOKENIZER(text)["input_ids"] for text in rollout.prompts]
    lengths = rollout.mask.sum(dim=1)
    logprobs, entropy = per_token(witness.before[step], prompts, rollout.token_ids, lengths)
    same(rollout.logprobs, logprobs, rollout.mask)
    if rollout.entropy is not None:
        same(rollout.entropy, entropy, rollout.mask)
    if settings["beta"] == 0.0:
        assert rollout.ref_logprobs is None
    else:
        reference, _ = per_token(witness.initial, prompts, rollout.token_ids, lengths)
        same(rollout.ref_logprobs, reference, rollout.mask)
        if rollout.non_score_rewards is not None:
            penalty = -settings["beta"] * (logprobs - reference).nansum(dim=1)
            assert torch.allclose(rollout.non_score_rewards, penalty, atol=1e-3)


def check_update(update: Any, witness: Witness, step: int, known: dict[tuple[int, ...], int], kind: str) -> None:
    """`known` says in which step each prompt and completion was sampled."""
    ids, prompts, advantages = [], [], []
    for batch in witness.trained[step]:
        for prompt, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True):
            prompts.append(prompt[mask.bool()].tolist())
        width = update.mask.shape[1]
        ids.append(torch.nn.functional.pad(batch["completion_ids"], (0, width - batch["completion_ids"].shape[1])))
        advantages.append(batch["advantages"])
    token_ids = torch.cat(ids)
    assert torch.equal(update.advantages, torch.cat(advantages))
    lengths = update.mask.sum(dim=1)
    new, entropy = per_token(witness.before[step], prompts, token_ids, lengths)
    same(update.new_logprobs, new, update.mask)
    same(update.entropy, entropy, update.mask)
    rows = [
        tuple(prompt + row[:length].tolist()) for prompt, row, length in zip(prompts, token_ids, lengths, strict=True)
    ]
    sampled = [known[row] for row in rows]
    assert update.first_epoch == all(earlier == step for earlier in sampled)
    assert update.sequence_level == (kind == "rloo")
    if update.first_epoch:
        assert update.clip_low is None and update.clip_high is None
    else:
        assert (update.clip_low, update.clip_high) == (0.2, 0.2)
        old = torch.full_like(new, torch.nan)
        for earlier in set(sampled):
            members = torch.tensor([s == earlier for s in sampled])
            old[members] = per_token(witness.before[earlier], prompts, token_ids, lengths)[0][members]
        same(update.old_logprobs, old, update.mask)


def test_ratios_that_are_1_by_construction_have_no_old_log_probabilities(tmp_path: Path, reader: Any) -> None:
    train("grpo", tmp_path, reader, **ALIGNED)
    for observation in reader.observations.values():
        assert observation.update.old_logprobs is None
        assert not any(key.startswith(("rldk/policy/", "rldk/kl/")) for key in observation.scalars)


def half_right(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
    """Scores only what starts with an even digit."""
    return [float(len(text)) if text and int(text[0]) % 2 == 0 else None for text in completions]


def never(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
    return [None] * len(completions)


def test_weighted_reward_functions_that_return_none(tmp_path: Path, reader: Any) -> None:
    train("grpo", tmp_path, reader, 2, reward_funcs=[demo.reward, half_right], reward_weights=[2.0, 0.5], **ALIGNED)
    for step, observation in reader.observations.items():
        rollout = observation.rollout
        first = demo.reward(rollout.prompts, rollout.completions)
        second = half_right(list(rollout.prompts), list(rollout.completions))
        assert None in second
        expected = [2 * a + (0.5 * b if b is not None else 0.0) for a, b in zip(first, second, strict=True)]
        assert torch.allclose(rollout.scores, torch.tensor(expected))
        assert rollout.rewards["half_right"].isnan().tolist() == [value is None for value in second]
        assert rollout.reward_weights == {"reward": 2.0, "half_right": 0.5}
        assert float(rollout.scores.mean()) == pytest.approx(reader.logs[step]["reward"], rel=1e-5)


def even(completions: list[str], **_: Any) -> list[float]:
    """Share of even digits: what a user watches without paying for it."""
    return [sum(c in "02468" for c in text) / max(1, len(text)) for text in completions]


def test_a_function_of_weight_0_live_and_from_the_log_alone(tmp_path: Path, reader: Any) -> None:
    train("grpo", tmp_path, reader, 12, reward_funcs=[demo.reward, even], reward_weights=[1.0, 0.0], **ALIGNED)
    assert unweighted_score(list(reader.logs.values())) == "rewards/even/mean"
    for step, observation in reader.observations.items():
        columns = {name: column.numpy() for name, column in reward.columns(observation.rollout).items()}
        found = reward.compute(Table(columns, {}, reward.names(observation.rollout)))
        scores = even(list(observation.rollout.completions))
        assert found["rldk/reward/unweighted"] == pytest.approx(sum(scores) / len(scores))
        assert found["rldk/reward/unweighted"] == pytest.approx(reader.logs[step]["rewards/even/mean"], rel=1e-5)


def test_a_completion_that_nothing_scored_has_no_score(tmp_path: Path, reader: Any) -> None:
    train("grpo", tmp_path, reader, 1, reward_funcs=[half_right, never], **ALIGNED)
    rollout = reader.observations[1].rollout
    unscored = [value is None for value in half_right(list(rollout.prompts), list(rollout.completions))]
    assert rollout.scores.isnan().tolist() == unscored and any(unscored) and not all(unscored)


def test_completions_that_are_masked_for_being_cut_keep_their_length(tmp_path: Path, reader: Any) -> None:
    settings = {**ALIGNED, "beta": 0.04, "max_completion_length": 4, "mask_truncated_completions": True}
    train("grpo", tmp_path, reader, 2, **settings)
    for step, observation in reader.observations.items():
        rollout = observation.rollout
        lengths = rollout.mask.sum(dim=1)
        assert rollout.truncated.any() and not rollout.truncated.all()
        assert (lengths[rollout.truncated] == 4).all()
        assert float(lengths.float().mean()) == pytest.approx(reader.logs[step]["completions/mean_length"])
        assert float(rollout.truncated.float().mean()) == pytest.approx(reader.logs[step]["completions/clipped_ratio"])
        # The trainer hides them from the model, so nothing is known of their probability.
        assert rollout.logprobs.isnan().any(dim=1).tolist() == rollout.truncated.tolist()
        assert rollout.ref_logprobs.isnan().any(dim=1).tolist() == rollout.truncated.tolist()
        assert observation.update.mask.any(dim=1).sum() == (~rollout.truncated).sum()


def test_reading_leaves_the_training_as_it_is(tmp_path: Path, reader: Any) -> None:
    settings = {**ALIGNED, "num_iterations": 2, "max_steps": 3}
    plain = demo.grpo_trainer(tmp_path / "plain", **settings)
    plain.train()
    watched = reader.watch(demo.grpo_trainer(tmp_path / "watched", **settings))
    watched.train()
    for ours, theirs in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_nothing_is_left_behind(tmp_path: Path, reader: Any) -> None:
    trainer = reader.watch(demo.grpo_trainer(tmp_path, max_steps=1, **ALIGNED))
    before = set(vars(trainer))
    trainer.train()
    added = set(vars(trainer)) - before
    assert not {name for name in added if "logps" in name or "score" in name}
    assert "_generate_and_score_completions" not in vars(trainer)
    assert reader.source._generations == [] and reader.source._losses is None


def test_a_fault_of_the_trainer_passes_through(tmp_path: Path, reader: Any) -> None:
    def broken(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        raise ZeroDivisionError("the reward function's own")

    trainer = reader.watch(demo.grpo_trainer(tmp_path, max_steps=1, reward_funcs=broken, **ALIGNED))
    with pytest.raises(ZeroDivisionError, match="the reward function's own"):
        trainer.train()


def test_a_fault_of_the_reading_does_not_reach_the_trainer(
    tmp_path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(GroupSource, "_keep_generation", broken)
    trainer = reader.watch(demo.grpo_trainer(tmp_path, max_steps=2, **ALIGNED))
    reader.look = lambda step, observation, logs: setattr(reader.shield, "strict", False)  # type: ignore[method-assign]
    trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    reader.shield.strict = False
    assert trainer._generate_and_score_completions([{"prompt": "7" + ASK}] * 4) is not None
    assert [record.levelname for record in caplog.records if "rldk" in record.getMessage()] == ["ERROR"]
    reader.source.detach()


def test_an_evaluation_between_two_steps_is_not_taken_for_training(tmp_path: Path, reader: Any) -> None:
    class Evaluate(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.evaluate(trainer.train_dataset.select(range(8)))

    trainer = demo.grpo_trainer(tmp_path, max_steps=2, **ALIGNED)
    trainer.add_callback(Evaluate())
    reader.watch(trainer).train()
    for observation in reader.observations.values():
        rollout = observation.rollout
        assert len(rollout.mask) == 16
        assert torch.allclose(rollout.scores, torch.tensor(demo.reward(rollout.prompts, rollout.completions)))


def test_tensors_of_a_step_are_let_go(tmp_path: Path, reader: Any) -> None:
    kept: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def look(step: int, observation: Any, logs: Any) -> None:
        gc.collect()
        alive.append(sum(reference() is not None for reference in kept))
        kept.append(weakref.ref(observation.update.new_logprobs))

    reader.look = look
    train("grpo", tmp_path, reader, 3, **ALIGNED)
    assert alive == [0, 0, 0] and len(kept) == 3


@pytest.mark.parametrize("name", [None, "_generate"], ids=["no method", "another one"])
def test_completions_that_come_another_way_are_read_where_the_loss_sees_them(
    tmp_path: Path, reader: Any, caplog: pytest.LogCaptureFixture, name: str | None
) -> None:
    """As axolotl's trainers, which score later than they sample, and take micro-batches out of their buffer."""
    trainer = demo.grpo_trainer(tmp_path, max_steps=3, beta=0.04, num_iterations=2, **ALIGNED)
    base = type(trainer)

    class Deferred(base):  # type: ignore[misc, valid-type]
        if name is None:
            _generate_and_score_completions = None

        def _prepare_inputs(self, batch: Any) -> Any:
            if not self._buffered_inputs:
                rows = base._generate_and_score_completions(self, batch)
                whole = {key: value for key, value in rows.items() if isinstance(value, Tensor) and value.ndim}
                shared = {key: value for key, value in rows.items() if key not in whole}
                order = torch.randperm(16).split(8)
                parts = [shared | {key: value[index] for key, value in whole.items()} for index in order]
                self._buffered_inputs = parts * self.num_iterations
            return self._buffered_inputs.pop(0)

    trainer.__class__ = Deferred
    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        reader.watch(trainer).train()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("rldk_tracking")] == []
    assert {step for step, seen in reader.observations.items() if seen.rollout is not None} == {1, 3}
    rollout, logs = reader.observations[1].rollout, reader.logs[1]
    assert torch.allclose(rollout.scores, torch.tensor(demo.reward(rollout.prompts, rollout.completions)))
    assert float(rollout.scores.mean()) == pytest.approx(logs["reward"])
    for group in rollout.group_ids.unique():
        assert len({rollout.prompts[row] for row in (rollout.group_ids == group).nonzero().flatten()}) == 1
    assert rollout.ref_logprobs is not None and rollout.logprobs is not None and rollout.truncated is not None
    assert float(rollout.mask.sum(dim=1).float().mean()) == pytest.approx(logs["completions/mean_length"])
    update = reader.observations[2].update
    assert update is not None and update.clip_low == 0.2 and update.old_logprobs is not None
    assert reader.source._trained_on == [] and reader.source._last_scored == []


def test_what_was_scored_is_kept_for_all_the_steps_that_train_on_it(tmp_path: Path, reader: Any) -> None:
    trainer = demo.grpo_trainer(tmp_path, max_steps=4, beta=0.0, steps_per_generation=4, **ALIGNED)
    base = type(trainer)

    class Deferred(base):  # type: ignore[misc, valid-type]
        _generate_and_score_completions = None

        def _prepare_inputs(self, batch: Any) -> Any:
            type(self)._generate_and_score_completions = base._generate_and_score_completions
            try:
                return super()._prepare_inputs(batch)
            finally:
                type(self)._generate_and_score_completions = None

    trainer.__class__ = Deferred
    reader.watch(trainer).train()
    assert reader.source.missing == [] and len(reader.observations) == 4
    for seen in reader.observations.values():
        rollout = seen.rollout
        assert len(rollout.mask) == 16
        assert torch.allclose(rollout.scores, torch.tensor(demo.reward(rollout.prompts, rollout.completions)))


def test_parts_of_different_widths_keep_their_keys() -> None:
    def part(prompt: list[int], completion: list[int]) -> dict[str, Tensor]:
        ids = {"prompt_ids": torch.tensor([prompt]), "completion_ids": torch.tensor([completion])}
        return ids | {"completion_mask": torch.ones(1, len(completion)), "advantages": torch.ones(1)}

    parts = [part([3], [4, 5, 6]), part([0, 3], [7])]
    made = generation_of(SimpleNamespace(), 2, parts)
    assert made.keys.tolist() == [*keys_of(parts[0]).tolist(), *keys_of(parts[1]).tolist()]
    assert made.token_ids.tolist() == [[4, 5, 6], [7, 0, 0]] and made.completion_mask.sum(dim=1).tolist() == [3, 1]


def test_completions_of_another_way_that_nothing_scored_have_no_rewards(tmp_path: Path, reader: Any) -> None:
    trainer = demo.grpo_trainer(tmp_path, max_steps=2, beta=0.0, **ALIGNED)
    base = type(trainer)

    class Apart(base):  # type: ignore[misc, valid-type]
        """Its reward functions run where nobody sees them."""

        def _generate_and_score_completions(self, batch: Any) -> Any:
            return base._generate_and_score_completions(self, batch)

        def _prepare_inputs(self, batch: Any) -> Any:
            seen = {name: vars(self).pop(name) for name in WITHIN if name in vars(self)}
            try:
                return super()._prepare_inputs(batch)
            finally:
                vars(self).update(seen)

    trainer.__class__ = Apart
    reader.watch(trainer).train()
    (why,) = reader.source.missing
    assert "which score is whose cannot be told" in why
    for step, seen in reader.observations.items():
        assert seen.rollout.scores is None and seen.rollout.group_ids is None
        assert seen.logged["rldk/reward/mean"] == reader.logs[step]["reward"]
        assert float(seen.rollout.mask.sum(dim=1).float().mean()) == pytest.approx(
            reader.logs[step]["completions/mean_length"]
        )


WITHIN = ("_generate_and_score_completions", "_calculate_rewards")


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_a_rollout_in_parts_is_read_whole(tmp_path: Path, reader: Any, kind: str) -> None:
    """A list of micro-batches, which the trainer then trains on as they are."""
    trainer = getattr(demo, f"{kind}_trainer")(tmp_path, max_steps=2, beta=0.04, **ALIGNED)
    base = type(trainer)

    class Parts(base):  # type: ignore[misc, valid-type]
        turn = 0

        def _generate_and_score_completions(self, batch: Any) -> Any:
            rows = super()._generate_and_score_completions(batch)
            whole = {key: value for key, value in rows.items() if isinstance(value, Tensor) and value.ndim}
            shared = {key: value for key, value in rows.items() if key not in whole}
            return [
                shared | {key: value[first : first + 8] for key, value in whole.items()} | {"part": first}
                for first in (8, 0)
            ]

        def _prepare_inputs(self, batch: Any) -> Any:
            self.turn += 1
            if self.turn % 2 == 1:
                self._buffered_inputs = self._generate_and_score_completions(batch)
            return self._buffered_inputs[(self.turn - 1) % 2]

    trainer.__class__ = Parts
    witness = Witness(trainer)
    trainer.add_callback(witness)
    reader.watch(trainer).train()
    assert reader.source.missing == []
    for step, observation in reader.observations.items():
        check_rollout(observation.rollout, witness, step, {**ALIGNED, "beta": 0.04})
        assert observation.update.first_epoch and observation.update.sequence_level == (kind == "rloo")


def test_a_trainer_that_has_nothing_is_read_from_its_logs() -> None:
    class Arguments:
        per_device_train_batch_size = 4
        gradient_accumulation_steps = 2

    class GRPOTrainer:
        args = Arguments()

    trainer = GRPOTrainer()
    source = GroupSource(trainer)
    assert source.rows_per_rank == 8
    source.attach(trainer, Shield())
    seen = [source.read(step, {"reward": 0.5, "kl": 0.1}) for step in (1, 2)]
    assert len(source.missing) == 1
    assert all(observation.rollout is None and observation.update is None for observation in seen)
    assert seen[0].logged == {"rldk/reward/mean": 0.5, "rldk/kl/ref_k3": 0.1}
    source.detach()


def test_a_rollout_in_another_form_is_told_once(tmp_path: Path) -> None:
    trainer = demo.grpo_trainer(tmp_path, max_steps=1, beta=0.0, **ALIGNED)
    source = GroupSource(trainer)
    source.attach(trainer, Shield())
    trainer.model.train()
    for _ in range(2):
        source._keep_generation([{"tokens": torch.ones(2, 3), "completion_mask": torch.ones(2, 2)}] * 2)
    assert source.missing == ["its _generate_and_score_completions returns a list without prompt_ids, completion_ids"]
    assert source.read(1, {"reward": 0.5}).logged["rldk/reward/mean"] == 0.5
    source.detach()


def test_each_of_two_ranks_reads_its_own_rows(tmp_path: Path) -> None:
    script = Path(__file__).with_name("ranks_script.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert all(rank["scores_are_earned"] and rank["logprobs_known"] for rank in seen)
    assert [rank["update_rows"] for rank in seen] == [rank["rows"] for rank in seen] == [8, 8]
    prompts: dict[int, set[str]] = {}
    for rank in seen:
        for group, prompt in zip(rank["groups"], rank["prompts"], strict=True):
            prompts.setdefault(group, set()).add(prompt)
    assert sorted(prompts) == [0, 1, 2, 3] and all(len(same) == 1 for same in prompts.values())
    scores = [score for rank in seen for score in rank["scores"]]
    assert sum(scores) / len(scores) == pytest.approx(seen[0]["logged"], rel=1e-5)


def test_the_tokens_that_end_a_completion() -> None:
    tokenizer = SimpleNamespace(eos_token_id=7, pad_token_id=3)
    assert stop_ids(SimpleNamespace(_tokenizer=tokenizer)) == (7, 3)
    assert stop_ids(SimpleNamespace(_tokenizer=tokenizer, eos_token_ids=[7, 9])) == (7, 9, 3)
    processor = SimpleNamespace(tokenizer=tokenizer)
    assert stop_ids(SimpleNamespace(processing_class=processor)) == (7, 3)
    assert stop_ids(SimpleNamespace()) == ()
