"""The places that training stacks have for a plugin, one file each. The stack imports it, and nothing else does."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def part_of_stack(module: str, name: str) -> Any:
    """What a training stack has under this name.

    Args:
        module: dotted, of the stack.
        name: in it.

    Raises:
        ImportError: the stack is not installed, or is of a release that has no such thing; the message says which.
    """
    stack = module.partition(".")[0]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name == stack:
            about = f"rldk_tracking.integrations.{stack} is imported by {stack}, which is not installed here."
            raise ImportError(about) from error
        if not (error.name or "").startswith(f"{stack}."):
            raise
        raise ImportError(f"this {stack} has no module {error.name}: rldk_tracking cannot be its plugin.") from error
    except AttributeError as error:
        raise ImportError(f"this {stack} has no {module}.{name}: rldk_tracking cannot be its plugin.") from error
