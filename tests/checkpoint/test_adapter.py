"""A real PEFT adapter against the change of the weights after merging it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rldk_tracking.checkpoint.adapter import change_norms
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.checkpoint.report import metrics
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.keys import lookup

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_the_merged_weights(rslora: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=40
    )
    base = LlamaForCausalLM(config)
    base.save_pretrained(tmp_path / "base")
    before = {name: values.clone() for name, values in base.state_dict().items()}
    lora = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], use_rslora=rslora)
    model = peft.get_peft_model(base, lora)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = (torch.randn_like(parameter) * 0.3).to(dtype).float()
    model.save_pretrained(tmp_path / "checkpoint-5")
    after = model.merge_and_unload().state_dict()
    changes = {name: (after[name] - before[name]).double().norm().item() for name in before}
    changed = {name: norm for name, norm in changes.items() if norm > 0}
    with Checkpoint.open(tmp_path / "checkpoint-5") as checkpoint:
        found = change_norms(checkpoint)
    assert {f"{module}.weight" for module in found} == set(changed)
    for module, norm in found.items():
        assert norm == pytest.approx(changed[f"{module}.weight"], rel=1e-4)
    row = metrics(scan(tmp_path / "checkpoint-5", {"reference": tmp_path / "base"}))
    total = sum(norm**2 for norm in changed.values()) ** 0.5
    held = sum(before[name].double().norm().item() ** 2 for name in changed) ** 0.5
    assert row["rldk/checkpoint/adapter_norm"] == pytest.approx(total, rel=1e-4)
    assert row["rldk/checkpoint/adapter_ratio"] == pytest.approx(total / held, rel=1e-4)
    assert [key for key in row if lookup(key) is None] == []
    alone = metrics(scan(tmp_path / "checkpoint-5"))
    assert "rldk/checkpoint/adapter_norm" in alone and "rldk/checkpoint/adapter_ratio" not in alone


def test_a_new_adapter_changes_nothing(tmp_path: Path) -> None:
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=40
    )
    model = peft.get_peft_model(LlamaForCausalLM(config), peft.LoraConfig(r=4, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert list(change_norms(checkpoint).values()) == [0.0]
