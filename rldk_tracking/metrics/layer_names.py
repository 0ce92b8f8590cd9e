"""To which layer a parameter belongs, from its name alone."""

from __future__ import annotations

import re

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def plain_name(name: str) -> str:
    """Without what DDP, FSDP, torch.compile and activation checkpointing put into names.

    >>> plain_name("module._orig_mod.lm_head.weight")
    'lm_head.weight'
    """
    return _WRAPPERS.sub("", name)


def layer_of(name: str) -> str:
    """The plain name up to its first number, or without its last part where it has none.

    `model.layers.3.mlp.up_proj.weight` belongs to `model.layers.3`, `model.embed_tokens.weight` to
    `model.embed_tokens`.

    >>> layer_of("model.layers.3.mlp.up_proj.weight")
    'model.layers.3'
    """
    parts = plain_name(name).split(".")
    for position, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: position + 1])
    return ".".join(parts[:-1]) or parts[0]
