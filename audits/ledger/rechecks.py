"""What a re-check asks of a model, and asked of every oracle before: a few numbers after each treatment of weights.

The same functions measure oracles when an entry is written and the model about to ship when it is checked, so that the
numbers can be ranked among each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from unlearnkit.audits.ledger.entries import Group, Reading, Relearning, Statistic
from unlearnkit.observing import observe
from unlearnkit.relearning import relearn
from unlearnkit.treatments import TREATMENTS
from unlearnkit.types import Examples

SHIPPED, RELEARNED = "as shipped", "relearned"
RECHECKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    SHIPPED: lambda model: model,
    **{name: TREATMENTS[name] for name in ("8 bits", "4 bits", "30 % pruned")},
}
STEPS, LR, BATCH = 10, 0.005, 16  # of relearning: a few steps, slow enough that models differ in how fast they learn
SHOWN = 16  # at most so many examples are shown while relearning, and never more than half
DIGITS = 8  # that are kept of a number


def statistics(margins: NDArray[np.float64]) -> dict[Statistic, float]:
    """Margins of one model, [point] -> share of right answers, mean margin, 90 % quantile of the margins."""
    return {
        "accuracy": float(np.mean(margins > 0)),
        "margin": float(np.mean(margins)),
        "upper": float(np.quantile(margins, 0.9)),
    }


def reading_of(
    treatment: str, group: Group, oracles: NDArray[np.float64], original: Mapping[Statistic, float] | None = None
) -> Reading:
    """Margins of every oracle, [oracle, point] -> what a ledger keeps of them."""
    sigma = float(np.sqrt(oracles.var(axis=0, ddof=1).mean()))
    said = [statistics(row) for row in oracles]
    return Reading(
        treatment,
        group,
        max(rounded(sigma), 1e-6),
        {name: tuple(rounded(one[name]) for one in said) for name in said[0]},
        None if original is None else {name: rounded(value) for name, value in original.items()},
    )


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


def content(salt: str, examples: Examples) -> str:
    """Salted hash over inputs, labels and ids: whether these are the examples that were audited."""
    return hashlib.sha256(bytes.fromhex(salt) + examples.fingerprint.encode()).hexdigest()


def rounded(value: float) -> float:
    """As a ledger keeps it: eight significant digits, finer than any two machines agree."""
    return float(f"{value:.{DIGITS}g}")
