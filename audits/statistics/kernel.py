"""Kernel two-sample tests of whole models: do the outputs on the forgotten points look like those of retrained models?

A model is one vector, its margins (or logits) on the forgotten points, and one exchangeable unit; points are not. Tests
of means see a common shift, these see any difference in law that several Gaussian kernels can see, sparse and signed
ones too (audits.md 3.11, 8.1).

The bandwidths are multiples of the median distance between all models, audited and retrained together, so no relabeling
changes them. Each bandwidth's MMD is standardized by its relabelings and the largest counts; since relabelings are
treated alike, its p-value is exact, whatever the law and however many bandwidths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from unlearnkit.audits.statistics.distances import check_ensembles, check_models, farther_p
from unlearnkit.result import UsageError

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # bandwidths, in median distances
_BLOCK = 1 << 21  # labels drawn at once: 16 MiB as floats


@dataclass(frozen=True, eq=False)
class KernelResult:
    """Squared maximum mean discrepancies (kernel units, at most 2 for these kernels) and what relabeling makes of them.

    `bandwidths`, `mmd2` [scale]: in the unit of the vectors, and the MMD^2 under each. `statistic`: the largest MMD^2
    in standard deviations of its relabelings. `floor` [relabeling]: the same statistic with another model (or group of
    models) called the audited one, which is what retraining shows against retraining. `p`: exact p-value, the share of
    labelings, the true one included, with a statistic at least as large.
    """

    bandwidths: NDArray[np.float64]
    mmd2: NDArray[np.float64]
    statistic: float
    floor: NDArray[np.float64]
    p: float


def kernel_rank(vectors: NDArray[np.float64], *, scales: Sequence[float] = SCALES) -> KernelResult:
    """Is the audited model, row 0 of `vectors` [1 + oracle, dimension], an outlier? All n + 1 labelings are used.

    MMD^2 of one vector x from the law of the others, unbiased in those: 1 - 2 mean k(x, a) + mean of k(a, b), a != b
    (Gretton et al. 2012, eq. 3; the term of one vector with itself is k(x, x) = 1). It is above 0 for retrained models
    too, so only its rank says something: p is at least 1 / (n + 1), and more oracles are needed for less.
    Raises `UsageError` unless vectors are 2-D and finite with at least 2 oracles and scales are positive.
    """
    vectors = check_models("vectors", vectors, least=3)
    bandwidths, kernels = _kernels(vectors, scales)
    n = len(vectors) - 1
    similarity = kernels.sum(axis=2)  # [scale, model]: to all others
    total = similarity.sum(axis=1, keepdims=True)
    mmd2 = 1.0 - 2.0 * similarity / n + (total - 2.0 * similarity) / (n * (n - 1))
    return _result(bandwidths, mmd2)


def kernel_two_sample(
    unlearned: NDArray[np.float64],
    oracles: NDArray[np.float64],
    *,
    seed: int,
    permutations: int = 9999,
    scales: Sequence[float] = SCALES,
) -> KernelResult:
    """Are `unlearned` [model, dimension] drawn from the law of `oracles` [model, dimension]? Labels are permuted.

    MMD^2 is the unbiased estimate in all pairs (Gretton et al. 2012, eq. 3): 0 in the mean without a leak, and it can
    fall below. p = (1 + #{permutations at least as extreme}) / (permutations + 1), exact for any number of them.
    Raises `UsageError` unless both sides are 2-D and finite with one dimension and at least 2 models, scales are
    positive and permutations is at least 1.
    """
    unlearned, oracles = check_ensembles(unlearned, oracles, least=(2, 2))
    if permutations < 1:
        raise UsageError(f"permutations must be at least 1, got {permutations}; 9999 resolves p = 0.0001")
    bandwidths, kernels = _kernels(np.concatenate([unlearned, oracles]), scales)
    m, n = len(unlearned), len(oracles)
    labels = (np.arange(m + n) < m).astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // (m + n))
    mmd2 = [_mmd2(labels[None], kernels, m, n)]
    for start in range(0, permutations, rows):
        drawn = rng.permuted(np.tile(labels, (min(rows, permutations - start), 1)), axis=1)
        mmd2.append(_mmd2(drawn, kernels, m, n))
    return _result(bandwidths, np.concatenate(mmd2, axis=1))


def _kernels(vectors: NDArray[np.float64], scales: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bandwidths [scale] and Gaussian kernels [scale, model, model] with diagonal 0."""
    scale = np.asarray(scales, dtype=np.float64)
    if scale.ndim != 1 or scale.size == 0 or not np.all((scale > 0.0) & np.isfinite(scale)):
        raise UsageError(
            f"scales must be positive and finite, at least one, got {list(scales)}; 1.0 is the median distance"
        )
    distances = pdist(vectors)
    apart = distances[distances > 0.0]
    # Where most models are equal, the median over the others; where all are, any bandwidth gives the same.
    middle = float(np.median(distances)) or (float(np.median(apart)) if apart.size else 1.0)
    bandwidths = scale * middle
    kernels = np.exp(-0.5 * (squareform(distances)[None] / bandwidths[:, None, None]) ** 2)
    kernels[:, np.arange(len(vectors)), np.arange(len(vectors))] = 0.0
    return bandwidths, kernels


def _mmd2(labels: NDArray[np.float64], kernels: NDArray[np.float64], m: int, n: int) -> NDArray[np.float64]:
    """Unbiased MMD^2 [scale, labeling] of labels [labeling, model], 1 for the m unlearned and 0 for the n others."""
    found = []
    for kernel in kernels:
        within = np.einsum("bi,bi->b", labels @ kernel, labels)
        touching = labels @ kernel.sum(axis=1)
        cross = touching - within
        others = float(kernel.sum()) - 2.0 * touching + within
        found.append(within / (m * (m - 1)) + others / (n * (n - 1)) - 2.0 * cross / (m * n))
    return np.stack(found)


def _result(bandwidths: NDArray[np.float64], mmd2: NDArray[np.float64]) -> KernelResult:
    """From MMD^2 [scale, labeling], the true labeling first."""
    center, sd = mmd2.mean(axis=1, keepdims=True), mmd2.std(axis=1, keepdims=True)
    # A bandwidth under which all labelings agree to rounding has nothing to say.
    standard = np.where(sd > 1e-12, (mmd2 - center) / np.where(sd > 1e-12, sd, 1.0), 0.0)
    statistic = standard.max(axis=0)
    return KernelResult(bandwidths, mmd2[:, 0], float(statistic[0]), statistic[1:], farther_p(statistic))
