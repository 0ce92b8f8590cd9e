"""Names of parameters as they occur."""

from __future__ import annotations

import pytest

from rldk_tracking.metrics.layer_names import layer_of


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.up_proj.weight", "model.layers.3"),
        ("module.transformer.h.11.attn.c_attn.bias", "transformer.h.11"),
        ("_orig_mod.model.layers.0._checkpoint_wrapped_module.w", "model.layers.0"),
        ("base_model.model.model.layers.2.q_proj.lora_A.default.weight", "base_model.model.model.layers.2"),
        ("model.layers.3.mlp.experts.7.w1.weight", "model.layers.3"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("submodule.weight", "submodule"),
        ("weight", "weight"),
    ],
)
def test_layer_names(name: str, layer: str) -> None:
    assert layer_of(name) == layer
