"""How far an optimizer step moves the weights: d is their change.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/update/ratio/{p10,p50,p90} | 1 | optimizer
        How far one optimizer step moves a layer, against its size. With LoRA, of the weights that it makes.
        = {stat}, interpolated linearly, over layers of |change| / |weights|: mean norms over the optimizer steps of the
        row (PPO has several), weights after each step; LoRA: scale |B' A' - B A| / |W|, W without the adapter
    rldk/update/adam_rms | 1 | optimizer
        How sure Adam is of its direction: near 1 gradients agree, near 0 they cancel. Of torch's Adam and AdamW with
        weights of float32 or bfloat16.
        = root mean square over elements of m_hat / (sqrt(v_hat) + eps)
    rldk/update/learning_rate | 1 | optimizer | max over ranks
        Learning rate of the step.
        = largest over parameter groups
    rldk/update/effective_lr | 1 | optimizer
        How far a weight moves in one step; elements without a gradient, such as rows of unused tokens, count too.
        = root mean square over elements of d: its norm, a mean over the optimizer steps, / sqrt(elements)
    rldk/update/frozen_layers | layers | optimizer | lower | max over ranks
        Layers of the optimizer that did not move at all.
        = layers whose d is exactly 0 in all of the row's optimizer steps

Ratios near 1e-3 are usual in supervised training and 1e-6 to 1e-4 in fine-tuning by reinforcement learning.

Of torch's Adam and AdamW with float32 weights, d follows from the optimizer's state without a copy of the weights
(Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2). Weights of 16 bits round the step that is added
to them, often to nothing, and other optimizers have other formulas: there d is the difference to a copy of at most
SAMPLE elements of each tensor, taken before the step; its norm is then an estimate for larger tensors, with a relative
standard error below 1 % where the elements move independently. Adam's direction is that of the state in bfloat16 too,
which has the range of float32; what is rounded in it, the optimizer steps with. It is not read in float16, in which the
squares of gradients below 2e-4 are 0.

Of LoRA's two thin matrices, W + scale * B A, it is the product that counts: B begins at zero, so that it moves by many
times its norm while the weights hardly move, and with A twice and B half as large the weights are the same (Hu et al.
2022, arXiv:2106.09685).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from rldk_tracking.metrics.columns import precise
from rldk_tracking.metrics.layers import Layout, Summary, local, local_as_is
from rldk_tracking.metrics.statistics import spread

SAMPLE = 16_384
CACHED_BLOCK, DEVICE_BLOCK = 1 << 17, 1 << 24
"""Elements worked on at a time: on a CPU what stays in its cache, elsewhere what keeps the extra memory small."""
SMALL = 1 << 14
"""Elements up to which a tensor takes less time to compute with than to call a few operations for."""


def is_adam(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is torch's own Adam or AdamW, whose state and formula are known."""
    return type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)


def is_exact(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    """Whether the step that `adam_squares` finds is exact: weights that are not rounded to 16 bits."""
    return is_adam(optimizer) and parameter.dtype in (torch.float32, torch.float64)


def has_direction(optimizer: torch.optim.Optimizer, parameter: Tensor) -> bool:
    """Whether the direction that `adam_squares` finds is Adam's: moments that can be as small as they are."""
    return is_adam(optimizer) and parameter.dtype in (torch.float32, torch.float64, torch.bfloat16)


@torch.no_grad()
def adam_squares(
    parameter: Tensor, state: Mapping[str, Any], group: Mapping[str, Any], decoupled: bool
) -> tuple[Tensor, Tensor]:
    """|d|^2 and |m_hat / (sqrt(v_hat) + eps)|^2 of the step that was just made, float64 scalars on the device.

    Args:
        parameter: the weights after the step.
        state: the optimizer's state of this parameter, after the step.
        group: its parameter group.
        decoupled: whether weight decay is AdamW's, and so a part of d; an L2 penalty is inside m already.
    """
    first, second = state["exp_avg"], state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    beta1, beta2 = group["betas"]
    step = state["step"]
    if isinstance(step, Tensor) and step.device.type == "cpu":
        step = step.item()
    correction1, correction2 = 1 - beta1**step, (1 - beta2**step) ** 0.5
    rate, decay = group["lr"], group["lr"] * group["weight_decay"] if decoupled else 0.0
    decays = decoupled and group["weight_decay"] != 0
    moments = _blocks(local(first), local(second), local(parameter))
    adam, cross, weight = [], [], []
    for m, v, w in (map(_wide, block) for block in moments):
        direction = torch.sqrt(v).add_(group["eps"] * correction2)
        torch.div(m, direction, out=direction)
        adam.append(torch.dot(direction, direction))
        if decays:
            cross.append(torch.dot(direction, w))
            weight.append(torch.dot(w, w))
    scale = correction2 / correction1
    adam_square = _total(adam, parameter) * scale**2
    if not decays:
        return adam_square * rate**2, adam_square
    # after = (1 - decay) before - rate u  gives  d = after - before = -(decay after + rate u) / (1 - decay).
    # With `maximize` the sign is in m already.
    square = decay**2 * _total(weight, parameter) + 2 * decay * rate * scale * _total(cross, parameter)
    return (square + rate**2 * adam_square).clamp_min(0.0) / (1 - decay) ** 2, adam_square


@torch.no_grad()
def group_squares(
    parameters: Sequence[Tensor], states: Sequence[Mapping[str, Any]], group: Mapping[str, Any], decoupled: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """`adam_squares` of many parameters of one group, the small ones together."""
    moved: list[Tensor | None] = [None] * len(parameters)
    adam: list[Tensor | None] = [None] * len(parameters)
    batches: dict[tuple[Any, ...], list[int]] = {}
    steps = _steps_made(states)
    for index, (parameter, state, step) in enumerate(zip(parameters, states, steps, strict=True)):
        if parameter.numel() > SMALL or step is None:
            moved[index], adam[index] = adam_squares(parameter, state, group, decoupled)
        else:
            batches.setdefault((parameter.device, parameter.dtype, step), []).append(index)
    for (_, _, step), indices in batches.items():
        at_once = max(1, DEVICE_BLOCK // SMALL)
        for start in range(0, len(indices), at_once):
            part = indices[start : start + at_once]
            pair = _together([parameters[i] for i in part], [states[i] for i in part], group, decoupled, step)
            for index, square, direction in zip(part, *pair, strict=True):
                moved[index], adam[index] = square, direction
    return [square for square in moved if square is not None], [square for square in adam if square is not None]


def _together(
    parameters: Sequence[Tensor],
    states: Sequence[Mapping[str, Any]],
    group: Mapping[str, Any],
    decoupled: bool,
    step: float,
) -> tuple[Tensor, Tensor]:
    """(K,) |d|^2 and |m_hat / (sqrt(v_hat) + eps)|^2 of K parameters that have made the same number of steps."""
    beta1, beta2 = group["betas"]
    correction1, correction2 = 1 - beta1**step, (1 - beta2**step) ** 0.5
    second = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
    sizes = [local_as_is(parameter).numel() for parameter in parameters]
    direction = _wide(_flat([state["exp_avg"] for state in states]))
    direction /= _wide(_flat([state[second] for state in states])).sqrt_().add_(group["eps"] * correction2)
    direction *= correction2 / correction1
    adam = precise(torch.stack(torch._foreach_norm(torch.split(direction, sizes)))).square()
    if not decoupled or group["weight_decay"] == 0:
        return adam * group["lr"] ** 2, adam
    decay = group["lr"] * group["weight_decay"]
    change = (_wide(_flat(parameters)) * decay + direction * group["lr"]) / (1 - decay)
    return precise(torch.stack(torch._foreach_norm(torch.split(change, sizes)))).square(), adam


def _steps_made(states: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """How many steps each parameter has made, None where that would have to be waited for."""
    steps = [state["step"] for state in states]
    on_host = [step for step in steps if isinstance(step, Tensor) and step.device.type == "cpu"]
    numbers = iter(torch.stack(on_host).tolist() if on_host else [])
    return [
        float(step) if not isinstance(step, Tensor) else next(numbers) if step.device.type == "cpu" else None
        for step in steps
    ]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """What this rank holds of them, one after the other, as a copy."""
    if len(tensors) == 1:
        return local_as_is(tensors[0]).reshape(-1).clone()
    flat: Tensor = _flatten_dense_tensors([local_as_is(tensor) for tensor in tensors])  # type: ignore[no-untyped-call]
    return flat


class Snapshot:
    """Copies of at most SAMPLE evenly spread elements of each tensor, to be compared after the step.

    The stride shares no factor with the rows' length, so that the sample runs over all columns.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._before = [_sample(parameter).clone() for parameter in parameters]

    def squares(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Estimates of |d|^2 for each tensor, exact for those of at most SAMPLE elements."""
        found = []
        for parameter, before in zip(parameters, self._before, strict=True):
            sample = _sample(parameter)
            numel = local(parameter).numel()
            change = sample.to(torch.float32) - before.to(torch.float32)
            found.append(precise(torch.linalg.vector_norm(change)).square() * (numel / max(1, sample.numel())))
        return found


Pair = tuple[Tensor, Tensor]
"""A (r, in) and B (out, r)."""


@torch.no_grad()
def change_square(before: Pair, after: Pair) -> Tensor:
    """|B' A' - B A|_F^2, a scalar on the device.

    As (B' - B) A' + B (A' - A), in which small differences do not cancel, and |L R|^2 = sum of (L^T L) * (R R^T), two
    matrices of 2r x 2r.

    >>> a, b = torch.ones(1, 3), torch.zeros(2, 1)
    >>> float(change_square((a, b), (a, b + 0.5)))
    1.5
    """
    (a, b), (new_a, new_b) = [tuple(precise(tensor) for tensor in pair) for pair in (before, after)]
    left = torch.cat([new_b - b, b], dim=1)
    right = torch.cat([new_a, new_a - a], dim=0)
    return ((left.T @ left) * (right @ right.T)).sum().clamp_min(0.0)


def read_updates(parts: Mapping[str, Sequence[float]], layout: Layout) -> dict[str, float]:
    """The keys of summaries by name: d, Adam's direction, the weights, LoRA's ratios; those that were measured."""
    metrics: dict[str, float] = {}
    names = ("updates", "adam", "weights", "adapters")
    moved, direction, weights, made = (Summary.read(parts[name], layout) for name in names)
    if moved is not None:
        metrics["rldk/update/frozen_layers"] = float(sum(norm == 0 for norm in moved.layers.values()))
        if moved.total is not None:
            metrics["rldk/update/effective_lr"] = moved.total / math.sqrt(sum(layout.numels))
    if direction is not None and direction.total is not None:
        metrics["rldk/update/adam_rms"] = direction.total / math.sqrt(sum(layout.numels))
    if moved is not None and weights is not None:
        ratios = layer_ratios(moved.layers, weights.layers, {} if made is None else made.layers)
        metrics |= spread("rldk/update/ratio", ratios.values(), extremes=False)
    return metrics


def layer_ratios(
    moved: Mapping[str, float], weights: Mapping[str, float], adapters: Mapping[str, float]
) -> dict[str, float]:
    """Layer to |d| / |weights|, from the norms of both. A layer without weights other than 0 has none.

    Of a layer with LoRA's pairs it is the change of the weights that they make, to the weights that they are added to:
    `adapters` has these ratios, and 0 for a layer without pairs.

    >>> layer_ratios({"0": 0.002, "1": 0.001}, {"0": 2.0, "1": 0.0}, {})
    {'0': 0.001}
    """
    ratios = {layer: moved[layer] / weights[layer] for layer in moved if weights.get(layer, 0.0) > 0}
    return ratios | {layer: ratio for layer, ratio in adapters.items() if ratio > 0}


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same consecutive elements of tensors of one shape, as flat views."""
    size = CACHED_BLOCK if tensors[0].device.type == "cpu" else DEVICE_BLOCK
    return zip(*(torch.split(tensor.reshape(-1), size) for tensor in tensors), strict=True)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 where it has 16 bits."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _total(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    if not parts:
        return torch.zeros((), dtype=torch.float64, device=like.device)
    return precise(torch.stack(list(parts))).sum()


def _sample(tensor: Tensor) -> Tensor:
    part = local(tensor)
    stride = max(1, part.numel() // SAMPLE)
    if stride > 1:
        while math.gcd(stride, part.shape[-1]) != 1:
            stride += 1
    return part.reshape(-1)[::stride]


def learning_rate(optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor:
    """The largest of the groups, a float64 scalar on the device.

    >>> learning_rate(torch.optim.SGD([torch.ones(1)], lr=0.5), torch.device("cpu")).item()
    0.5
    """
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group and group["params"]]
    if any(isinstance(rate, Tensor) for rate in rates):
        return torch.stack([torch.as_tensor(rate, dtype=torch.float64).to(device) for rate in rates]).max()
    return torch.full((), max(rates, default=math.nan), dtype=torch.float64, device=device)
