"""What the source says of real PPO trainings, against the trainer's own tensors read by the test itself."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rldk_tracking import demo
from rldk_tracking.isolation import Shield
from rldk_tracking.sources.ppo_frame import UpdateWatch
from rldk_tracking.sources.trl_ppo import PPOSource, rollout_of

pytestmark = pytest.mark.slow

pytest.importorskip("trl.experimental.ppo", reason="TRL removed PPOTrainer in 1.13")

TOKENIZER = demo.tiny_tokenizer()
TWO_AND_TWO = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_mini_batches": 2}
CONFIGURATIONS = {
    "two minibatches of one micro-batch, three epochs": {**TWO_AND_TWO, "num_ppo_epochs": 3},
    "two minibatches of two micro-batches, k3": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "kl_estimator": "k3",
    },
    "one minibatch, one epoch": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_mini_batches": 1,
        "num_ppo_epochs": 1,
    },
    "micro-batches of unequal size": {
        "per_device_train_batch_size": 6,
        "gradient_accumulation_steps": 4,
        "num_mini_batches": 3,
        "num_ppo_epochs": 2,
    },
    "the data set ends in every update": {
        "per_device_train_batch_size": 128,
        "gradient_accumulation_steps": 4,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
    },
}


def spied(trainer: Any) -> dict[str, Any]:
    """Copies of all variables of the running `PPOTrainer.train`."""
    frame = sys._getframe()
    while not (frame.f_code.co_name == "train" and "vf_loss_stats" in frame.f_code.co_varnames):
        assert frame.f_back is not None
        frame = frame.f_back
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in frame.f_locals.items() if k != "self"}


def train(folder: Path, reader: Any, steps: int = 2, **settings: Any) -> dict[int, dict[str, Any]]:
    """The trainer's variables at each step."""
    trainer = demo.ppo_trainer(folder, max_steps=steps, **settings)
    variables: dict[int, dict[str, Any]] = {}
    stepped: list[int] = []
    passes = [0]

    def look(step: int, observation: Any, logs: Any) -> None:
        variables[step] = {**spied(trainer), "stepped": list(stepped)}
        stepped.clear()
        passes[0] = 0
        reader.observations[step] = observation

    def count(*_: Any) -> None:
        stepped.append(passes[0])

    forward = trainer.model.register_forward_hook(lambda *_: passes.__setitem__(0, passes[0] + 1))
    hook = trainer.optimizer.optimizer.register_step_pre_hook(count)
    reader.look = look
    reader.watch(trainer).train()
    hook.remove()
    forward.remove()
    return variables


def slots(stats: Tensor, args: Any) -> Tensor:
    """(epochs, minibatches, micro-batches) those that the trainer filled."""
    filled = -(-args.local_mini_batch_size // args.per_device_train_batch_size)
    return stats[:, :, :filled]


def sizes(args: Any) -> list[int]:
    """Completions in each micro-batch of a minibatch."""
    left, found = args.local_mini_batch_size, []
    while left > 0:
        found.append(min(left, args.per_device_train_batch_size))
        left -= found[-1]
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_rollouts_and_updates_are_the_trainers(name: str, tmp_path: Path, reader: Any) -> None:
    variables = train(tmp_path, reader, **CONFIGURATIONS[name])
    args = reader.trainer.args
    assert reader.source.missing == []
    for step, theirs in variables.items():
        observation = reader.observations[step]
        check_rollout(observation.rollout, theirs, args)
        check_update(observation.update, theirs, args)
        check_scalars(observation.scalars, theirs, args)
        assert len(observation.update.mask) == reader.source.rows_per_rank


def check_rollout(rollout: Any, theirs: dict[str, Any], args: Any) -> None:
    padded = 0
    for row, ids in enumerate(theirs["postprocessed_responses"].tolist()):
        # The response ends with its first end-of-sequence token, or where padding begins, or not at all.
        ends = [at for at, token in enumerate(ids) if token == TOKENIZER.eos_token_id]
        pads = [at for at, token in enumerate(ids) if token == TOKENIZER.pad_token_id]
        length = min([at + 1 for at in ends[:1]] + pads[:1] + [len(ids)])
        padded += length < len(ids)
        assert rollout.mask[row].tolist() == [at < length for at in range(len(ids))]
        assert bool(rollout.truncated[row]) == (not ends)
        text = TOKENIZER.decode(ids[:length], skip_special_tokens=True)
        prompt = TOKENIZER.decode(theirs["queries"][row], skip_special_tokens=True)
        assert float(rollout.scores[row]) == pytest.approx(demo.reward([prompt], [text])[0], abs=1e-6)
        divergence = (theirs["logprobs"] - theirs["ref_logprobs"])[row, :length]
        if args.kl_estimator == "k3":
            divergence = (-divergence).exp() - 1 + divergence
        assert float(rollout.non_score_rewards[row]) == pytest.approx(-args.kl_coef * float(divergence.sum()), abs=1e-5)
    assert padded > 0
    for ours, name in (("token_ids", "postprocessed_responses"), ("logprobs",) * 2, ("ref_logprobs",) * 2):
        assert torch.equal(getattr(rollout, ours), theirs[name])
    for name in ("values", "returns", "advantages"):
        assert torch.equal(getattr(rollout, name), theirs[name])
    assert torch.equal(rollout.value_mask, ~theirs["padding_mask_p1"])
    # Generalised advantage estimation, a token at a time.
    raw = torch.zeros_like(rollout.values)
    following, value_after = torch.zeros(len(raw)), torch.zeros(len(raw))
    for at in reversed(range(raw.shape[1])):
        delta = theirs["rewards"][:, at] + args.gamma * value_after - rollout.values[:, at]
        following = delta + args.gamma * args.lam * following
        raw[:, at], value_after = following, rollout.values[:, at]
    assert torch.allclose(rollout.raw_advantages, raw, atol=1e-5)
    used = rollout.advantages[rollout.mask]
    assert abs(float(used.mean())) < 1e-4 and float(used.std()) == pytest.approx(1.0, abs=1e-2)


def check_update(update: Any, theirs: dict[str, Any], args: Any) -> None:
    """Slot by slot the trainer's statistics follow from the rows of the update."""
    approx_kl, clipped, ratios = (slots(theirs[f"{name}_stats"], args) for name in ("approxkl", "pg_clipfrac", "ratio"))
    row = 0
    for epoch in range(args.num_ppo_epochs):
        for minibatch in range(args.num_mini_batches):
            for micro, size in enumerate(sizes(args)):
                rows = slice(row, row + size)
                row += size
                log_ratio = update.new_logprobs[rows] - update.old_logprobs[rows]
                mask, advantages = update.mask[rows], update.advantages[rows]
                at = (epoch, minibatch, micro)
                assert float(ratios[at]) == pytest.approx(float(log_ratio.exp().mean()), rel=1e-5)
                assert float(approx_kl[at]) == pytest.approx(float(log_ratio.square().mean()) / 2, rel=1e-4, abs=1e-9)
                low = (log_ratio.exp() < 1 - args.cliprange) & (advantages < 0)
                high = (log_ratio.exp() > 1 + args.cliprange) & (advantages > 0)
                share = float((low | high)[mask].float().mean())
                assert float(clipped[at]) == pytest.approx(share, abs=1e-6)
    assert row == len(update.mask)
    last = args.num_ppo_epochs * args.num_mini_batches * len(sizes(args))
    clips = args.cliprange if any(at < last for at in theirs["stepped"]) else None
    assert (update.clip_low, update.clip_high) == (clips, clips)
    assert not update.sequence_level and update.entropy is None


def check_scalars(scalars: Any, theirs: dict[str, Any], args: Any) -> None:
    weights = torch.tensor(sizes(args), dtype=torch.float64)
    means = {
        name: float((slots(theirs[f"{name}_stats"], args).double() * weights).sum())
        / float(weights.sum() * args.num_ppo_epochs * args.num_mini_batches)
        for name in ("pg_loss", "vf_loss", "vf_clipfrac")
    }
    assert float(scalars["rldk/value/loss"]) == pytest.approx(means["vf_loss"], rel=1e-6)
    assert float(scalars["rldk/value/clip_fraction"]) == pytest.approx(means["vf_clipfrac"], rel=1e-6)
    total = means["pg_loss"] + args.vf_coef * means["vf_loss"]
    assert float(scalars["rldk/train/loss"]) == pytest.approx(total, rel=1e-5, abs=1e-7)
    assert float(scalars["rldk/policy/first_epoch_ratio"]) == pytest.approx(1.0, abs=1e-4)
    assert not {"rldk/policy/clip_fraction", "rldk/policy/approx_kl", "rldk/policy/ratio_mean"} & set(scalars)


def test_micro_batches_before_the_first_step_are_told_from_later_ones(
    tmp_path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[bool]] = []
    take = UpdateWatch.take

    def remember(self: UpdateWatch) -> Any:
        batches = take(self)
        taken.append([batch.is_first for batch in batches])
        return batches

    monkeypatch.setattr(UpdateWatch, "take", remember)
    # 512 prompts are two updates: after the second the data set is at its end, and every micro-batch is a step.
    variables = train(
        tmp_path,
        reader,
        per_device_train_batch_size=64,
        gradient_accumulation_steps=4,
        num_mini_batches=2,
        num_ppo_epochs=2,
        local_rollout_forward_batch_size=256,
    )
    assert [len(theirs["stepped"]) for theirs in variables.values()] == [2, 8]
    assert taken == [[True] * 4 + [False] * 4, [True] + [False] * 7]


@pytest.mark.parametrize("name", ["two minibatches of two micro-batches, k3", "micro-batches of unequal size"])
def test_without_micro_batches_the_trainers_statistics_are_corrected(
    name: str, tmp_path: Path, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact: list[Any] = []
    take = UpdateWatch.take
    monkeypatch.setattr(UpdateWatch, "take", lambda self: exact.append(take(self)) or [])
    train(tmp_path, reader, **CONFIGURATIONS[name])
    args = reader.trainer.args
    for step, batches in zip((1, 2), exact, strict=True):
        observation = reader.observations[step]
        assert observation.update is None
        differences = torch.cat([(b.new_logprobs - b.old_logprobs)[b.old_logprobs != 1.0].double() for b in batches])
        scalars = {key: float(value) for key, value in observation.scalars.items()}
        assert scalars["rldk/policy/approx_kl"] == pytest.approx(float(differences.square().mean()) / 2, rel=1e-4)
        assert scalars["rldk/policy/ratio_mean"] == pytest.approx(float(differences.exp().mean()), rel=1e-5)
        assert scalars["rldk/policy/first_epoch_ratio"] == pytest.approx(1.0, abs=1e-4)
        shares = []
        for b in batches:
            ratio = (b.new_logprobs - b.old_logprobs).exp()
            low = (ratio < 1 - args.cliprange) & (b.advantages < 0)
            high = (ratio > 1 + args.cliprange) & (b.advantages > 0)
            shares.append(float((low | high)[b.old_logprobs != 1.0].double().mean()) * len(b.old_logprobs))
        total = sum(shares) / sum(len(b.old_logprobs) for b in batches)
        assert scalars["rldk/policy/clip_fraction"] == pytest.approx(total, rel=1e-5, abs=1e-8)


def test_logged_averages_that_mislead_are_not_repeated(tmp_path: Path, reader: Any) -> None:
    train(tmp_path, reader, 1, **CONFIGURATIONS["two minibatches of two micro-batches, k3"])
    assert reader.logs[1]["val/ratio"] == pytest.approx(0.5, abs=0.05)
    assert float(reader.observations[1].scalars["rldk/policy/first_epoch_ratio"]) == pytest.approx(1.0, abs=1e-4)
    assert reader.observations[1].logged["rldk/update/learning_rate"] == reader.logs[1]["lr"]


def test_reading_leaves_the_training_as_it_is(tmp_path: Path, reader: Any) -> None:
    plain = demo.ppo_trainer(tmp_path / "plain", max_steps=2, **TWO_AND_TWO)
    plain.train()
    watched = reader.watch(demo.ppo_trainer(tmp_path / "watched", max_steps=2, **TWO_AND_TWO))
    watched.train()
    for ours, theirs in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert "backward" not in vars(watched.accelerator)


def test_tensors_of_a_step_are_let_go(tmp_path: Path, reader: Any) -> None:
    kept: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def look(step: int, observation: Any, logs: Any) -> None:
        gc.collect()
        alive.append(sum(reference() is not None for reference in kept))
        for tensor in (observation.rollout.logprobs, observation.rollout.advantages, observation.update.new_logprobs):
            kept.append(weakref.ref(tensor))

    reader.look = look
    reader.watch(demo.ppo_trainer(tmp_path, max_steps=3, **TWO_AND_TWO)).train()
    assert alive == [0, 0, 0] and len(kept) == 9


def test_the_last_rollout_is_gone_when_the_next_is_sampled(tmp_path: Path, reader: Any) -> None:
    """Before Python 3.13 a look at a frame's variables leaves a dictionary of them on the frame."""
    kept: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    trainer = demo.ppo_trainer(tmp_path, max_steps=2, **TWO_AND_TWO)

    def sampling(*_: Any) -> None:
        if len(kept) == 3:
            alive.append(sum(tensor() is not None for tensor in kept))

    def look(step: int, observation: Any, logs: Any) -> None:
        rollout = observation.rollout
        kept.extend(weakref.ref(tensor) for tensor in (rollout.logprobs, rollout.returns, rollout.advantages))

    hook = trainer.policy_model.register_forward_pre_hook(sampling)
    reader.look = look
    reader.watch(trainer).train()
    hook.remove()
    assert len(alive) > 4 and set(alive) == {0}


def test_without_a_stop_token_no_response_is_called_truncated(tmp_path: Path, reader: Any) -> None:
    train(tmp_path, reader, 1, stop_token=None, **TWO_AND_TWO)
    assert reader.observations[1].rollout.truncated is None


def test_a_stop_token_of_the_users_own_ends_a_response(tmp_path: Path, reader: Any) -> None:
    seven = TOKENIZER.convert_tokens_to_ids("7")
    theirs = train(tmp_path, reader, 1, stop_token=None, stop_token_id=seven, **TWO_AND_TWO)[1]
    ended = [seven in ids for ids in theirs["postprocessed_responses"].tolist()]
    assert any(ended)
    assert reader.observations[1].rollout.truncated.tolist() == [not end for end in ended]


def test_a_trainer_whose_loop_is_another_is_read_from_its_logs(tmp_path: Path) -> None:
    trainer = demo.ppo_trainer(tmp_path, max_steps=1, **TWO_AND_TWO)
    source = PPOSource(trainer)
    source.attach(trainer, Shield())
    logs = {"objective/kl": 1.5, "policy/clipfrac_avg": 0.1, "val/ratio": 0.5, "lr": 1e-3}
    seen = [source.read(step, logs) for step in (1, 2)]
    source.detach()
    assert len(source.missing) == 1 and "has no local variables padding_mask, " in source.missing[0]
    assert seen[0].rollout is None and seen[0].update is None
    assert seen[1].logged == {
        "rldk/kl/ref_per_sequence": 1.5,
        "rldk/policy/clip_fraction": pytest.approx(0.2),
        "rldk/update/learning_rate": 1e-3,
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_a_loop_without_a_critic_whose_prompts_are_answered_several_times(rank: int) -> None:
    """RLOO of TRL up to 0.21: one advantage and one penalty a completion, and no stop token but in its arguments."""
    args = SimpleNamespace(rloo_k=3, stop_token_id=9)
    trainer = SimpleNamespace(args=args, accelerator=SimpleNamespace(process_index=rank))
    responses = torch.tensor([[5, 9], [5, 6]] * 3)
    found = {
        "padding_mask": torch.zeros(6, 2, dtype=torch.bool),
        "postprocessed_responses": responses,
        **dict.fromkeys(("logprobs", "ref_logprobs"), torch.zeros(6, 2)),
        **dict.fromkeys(("scores", "advantages", "non_score_reward"), torch.arange(6.0)),
    }
    rollout = rollout_of(trainer, found)
    assert rollout.group_ids is not None and rollout.truncated is not None
    assert rollout.group_ids.tolist() == [2 * rank, 2 * rank + 1] * 3
    assert rollout.truncated.tolist() == [False, True] * 3
    assert rollout.non_score_rewards is found["non_score_reward"] and rollout.advantages is found["advantages"]
    assert rollout.values is None and rollout.raw_advantages is None
