"""What comes back of the forget set when the model is compressed; the levels and the editing are the probes' own."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import numpy as np
from torch import nn

from unlearnkit.methods.steps import device_of_model
from unlearnkit.observing import observe
from unlearnkit.relearning import accuracy
from unlearnkit.types import Examples, Reading

__all__ = ["Measure", "came_back"]


class Measure(enum.StrEnum):
    """What is compared before and after."""

    MARGIN = "margin"  # the mean margin φ of the forget examples; sees what accuracy is too coarse for
    ACCURACY = "accuracy"  # share of the forget examples that are told right

    def of(self, model: nn.Module, examples: Examples) -> float:
        """Mean over the examples, under a model in eval mode."""
        if self is Measure.ACCURACY:
            return accuracy(model, examples)
        return float(observe(model, examples, device=str(device_of_model(model))).margins.mean())


def came_back(
    model: nn.Module, forget: Examples, compressed: Iterable[tuple[float, nn.Module]], measure: Measure
) -> Reading:
    """The measure after compression minus before, at each level; the reading is the mean over the levels."""
    before = measure.of(model, forget)
    at, curve = np.array([(level, measure.of(smaller, forget) - before) for level, smaller in compressed]).T
    return Reading(float(curve.mean()), at, curve)
