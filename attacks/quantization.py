"""Quantization: does the forget set come back when the weights are rounded?

Changes smaller than half a step of the rounding revert to the original (arXiv 2601.15538; language models: arXiv
2410.16454, where most of what was unlearned returned at 4 bits). Seconds, so always worth it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import nn

from unlearnkit.attacks.compression import Measure, came_back
from unlearnkit.compress import quantized
from unlearnkit.methods.hyperparameters import check
from unlearnkit.types import Probe, Reading, Splits

Bits = Annotated[tuple[Annotated[int, Field(ge=2, le=8)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Quantization(Probe):
    """Mean change of the forget set's margins, or of the accuracy on it, over the numbers of bits."""

    unit: ClassVar[str] = "bits"

    bits: Bits = (8, 4)
    measure: Measure = Measure.MARGIN

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        del rng
        rounded = ((float(bits), quantized(model, bits=bits)) for bits in self.bits)
        return came_back(model, splits.forget, rounded, self.measure)
