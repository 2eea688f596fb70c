"""Compressed copies of a model: weights rounded to few bits, or the smallest weights removed.

Both ask what a deletion is worth once somebody deploys the model: changes smaller than half a step of the rounding
vanish, and the model answers as the original did (audits.md 6).
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unlearnkit.methods.steps import part_of
from unlearnkit.result import UsageError

__all__ = ["pruned", "quantized"]

_CONVOLUTIONS = nn.modules.conv._ConvNd
_TRANSPOSED = nn.modules.conv._ConvTransposeNd


def quantized(model: nn.Module, *, bits: int) -> nn.Module:
    """A copy whose convolution and linear weights are rounded to nearest, to at most 2^bits − 1 values per channel.

    Symmetric, one step per output channel: step = max|w| / (2^(bits − 1) − 1), w becomes step · round(w / step).
    Biases, normalization and buffers stay bit for bit. The weights stay floats: what is simulated is the rounding, not
    the speed. Raises UsageError unless bits is in 2..8 and the model has such weights.
    """
    if not 2 <= bits <= 8:
        raise UsageError(f"quantized: bits must be 2 to 8, got {bits}")
    result = copy.deepcopy(model)
    levels = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight, channel in _weights(result, what="quantized"):
            exact = weight.double()
            others = [axis for axis in range(weight.ndim) if axis != channel]
            step = exact.abs().amax(others, keepdim=True) / levels
            step[step == 0] = 1.0  # a channel of zeros stays one
            weight.copy_((exact / step).round() * step)
    return result


def pruned(model: nn.Module, *, share: float) -> nn.Module:
    """A copy in which the floor(share · n) smallest of the n convolution and linear weights, by magnitude, are 0.

    All layers are ranked together; of equal weights the last ones go. Biases, normalization and buffers stay bit for
    bit. Raises UsageError unless share is in [0, 1) and the model has such weights.
    """
    if not 0 <= share < 1:
        raise UsageError(f"pruned: share must be at least 0 and below 1 (0.1 is a tenth), got {share}")
    result = copy.deepcopy(model)
    weights = [weight for weight, _ in _weights(result, what="pruned")]
    sizes = torch.cat([weight.detach().flatten().abs() for weight in weights])
    kept = ~smallest(sizes, part_of(len(sizes), share))
    with torch.no_grad():
        for weight, keep in zip(weights, torch.split(kept, [weight.numel() for weight in weights]), strict=True):
            weight.masked_fill_(~keep.view(weight.shape), 0)
    return result


def smallest(sizes: Float[Tensor, " n"], count: int) -> Bool[Tensor, " n"]:
    """True at the `count` smallest; of equal ones the last. Selects, where sorting millions would take seconds."""
    if not count:
        return torch.zeros_like(sizes, dtype=torch.bool)
    cut = sizes.kthvalue(count).values
    chosen = sizes < cut
    ties = torch.nonzero(sizes == cut).flatten()
    chosen[ties[len(ties) - (count - int(chosen.sum())) :]] = True
    return chosen


def _weights(model: nn.Module, *, what: str) -> list[tuple[Tensor, int]]:
    """Each convolution and linear weight once, with the axis of its output channels. Attention projects linearly."""
    found: dict[int, tuple[Tensor, int]] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            for weight in (getattr(module, name) for name in names):
                if weight is not None:
                    found[id(weight)] = weight, 0
        elif isinstance(module, (nn.Linear, _CONVOLUTIONS)):
            found[id(module.weight)] = module.weight, int(isinstance(module, _TRANSPOSED))
    if not found:
        raise UsageError(f"{what}: {type(model).__name__} has no convolution or linear layer to change")
    return list(found.values())
