"""Bell curves around references: what LiRA and U-LiRA share, and their fast leave-one-out.

A margin φ is held against the references of one state by a normal law about their mean, whose variance is one of

- "shrunk" (default): s² = (ν₀ s₀² + SS) / (ν₀ + n − 1), where SS are the squared distances of the point's own n
  references and s₀² the variance within points, pooled over all of them and for each state by itself. φ is judged by
  the predictive law, a Student t with ν₀ + n − 1 degrees of freedom and scale s √(1 + 1/n), which knows how little n
  references say (audits.md A4; the idea of BaVarIA, 2603.11799, in its simplest form);
- "example": SS / n, each point by itself (Carlini et al. 2022); where a point has one reference, s₀²;
- "fixed": s₀² for every point (the fixed variance of their library; here with n − 1 degrees of freedom per point);
- "legacy": what their research script does under that name, for comparison with numbers published with it: the medians
  of the references, and one variance of *all* IN margins about one mean, the spread between points in it, used for OUT
  as well (audits.md 10.4).

Where no point has two references of a state, s₀² is that of the other state, and where there is none either, the
variance of all references about one mean: too wide to read scores as likelihoods, and flagged.
No variance is below 1e-12: references that agree to the last bit are taken to agree within a millionth.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from scipy.special import betainc, betaln, gammaln, log_ndtr

from unlearnkit.attacks.moments import Moments, Totals, blocks, moments, moments_of, totals
from unlearnkit.masks import State
from unlearnkit.result import Flag, UsageError, nearest
from unlearnkit.types import Attack, Known, Observation, References, Scores

Variance = Literal["shrunk", "example", "fixed", "legacy"]

_LEAST = 1e-12  # variance


@dataclass(frozen=True, eq=False)
class Law:
    """What references of one state let expect of a margin: a normal law, or a Student t where `freedom` is given."""

    center: Float[np.ndarray, "*m n v"]
    variance: Float[np.ndarray, "*m n v"]
    freedom: Float[np.ndarray, "*m n 1"] | None

    def log_density(self, phi: Float[np.ndarray, "*m n v"]) -> Float[np.ndarray, "*m n v"]:
        """log of the density at φ."""
        square = (phi - self.center) ** 2 / self.variance
        if self.freedom is None:
            return np.asarray(-0.5 * (square + np.log(2 * np.pi * self.variance)))
        nu = self.freedom
        constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(np.pi * nu)
        return np.asarray(constant - 0.5 * np.log(self.variance) - (nu + 1) / 2 * np.log1p(square / nu))

    def log_tail(self, phi: Float[np.ndarray, "*m n v"]) -> Float[np.ndarray, "*m n v"]:
        """log of the probability of more than φ, finite however far out φ lies."""
        z = (phi - self.center) / np.sqrt(self.variance)
        return np.asarray(log_ndtr(-z) if self.freedom is None else _log_t_tail(z, self.freedom))


def _log_t_tail(z: Float[np.ndarray, "*m n v"], nu: Float[np.ndarray, "*m n 1"]) -> Float[np.ndarray, "*m n v"]:
    """log P(T > z) for Student's t, also where the probability itself is below what a float64 can hold."""
    half = 0.5 * betainc(nu / 2, 0.5, nu / (nu + z * z))  # P(T > |z|)
    with np.errstate(divide="ignore"):
        upper = np.log(half)
    # I_x(a, 1/2) → x^a / (a B(a, 1/2) √(1 − x)) for small x
    log_x = np.log(nu) - np.log(nu + z * z)
    far = nu / 2 * log_x - 0.5 * np.log1p(-np.minimum(np.exp(log_x), 0.5)) - np.log(nu) - betaln(nu / 2, 0.5)
    return np.asarray(np.where(z > 0, np.where(half > 1e-290, upper, far), np.log1p(-half)))


@dataclass(frozen=True)
class Gaussian(Attack):
    """Scores points by normal laws fitted to their references; a subclass says which, and how they are compared."""

    inside: ClassVar[State | None] = None  # the state that is held against OUT; None: OUT alone is used

    variance: Variance = "shrunk"
    nu0: float = 4.0  # degrees of freedom that the pooled variance is worth ("shrunk" only)

    def __post_init__(self) -> None:
        if self.variance not in get_args(Variance):
            names = get_args(Variance)
            raise UsageError(
                f"{type(self).__name__}.variance: must be one of {', '.join(names)}, got {self.variance!r}"
                + nearest(str(self.variance), names)
            )
        if not self.nu0 > 0:
            raise UsageError(f"{type(self).__name__}.nu0: must be above 0, got {self.nu0}")

    @abstractmethod
    def compare(
        self, phi: Float[np.ndarray, "*m n v"], inside: Law | None, outside: Law
    ) -> Float[np.ndarray, "*m n v"]:
        """One score per view, higher = more like trained on. `inside` is None where the class names no such state."""

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """Mean over views of the comparison: log-densities are averaged, not margins."""
        assert known.references is not None
        found = {state: moments(known.references, state) for state in self.states()}
        sums = {state: totals(one) for state, one in found.items()}
        laws = {state: self._law(one, state, sums) for state, one in found.items()}
        if self.variance == "legacy":
            laws = {
                state: Law(_medians(known.references, state), law.variance, law.freedom) for state, law in laws.items()
            }
        return self._scores(np.asarray(target.margins, dtype=np.float64), laws)

    def doubts(self, target: Observation, known: Known) -> tuple[Flag, ...]:
        """Says where references are too few for a variance."""
        del target
        assert known.references is not None
        state = known.references.state
        return self.doubts_of({one: np.count_nonzero(state == one, axis=0) for one in self.states()})

    def doubts_of(self, counts: Mapping[State, Int[np.ndarray, " n"]]) -> tuple[Flag, ...]:
        """The same from how many references of each state each point has."""
        flags = too_few(self.name, list(counts.values()))
        single = np.any([count < 2 for count in counts.values()], axis=0)
        if not flags and self.variance == "example" and single.any():
            return (
                Flag(
                    "few references",
                    f"{self.name}: {np.count_nonzero(single)} of {single.size} points have a single reference of a "
                    "state; their variance is the one pooled over points.",
                ),
            )
        return flags

    def _scores(self, phi: Float[np.ndarray, "*m n v"], laws: Mapping[State, Law]) -> Float[np.ndarray, "*m n"]:
        inside = None if self.inside is None else laws[self.inside]
        return np.asarray(self.compare(phi, inside, laws[State.OUT]).mean(axis=-1))

    def _law(self, one: Moments, state: State, sums: Mapping[State, Totals]) -> Law:
        """The law for one state; `sums` of all states in use."""
        count = np.maximum(one.count, 1)[..., None]
        common = self._common(state, sums)[..., None, :]
        if self.variance == "shrunk":
            freedom = self.nu0 + count - 1
            return Law(one.mean, (self.nu0 * common + one.squares) / freedom * (1 + 1 / count), freedom)
        if self.variance == "example":
            own = np.where(count > 1, one.squares / count, common)
            return Law(one.mean, np.maximum(own, _LEAST), None)
        return Law(one.mean, np.broadcast_to(common, one.mean.shape), None)

    def _common(self, state: State, sums: Mapping[State, Totals]) -> Float[np.ndarray, "*m v"]:
        if self.variance == "legacy":
            spread = sums[State.OUT if self.inside is None else self.inside].spread_in_all()
            return np.asarray(np.maximum(spread, _LEAST))
        return pooled_variance(state, sums)

    def leave_one_out(
        self,
        references: References,
        targets: Float[np.ndarray, "m n v"],
        together: Int[np.ndarray, " m"],
        ids: Shaped[np.ndarray, " n"],
    ) -> tuple[Scores, ...]:
        """Every model plays the target once, from sums: what leaves is subtracted (see `leave_one_out.py`)."""
        models, points, views = references.margins.shape
        states = self.states()
        leaves = (together[:, None] == together[None, :]).astype(np.float64)  # [target, model that leaves with it]
        alone = bool((leaves.sum(axis=1) == 1).all())
        counts = {state: np.empty((models, points), dtype=np.int32) for state in states}
        sums: dict[State, Totals] = {}
        for part in blocks(points, models * views):
            found = self._without(references, part, None if alone else leaves)
            covered = np.all([one.count > 0 for one in found.values()], axis=0).astype(np.float64)
            for state, one in found.items():
                counts[state][:, part] = one.count
                block = totals(one, covered)
                sums[state] = sums[state] + block if state in sums else block
        values = np.empty((models, points))
        for part in blocks(points, models * views):
            found = self._without(references, part, None if alone else leaves)
            laws = {state: self._law(one, state, sums) for state, one in found.items()}
            values[:, part] = self._scores(targets[:, part].astype(np.float64), laws)
        scores = []
        for model in range(models):
            rows, flags = self.left_out(ids, {state: counts[state][model] > 0 for state in states})
            at = slice(None) if rows is None else rows
            flags += self.doubts_of({state: counts[state][model, at] for state in states})
            scores.append(self.sealed(values[model, at], rows, flags))
        return tuple(scores)

    def _without(
        self, references: References, part: slice, leaves: Float[np.ndarray, "m m"] | None
    ) -> dict[State, Moments]:
        """Moments [target, point in the part] of the references that stay when a target leaves with its group.

        With distances d from the mean of all n references, whose sum is 0, and Σ over those that leave: the mean moves
        by −Σd / n', and the squares become SS − Σd² − (Σd)² / n'.
        """
        x = references.margins[:, part].astype(np.float64)
        states = references.state[:, part]
        found = {}
        for state in self.states():
            one = moments_of(x, states, state)
            own = (states == state).astype(np.float64)
            distance = (x - one.mean) * own[..., None]
            square = distance**2
            if leaves is not None:
                own = leaves @ own
                distance = np.tensordot(leaves, distance, axes=1)
                square = np.tensordot(leaves, square, axes=1)
            count = np.rint(one.count - own)
            rest = np.maximum(count, 1)[..., None]
            squares = np.maximum(one.squares - square - distance**2 / rest, 0)
            squares[count < 2] = 0  # what is left there is rounding
            found[state] = Moments(count, one.mean - distance / rest, squares)
        return found


@dataclass(frozen=True)
class GaussianRatio(Gaussian):
    """log of the density under the state `inside`, minus that under OUT."""

    def compare(
        self, phi: Float[np.ndarray, "*m n v"], inside: Law | None, outside: Law
    ) -> Float[np.ndarray, "*m n v"]:
        """Log ratio of the two densities."""
        assert inside is not None
        return np.asarray(inside.log_density(phi) - outside.log_density(phi))


def pooled_variance(state: State, sums: Mapping[State, Totals]) -> Float[np.ndarray, "*m v"]:
    """s₀²: within the points of this state; if none has two references, of another; if none either, of all margins."""
    pooled = sums[state].spread_in_all()
    for one in [*(other for name, other in sums.items() if name is not state), sums[state]]:
        pooled = np.where(one.freedom > 0, one.spread_within(), pooled)
    return np.asarray(np.maximum(pooled, _LEAST))


def too_few(name: str, counts: Sequence[Int[np.ndarray, " n"]]) -> tuple[Flag, ...]:
    """Flags references, counted per state and point, that hold no two answers of one state to one point."""
    if any((count > 1).any() for count in counts):
        return ()
    return (
        Flag(
            "few references",
            f"{name}: no point has two references of one state, so the spread between points stands in for the spread "
            "between models; scores rank points and are no likelihoods.",
        ),
    )


def _medians(references: References, state: State) -> Float[np.ndarray, "n v"]:
    models, points, views = references.margins.shape
    medians = np.empty((points, views))
    for part in blocks(points, models * views):
        x = np.where((references.state[:, part] == state)[..., None], references.margins[:, part], np.nan)
        medians[part] = np.nanmedian(x.astype(np.float64), axis=0)
    return medians
