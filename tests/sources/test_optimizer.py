"""The probe on real optimizers and trainers; what it says is compared with gradients and weights kept by the test."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rldk_tracking.sources.optimizer import OptimizerSource, unwrap


class Tied(torch.nn.Module):
    """An embedding, three blocks and a head that shares the embedding's weights."""

    def __init__(self, width: int = 24, words: int = 50) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(words, width)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(3))
        self.head = torch.nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight
        torch.nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return self.head(hidden)


def backward(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 50, (4, 6), generator=generator)
    logits = model(tokens).float().flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, tokens.roll(1, 1).flatten()).backward()


def norm(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(np.square(t.detach().double().numpy()).sum() for t in tensors))


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def read(probe: OptimizerSource) -> dict[str, float]:
    return probe.read(probe.pending().tolist())


OPTIMIZERS: list[Callable[[Any], torch.optim.Optimizer]] = [
    lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    lambda p: torch.optim.Adam(p, lr=1e-2),
    lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9),
    lambda p: torch.optim.RMSprop(p, lr=1e-3),
]


def adam_rms(optimizer: torch.optim.Adam) -> float:
    """Of m_hat / (sqrt(v_hat) + eps), element by element in double precision."""
    squares, count = 0.0, 0
    for group in optimizer.param_groups:
        (beta1, beta2), eps = group["betas"], group["eps"]
        for state in (optimizer.state[p] for p in group["params"]):
            step = float(state["step"])
            moments = zip(state["exp_avg"].flatten().tolist(), state["exp_avg_sq"].flatten().tolist(), strict=True)
            for m, v in moments:
                squares += (m / (1 - beta1**step) / (math.sqrt(v / (1 - beta2**step)) + eps)) ** 2
                count += 1
    return math.sqrt(squares / count)


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_number_against_copies(make: Callable[[Any], torch.optim.Optimizer], dtype: torch.dtype) -> None:
    model = Tied().to(dtype)
    optimizer = make(model.parameters())
    probe = OptimizerSource(optimizer, model, "full")
    for step in range(3):
        before = [p.detach().double().clone() for p in model.parameters()]
        backward(model, step)
        gradient = norm(gradients(model))
        optimizer.step()
        optimizer.zero_grad()
        found = read(probe)
        change = [p.detach().double() - old for p, old in zip(model.parameters(), before, strict=True)]
        count = sum(p.numel() for p in model.parameters())
        assert found["rldk/grad/norm"] == pytest.approx(gradient, rel=1e-4)
        assert found["rldk/weight/norm"] == pytest.approx(norm(list(model.parameters())), rel=1e-4)
        # Tensors of this size are copied whole. In float32 the difference itself is rounded.
        assert found["rldk/update/effective_lr"] == pytest.approx(norm(change) / math.sqrt(count), rel=1e-3)
        assert found["rldk/update/learning_rate"] == pytest.approx(optimizer.param_groups[0]["lr"])
        assert found["rldk/nan/gradients"] == found["rldk/nan/weights"] == 0
        assert found["rldk/grad/layers_without"] == found["rldk/update/frozen_layers"] == 0
        assert ("rldk/update/adam_rms" in found) == isinstance(optimizer, torch.optim.Adam)
        if isinstance(optimizer, torch.optim.Adam):
            assert found["rldk/update/adam_rms"] == pytest.approx(adam_rms(optimizer), rel=1e-4)
    assert probe.layout.layers == ("embed", "layers.0", "layers.1", "layers.2")  # the tied head is the embedding
    assert probe.missing == []


@pytest.mark.parametrize("width", [40, 200])  # small tensors are worked on together
def test_adams_direction_in_bfloat16_is_that_of_float32(width: int) -> None:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Linear(width, 1)).to(dtype)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        probe = OptimizerSource(optimizer, model, "full")
        for seed in range(4):
            for parameter in model.parameters():
                drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                parameter.grad = (drawn + 0.5).to(dtype)
            optimizer.step()
            found[dtype] = read(probe)["rldk/update/adam_rms"]
        assert probe.missing == []
    assert found[torch.bfloat16] == pytest.approx(found[torch.float32], rel=0.01)


def test_of_float16_it_is_said_once_that_it_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    half, single = (torch.nn.Parameter(torch.ones(9, dtype=dtype)) for dtype in (torch.float16, torch.float32))
    probe = OptimizerSource(torch.optim.AdamW([half, single], lr=1e-2), None)
    for _ in range(2):
        half.grad, single.grad = torch.ones_like(half), torch.ones_like(single)
        probe._optimizer.step()  # type: ignore[union-attr, call-arg]
        assert "rldk/update/adam_rms" not in read(probe)
    assert caplog.text.count("Adam's moments in torch.float16 lose small gradients") == len(probe.missing) == 1


def test_layer_ratios() -> None:
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    probe = OptimizerSource(optimizer, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    backward(model, 0)
    optimizer.step()
    values = probe.pending().tolist()
    layers = probe.layers(values)
    for layer in probe.layout.layers:
        members = {name: p for name, p in model.named_parameters() if name.startswith(layer)}
        change = norm([p.detach() - before[name] for name, p in members.items()])
        assert layers["updates"][layer] == pytest.approx(change, rel=1e-3)
        assert layers["weights"][layer] == pytest.approx(norm(list(members.values())), rel=1e-4)
    ratios = [layers["updates"][layer] / layers["weights"][layer] for layer in probe.layout.layers]
    assert probe.read(values)["rldk/update/ratio/p90"] == pytest.approx(np.quantile(ratios, 0.9))


def test_levels_measure_what_they_say() -> None:
    for level, present, absent in (
        ("light", "rldk/grad/norm", "rldk/weight/norm"),
        ("standard", "rldk/weight/norm", "rldk/grad/noise_scale"),
    ):
        model = Tied()
        optimizer = torch.optim.AdamW(model.parameters())
        probe = OptimizerSource(optimizer, model, level)  # type: ignore[arg-type]
        backward(model, 0)
        optimizer.step()
        found = read(probe)
        assert present in found and absent not in found
    with pytest.raises(ValueError, match="level must be one of light, standard, full"):
        OptimizerSource(torch.optim.AdamW(Tied().parameters()), None, "everything")  # type: ignore[arg-type]


def test_updates_are_measured_at_the_interval_only() -> None:
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    probe = OptimizerSource(optimizer, model, interval=3)
    seen = []
    for step in range(7):
        backward(model, step)
        optimizer.step()
        seen.append("rldk/update/ratio/p50" in read(probe))
    assert seen == [True, False, False, True, False, False, True]


def test_what_was_measured_less_often_is_read_beside_the_rest() -> None:
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    probe = OptimizerSource(optimizer, model, interval=3)
    norms, moved = [], []
    for step in range(3):
        backward(model, step)
        norms.append(norm(gradients(model)))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.step()
        moved.append(norm([after.detach() - old for after, old in zip(model.parameters(), before, strict=True)]))
    found = read(probe)
    assert found["rldk/grad/norm"] == pytest.approx(np.mean(norms))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert found["rldk/update/effective_lr"] == pytest.approx(moved[0] / count**0.5, rel=1e-3)
    assert moved[0] != pytest.approx(np.mean(moved), rel=1e-3)


def test_several_optimizer_steps_are_averaged() -> None:
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = OptimizerSource(optimizer, model)
    norms = []
    for step in range(4):
        backward(model, step)
        norms.append(norm(gradients(model)))
        optimizer.step()
        optimizer.zero_grad()
    width = len(probe.pending())
    for step in range(2):
        backward(model, step)
        optimizer.step()
    found = read(probe)
    assert found["rldk/grad/norm"] != pytest.approx(np.mean(norms))
    assert len(probe.pending()) == width
    assert "rldk/grad/norm" not in read(probe)  # no step since
    for step in range(2):
        optimizer.zero_grad()
        backward(model, step)
        norms.append(norm(gradients(model)))
        optimizer.step()
    assert read(probe)["rldk/grad/norm"] == pytest.approx(np.mean(norms[-2:]), rel=1e-5)


def test_one_bad_step_among_good_ones_counts() -> None:
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probe = OptimizerSource(optimizer, model)
    for step in range(3):
        optimizer.zero_grad()
        backward(model, step)
        if step == 2:
            model.layers[1].weight.grad[0, 0] = math.nan
        optimizer.step()
    found = read(probe)
    assert found["rldk/nan/gradients"] == 1
    assert found["rldk/nan/weights"] == 1  # 0 * NaN went into the weights
    assert all(math.isfinite(value) for value in found.values())
    assert int(probe.check_weights()) == 1


def test_layers_without_gradient_do_not_move() -> None:
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    probe = OptimizerSource(optimizer, model)
    for step in range(2):  # the second time there is state from the first
        backward(model, step)
        if step == 1:
            model.layers[2].weight.grad = model.layers[2].bias.grad = None
        optimizer.step()
        optimizer.zero_grad()
        found = read(probe)
        assert found["rldk/grad/layers_without"] == found["rldk/update/frozen_layers"] == step


def test_parameter_groups_of_which_one_is_added_later() -> None:
    model = Tied()
    optimizer = torch.optim.AdamW([{"params": model.embed.parameters(), "lr": 1e-3}])
    probe = OptimizerSource(optimizer, model)
    optimizer.add_param_group({"params": list(model.layers.parameters()), "lr": 5e-3})
    backward(model, 0)
    want = norm(gradients(model))
    optimizer.step()
    found = read(probe)
    assert found["rldk/grad/norm"] == pytest.approx(want, rel=1e-5)
    assert found["rldk/update/learning_rate"] == pytest.approx(5e-3)


def test_a_gradient_scaler() -> None:
    for options in ({}, {"fused": True}):
        model = Tied()
        optimizer = torch.optim.AdamW(model.parameters(), **options)  # type: ignore[arg-type]
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        probe = OptimizerSource(optimizer, model)
        tokens = torch.arange(12).reshape(2, 6)
        loss = model(tokens).square().mean()
        want = norm(list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        assert read(probe)["rldk/grad/norm"] == pytest.approx(want, rel=1e-4)
        model.layers[0].weight.grad[0, 0] = math.inf
        scaler.update()
        scaler.step(optimizer)  # torch's own optimizers skip the step, a fused one inside of it
        found = read(probe)
        assert "rldk/grad/norm" not in found


def test_the_noise_scale_with_accumulation() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=8)
    model = torch.nn.Linear(50, 1, bias=False)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.0))
    probe = OptimizerSource(optimizer, model, "full", accelerator=accelerator, micro_batch_size=2)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(8 * 60):
        with accelerator.accumulate(model):
            # The gradient of one sample is its input, with mean 1 and variance 4: tr(S) / |G|^2 = 4.
            inputs = 1.0 + 2.0 * torch.randn(2, 50, generator=generator)
            accelerator.backward(model(inputs).mean())
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            found.append(read(probe).get("rldk/grad/noise_scale"))
    assert found[-1] == pytest.approx(4.0, rel=0.35)
    probe.detach()


class NotAnOptimizer:
    """Has the two methods that a training loop needs."""

    def step(self) -> None: ...

    def zero_grad(self) -> None: ...


def test_a_foreign_optimizer_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    probe = OptimizerSource(NotAnOptimizer(), Tied())
    assert read(probe) == {} and read(probe) == {}
    assert int(probe.check_weights()) == 0
    probe.detach()
    assert len(caplog.records) == 1
    assert "NotAnOptimizer" in caplog.text


class SignDescent(torch.optim.Optimizer):
    """An optimizer that torch does not know."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-2})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())


def test_what_an_optimizer_of_another_library_does_not_tell(caplog: pytest.LogCaptureFixture) -> None:
    model = Tied()
    probe = OptimizerSource(SignDescent(model.parameters()), model, "full")
    for seed in range(2):
        backward(model, seed)
        probe._optimizer.step()  # type: ignore[union-attr, call-arg]
        found = read(probe)
    assert found["rldk/update/effective_lr"] == pytest.approx(1e-2, rel=0.05)
    assert "rldk/update/adam_rms" not in found
    assert len(probe.missing) == 1
    assert caplog.text.count("SignDescent keeps its state in a form of its own") == 1


def test_parameters_that_the_model_does_not_name(caplog: pytest.LogCaptureFixture) -> None:
    model, other = Tied(), torch.nn.Parameter(torch.ones(3))
    probe = OptimizerSource(torch.optim.SGD([*model.parameters(), other], lr=0.1), model)
    assert probe.layout.names[-1] == "group0.7"
    assert "1 parameters of the optimizer" in caplog.text


def test_nothing_is_left_behind() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = Tied()
    optimizer = accelerator.prepare(torch.optim.AdamW(model.parameters()))
    inner = unwrap(optimizer)
    assert inner is optimizer.optimizer
    hooks = (len(inner._optimizer_step_pre_hooks), len(inner._optimizer_step_post_hooks))
    probe = OptimizerSource(optimizer, model, accelerator=accelerator)
    assert {"clip_grad_norm_", "backward"} <= set(vars(accelerator))
    probe.detach()
    probe.detach()
    assert (len(inner._optimizer_step_pre_hooks), len(inner._optimizer_step_post_hooks)) == hooks
    assert not {"clip_grad_norm_", "backward"} & set(vars(accelerator))


def test_steps_that_nobody_reads_take_bounded_memory() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    probe = OptimizerSource(optimizer, None)
    parameter.grad = torch.ones(1)
    for _ in range(1100):
        optimizer.step()
    assert read(probe)["rldk/grad/norm"] == pytest.approx(1.0)
    assert probe.layers(probe.pending().tolist()) == {}


def test_peft_adapters() -> None:
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32
    )
    model = peft.get_peft_model(LlamaForCausalLM(config), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    probe = OptimizerSource(optimizer, model)
    tokens = torch.arange(8)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    found = read(probe)
    # A is behind B = 0 in the first step, so that it has no gradient; its layer has one through B.
    assert found["rldk/grad/layers_without"] == found["rldk/update/frozen_layers"] == 0
    assert len(probe.layout.layers) == 2
    assert probe.missing == []
    next(p for name, p in model.named_parameters() if "embed_tokens" in name).data[0, 0] = math.nan
    assert int(probe.check_weights()) == 1  # frozen, and still looked at


@pytest.mark.parametrize("limit", [0.05, 1e9, 0.0])
def test_transformers_trainer_before_clipping(limit: float, tmp_path: Path) -> None:
    import transformers
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows: list[dict[str, float]] = []
    logged: list[float] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.probe = OptimizerSource(
                kwargs["optimizer"], kwargs["model"], "full", accelerator=trainer.accelerator, micro_batch_size=2
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            rows.append(read(self.probe))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "grad_norm" in logs:
                logged.append(float(logs["grad_norm"]))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.probe.detach()

    class Model(Tied):
        def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
            logits = super().forward(input_ids)
            targets = input_ids.roll(1, 1).flatten()
            return {"loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)}

    data = [{"input_ids": torch.randint(0, 50, (6,))} for _ in range(40)]
    trainer = Trainer(
        Model(),
        TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            logging_steps=1,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            max_grad_norm=limit,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            remove_unused_columns=False,
        ),
        train_dataset=data,
        callbacks=[Watch()],
    )
    trainer.train()
    assert len(rows) == 4
    # Before 5, transformers looks at the norm only where it clips.
    assert len(logged) == 4 or (not limit and transformers.__version__.startswith("4."))
    for row, norm_logged in zip(rows, logged or [None] * 4, strict=True):
        assert norm_logged is None or row["rldk/grad/norm"] == pytest.approx(norm_logged, rel=1e-3)
        if limit:
            assert row["rldk/grad/norm_clipped_fraction"] == float(limit < 1)
        else:
            assert "rldk/grad/norm_clipped_fraction" not in row
    assert not {"clip_grad_norm_", "backward"} & set(vars(trainer.accelerator))


SHARDED = """
import os, sys, threading, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
sys.path.insert(0, sys.argv[1])
from test_optimizer import Tied, backward, read
from rldk_tracking.sources.optimizer import OptimizerSource
dist.init_process_group("gloo")
whole, model = Tied(), Tied()
for layer in model.layers:
    fully_shard(layer)
fully_shard(model)
rows = []
for subject in (whole, model):
    optimizer = torch.optim.AdamW(subject.parameters(), lr=1e-2, weight_decay=0.1)
    probe = OptimizerSource(optimizer, subject, "full")
    for step in range(2):
        backward(subject, step)
        optimizer.step()
        optimizer.zero_grad()
        row = read(probe)
    local = [p for p in subject.parameters()][-1]
    rows.append(row)
    if subject is model:
        backward(subject, 9)
        if dist.get_rank() == 1:
            local.grad.to_local().view(-1)[0] = float("nan")
        optimizer.step()
        broken = read(probe)
        assert broken["rldk/nan/gradients"] == 1, broken
        assert broken["rldk/nan/weights"] == 1, broken
single, sharded = rows
assert set(single) == set(sharded), set(single) ^ set(sharded)
for key, value in single.items():
    assert abs(value - sharded[key]) <= 1e-4 * abs(value), (key, value, sharded[key])
print("equal", len(single), flush=True)
dist.barrier()
dist.destroy_process_group()
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
os._exit(0)  # torch may abort when it takes down what fully_shard made (pytorch issue 90549)
"""


@pytest.mark.ranks
def test_sharded_parameters_give_the_numbers_of_the_whole(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(
        [*command, str(script), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal") == 2
