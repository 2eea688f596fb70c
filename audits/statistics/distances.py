"""Distances between audited and retrained models, each beside what retrained models show among themselves.

Ensembles against ensembles, per example: KLoM and the score of the NeurIPS 2023 challenge. One model against n oracles:
Jensen-Shannon divergence, activation distance, ToW and average gap. None of them has a natural zero: two retrained
models differ too, so every result carries its oracle-against-oracle floor, and a number is read against that alone.

Deviations from the public evaluators (audits.md 3.5, 3.6, 3.9, 10):

- KLoM: the last bin is closed. They drop the largest margin of every example; `legacy=True` does so too.
- NeurIPS: an example for which no rule survives gets epsilon 0 where the released script stops, and ensembles of
  unequal size are accepted. Its other habits are kept, see `neurips_score`.
- JS is the definition, in nats, summed over classes; the figure behind published ZRF values is KL(m || p), averaged
  over classes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from unlearnkit.result import UsageError

KLOM_CLIP = 100.0  # margins beyond are set to it
KLOM_BINS = 20
KLOM_FLOOR = 1e-5  # least oracle probability of a bin; hence no KLoM above ln(1e5) = 11.5

EPSILON_CAP = 50.0  # what the challenge puts for perfect separation
_BUFFER = 2.0  # how far interval rules reach beyond the narrower distribution, in margins
_PER_UNIT = 100  # thresholds per unit of margin
_NARROW = 0.01  # ranges in this proportion or less count as perfect separation
_MARGIN_LIMIT = 10_000.0  # two million thresholds per example


@dataclass(frozen=True, eq=False)
class Klom:
    """KL divergence of unlearned from oracle margins, in nats per example: 0 = same histogram, 11.5 = disjoint.

    `values` [point], `p95` and `median` over points: all models against all oracles, comparable with published figures.
    Few models make every KLoM large, so read `matched_*` beside `floor_*`: both hold `size` models against `size`
    oracles, the one unlearned, the other oracles that took no part (means over the splits). A floor is what unlearning
    as good as retraining would show.
    """

    values: NDArray[np.float64]
    p95: float
    median: float
    matched_p95: float
    matched_median: float
    floor_p95: float
    floor_median: float
    size: int


@dataclass(frozen=True, eq=False)
class NeuripsScore:
    """The forgetting score of the NeurIPS 2023 challenge: epsilon in nats per example, H and F in [0, 1].

    `epsilon`, `h` [point]; `median_epsilon`; `f`, the mean of h: all models against all oracles. Epsilon is a plug-in
    estimate without confidence limits, the best of many rules on the data they are judged by, so it is about 1.6 and F
    about 0.18 even between ensembles of one law. Read `matched_*` beside `floor_*`: both hold `size` models against
    `size` oracles, the one unlearned, the other oracles that took no part. Neither F nor epsilon is a bound on
    anything.
    """

    epsilon: NDArray[np.float64]
    h: NDArray[np.float64]
    median_epsilon: float
    f: float
    matched_median_epsilon: float
    matched_f: float
    floor_median_epsilon: float
    floor_f: float
    size: int


@dataclass(frozen=True, eq=False)
class Distance:
    """How far one audited model is from n retrained ones, in `unit`.

    `audited`: mean distance of the audited model to the n oracles. `oracles` [oracle]: mean distance of each oracle to
    the n other models, the audited one among them: only then are the n + 1 values exchangeable if unlearning equals
    retraining. `p`: exact one-sided p-value, the share of the n + 1 models at least as far out as the audited one.
    `floor`: mean distance between two oracles, what retraining once more would show. Being no farther than the floor is
    necessary for forgetting, not sufficient: each value is an average over examples.
    """

    unit: str
    audited: float
    oracles: NDArray[np.float64]
    floor: float
    p: float


def farther_p(values: NDArray[np.float64]) -> float:
    """Exact one-sided p-value of model 0 of `values` [model]: (1 + #{others >= value of model 0}) / models.

    Valid if the values are exchangeable without a leak. Near-ties (relative 1e-12) count as ties.
    """
    slack = 1e-12 * float(np.abs(values).max())
    return (1 + int(np.count_nonzero(values[1:] >= values[0] - slack))) / values.size


def check_models(name: str, array: NDArray[np.float64], *, least: int, axes: int = 2) -> NDArray[np.float64]:
    """Return `array` [model, ...] as float64, or raise `UsageError` unless it is finite and has `least` models."""
    array = np.asarray(array, dtype=np.float64)
    if array.ndim != axes or array.size == 0:
        raise UsageError(
            f"{name} must be a {axes}-D array with one row per model, got shape {array.shape}; stack the models"
        )
    if array.shape[0] < least:
        raise UsageError(f"{name} must hold at least {least} models, got {array.shape[0]}; train more")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise UsageError(f"{name} must be finite, got {bad} NaN or infinite of {array.size}; leave those points out")
    return array


def check_ensembles(
    unlearned: NDArray[np.float64], oracles: NDArray[np.float64], *, least: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both sides [model, point] through `check_models`, with `least` models each; `UsageError` if points differ."""
    unlearned = check_models("unlearned", unlearned, least=least[0])
    oracles = check_models("oracles", oracles, least=least[1])
    if unlearned.shape[1] != oracles.shape[1]:
        raise UsageError(
            f"unlearned and oracles must hold the same points, got {unlearned.shape[1]} and {oracles.shape[1]}; "
            "align the columns"
        )
    return unlearned, oracles


def klom(
    unlearned: NDArray[np.float64],
    oracles: NDArray[np.float64],
    *,
    seed: int,
    splits: int = 10,
    legacy: bool = False,
) -> Klom:
    """KLoM of unlearned margins [model, point] against oracle margins [model, point] (Georgiev et al. 2024).

    Per point both sides are clipped to +-100 and counted in 20 bins of equal width over their joint range; the value is
    KL(unlearned || oracle) with the oracle's bins floored at 1e-5 where unlearned models fall. `splits` seeded draws of
    disjoint oracle groups make the floor; `legacy` drops the largest margin of every point, as published figures do.
    Raises `UsageError` unless both sides are 2-D and finite on the same points, with at least 2 unlearned models and 4
    oracles, and splits is at least 1.
    """
    unlearned, oracles = check_ensembles(unlearned, oracles, least=(2, 4))
    values = klom_values(unlearned, oracles, legacy=legacy)
    size = min(len(unlearned), len(oracles) // 2)
    matched, floor = _matched(
        unlearned, oracles, lambda p, q: _summary(klom_values(p, q, legacy=legacy)), splits=splits, seed=seed
    )
    p95, median = _summary(values)
    return Klom(values, p95, median, *matched, *floor, size)


def klom_floor(oracles: NDArray[np.float64], *, size: int, seed: int, splits: int = 10) -> NDArray[np.float64]:
    """KLoM [split, point] of `size` oracles against `size` other ones, from margins [model, point].

    Its P95 falls quickly with `size`: about 5.0 at 20 models a side, 0.7 at 100, 0.1 at 500 (audits.md 3.6), so this
    is how many models a claim needs. Raises `UsageError` for oracles that are not 2-D, finite and at least 2 `size`.
    """
    oracles = check_models("oracles", oracles, least=4)
    if not 2 <= size <= len(oracles) // 2:
        raise UsageError(
            f"size must lie between 2 and half of the {len(oracles)} oracles, got {size}; retrain more or ask for less"
        )
    _check_splits(splits)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(oracles)) for _ in range(splits)]
    return np.stack([klom_values(oracles[o[:size]], oracles[o[size : 2 * size]]) for o in orders])


def klom_values(p: NDArray[np.float64], q: NDArray[np.float64], *, legacy: bool = False) -> NDArray[np.float64]:
    """The KLoM of each point, [point], of margins p [model, point] against q [model, point]; no floor, no checks."""
    p, q = np.clip(p, -KLOM_CLIP, KLOM_CLIP), np.clip(q, -KLOM_CLIP, KLOM_CLIP)
    low, high = np.minimum(p.min(axis=0), q.min(axis=0)), np.maximum(p.max(axis=0), q.max(axis=0))
    share_p, share_q = _shares(p, low, high, legacy=legacy), _shares(q, low, high, legacy=legacy)
    terms = np.zeros_like(share_p)
    np.divide(share_p, np.maximum(share_q, KLOM_FLOOR), out=terms, where=share_p > 0.0)
    np.log(terms, out=terms, where=share_p > 0.0)
    return np.asarray((share_p * terms).sum(axis=1))


def neurips_score(
    unlearned: NDArray[np.float64],
    oracles: NDArray[np.float64],
    *,
    seed: int,
    splits: int = 1,
    delta: float = 1e-5,
) -> NeuripsScore:
    """Per-example epsilon of unlearned margins [model, point] against oracle margins [model, point], H and F.

    Two families of rules guess from one margin which ensemble a model is of: "at least t" means the one with the larger
    median, t on a grid of 0.01 over the joint range; "from l to r" means the one with the smaller range, l and r within
    2 of its ends on the same grid. A rule with false positive rate a and false negative rate b gives
    max(0, ln(1 - delta - a) - ln b, ln(1 - delta - b) - ln a), and an example the largest of all rules, at most 50.
    H(epsilon) = 2 ** -floor(2 epsilon) below ceil(ln(N - 1)), else 0; F is the mean of H (audits.md 3.5).

    Habits of the challenge, kept because its figures rest on them: a rule with exactly one of a and b at 0 is discarded
    (too few models), so one stray model can hide a separation; a = b = 0 counts as 50; so does a range below 1 % of the
    other. N is the number of models, of the smaller ensemble where they differ.
    Raises `UsageError` unless both sides are 2-D, within +-10,000 and on the same points, with at least 3 unlearned
    models and 6 oracles, splits is at least 1 and delta lies in [0, 1).
    """
    unlearned, oracles = check_ensembles(unlearned, oracles, least=(3, 6))
    largest = max(float(np.abs(unlearned).max()), float(np.abs(oracles).max()))
    if largest > _MARGIN_LIMIT:
        raise UsageError(f"margins must lie within +-{_MARGIN_LIMIT:,.0f}, got {largest:.3g}; clip them")
    if not 0.0 <= delta < 1.0:
        raise UsageError(f"delta must lie in [0, 1), got {delta}; the challenge uses 1e-5")

    def summary(p: NDArray[np.float64], q: NDArray[np.float64]) -> tuple[float, float]:
        epsilon = neurips_epsilon(p, q, delta=delta)
        return float(np.median(epsilon)), float(_h(epsilon, min(len(p), len(q))).mean())

    epsilon = neurips_epsilon(unlearned, oracles, delta=delta)
    h = _h(epsilon, min(len(unlearned), len(oracles)))
    matched, floor = _matched(unlearned, oracles, summary, splits=splits, seed=seed)
    size = min(len(unlearned), len(oracles) // 2)
    return NeuripsScore(epsilon, h, float(np.median(epsilon)), float(h.mean()), *matched, *floor, size)


def neurips_epsilon(
    unlearned: NDArray[np.float64], oracles: NDArray[np.float64], *, delta: float = 1e-5
) -> NDArray[np.float64]:
    """The epsilon of each point, [point], of margins [model, point] on both sides; no floor, no checks.

    One table holds the epsilon of every pair of error counts. Rules only look counts up, and since l and r run over one
    grid, the 160,000 intervals have but 799 distinct left ends.
    """
    table = _epsilon_table(len(unlearned), len(oracles), delta)
    return np.array([_epsilon(a, b, table) for a, b in zip(np.sort(unlearned.T), np.sort(oracles.T), strict=True)])


def js_divergence(probabilities: NDArray[np.float64]) -> Distance:
    """Jensen-Shannon divergence (nats, mean over points) of softmax outputs [1 + oracle, point, class], row 0 audited.

    JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 (Lin 1991); 0 to ln 2, zeros allowed.
    Raises `UsageError` unless there are at least 2 oracles and each point's outputs are probabilities.
    """
    probabilities = _check_probabilities(probabilities)
    return _compare(probabilities, lambda p, q: js(p, q).mean(axis=-1), unit="nats")


def js(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence in nats, [point], of two models' probabilities [point, class]; no checks."""
    # By entropies: numpy's logarithm takes several values at once, which `kl_div` does not (seven times faster).
    return np.maximum(_entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2, 0.0)


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """In nats, over the last axis; 0 ln 0 = 0."""
    return np.asarray(-(p * np.log(np.where(p > 0.0, p, 1.0))).sum(axis=-1))


def activation_distance(probabilities: NDArray[np.float64], *, order: int = 2) -> Distance:
    """L2 (or L1) distance, mean over points, of softmax outputs [1 + oracle, point, class], row 0 audited.

    Order 2 (Chundawat et al. 2023) lies in [0, sqrt(2)], order 1 (Golatkar et al. 2020) in [0, 2].
    Raises `UsageError` unless there are at least 2 oracles, each point's outputs are probabilities and order is 1 or 2.
    """
    probabilities = _check_probabilities(probabilities)
    if order not in (1, 2):
        raise UsageError(f"order must be 1 or 2, got {order}; published activation distances are L2 or L1")
    return _compare(
        probabilities, lambda p, q: np.linalg.norm(p - q, ord=order, axis=-1).mean(axis=-1), unit=f"L{order} of softmax"
    )


def tow(accuracies: Mapping[str, NDArray[np.float64]]) -> Distance:
    """Tug of war (Zhao et al. 2024) of named accuracies, each [1 + oracle] with the audited model first.

    ToW of two models is the product over the names of 1 - |difference|: 1 = equal, 0 = as different as can be. Here
    larger is nearer; the p-value is of being as far out, as everywhere.
    Raises `UsageError` unless there is a name, all have one length of at least 3 and all values lie in [0, 1].
    """
    values = _check_accuracies(accuracies)
    return _compare(values, lambda a, b: np.prod(1.0 - np.abs(a - b), axis=-1), unit="ToW (1 = equal)", nearer=True)


def average_gap(accuracies: Mapping[str, NDArray[np.float64]]) -> Distance:
    """Mean over named accuracies (or other shares), each [1 + oracle], of the absolute difference; 0 = equal.

    The "Avg. gap" of unlearning papers takes forget, retain and test accuracy and a membership attack's share.
    Raises `UsageError` unless there is a name, all have one length of at least 3 and all values lie in [0, 1].
    """
    values = _check_accuracies(accuracies)
    return _compare(values, lambda a, b: np.abs(a - b).mean(axis=-1), unit="share")


Pair = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]  # [model, ...], [...] -> [model]
Summary = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[float, float]]


def _compare(models: NDArray[np.float64], between: Pair, *, unit: str, nearer: bool = False) -> Distance:
    count = len(models)
    pairs = np.zeros((count, count))
    for j in range(1, count):
        pairs[:j, j] = pairs[j, :j] = between(models[:j], models[j])
    values = pairs.sum(axis=1) / (count - 1)
    among = float(pairs[1:, 1:].sum()) / ((count - 1) * (count - 2))
    return Distance(unit, float(values[0]), values[1:], among, farther_p(-values if nearer else values))


def _matched(
    unlearned: NDArray[np.float64], oracles: NDArray[np.float64], summary: Summary, *, splits: int, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Summaries of (unlearned, oracles) and of (other oracles, the same oracles), equal sizes, means over splits."""
    _check_splits(splits)
    size = min(len(unlearned), len(oracles) // 2)
    rng = np.random.default_rng(seed)
    found = np.empty((splits, 2, 2))
    for split in range(splits):
        own, order = rng.permutation(len(unlearned))[:size], rng.permutation(len(oracles))
        reference = oracles[order[size : 2 * size]]
        found[split] = summary(unlearned[own], reference), summary(oracles[order[:size]], reference)
    (a, b), (c, d) = found.mean(axis=0).tolist()
    return (a, b), (c, d)


def _summary(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(np.quantile(values, 0.95)), float(np.median(values))


def _shares(
    margins: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], *, legacy: bool
) -> NDArray[np.float64]:
    """Share of the models in each bin, [point, bin]; all in the first bin where the joint range is a point."""
    points = margins.shape[1]
    edges = low + (high - low) / KLOM_BINS * np.arange(KLOM_BINS + 1)[:, None]  # np.linspace mixes the columns
    edges[-1] = high
    width = np.where(high > low, high - low, 1.0)
    place = np.minimum(((margins - low) / width * KLOM_BINS).astype(np.int64), KLOM_BINS - 1)
    # Division and edges round differently; the edges decide.
    place -= margins < np.take_along_axis(edges, place, axis=0)
    place += (margins >= np.take_along_axis(edges, place + 1, axis=0)) & (place < KLOM_BINS - 1) & (high > low)
    cell = place + KLOM_BINS * np.arange(points)
    kept = (margins < high) | (high == low) if legacy else np.ones(margins.shape, dtype=np.bool_)
    counts = np.bincount(cell[kept], minlength=points * KLOM_BINS).reshape(points, KLOM_BINS)
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _epsilon_table(n: int, m: int, delta: float) -> NDArray[np.float64]:
    """Epsilon [errors on the unlearned, errors on the oracles] of a rule; -1 where the rule is discarded."""
    a, b = np.arange(n + 1)[:, None] / n, np.arange(m + 1)[None, :] / m
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = np.log(1 - delta - a) - np.log(b), np.log(1 - delta - b) - np.log(a)
    # A rate of 1 has no logarithm of 1 - delta - rate; the other direction decides.
    table = np.clip(np.fmax(one, other), 0.0, EPSILON_CAP)
    table[0, :] = table[:, 0] = -1.0
    table[0, 0] = EPSILON_CAP
    return np.asarray(np.nan_to_num(table, nan=0.0))


def _epsilon(unlearned: NDArray[np.float64], oracles: NDArray[np.float64], table: NDArray[np.float64]) -> float:
    """Epsilon of one point, from sorted margins of both sides."""
    ranges = float(unlearned[-1] - unlearned[0]), float(oracles[-1] - oracles[0])
    if max(ranges) > 0.0 and min(ranges) < _NARROW * max(ranges):
        return EPSILON_CAP
    low, high = min(unlearned[0], oracles[0]), max(unlearned[-1], oracles[-1])
    thresholds = np.linspace(low, high, math.ceil((high - low) * _PER_UNIT))
    below = np.searchsorted(unlearned, thresholds), np.searchsorted(oracles, thresholds)
    upper_is_oracle = bool(np.median(oracles) > np.median(unlearned))
    wrong = (unlearned.size - below[0], below[1]) if upper_is_oracle else (below[0], oracles.size - below[1])
    single = table[wrong]

    # On a tie of the ranges the ensemble with the smaller median counts as the narrower one.
    narrow_is_unlearned = upper_is_oracle if ranges[0] == ranges[1] else ranges[0] < ranges[1]
    narrow = unlearned if narrow_is_unlearned else oracles
    count = math.ceil(2 * _BUFFER * _PER_UNIT)
    step = 2 * _BUFFER / (count - 1)
    right = narrow[-1] - _BUFFER + step * np.arange(count)
    left = (
        narrow[0] - 2 * _BUFFER + step * np.arange(2 * count - 1)
    )  # of the i-th right end: entries i to i + count - 1
    inside = []
    for margins in (unlearned, oracles):
        until = np.searchsorted(margins, right, side="right")
        before = sliding_window_view(np.searchsorted(margins, left), count)
        inside.append(np.maximum(until[:, None] - before, 0))
    wrong = (unlearned.size - inside[0], inside[1]) if narrow_is_unlearned else (inside[0], oracles.size - inside[1])
    double = table[wrong]
    return max(0.0, float(single.max(initial=0.0)), float(double.max()))


def _h(epsilon: NDArray[np.float64], models: int) -> NDArray[np.float64]:
    return np.where(epsilon < math.ceil(math.log(models - 1)), 0.5 ** np.floor(2.0 * epsilon), 0.0)


def _check_splits(splits: int) -> None:
    if splits < 1:
        raise UsageError(f"splits must be at least 1, got {splits}; without one there is no floor")


def _check_probabilities(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    probabilities = check_models("probabilities", probabilities, least=3, axes=3)
    off = float(np.abs(probabilities.sum(axis=-1) - 1.0).max())
    if float(probabilities.min()) < 0.0 or off > 1e-4:
        raise UsageError(
            f"probabilities must be at least 0 and sum to 1 over the classes, got a sum {off:.3g} away from 1 or a "
            "negative entry; pass softmax outputs, not logits"
        )
    return probabilities


def _check_accuracies(accuracies: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """[model, name]."""
    if not accuracies:
        raise UsageError("accuracies must name at least one, got none; pass forget, retain and test accuracy")
    lengths = {name: np.shape(values) for name, values in accuracies.items()}
    if len(set(lengths.values())) != 1:
        raise UsageError(f"accuracies must have one entry per model under each name, got shapes {lengths}; align them")
    values = np.stack([np.asarray(v, dtype=np.float64) for v in accuracies.values()], axis=-1)
    values = check_models("accuracies", values, least=3)
    for name, column in zip(accuracies, values.T, strict=True):
        if float(column.min()) < 0.0 or float(column.max()) > 1.0:
            raise UsageError(
                f"accuracies: {name!r} must lie in [0, 1], got {column.min():g} to {column.max():g}; "
                "write 90 percent as 0.9"
            )
    return values
