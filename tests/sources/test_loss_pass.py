"""Micro-batches of the loss as one update, and what is clipped against the gradients of TRL's own losses.

Real trainings are in test_trl_grpo.py.
"""

from __future__ import annotations

import importlib.util
import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer
from trl.experimental.gmpo import GMPOTrainer

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics import policy
from rldk_tracking.metrics.columns import Table
from rldk_tracking.sources.generation import Generation
from rldk_tracking.sources.loss_pass import LossPass, LossWatch, clip_range, detached, update_of
from rldk_tracking.sources.trl_grpo import GroupSource

if importlib.util.find_spec("trl.experimental.gspo_token") is not None:
    from trl.experimental.gspo_token import GRPOTrainer as GSPOTokenTrainer
else:  # since TRL 1.13

    class GSPOTokenTrainer:  # type: ignore[no-redef]
        """What the trainer is not in this TRL."""


needs_gspo_token = pytest.mark.skipif(not hasattr(GSPOTokenTrainer, "_compute_loss"), reason="this TRL has none")

IDS = torch.tensor([[3, 5, 6], [3, 7, 8], [4, 5, 6], [4, 9, 9]])
LOGPROBS = torch.arange(8.0).reshape(4, 2) / -8


def generation(**fields: Any) -> Generation:
    output = {"prompt_ids": IDS[:, :1], "completion_ids": IDS[:, 1:], "completion_mask": torch.ones(4, 2)}
    return Generation(3, output, **fields)


def loss_pass(made: Generation | None, rows: list[int], step: int = 3, **inputs: Any) -> LossPass:
    ids = {"prompt_ids": IDS[rows, :1], "completion_ids": IDS[rows, 1:]}
    inputs = {"completion_mask": torch.ones(len(rows), 2), "advantages": torch.tensor(rows).float(), **ids, **inputs}
    return LossPass(step, made, inputs, LOGPROBS[rows] + 1, None)


def trainer(**fields: Any) -> Any:
    return SimpleNamespace(**{"epsilon_low": 0.2, "epsilon_high": 0.3, "loss_type": "dapo", **fields})


def test_micro_batches_are_stacked_in_order() -> None:
    made = generation()
    update = update_of(trainer(), [loss_pass(made, [2, 0], 4), loss_pass(made, [3, 1], 4)])
    assert update is not None and update.advantages is not None
    assert update.advantages.tolist() == [2, 0, 3, 1]
    assert torch.equal(update.new_logprobs, LOGPROBS[[2, 0, 3, 1]] + 1)
    assert (update.clip_low, update.clip_high, update.first_epoch) == (0.2, 0.3, False)
    assert update.old_logprobs is None and not update.sequence_level


def test_sampled_in_this_step_nothing_can_be_clipped() -> None:
    made = generation()
    first = update_of(trainer(), [loss_pass(made, [0]), loss_pass(made, [1])])
    assert first is not None and first.first_epoch and first.clip_low is None
    mixed = update_of(trainer(), [loss_pass(made, [0]), loss_pass(Generation(2, made.output), [1])])
    assert mixed is not None and not mixed.first_epoch and mixed.clip_low == 0.2
    unseen = update_of(trainer(), [loss_pass(None, [0])])
    assert unseen is not None and not unseen.first_epoch


def test_old_log_probabilities_are_found_in_the_buffer_or_by_row() -> None:
    kept = torch.full((2, 2), -9.0)
    by_buffer = update_of(trainer(), [loss_pass(generation(), [1, 2], 4, old_per_token_logps=kept)])
    assert by_buffer is not None and torch.equal(by_buffer.old_logprobs, kept)  # type: ignore[arg-type]
    of_completions = loss_pass(generation(old_logprobs=LOGPROBS), [3, 1], 4, old_logps=torch.zeros(2))
    by_row = update_of(trainer(), [of_completions])
    assert by_row is not None and by_row.sequence_level
    assert torch.equal(by_row.old_logprobs, LOGPROBS[[3, 1]])  # type: ignore[arg-type]


def test_what_tools_wrote_is_not_in_the_loss() -> None:
    update = update_of(trainer(), [loss_pass(None, [0, 1], tool_mask=torch.tensor([[1, 0], [1, 1]]))])
    assert update is not None and update.mask.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"loss_type": "dapo"}, (0.2, 0.3)),
        ({"loss_type": "grpo"}, (0.2, 0.3)),
        # The limit is on the ratio itself, on one side.
        ({"loss_type": "cispo", "epsilon_high": 5.0}, (None, 4.0)),
        ({"loss_type": "sapo"}, (None, None)),
        ({"loss_type": "vespo"}, (None, None)),
        ({"importance_sampling_level": "sequence"}, (0.2, 0.3)),
        ({"importance_sampling_level": "sequence_token"}, (0.2, 0.3)),
    ],
)
def test_what_each_loss_clips(fields: dict[str, Any], expected: tuple[float | None, float | None]) -> None:
    assert clip_range(trainer(**fields)) == expected


def test_only_passes_without_a_step_between_show_the_sampling_policy() -> None:
    made = generation()
    passes = [loss_pass(made, [0, 1]), loss_pass(made, [2, 3], 4), loss_pass(None, [1])]
    assert [p.is_first for p in passes] == [True, False, False]
    assert torch.equal(passes[0].keys, made.keys[:2])


def test_graphs_are_not_kept() -> None:
    value = torch.ones(2, requires_grad=True) * 2
    kept = detached(value)
    assert kept is not None and kept.grad_fn is None and detached(None) is None


class Nested:
    """Asks for log-probabilities in a loss within a loss, after it, and in no loss."""

    def __init__(self) -> None:
        self.model, self.state = SimpleNamespace(training=True), SimpleNamespace(global_step=3)

    def compute_loss(self, model: Any, inputs: Any) -> None:
        self._compute_loss(model, {**inputs, "completion_ids": inputs["completion_ids"] + 1})
        self._get_per_token_logps_and_entropies()

    def _compute_loss(self, model: Any, inputs: Any) -> None:
        self._get_per_token_logps_and_entropies()

    def _get_per_token_logps_and_entropies(self) -> tuple[torch.Tensor, None]:
        return torch.zeros(4, 2), None


def test_each_pass_has_the_micro_batch_of_its_loss() -> None:
    trainer, said = Nested(), list[str]()
    watch = LossWatch(trainer, Shield(strict=True), lambda what, *groups: said.append(what))
    batch = {"prompt_ids": IDS[:, :1], "completion_ids": IDS[:, 1:], "completion_mask": torch.ones(4, 2)}
    trainer.compute_loss(None, inputs=batch)
    assert watch.is_called and said == []
    assert [p.inputs["completion_ids"][0, 0].item() for p in watch.take()] == [6, 5]
    trainer._get_per_token_logps_and_entropies()
    assert watch.take() == [] and len(said) == 1 and "is given a NoneType that holds no tensors" in said[0]
    watch.detach()
    assert not {"compute_loss", "_compute_loss"} & set(vars(trainer))


class Older:
    """As GRPO of TRL up to 0.18: log-probabilities alone, and the reference is asked in the loss."""

    def __init__(self) -> None:
        self.model, self.state = SimpleNamespace(training=True), SimpleNamespace(global_step=3)

    def _compute_loss(self, model: Any, inputs: Any) -> None:
        self._get_per_token_logps(model, IDS)
        with torch.no_grad():
            self._get_per_token_logps("reference", IDS)

    def _get_per_token_logps(self, model: Any, input_ids: Any) -> torch.Tensor:
        return LOGPROBS - float(model == "reference")


def test_a_loss_that_asks_the_reference_itself() -> None:
    trainer, batch = Older(), {"prompt_ids": IDS[:, :1], "completion_ids": IDS[:, 1:], "completion_mask": IDS[:, 1:]}
    watch = LossWatch(trainer, Shield(strict=True), lambda what, *groups: pytest.fail(what))
    with torch.no_grad():
        trainer._get_per_token_logps("policy", IDS)  # while it samples
    trainer._compute_loss("policy", batch)
    ((keys, sampled),), (found,) = watch.take_scored(), watch.take()
    assert torch.equal(sampled, LOGPROBS) and torch.equal(keys, found.keys)
    assert torch.equal(found.logprobs, LOGPROBS) and found.entropy is None
    assert found.ref_logprobs is not None and torch.equal(found.ref_logprobs, LOGPROBS - 1)
    watch.detach()
    assert "_get_per_token_logps" not in vars(trainer)


ROWS, TOKENS = 12, 9
OPTIONS = {
    "epsilon_low": 0.2,
    "epsilon_high": 0.3,
    "loss_type": "dapo",
    "importance_sampling_level": "token",
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "mask_truncated_completions": False,
    "beta": 0.0,
    "use_vllm": False,
    "use_liger_kernel": False,
    "num_iterations": 2,
    "num_generations": 4,
    "max_completion_length": TOKENS,
    "current_gradient_accumulation_steps": 1,
    "_entropy_bonus_enabled": False,
    "aux_loss_enabled": False,
}


class Loss:
    """One call of a trainer's own loss on random numbers, without a model.

    Attributes:
        weights: (B, T) w of each token.
        advantages: (B,).
        mask: (B, T) bool.
        gradient: (B, T) of the loss, with respect to the tokens' log-probabilities.
        update: what the source read of it.
    """

    def __init__(self, trainer_class: type, delta: float | None = None, **options: Any) -> None:
        draw = torch.Generator().manual_seed(3)
        old = -torch.rand(ROWS, TOKENS, generator=draw) - 0.5
        new = (old + 0.4 * torch.randn(ROWS, TOKENS, generator=draw)).requires_grad_()
        entropies = torch.rand(ROWS, TOKENS, generator=draw)
        self.mask = torch.arange(TOKENS) < torch.randint(2, TOKENS + 1, (ROWS, 1), generator=draw)
        self.advantages = torch.randn(ROWS, generator=draw)
        made = type(trainer_class.__name__, (trainer_class,), {"__init__": lambda self: None})
        trainer = made()
        vars(trainer).update(OPTIONS | options)
        inputs = {
            "prompt_ids": torch.arange(ROWS)[:, None],
            "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
            "completion_ids": torch.randint(5, (ROWS, TOKENS), generator=draw),
            "completion_mask": self.mask.long(),
            "advantages": self.advantages,
            "old_per_token_logps": old,
            "num_items_in_batch": self.mask.sum(),
        }
        trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (new, entropies, None)
        trainer.model = SimpleNamespace(training=True)
        trainer.args = SimpleNamespace(
            delta=delta, steps_per_generation=1, use_bias_correction_kl=False, gradient_accumulation_steps=1,
            per_device_train_batch_size=ROWS, train_batch_size=ROWS,
        )  # fmt: skip
        trainer.accelerator = SimpleNamespace(
            num_processes=1, process_index=0, gather=lambda x: x, reduce=lambda x, reduction: x,
            pad_across_processes=lambda x, dim, pad_index: x,
        )  # fmt: skip
        trainer.state, trainer._step, trainer._buffered_inputs = SimpleNamespace(global_step=4), 0, [inputs]
        trainer._metrics, trainer._logs = {"train": defaultdict(list)}, {"rewards": {}}
        source = GroupSource(trainer)
        source.attach(trainer, Shield())
        trainer._compute_loss(None, inputs).backward()
        update = source.read(5, {}).update
        source.detach()
        assert update is not None and new.grad is not None
        self.update, self.gradient = update, new.grad
        self.weights = (new - old).detach().exp()
        self.logged = {name: values[0] for name, values in trainer._metrics["train"].items()}
        self.keys = policy.compute_ratios(Table({k: v.numpy() for k, v in policy.update_columns(update).items()}))

    @property
    def clipped_share(self) -> float:
        return self.keys["rldk/policy/clip_fraction"]


def gspo_token(**options: Any) -> Any:
    options = {"importance_sampling_level": "sequence_token", "epsilon_low": 0.02, "epsilon_high": 0.03} | options
    name = "-".join(["gspo_token", *(f"{option}={value}" for option, value in sorted(options.items()))])
    return pytest.param(GSPOTokenTrainer, options, marks=needs_gspo_token, id=name)  # one name, whatever TRL has


BY_TOKEN: list[Any] = [
    (GRPOTrainer, {}),
    (GRPOTrainer, {"loss_type": "grpo"}),
    (GRPOTrainer, {"delta": 1.5}),
    (GRPOTrainer, {"delta": 1.1}),
    gspo_token(),
    gspo_token(delta=1.08),
    gspo_token(importance_sampling_level="token", epsilon_low=0.2),
    (GMPOTrainer, {"epsilon_low": 0.4, "epsilon_high": 0.4}),
    (GMPOTrainer, {"epsilon_low": 0.4, "epsilon_high": 0.4, "loss_type": "cispo", "delta": 1.1}),
]


@pytest.mark.parametrize(("trainer_class", "options"), BY_TOKEN)
def test_what_is_clipped_has_no_gradient(trainer_class: type, options: dict[str, Any]) -> None:
    loss = Loss(trainer_class, **options)
    without = ((loss.gradient == 0) & loss.mask).sum() / loss.mask.sum()
    assert 0.05 < without < 0.95
    assert loss.clipped_share == pytest.approx(without.item())
    if "delta" not in options:  # which the trainer's own shares leave out
        assert loss.clipped_share == pytest.approx(loss.logged["clip_ratio/region_mean"])
        assert loss.keys["rldk/policy/clip_fraction_low"] == pytest.approx(loss.logged["clip_ratio/low_mean"])


@pytest.mark.parametrize("options", [{}, {"delta": 1.08}])
def test_gspo_clips_completions(options: dict[str, Any]) -> None:
    loss = Loss(GRPOTrainer, importance_sampling_level="sequence", epsilon_low=0.02, epsilon_high=0.03, **options)
    assert loss.clipped_share == pytest.approx((loss.gradient == 0).all(dim=1).double().mean().item())
    assert 0 < loss.clipped_share < 1


@pytest.mark.parametrize(
    ("trainer_class", "options"),
    [(GRPOTrainer, {}), (GMPOTrainer, {}), gspo_token()],
)
def test_only_tokens_that_the_loss_weighs_count(trainer_class: type, options: dict[str, Any]) -> None:
    options = {"epsilon_low": 0.02, "epsilon_high": 0.03} | options
    all_of_them, loss = Loss(trainer_class, **options), Loss(trainer_class, top_entropy_quantile=0.4, **options)
    weighed = loss.update.loss_mask
    assert weighed is not None and 0 < weighed.sum() < loss.mask.sum() / 2
    without = ((loss.gradient == 0) & weighed).sum() / weighed.sum()
    assert loss.clipped_share == pytest.approx(without.item())
    assert loss.clipped_share != all_of_them.clipped_share
    same = ("rldk/policy/approx_kl", "rldk/policy/ess", "rldk/policy/ratio_mean", "rldk/policy/ratio_max")
    assert {key: loss.keys[key] for key in same} == {key: all_of_them.keys[key] for key in same}


def test_completions_that_are_too_far_off_do_not_count() -> None:
    loss = Loss(GRPOTrainer, off_policy_mask_threshold=0.05)
    weighed = loss.update.loss_mask
    assert weighed is not None and 0 < weighed.any(dim=1).sum() < ROWS
    assert loss.clipped_share == pytest.approx((((loss.gradient == 0) & weighed).sum() / weighed.sum()).item())


def test_without_the_masks_shares_are_not_known() -> None:
    passes = [loss_pass(generation(), [0, 1], 4)]
    assert update_of(trainer(top_entropy_quantile=0.2), passes).clip_low is None  # type: ignore[union-attr]
    passes[0].selections.append(torch.ones(2, 2))
    assert update_of(trainer(top_entropy_quantile=0.2), passes).clip_low == 0.2  # type: ignore[union-attr]


def test_cispo_caps_on_both_sides_of_the_advantage_and_keeps_the_gradient() -> None:
    loss = Loss(GRPOTrainer, loss_type="cispo", epsilon_high=1.3)
    assert ((loss.gradient != 0) == loss.mask).all()
    capped = sum(w > 1.3 for w, counts in zip(loss.weights.flatten(), loss.mask.flatten(), strict=True) if counts)
    expected = float(capped) / loss.mask.sum().item()
    assert loss.keys["rldk/policy/clip_fraction_high"] == loss.clipped_share == pytest.approx(expected)
    assert expected > loss.logged["cispo_clip_ratio"] > 0, "TRL counts the positive advantages alone"
    assert "rldk/policy/clip_fraction_low" not in loss.keys


@needs_gspo_token
def test_gspo_tokens_ratio_is_its_completions() -> None:
    loss = Loss(GSPOTokenTrainer, importance_sampling_level="sequence_token")
    means = [
        math.exp(sum(math.log(w) for w, m in zip(row, counts, strict=True) if m) / int(counts.sum()))
        for row, counts in zip(loss.weights.tolist(), loss.mask, strict=True)
    ]
    tokens = loss.mask.sum(dim=1).tolist()
    assert loss.keys["rldk/policy/ratio_max"] == pytest.approx(max(means))
    expected = sum(n * w for n, w in zip(tokens, means, strict=True)) / sum(tokens)
    assert loss.keys["rldk/policy/ratio_mean"] == pytest.approx(expected)


def test_completions_that_the_loss_hides_are_known() -> None:
    hidden = loss_pass(None, [0, 1], completion_mask=torch.tensor([[1, 1], [0, 0]]))
    update = update_of(trainer(mask_truncated_completions=True), [hidden])
    assert update is not None and update.excluded is not None and update.excluded.tolist() == [False, True]
    empty = update_of(trainer(), [hidden])
    assert empty is not None and empty.excluded is None
