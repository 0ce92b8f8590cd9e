"""Real PEFT adapters against the weights after merging them, which is the slow way to the same numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rldk_tracking.checkpoint import adapter
from rldk_tracking.checkpoint.adapter import NO_BASE, LowRank, against_weights, factor_of
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.checkpoint.report import metrics, text
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.checkpoint.score import parts, verdict
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.metrics.keys import lookup

peft = pytest.importorskip("peft")
Weights = dict[str, torch.Tensor]


def llama(layers: int = 2) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2, vocab_size=40
        )
    )


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=40, n_positions=16))


class Adapted:
    """A base model, adapters of it as they are saved, and what each makes of the weights."""

    def __init__(self, folder: Path, make: Any = llama, **config: Any) -> None:
        self.folder, self._make = folder, make
        self.config = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]} | config
        make().save_pretrained(folder / "base")

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def save(self, step: int, size: float = 0.3, dtype: torch.dtype = torch.float32) -> tuple[Path, Weights]:
        """A checkpoint at random matrices, and the weights after merging."""
        model = peft.get_peft_model(self._make(), peft.LoraConfig(**self.config))
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_((torch.randn(parameter.shape, generator=generator) * size).to(dtype))
                elif "modules_to_save" in name:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        path = self.folder / f"checkpoint-{step}"
        model.save_pretrained(path)
        merged = model.merge_and_unload().state_dict()
        return path, {name: values.double().clone() for name, values in merged.items()}

    def before(self) -> Weights:
        return {name: values.double() for name, values in self._make().state_dict().items()}


def flat(weights: Weights, names: list[str]) -> torch.Tensor:
    return torch.cat([weights[name].flatten() for name in names])


def check_drift(found: Scan, label: str, now: Weights, then: Weights, layer: str | None = None) -> None:
    """All that is said of a distance, against the merged weights that differ from the base model's."""
    names = [name for name in now if name in then and not torch.equal(now[name], then[name])]
    names = [name for name in names if layer is None or name.startswith(f"{layer}.")]
    a, b = flat(now, names), flat(then, names)
    drift = found.drift(label, None if layer is None else f"base_model.model.{layer}")
    assert drift is not None and drift.relative is not None and drift.cosine is not None
    assert drift.relative == pytest.approx(((a - b).norm() / b.norm()).item(), rel=1e-5)
    assert drift.cosine == pytest.approx(torch.nn.functional.cosine_similarity(a, b, dim=0).item(), abs=1e-6)
    assert drift.norm_ratio == pytest.approx((a.norm() / b.norm()).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (llama, {}),
        (llama, {"use_rslora": True}),
        (llama, {"alpha_pattern": {"down_proj": 11, "layers.1.self_attn.q_proj": 3}, "rank_pattern": {"q_proj": 2}}),
        (llama, {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]}),
        (llama, {"init_lora_weights": "gaussian"}),
        (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ],
    ids=["plain", "rslora", "patterns", "whole-layer", "gaussian", "transposed"],
)
def test_against_the_merged_weights(make: Any, config: dict[str, Any], tmp_path: Path) -> None:
    adapted = Adapted(tmp_path, make, **config)
    (first, then), (second, now) = adapted.save(10), adapted.save(20)
    found = scan(second, {"previous": first, "first": first, "reference": adapted.base})
    assert found.unknown is None
    before = adapted.before()
    for label, other in (("previous", then), ("first", then), ("reference", before)):
        check_drift(found, label, now, other)
    layer = "model.layers.1" if make is llama else "transformer.h.1"
    check_drift(found, "previous", now, then, layer)
    row = metrics(found)
    names = [f"{module.removeprefix('base_model.model.')}.weight" for module in found.changes]
    change, held = (flat(now, names) - flat(before, names)).norm().item(), flat(before, names).norm().item()
    assert row["rldk/checkpoint/adapter_norm"] == pytest.approx(change, rel=1e-4)
    assert row["rldk/checkpoint/adapter_ratio"] == pytest.approx(change / held, rel=1e-4)
    assert [key for key in row if lookup(key) is None] == []
    again = Scan.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert metrics(again) == row


def test_the_same_weights_in_other_matrices_have_not_moved(tmp_path: Path) -> None:
    """A * c with B / c: every stored number changes, and no weight does."""
    adapted = Adapted(tmp_path)
    first, _ = adapted.save(10)
    content = load_file(first / "adapter_model.safetensors")
    second = tmp_path / "checkpoint-20"
    second.mkdir()
    turned = {name: values * 4 if "lora_A" in name else values / 4 for name, values in content.items()}
    save_file(turned, second / "adapter_model.safetensors")
    (second / "adapter_config.json").write_text((first / "adapter_config.json").read_text())
    found = scan(second, {"previous": first, "reference": adapted.base})
    row = metrics(found)
    assert row["rldk/checkpoint/drift_previous"] == pytest.approx(0.0, abs=1e-7)
    assert row["rldk/checkpoint/cosine_previous"] == pytest.approx(1.0, abs=1e-9)
    assert row["rldk/checkpoint/layer_norm_ratio_max"] == pytest.approx(1.0, abs=1e-9)
    stored = found.stored("previous")
    assert stored is not None and stored.relative is not None and stored.relative > 1  # what was said to be the drift
    assert row["rldk/checkpoint/unchanged"] == 0.0


def test_a_healthy_adapter_does_not_alarm(tmp_path: Path) -> None:
    """From zero, as LoRA begins: the matrices move by more than half of their norm, the weights by some percent."""
    adapted = Adapted(tmp_path)
    first, _ = adapted.save(10, size=0.005)
    second, _ = adapted.save(20, size=0.01)
    found = scan(second, {"previous": first, "first": first, "reference": adapted.base})
    row = metrics(found)
    assert row["rldk/checkpoint/drift"] < 0.05 and parts(found)["similar"] > 0.99 and verdict(found) == "healthy"
    engine = Engine(rules_for("safe", {}), context={})
    assert engine.update(20, row) == []
    stored = found.stored("first")
    assert stored is not None and (stored.relative or 0) > 0.5
    far, _ = adapted.save(30, size=1.5)
    row = metrics(scan(far, {"previous": second, "first": first, "reference": adapted.base}))
    assert "checkpoint.drift" in [alert.rule for alert in engine.update(30, row)]


def test_without_the_base_model_nothing_is_said_of_how_far(tmp_path: Path) -> None:
    adapted = Adapted(tmp_path)
    (first, _), (second, _) = adapted.save(10), adapted.save(20)
    found = scan(second, {"previous": first, "first": first})
    assert found.unknown == NO_BASE
    row = metrics(found)
    assert "rldk/checkpoint/adapter_norm" in row
    absent = ("drift", "drift_previous", "cosine_previous", "adapter_ratio", "layer_norm_ratio_max", "part/similar")
    assert [key for key in absent if f"rldk/checkpoint/{key}" in row] == []
    assert row["rldk/checkpoint/unchanged"] == 0.0
    assert "not known: the base model's weights are not at hand" in text(found)
    same = scan(second, {"previous": second})
    assert metrics(same)["rldk/checkpoint/unchanged"] == 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa"}, "has changed the base model"),
        ({"peft_type": "ADALORA"}, "ADALORA"),
        ({"alpha_pattern": {"q_(proj)+$": 3}}, "regular expressions"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"lora_alpha": 10**400}, "no lora_alpha"),
        ({"lora_alpha": True}, "no lora_alpha"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_known_is_said(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    adapted = Adapted(tmp_path)
    (first, _), (second, _) = adapted.save(10), adapted.save(20)
    for path in (first, second):
        config = json.loads((path / "adapter_config.json").read_text())
        (path / "adapter_config.json").write_text(json.dumps(config | change))
    found = scan(second, {"previous": first, "reference": adapted.base})
    assert found.unknown is not None and reason in found.unknown
    row = metrics(found)
    assert [key for key in row if "drift" in key or "cosine" in key or "adapter" in key or "ratio" in key] == []


def test_numbers_that_are_none(tmp_path: Path) -> None:
    adapted = Adapted(tmp_path)
    (first, _), (second, _) = adapted.save(10), adapted.save(20)
    content = load_file(second / "adapter_model.safetensors")
    next(values for name, values in content.items() if "lora_B" in name)[0, 0] = math.nan
    save_file(content, second / "adapter_model.safetensors")
    against = {"previous": first, "reference": adapted.base}
    row = metrics(scan(second, against))
    assert row["rldk/checkpoint/nonfinite"] == 1.0
    assert "rldk/checkpoint/adapter_norm" not in row and "rldk/checkpoint/drift_previous" not in row
    row = metrics(scan(first, {"previous": second, "reference": adapted.base}))
    assert "rldk/checkpoint/drift_reference" in row and "rldk/checkpoint/drift_previous" not in row


def test_a_base_model_of_other_layers(tmp_path: Path) -> None:
    adapted = Adapted(tmp_path)
    first, _ = adapted.save(10)
    llama(layers=1).save_pretrained(tmp_path / "other")
    found = scan(first, {"reference": tmp_path / "other"})
    assert found.unknown is not None and "model.layers.1" in found.unknown
    assert "rldk/checkpoint/drift_reference" not in metrics(found)


def test_another_adapter_is_no_base_model(tmp_path: Path) -> None:
    adapted = Adapted(tmp_path)
    (first, _), (second, _) = adapted.save(10), adapted.save(20)
    assert scan(second, {"reference": first}).unknown == NO_BASE


def test_a_new_adapter_changes_nothing(tmp_path: Path) -> None:
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=4, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "checkpoint-1")
    llama().save_pretrained(tmp_path / "base")
    row = metrics(scan(tmp_path / "checkpoint-1", {"reference": tmp_path / "base"}))
    assert row["rldk/checkpoint/adapter_norm"] == row["rldk/checkpoint/drift_reference"] == 0.0


def test_names_of_matrices() -> None:
    assert factor_of("base_model.model.h.0.q.lora_A.weight") == "base_model.model.h.0.q"
    assert factor_of("base_model.model.wte.lora_embedding_B") == "base_model.model.wte"
    assert factor_of("base_model.model.lm_head.weight") is None


def change(rng: np.random.Generator, rows: int, columns: int, rank: int) -> LowRank:
    return LowRank(rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns)))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 50),
)  # fmt: skip
def test_against_the_formed_matrices(rows: int, columns: int, ranks: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (change(rng, rows, columns, rank) for rank in ranks)
    formed_a, formed_b = a.left @ a.right, b.left @ b.right
    assert a.square == pytest.approx(np.sum(formed_a**2), rel=1e-9)
    assert a.inner(b) == pytest.approx(np.sum(formed_a * formed_b), rel=1e-9, abs=1e-9)
    assert a.minus(b).square == pytest.approx(np.sum((formed_a - formed_b) ** 2), rel=1e-9, abs=1e-9)


def test_small_differences_do_not_cancel() -> None:
    rng = np.random.default_rng(0)
    a = change(rng, 50, 60, 4)
    b = LowRank(a.left * (1 + 1e-12), a.right)
    formed = np.linalg.norm((b.left - a.left) @ a.right)
    assert np.sqrt(a.minus(b).square) == pytest.approx(formed, rel=1e-3)


def test_weights_in_blocks(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "BLOCK", 100)  # two rows, and a last block of one
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(7, 5, 10)).astype(np.float32)
    save_arrays({"w": weights}, tmp_path / "model.safetensors")
    changes = [change(rng, 7, 50, rank) for rank in (3, 1)]
    with Checkpoint.open(tmp_path) as checkpoint:
        square, products = against_weights(checkpoint, "w", changes)
    flat = weights.reshape(7, 50).astype(float)
    assert square == pytest.approx(np.sum(flat**2), rel=1e-6)
    assert products == pytest.approx([np.sum(flat * (c.left @ c.right)) for c in changes], rel=1e-5)
