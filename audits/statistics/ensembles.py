"""Single examples under many models: which of them would many unlearned models give away, and by how much?

Rows are models, drawn independently; columns are examples, which hang together within a model. A statement about one
example is exact or has its stated limits; shares of examples describe these examples and no others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from unlearnkit.audits.statistics.epsilon import split_epsilon
from unlearnkit.audits.statistics.multiplicity import benjamini_hochberg
from unlearnkit.audits.statistics.rank import finite_table
from unlearnkit.audits.statistics.roc import check_share
from unlearnkit.result import UsageError


@dataclass(frozen=True, eq=False)
class Apart:
    """Two-sided Mann-Whitney test of every example, between unlearned and retrained models.

    `p` [point]; `auc` [point]: chance that an unlearned model's margin exceeds a retrained one's, 0.5 = alike.
    `share`: of examples whose p stays significant at that false discovery rate (Benjamini and Hochberg 1995).
    """

    p: NDArray[np.float64]
    auc: NDArray[np.float64]
    share: float


def examples_apart(
    unlearned: NDArray[np.float64], oracles: NDArray[np.float64], *, significance: float = 0.05
) -> Apart:
    """Test margins [unlearned, point] against margins [oracle, point] (audits.md 8.1).

    Exact where no margins are tied and a side has at most 8 models, else with the normal law of the rank sum.
    Raises `UsageError` unless both are 2-D and finite with the same points, and for a significance outside (0, 1).
    """
    unlearned, oracles = _pair(unlearned, oracles)
    check_share("significance", significance)
    found = stats.mannwhitneyu(unlearned, oracles, axis=0)
    p = np.where(np.isfinite(found.pvalue), found.pvalue, 1.0)  # margins that are all the same tell nothing
    area = np.asarray(found.statistic, dtype=np.float64) / (len(unlearned) * len(oracles))
    # p-values of ranks are a few exact fractions: the slack keeps one that equals the level flagged.
    return Apart(p, area, float(np.mean(benjamini_hochberg(p) <= significance + 1e-9)))


@dataclass(frozen=True, eq=False)
class SingleEpsilons:
    """Lower limits of epsilon (nats) of every example by itself, and the largest limit so many models could give."""

    epsilon: NDArray[np.float64]  # [point]
    ceiling: float
    confidence: float  # of each limit; nothing is corrected for their number

    @property
    def p95(self) -> float:
        """95th percentile over the examples."""
        return float(np.quantile(self.epsilon, 0.95))

    @property
    def above(self) -> float:
        """Share of examples with a limit above 0; at most 1 − confidence is to be expected where nothing leaks."""
        return float(np.mean(self.epsilon > 0))


def single_epsilons(
    unlearned: NDArray[np.float64],
    oracles: NDArray[np.float64],
    *,
    confidence: float = 0.95,
    delta: float = 0.0,
    seed: int,
) -> SingleEpsilons:
    """`split_epsilon` of every example from margins [unlearned, point] and [oracle, point] (audits.md 4.1, 12 H2).

    The rule of each example is chosen on half of the models and counted on the others.
    Raises `UsageError` as `examples_apart` and `split_epsilon` do.
    """
    unlearned, oracles = _pair(unlearned, oracles)
    bounds = [
        split_epsilon(own, others, confidence=confidence, delta=delta, seed=seed)
        for own, others in zip(unlearned.T, oracles.T, strict=True)
    ]
    return SingleEpsilons(np.array([one.epsilon for one in bounds]), max(one.ceiling for one in bounds), confidence)


def _pair(
    unlearned: NDArray[np.float64], oracles: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = finite_table("unlearned", unlearned), finite_table("oracles", oracles)
    if first.shape[1] != second.shape[1]:
        raise UsageError(
            f"ensembles: both kinds of models must be seen on the same points, got {first.shape[1]} and "
            f"{second.shape[1]}"
        )
    return first, second
