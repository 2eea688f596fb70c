"""Inversion: who holds the model before and after a deletion may see in the difference what was deleted.

Removing an example moves the weights, to first order, along the gradient of its loss at the original. Dummy inputs with
the labels of deleted examples are moved until their gradient points the same way: minimize
1 − cos(∇_θ loss(dummies; original), audited − original) + smoothness · total variation, with Adam ("Learn What You Want
to Unlearn", arXiv 2404.03233). The reading is how closely the dummies resemble deleted examples.

Differences from the published code: a few hundred steps and two restarts instead of 10,000 and five; labels are handed
over instead of inferred from probe images; the update itself is the target. Failure in a large model proves nothing, so
models above `limit` weights are refused. It is a risk of releasing both versions: a retrained model is no first-order
step from the original and shows little, which is why readings of oracles stand beside it.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import InstanceOf
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.attacks.heads import draw
from unlearnkit.methods.distill import check_pixels, pixels
from unlearnkit.methods.hyperparameters import Count, NotNegative, Positive, check
from unlearnkit.methods.steps import device_of_model, flat, gradient
from unlearnkit.result import UsageError
from unlearnkit.train import deterministic, make_optimizer, take_steps
from unlearnkit.types import Probe, Reading, Splits

Open = Annotated[nn.Module, InstanceOf()]
_LOOKS = 5  # at the dummies, on the way


@dataclass(frozen=True)
class Inversion(Probe):
    """Mean over deleted examples of the largest correlation, pixel by pixel, with any recovered dummy; −1 to 1."""

    unit: ClassVar[str] = "steps"

    original: Open = field(repr=False)  # the model before the deletion
    images: Count = 4  # deleted examples that are looked for, drawn from the forget set
    steps: Count = 300
    lr: Positive = 0.04  # of the input range
    smoothness: NotNegative = 0.01  # weight of the total variation, images only
    restarts: Count = 2  # the one whose gradient fits best counts
    limit: Count = 200_000  # weights of the largest model that is asked

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        own, theirs = ({k: v.shape for k, v in net.named_parameters()} for net in (model, self.original))
        if own != theirs:
            raise UsageError(
                f"{self.name}: the original must have the audited model's weights by name and shape; the first that "
                f"differs is {sorted(set(own.items()) ^ set(theirs.items()))[0][0]!r}"
            )
        size = sum(p.numel() for p in model.parameters())
        if size > self.limit:
            raise UsageError(
                f"{self.name}: asks models of up to {self.limit:,} weights, got {size:,}; failing to invert a larger "
                "one proves nothing"
            )
        check_pixels(model, splits.forget, self.name)
        deleted = splits.forget.take(draw(len(splits.forget), self.images, rng))
        device = device_of_model(model)
        net = copy.deepcopy(self.original).to(device).eval().requires_grad_(True)
        update = flat(model) - flat(net)
        x, y = pixels(deleted.x).to(device), deleted.labels().to(device)
        looks = np.unique(np.linspace(0, self.steps, _LOOKS + 1).round().astype(np.int64))
        if not update.any():  # nothing was released that could tell
            return Reading(0.0, looks.astype(float), np.zeros(len(looks)))
        with deterministic(device), torch.autocast(device.type, enabled=False):  # bf16 would blur the gradients
            tries = [self._recover(net, update, x, y, looks, rng) for _ in range(self.restarts)]
        curve = min(tries, key=lambda one: one[0])[1]
        return Reading(float(curve[-1]), looks.astype(float), curve)

    def _recover(
        self,
        net: nn.Module,
        update: Float[Tensor, " p"],
        x: Float[Tensor, "m ..."],
        y: Int[Tensor, " m"],
        looks: np.ndarray,
        rng: torch.Generator,
    ) -> tuple[float, Float[np.ndarray, " k"]]:
        """How badly the gradient fits in the end, and the resemblance to `x` on the way. Only its range guides."""
        low, high = float(x.min()), float(x.max())
        dummies = nn.Parameter(low + (high - low) * torch.rand(x.shape, generator=rng, dtype=x.dtype).to(x.device))
        optimizer = make_optimizer(nn.ParameterList([dummies]), "adamw", lr=self.lr * (high - low))

        def loss(step: int) -> Tensor:
            del step
            theirs = gradient(net, functional.cross_entropy(net(dummies), y), create_graph=True)
            rough = self.smoothness / (high - low) * total_variation(dummies)
            return 1 - functional.cosine_similarity(theirs, update, dim=0) + rough

        def stay_in_range() -> None:
            with torch.no_grad():
                dummies.clamp_(low, high)

        curve = [resemblance(dummies, x)]
        for before, now in itertools.pairwise(looks):
            take_steps(optimizer, range(before, now), loss, what=self.name, after_step=stay_in_range)
            curve.append(resemblance(dummies, x))
        return float(loss(0).detach()), np.array(curve)


def total_variation(x: Float[Tensor, "m ..."]) -> Float[Tensor, ""]:
    """Mean difference of neighboring pixels, down and across; 0 where inputs are no images."""
    if x.ndim != 4:
        return x.new_zeros(())
    return sum((x.diff(dim=axis).abs().mean() for axis in (2, 3) if x.shape[axis] > 1), x.new_zeros(()))


@torch.no_grad()
def resemblance(dummies: Float[Tensor, "m ..."], x: Float[Tensor, "n ..."]) -> float:
    """Mean over `x` of the largest correlation with any dummy: each less its own mean, then the cosine."""
    one, other = (
        functional.normalize(part.flatten(1) - part.flatten(1).mean(1, keepdim=True)) for part in (dummies, x)
    )
    return float((other @ one.T).amax(1).mean())
