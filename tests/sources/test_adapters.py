"""On PEFT's own models, against weights that are formed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rldk_tracking.sources.adapters import adapters_of
from rldk_tracking.sources.optimizer import OptimizerSource

peft = pytest.importorskip("peft", reason="needs peft")


def adapted(**options: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2)
    lora = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], **options)
    model = peft.get_peft_model(LlamaForCausalLM(config), lora)
    for name, parameter in model.named_parameters():  # as in the middle of a training
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def modules(model: Any) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Layer, base weights, and what the adapter adds to them, as PEFT does."""
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight") and "default" in getattr(module, "lora_A", {}):
            a, b = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
            made = module.scaling["default"] * b.double() @ a.double()
            torch.testing.assert_close(module.get_delta_weight("default").detach().double(), made)
            yield name.split(".layers.")[1].split(".")[0], module.base_layer.weight.detach().double(), made


def ratios_of_a_step(model: Any, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW) -> tuple[Any, Any]:
    """What the source reads of one step, and what comes of weights that are formed."""
    made = optimizer([p for p in model.parameters() if p.requires_grad], lr=0.01)
    source = OptimizerSource(made, model, "full")
    before = copy.deepcopy(list(modules(model)))
    model(input_ids=torch.arange(12).view(2, 6), labels=torch.arange(12).view(2, 6)).loss.backward()
    made.step()
    expected: dict[str, list[float]] = {}
    for (layer, base, old), (_, _, new) in zip(before, modules(model), strict=True):
        sums = expected.setdefault(layer, [0.0, 0.0])
        sums[0] += (new - old).square().sum().item()
        sums[1] += base.square().sum().item()
    values = source.pending().tolist()
    found = source.layers(values).get("adapters", {}), source.read(values)
    source.detach()
    return found, {layer: (change / base) ** 0.5 for layer, (change, base) in expected.items()}


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"down_proj": 3}}])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_layers_ratio_is_that_of_the_weights_that_are_made(options: Any, optimizer: Any) -> None:
    (layers, row), expected = ratios_of_a_step(adapted(**options), optimizer)
    found = {name.split("layers.")[1]: ratio for name, ratio in layers.items()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert row["rldk/update/ratio/p50"] == pytest.approx(sum(expected.values()) / 2, rel=1e-5)


def test_without_formed_weights_the_ratio_is_of_the_two_matrices() -> None:
    """DoRA scales the sum of both, so that the change is another."""
    (layers, row), _ = ratios_of_a_step(adapted(use_dora=True))
    assert set(layers.values()) <= {0.0} and row["rldk/update/ratio/p50"] > 0


def test_a_model_without_adapters_has_none() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    source = OptimizerSource(optimizer, model, "full")
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert "adapters" not in source.layers(source.pending().tolist())
    parameters = list(model.parameters())
    assert adapters_of(model, parameters, source.layout) is None, "and no step asks for them"
