"""Label-only attacks: the attacker hands in an input and is told a class, nothing else (Choquette-Choo et al. 2021).

They show that hiding confidences protects nobody: an example that was trained on keeps its label under changes that
others do not survive. They ask the model anew, and so need inputs where other attacks need observations: `score` takes
a function `ask(inputs) -> labels` (`labels_of(model)` makes one of a model) and the examples with their labels.

uint8 images are asked as floats in [0, 1], which is what a model's own first layer makes of them; sizes of changes are
in those units, and for float inputs in units of their range, which is measured on the examples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.result import Flag, UsageError
from unlearnkit.train import deterministic, device_of
from unlearnkit.types import Examples, Scores

Ask = Callable[[Tensor], Int[Tensor, " n"]]

_ASKED = 4096  # inputs handed in at once


def labels_of(model: nn.Module, *, batch_size: int = 1024, device: str = "cpu") -> Ask:
    """What the public sees of a model that hides its confidences: inputs in, classes out, int64 on the CPU.

    The model is asked in eval mode; its weights, mode and device stay as they were.
    """
    place = device_of(device)

    def ask(inputs: Tensor) -> Int[Tensor, " n"]:
        home = next((p.device for p in model.parameters()), place)
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.to(place).eval()
            with torch.inference_mode(), deterministic(place):
                parts = [model(x.to(place)).argmax(dim=1).cpu() for x in torch.split(inputs, batch_size)]
        finally:
            model.to(home)
            for module, mode in modes:
                module.training = mode
        return torch.cat(parts).clone()

    return ask


@dataclass(frozen=True, eq=False)
class Asked:
    """What a label-only attack works on: inputs as floats, their labels, and the box that they lie in."""

    x: Float[Tensor, "n ..."]
    y: Int[Tensor, " n"]
    low: float
    high: float
    clipped: bool  # images: what is asked stays in the box
    ask: Ask
    rng: torch.Generator

    def right(self, rows: Int[Tensor, " k"], inputs: Float[Tensor, "k ..."]) -> NDArray[np.bool_]:
        """Whether each input gets the label of the example in its row. One query each."""
        found = []
        for part, x in zip(torch.split(rows, _ASKED), torch.split(inputs, _ASKED), strict=True):
            told = self.ask(x)
            if told.shape != part.shape:
                raise UsageError(
                    f"label-only: ask() must return one label per input, got {list(told.shape)} for {len(part)} inputs"
                )
            found.append((told.cpu() == self.y[part]).numpy())
        return np.concatenate(found) if found else np.zeros(0, dtype=bool)

    def inside(self, inputs: Float[Tensor, "k ..."]) -> Float[Tensor, "k ..."]:
        """Images cut off at what a pixel can hold."""
        return inputs.clamp(self.low, self.high) if self.clipped else inputs

    def normal(self, count: int) -> Float[Tensor, "k ..."]:
        """Standard normal noise in the shape of `count` inputs."""
        return torch.randn((count, *self.x.shape[1:]), generator=self.rng, dtype=self.x.dtype)


@dataclass(frozen=True)
class LabelOnly(ABC):
    """An attack that asks for labels. Authors write `run`; users call `score`.

    It never learns who is a member. Random numbers come from `seed`: the same call, the same scores.
    """

    @property
    @abstractmethod
    def queries(self) -> int:
        """The most queries that are made about one example."""

    @abstractmethod
    def run(self, asked: Asked) -> tuple[NDArray[np.float64], tuple[Flag, ...]]:
        """One finite score per example, higher = more like trained on, and what a reader must know of them."""

    @final
    def score(self, ask: Ask, examples: Examples, *, seed: int) -> Scores:
        """Ask for labels of changed examples; HIGHER = MORE LIKE A TRAINED-ON EXAMPLE."""
        if not len(examples):
            raise UsageError(f"{type(self).__name__}: there is no example to score")
        x, y = examples.x, examples.labels()
        images = x.dtype == torch.uint8
        values = x.float() / 255 if images else x.float()
        low, high = (0.0, 1.0) if images else (float(values.min()), float(values.max()))
        if low == high:
            raise UsageError(f"{type(self).__name__}: all inputs are {low:g}; there is nothing to change")
        rng = torch.Generator().manual_seed(seed)
        scores, flags = self.run(Asked(values, y, low, high, images, ask, rng))
        if scores.size > 1 and np.ptp(scores) == 0:
            sentence = f"{type(self).__name__}: every point has the same score; it tells nobody apart."
            flags += (Flag("constant scores", sentence),)
        return Scores(scores, type(self).__name__, flags=flags)


@dataclass(frozen=True)
class AugmentationVotes(LabelOnly):
    """Scores are the share of shifted, mirrored and rotated versions, the image itself among them, that are right.

    shift: pixels; every position with |dx| + |dy| = shift is asked. degrees: rotations both ways; 0: none.
    """

    shift: int = 1
    degrees: float = 5.0
    mirror: bool = True

    def __post_init__(self) -> None:
        if self.shift < 0 or self.degrees < 0:
            raise UsageError(
                f"AugmentationVotes: shift and degrees must be at least 0, got {self.shift} and {self.degrees:g}"
            )

    @property
    def queries(self) -> int:
        return 1 + 4 * self.shift + 2 * (self.degrees > 0) + self.mirror

    def run(self, asked: Asked) -> tuple[NDArray[np.float64], tuple[Flag, ...]]:
        if asked.x.ndim != 4:
            raise UsageError(f"AugmentationVotes: needs images [n, c, h, w], got inputs {list(asked.x.shape)}")
        rows, views = torch.arange(len(asked.x)), self._views(asked.x)
        return np.mean([asked.right(rows, view) for view in views], axis=0), ()

    def _views(self, x: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n c h w"]]:
        views, d = [x], self.shift
        steps = {(dy, s * (d - abs(dy))) for dy in range(-d, d + 1) for s in (1, -1)} if d else set()
        height, width = x.shape[2:]
        padded = functional.pad(x, (d, d, d, d))  # what comes in from outside is black
        views += [padded[:, :, d + dy : d + dy + height, d + dx : d + dx + width] for dy, dx in sorted(steps)]
        if self.mirror:
            views.append(x.flip(-1))
        for sign in (1.0, -1.0) if self.degrees else ():
            a = sign * math.radians(self.degrees)
            # coordinates run from -1 to 1 along both axes, whatever the shape
            turn = [[math.cos(a), -math.sin(a) * height / width, 0.0], [math.sin(a) * width / height, math.cos(a), 0.0]]
            grid = functional.affine_grid(
                torch.tensor(turn, dtype=x.dtype).expand(len(x), 2, 3), list(x.shape), align_corners=False
            )
            views.append(functional.grid_sample(x, grid, align_corners=False))
        return views


@dataclass(frozen=True)
class NoiseDistance(LabelOnly):
    """Scores are the share of noisy versions that are right, over several strengths of noise: how far it carries.

    scales: standard deviations, as shares of the inputs' range. draws: noisy versions at each.
    """

    scales: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4)
    draws: int = 8

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0 or self.draws < 1:
            raise UsageError(
                f"NoiseDistance: needs scales above 0 and one draw at least, got {self.scales} and {self.draws}"
            )

    @property
    def queries(self) -> int:
        return 1 + len(self.scales) * self.draws

    def run(self, asked: Asked) -> tuple[NDArray[np.float64], tuple[Flag, ...]]:
        count, rows = len(asked.x), torch.arange(len(asked.x))
        votes = asked.right(rows, asked.x).astype(np.float64)
        for scale in self.scales:
            for _ in range(self.draws):
                noise = scale * (asked.high - asked.low) * asked.normal(count)
                votes += asked.right(rows, asked.inside(asked.x + noise))
        return votes / self.queries, ()


@dataclass(frozen=True)
class BoundaryDistance(LabelOnly):
    """Scores are the Euclidean distance to the nearest input found that gets another label; 0 for who is wrong already.

    A small HopSkipJump (Chen, Jordan and Wainwright 2020): random images until one gets another label, bisection
    towards the example, then rounds that each estimate the boundary's normal from labels of points around it, step
    along it and bisect again. The distance found is an upper limit of the true one. `budget` queries per example are
    never exceeded; what one round costs is fixed, and rounds are made while they fit. Who keeps the label on all random
    images gets the distance of the furthest of them, and is counted in a flag.
    """

    budget: int = 300  # queries per example
    starts: int = 10  # random images
    probes: int = 20  # around the boundary, per round
    halvings: int = 8  # of each bisection
    steps: int = 4  # sizes of step tried in a round, each half of the one before

    def __post_init__(self) -> None:
        if min(self.starts, self.probes, self.halvings, self.steps) < 1:
            raise UsageError("BoundaryDistance: starts, probes, halvings and steps must be at least 1")
        least = 1 + self.starts + self.halvings
        if self.budget < least:
            raise UsageError(
                f"BoundaryDistance.budget: must be at least {least} (the example, {self.starts} starts and a bisection "
                f"of {self.halvings}), got {self.budget}"
            )

    @property
    def rounds(self) -> int:
        """Refinements that the budget allows."""
        left = self.budget - 1 - self.starts - self.halvings
        return left // (self.probes + self.steps + self.halvings)

    @property
    def queries(self) -> int:
        return 1 + self.starts + self.halvings + self.rounds * (self.probes + self.steps + self.halvings)

    def run(self, asked: Asked) -> tuple[NDArray[np.float64], tuple[Flag, ...]]:
        everyone = torch.arange(len(asked.x))
        distance = np.zeros(len(asked.x))
        rows = everyone[torch.from_numpy(asked.right(everyone, asked.x))]
        crossed, furthest = self._start(asked, rows)
        lost = np.isnan(crossed.flatten(1).sum(1).numpy())
        distance[rows.numpy()[lost]] = furthest[lost]
        rows, crossed = rows[torch.from_numpy(~lost)], crossed[torch.from_numpy(~lost)]
        if len(rows):
            crossed = self._bisect(asked, rows, crossed)
            for number in range(1, self.rounds + 1):
                crossed = self._refine(asked, rows, crossed, number)
            distance[rows.numpy()] = _norm(crossed - asked.x[rows]).numpy()
        if not lost.any():
            return distance, ()
        flag = Flag(
            "boundary not found",
            f"BoundaryDistance: {np.count_nonzero(lost)} of {len(asked.x)} examples keep their label on all "
            f"{self.starts} random images; their distance is that of the furthest image and may be larger or smaller.",
        )
        return distance, (flag,)

    def _start(self, asked: Asked, rows: Int[Tensor, " k"]) -> tuple[Float[Tensor, "k ..."], NDArray[np.float64]]:
        """The nearest random image with another label (NaN: none), and the distance of the furthest that was asked."""
        x, one = asked.x[rows], (len(rows), *([1] * (asked.x.ndim - 1)))
        found, nearest = torch.full_like(x, math.nan), np.full(len(rows), np.inf)
        furthest = np.zeros(len(rows))
        for _ in range(self.starts):
            # of any brightness and contrast: noise of one kind is often of one class
            level, contrast = (torch.rand(one, generator=asked.rng, dtype=x.dtype) for _ in range(2))
            pixels = level + contrast * (torch.rand(x.shape, generator=asked.rng, dtype=x.dtype) - 0.5)
            image = asked.low + (asked.high - asked.low) * pixels.clamp(0, 1)
            away = _norm(image - x).numpy()
            better = ~asked.right(rows, image) & (away < nearest)
            found[torch.from_numpy(better)] = image[torch.from_numpy(better)]
            nearest[better] = away[better]
            furthest = np.maximum(furthest, away)
        return found, furthest

    def _bisect(self, asked: Asked, rows: Int[Tensor, " k"], crossed: Float[Tensor, "k ..."]) -> Float[Tensor, "k ..."]:
        """Points with another label, moved along the line to the example until just beyond the boundary."""
        x, one = asked.x[rows], (len(rows), *([1] * (asked.x.ndim - 1)))
        low, high = torch.zeros(one, dtype=x.dtype), torch.ones(one, dtype=x.dtype)
        for _ in range(self.halvings):
            middle = (low + high) / 2
            right = torch.from_numpy(asked.right(rows, x + middle * (crossed - x))).view(one)
            low, high = torch.where(right, middle, low), torch.where(right, high, middle)
        return x + high * (crossed - x)

    def _refine(
        self, asked: Asked, rows: Int[Tensor, " k"], crossed: Float[Tensor, "k ..."], number: int
    ) -> Float[Tensor, "k ..."]:
        """One round: estimate the normal, step along it, and keep whoever came closer after bisection."""
        x, one = asked.x[rows], (len(rows), *([1] * (asked.x.ndim - 1)))
        away = _norm(crossed - x).view(one)
        radius = away / math.sqrt(x[:1].numel())
        signs, directions = [], []
        for _ in range(self.probes):
            direction = asked.normal(len(rows))
            direction /= _norm(direction).view(one)
            # bisection stops up to 2^-halvings beyond the boundary: probes must reach further than that
            reach = torch.maximum(radius, 2 * away * 2.0**-self.halvings)
            wrong = ~asked.right(rows, asked.inside(crossed + reach * direction))
            signs.append(torch.from_numpy(wrong).to(x.dtype) * 2 - 1)
            directions.append(direction)
        votes = torch.stack(signs)
        weight = votes - votes.mean(dim=0)  # a baseline that halves the variance (their equation 16)
        weight[:, (weight == 0).all(dim=0)] = 1.0  # all on one side: their plain mean
        normal = (weight.view(self.probes, *one) * torch.stack(directions)).mean(dim=0)
        normal = torch.where((votes.mean(dim=0) == -1).view(one), -normal, normal)
        normal /= _norm(normal).view(one).clamp_min(1e-12)
        best, unsettled = crossed.clone(), np.ones(len(rows), dtype=bool)
        size = away / math.sqrt(number)
        for _ in range(self.steps):
            candidate = asked.inside(crossed + size * normal)
            wrong = ~asked.right(rows, candidate) & unsettled
            best[torch.from_numpy(wrong)] = candidate[torch.from_numpy(wrong)]
            unsettled &= ~wrong
            size = size / 2
        moved = self._bisect(asked, rows, best)
        closer = (_norm(moved - x) < _norm(crossed - x)).view(one)
        return torch.where(closer, moved, crossed)


def _norm(x: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    norm: Tensor = x.flatten(1).norm(dim=1)
    return norm


LABEL_ONLY: Mapping[str, type[LabelOnly]] = MappingProxyType(
    {attack.__name__: attack for attack in (AugmentationVotes, NoiseDistance, BoundaryDistance)}
)

__all__ = [
    "LABEL_ONLY",
    "Ask",
    "Asked",
    "AugmentationVotes",
    "BoundaryDistance",
    "LabelOnly",
    "NoiseDistance",
    "labels_of",
]
