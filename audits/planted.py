"""What a model still knows of a planted patch or of planted noise: exact tests with one model and no oracle.

Whoever planted a patch or noise can draw more of the same kind after the fact. To a model that never saw the planted
one, or forgot it entirely, it is one draw among others; so the law under exact deletion is known (audits.md 3.7, 3.8).
Both need the model itself: the patch test its answers to stamped images, the noise test its gradients.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from unlearnkit.audits.canaries import Patch
from unlearnkit.observing import observe
from unlearnkit.result import UsageError
from unlearnkit.types import Examples


@dataclass(frozen=True, eq=False)
class PatchResult:
    """How much the planted patch pulls answers towards its label, beside patches that no model has seen.

    effect: mean change of the label's log-odds, in nats. p: exact one-sided rank p-value of the planted one.
    """

    effect: float
    fresh: NDArray[np.float64]
    p: float


def patch_effect(model: nn.Module, examples: Examples, patch: Patch, *, label: int, device: str = "cpu") -> float:
    """Mean change of φ of `label` (its log-odds, nats) when the patch is stamped on images, whatever their own label.

    The feature-injection test of Izzo et al. 2021 for images; log-odds, since a logit alone has no zero.
    """
    y = torch.full((len(examples),), label)
    plain, stamped = (
        observe(model, Examples(x, y, examples.ids), device=device).margins[:, 0]
        for x in (examples.x, patch.stamp(examples.x))
    )
    return float(np.mean(stamped - plain))


def patch_test(
    model: nn.Module,
    examples: Examples,
    planted: Patch,
    fresh: Sequence[Patch],
    *,
    label: int,
    device: str = "cpu",
) -> PatchResult:
    """Rank the effect of the planted patch among those of fresh ones: p = (1 + #{fresh >= planted}) / (1 + #fresh).

    examples: never-seen images. fresh: `canaries.fresh_patches`, 19 or more for p = 0.05. Exact for a model that does
    not depend on the planted patch: then all are exchangeable draws.
    """
    if not len(fresh):
        raise UsageError("patch test: needs fresh patches to compare with, got none; 19 or more reach p = 0.05")
    effect = patch_effect(model, examples, planted, label=label, device=device)
    others = np.array([patch_effect(model, examples, patch, label=label, device=device) for patch in fresh])
    return PatchResult(effect, others, rank_p(effect, others))


def rank_p(planted: float, fresh: Float[np.ndarray, " k"]) -> float:
    """Exact one-sided p-value of one draw among k exchangeable ones; ties count against it."""
    return (1 + int(np.count_nonzero(fresh >= planted))) / (1 + fresh.size)


@dataclass(frozen=True)
class NoiseResult:
    """Whether a model leans towards the planted noise. mean: of the alignments, 0 where nothing is left.

    z = sqrt(n) mean. p: exact two-sided normal p-value; a model driven away from what it learned is seen, too.
    """

    mean: float
    z: float
    p: float
    count: int


def noise_alignment(
    model: nn.Module, clean: Examples, noise: Float[Tensor, "n ..."], *, batch_size: int = 256
) -> Float[np.ndarray, " n"]:
    """I_i = ⟨g_i, ξ_i⟩ / (σ ‖g_i‖), g_i the gradient of φ at the *clean* input (Pawelczyk et al. 2024).

    noise: ξ/σ, in standard deviations. HIGHER = MORE LIKE TRAINED ON THE NOISY INPUT: φ is the log-odds of the label,
    so its gradient is that of minus the loss up to a positive factor, which cancels; but where the loss is saturated
    its own gradient is all rounding. In float64. Where a gradient is zero I is 0, which makes tests conservative.
    """
    if tuple(noise.shape) != tuple(clean.x.shape):
        raise UsageError(f"noise alignment: needs one noise per input, {list(clean.x.shape)}, got {list(noise.shape)}")
    # on the CPU wherever the model lives: the noise is drawn there, and not every accelerator has float64
    asked, y = copy.deepcopy(model).cpu().double().eval().requires_grad_(False), clean.labels()
    scale = 255.0 if clean.x.dtype == torch.uint8 else 1.0
    found = []
    for rows in torch.split(torch.arange(len(clean)), batch_size):
        x = (clean.x[rows].double() / scale).requires_grad_()
        logits, label = asked(x), y[rows, None]
        rest = logits.scatter(1, label, -math.inf).logsumexp(dim=1)
        (gradient,) = torch.autograd.grad((logits.gather(1, label)[:, 0] - rest).sum(), x)
        g, xi = gradient.flatten(1), noise[rows].double().flatten(1)
        norm = g.norm(dim=1)
        found.append(torch.where(norm > 0, (g * xi).sum(1) / norm.clamp_min(1e-300), torch.zeros_like(norm)))
    return torch.cat(found).numpy()


def noise_test(alignments: Float[np.ndarray, " n"]) -> NoiseResult:
    """Test that alignments are independent N(0, 1) draws, as they are for a model that does not depend on the noise.

    Given the model every gradient is fixed and the noise of each example is drawn apart, so the law is exact.
    """
    if not alignments.size:
        raise UsageError("noise test: needs at least one alignment, got none")
    mean = float(np.mean(alignments))
    z = math.sqrt(alignments.size) * mean
    return NoiseResult(mean, z, float(2 * stats.norm.sf(abs(z))), alignments.size)


__all__ = [
    "NoiseResult",
    "PatchResult",
    "noise_alignment",
    "noise_test",
    "patch_effect",
    "patch_test",
    "rank_p",
]
