"""Treatments of a model's weights, by the name under which jobs and ledgers know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from unlearnkit.compress import pruned, quantized
from unlearnkit.methods.distill import reinitialized
from unlearnkit.result import UsageError, nearest

COMPRESSED = ("8 bits", "4 bits", "10 % pruned", "30 % pruned", "50 % pruned")  # what a model may meet in use
DRAWN_ANEW = "drawn anew"  # what the same network answers before it has learned anything

TREATMENTS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "8 bits": lambda model: quantized(model, bits=8),
    "4 bits": lambda model: quantized(model, bits=4),
    "10 % pruned": lambda model: pruned(model, share=0.1),
    "30 % pruned": lambda model: pruned(model, share=0.3),
    "50 % pruned": lambda model: pruned(model, share=0.5),
    DRAWN_ANEW: lambda model: reinitialized(model, torch.Generator().manual_seed(0)),
}


def treated(model: nn.Module, name: str) -> nn.Module:
    """A treated copy. Raises UsageError for a name that is none, or a model that the treatment does not fit."""
    if name not in TREATMENTS:
        raise UsageError(f"treatment: must be one of {', '.join(TREATMENTS)}, got {name!r}" + nearest(name, TREATMENTS))
    return TREATMENTS[name](model)


__all__ = ["COMPRESSED", "DRAWN_ANEW", "TREATMENTS", "treated"]
