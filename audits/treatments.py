"""What a re-check asks of a model, and asked of every oracle before: a few numbers after each treatment of weights.

The same functions measure oracles when an entry is written and the model about to ship when it is checked, so that the
numbers can be ranked among each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unlearnkit.audits.ledger import Relearning, Statistic
from unlearnkit.compress import pruned, quantized
from unlearnkit.observing import observe
from unlearnkit.relearning import relearn
from unlearnkit.types import Examples

SHIPPED, RELEARNED = "as shipped", "relearned"
TREATMENTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    SHIPPED: lambda model: model,
    "8 bits": lambda model: quantized(model, bits=8),
    "4 bits": lambda model: quantized(model, bits=4),
    "30 % pruned": lambda model: pruned(model, share=0.3),
}
STEPS, LR, BATCH = 10, 0.005, 16  # of relearning: a few steps, slow enough that models differ in how fast they learn
SHOWN = 16  # at most so many examples are shown while relearning, and never more than half
DIGITS = 8  # that are kept of a number


def statistics(margins: NDArray[np.float64]) -> dict[Statistic, NDArray[np.float64]]:
    """Margins [..., point] -> share of right answers, mean margin, 90 % quantile of the margins, [...] each."""
    return {
        "accuracy": np.mean(margins > 0, axis=-1),
        "margin": np.mean(margins, axis=-1),
        "upper": np.quantile(margins, 0.9, axis=-1),
    }


def margins_of(model: nn.Module, examples: Examples) -> NDArray[np.float64]:
    """Margins of one model, [point]."""
    return np.asarray(observe(model, examples).margins[:, 0])


def relearned(model: nn.Module, examples: Examples, how: Relearning) -> float:
    """Mean accuracy, over a few steps on the first examples, on the others: how fast the forgotten comes back."""
    rows = np.arange(len(examples))
    curves = relearn(
        model,
        examples.take(rows[: how.shown]),
        steps=how.steps,
        lr=how.lr,
        batch_size=how.batch_size,
        seed=how.seed,
        watch=[examples.take(rows[how.shown :])],
        every=1,
    )
    return float(curves.areas()[0])


def rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """As a ledger keeps them: eight significant digits, finer than any two machines agree."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in np.asarray(values, dtype=np.float64).ravel())
