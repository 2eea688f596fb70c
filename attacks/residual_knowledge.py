"""Residual knowledge: close neighbors of forget examples that the model still recognizes (arXiv 2601.22359).

A model can be taught to miss the very images it was asked to forget and know them again when they are moved a little.
RandomNeighbors moves them at random; SearchedNeighbors moves them where the model recognizes them, by projected
gradient descent. Both stay in a ball of the largest change of any input value, 0.03 of the input range and below.

The paper counts what the audited model recognizes and a retrained one does not. Retrained models disagree with one
another, too; here each model has its share, and the audit ranks it among those of the oracles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from unlearnkit.methods.distill import away_from, check_pixels, frozen, pixels, within_box
from unlearnkit.methods.hyperparameters import Count, PositiveShare, check
from unlearnkit.methods.steps import device_of_model, inputs
from unlearnkit.train import deterministic
from unlearnkit.types import Examples, Probe, Reading, Splits

Radii = Annotated[tuple[PositiveShare, ...], Field(min_length=1)]
_BATCH = 256  # examples


@dataclass(frozen=True)
class RandomNeighbors(Probe):
    """Mean share of random neighbors of the forget examples that get the example's label."""

    unit: ClassVar[str] = "radius, share of the input range"

    radii: Radii = (0.01, 0.02, 0.03)  # the reading is the mean over these
    copies: Count = 10  # of every example at every radius

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        net, total = frozen(model), np.zeros(len(self.radii))
        with _exactly(net):
            for x, y, stored, span in _batches(net, splits.forget, self.name):
                for _ in range(self.copies):
                    noise = 2 * torch.rand(x.shape, generator=rng, dtype=x.dtype).to(x.device) - 1
                    for i, radius in enumerate(self.radii):
                        total[i] += int(_recognized(net, within_box(x + radius * span * noise, stored), y).sum())
        return _shares(self.radii, total / self.copies, splits.forget)


@dataclass(frozen=True)
class SearchedNeighbors(Probe):
    """Mean share of forget examples near which a search finds a neighbor that gets the example's label."""

    unit: ClassVar[str] = "radius, share of the input range"

    radii: Radii = (0.01, 0.02, 0.03)  # the reading is the mean over these
    steps: Count = 10  # each a quarter of the radius long

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        del rng
        net, total = frozen(model), np.zeros(len(self.radii))
        with _exactly(net):
            for x, y, stored, span in _batches(net, splits.forget, self.name):
                for i, radius in enumerate(self.radii):
                    found = _recognized(net, x, y)
                    for near in approach(net, x, y, stored, radius=radius * span, steps=self.steps):
                        found |= _recognized(net, near, y)
                    total[i] += int(found.sum())
        return _shares(self.radii, total, splits.forget)


def approach(
    model: nn.Module, x: Float[Tensor, "b ..."], y: Int[Tensor, " b"], stored: Tensor, *, radius: float, steps: int
) -> Iterator[Float[Tensor, "b ..."]]:
    """Neighbors ever deeper inside the class, each no farther than `radius` from `x` in any value (PGD, L∞).

    stored: the inputs as they are kept; images stay in [0, 1].
    """
    near = x
    for _ in range(steps):
        near = near - radius / 4 * away_from(model, near, y).sign()
        near = within_box(x + (near - x).clamp(-radius, radius), stored)
        yield near


@contextmanager
def _exactly(net: nn.Module) -> Iterator[None]:
    """The same answers every time, in full precision: steps of a sign turn on the last bit of a gradient."""
    device = device_of_model(net)
    with deterministic(device), torch.autocast(device.type, enabled=False):
        yield


def _batches(
    net: nn.Module, examples: Examples, what: str
) -> Iterator[tuple[Float[Tensor, "b ..."], Int[Tensor, " b"], Tensor, float]]:
    """Inputs to be moved, labels, the inputs as stored, and the input range (1 for images)."""
    check_pixels(net, examples, what)
    floats = examples.x.is_floating_point()
    span = float(examples.x.max() - examples.x.min()) if floats else 1.0
    for rows in torch.split(torch.arange(len(examples)), _BATCH):
        stored = inputs(net, examples, rows)
        yield pixels(stored), examples.labels()[rows].to(stored.device), stored, span


@torch.no_grad()
def _recognized(net: nn.Module, x: Float[Tensor, "b ..."], y: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
    answers: Tensor = net(x)
    return answers.argmax(1) == y


def _shares(radii: tuple[float, ...], counts: Float[np.ndarray, " k"], examples: Examples) -> Reading:
    curve = counts / len(examples)
    return Reading(float(curve.mean()), np.array(radii), curve)
