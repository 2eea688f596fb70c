"""Quantile regression (Bertran et al. 2023): a threshold for each example, without a single reference model.

On points that no model was trained on, a quantile of the target's φ is regressed on the target's own features. The
paper trains a network on the images; here a linear head on the features that the target computes anyway, which costs
no image and no accelerator, and knows what the target makes of an image. Fresh points then set the false-positive rate
exactly (split conformal): the regression may be as bad as it will.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import expit

from unlearnkit.attacks.signals import margin
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Holds, Known, Observation

_SMOOTH = 0.02  # of the kink of the loss, in standard deviations of φ


@dataclass(frozen=True)
class Quantile(Attack):
    """Scores are φ above its regressed quantile, shifted so that a score above 0 has a false-positive rate of at most
    `fpr` on points exchangeable with the population, over the draw of both.

    The population is dealt into two halves by `seed`: one fits, one calibrates. Features of the first view and the
    label enter the head, scaled by the population's mean and deviation.
    """

    holds: ClassVar[Holds] = Holds.FEATURES | Holds.POPULATION

    fpr: float = 0.05  # false-positive rate, a share; the regressed quantile is 1 − fpr
    ridge: float = 1e-3  # weight of the squared coefficients, against 1 per point
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise UsageError(f"Quantile.fpr: must lie between 0 and 1 (0.05 is 5 %), got {self.fpr}")
        if self.ridge <= 0:
            raise UsageError(f"Quantile.ridge: must be above 0, got {self.ridge}")

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        assert known.population is not None  # checked by `holds`
        assert target.features is not None
        population = known.population
        if population.features is None:
            raise UsageError("Quantile: needs the target's features on the population too; observe with features=True")
        order = np.random.default_rng(self.seed).permutation(len(population))
        fitted, held = order[: len(order) // 2], order[len(order) // 2 :]
        rank = math.ceil((held.size + 1) * (1 - self.fpr) - 1e-9)
        if rank > held.size:
            raise UsageError(
                f"Quantile: a false-positive rate of {self.fpr:g} needs a population of at least "
                f"{2 * math.ceil(1 / self.fpr - 1 - 1e-9) - 1} points, got {len(population)}"
            )
        classes = np.unique(population.y)
        inputs = _inputs(population.features, population.y, classes)
        mean, deviation = inputs[fitted].mean(axis=0), inputs[fitted].std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
        seen, own = margin(population), _inputs(target.features, target.y, classes)
        head = fit_quantile((inputs[fitted] - mean) / scale, seen[fitted], level=1 - self.fpr, ridge=self.ridge)
        excess = seen[held] - head.predict((inputs[held] - mean) / scale)
        return np.asarray(margin(target) - head.predict((own - mean) / scale) - np.sort(excess)[rank - 1])


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head: weights [d] and an intercept."""

    weights: Float[np.ndarray, " d"]
    intercept: float

    def predict(self, inputs: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """The regressed quantile."""
        return np.asarray(inputs @ self.weights + self.intercept)


def fit_quantile(
    inputs: Float[np.ndarray, "n d"], values: Float[np.ndarray, " n"], *, level: float, ridge: float
) -> Head:
    """Minimize the mean pinball loss level·r − r·1[r < 0] of r = value − prediction, plus ridge/2 of squared weights.

    The kink is smoothed, level·r + h log(1 + e^(−r/h)) with h a fiftieth of the deviation of the values, so that a
    quasi-Newton method finds the one minimum.
    """
    spread = float(values.std()) or 1.0
    y = (values - values.mean()) / spread
    design = np.column_stack([inputs, np.ones(len(inputs))])

    from scipy.optimize import minimize  # heavy, and every worker process imports the attack room

    def objective(beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        r = y - design @ beta
        loss = level * r + _SMOOTH * np.logaddexp(0.0, -r / _SMOOTH)
        slope = level - expit(-r / _SMOOTH)
        penalty = ridge * np.append(beta[:-1], 0.0)
        return float(loss.mean() + 0.5 * penalty @ beta), -design.T @ slope / y.size + penalty

    start = np.append(np.zeros(inputs.shape[1]), np.quantile(y, level))
    beta = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return Head(spread * beta[:-1], float(values.mean() + spread * beta[-1]))


def _inputs(
    features: Float[np.ndarray, "n d"], y: NDArray[np.int64], classes: NDArray[np.int64]
) -> Float[np.ndarray, "n k"]:
    """Features, and which of the population's classes the label is."""
    return np.column_stack([features.astype(np.float64), y[:, None] == classes])
