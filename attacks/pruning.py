"""Pruning: does the forget set come back when the smallest weights are removed?

What unlearning added to hide the forget set often lies in small weights; magnitude pruning removes these first
(audits.md 6). The smallest of all convolution and linear weights together go, and nothing is retrained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from unlearnkit.attacks.compression import Measure, came_back
from unlearnkit.compress import pruned
from unlearnkit.methods.hyperparameters import Sparsity, check
from unlearnkit.types import Probe, Reading, Splits

Sparsities = Annotated[tuple[Sparsity, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Pruning(Probe):
    """Mean change of the forget set's margins, or of the accuracy on it, over the shares of weights removed."""

    unit: ClassVar[str] = "share of weights removed"

    shares: Sparsities = (0.1, 0.2, 0.3, 0.4, 0.5)
    measure: Measure = Measure.MARGIN

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        del rng
        smaller = ((share, pruned(model, share=share)) for share in self.shares)
        return came_back(model, splits.forget, smaller, self.measure)
