"""What methods share: batches on the model's device, the cross-entropy of rows, gradients as vectors, held weights.

`unlearnkit.train` has the loop itself: `shuffled` for one set; two sets in one step are
`zip(shuffled(...), forever(...))`, an epoch of the first with the second cycled beside it; `take_steps` for the steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.result import UsageError
from unlearnkit.train import Augmentation, augment
from unlearnkit.types import Examples

__all__ = [
    "Hold",
    "by_name",
    "count_classes",
    "cross_entropy",
    "device_of_model",
    "flat",
    "gradient",
    "inputs",
    "largest",
    "part_of",
    "require_some",
    "set_flat",
    "summed_gradient",
    "two_parts",
]


def device_of_model(model: nn.Module) -> torch.device:
    """Where the weights are: the caller chose it, and batches follow."""
    return next(model.parameters()).device


def inputs(
    model: nn.Module, examples: Examples, rows: Int[Tensor, " b"]
) -> UInt8[Tensor, "b ..."] | Float[Tensor, "b ..."]:
    """The inputs of the rows, on the model's device. Copies these rows only."""
    return examples.x[rows].to(device_of_model(model))


def cross_entropy(
    model: nn.Module, examples: Examples, rows: Int[Tensor, " b"], augmentation: Augmentation, rng: torch.Generator
) -> Float[Tensor, " b"]:
    """The cross-entropy of each row, augmented, not yet averaged: a method may weight or cap it."""
    x = augment(inputs(model, examples, rows), augmentation, rng)
    return functional.cross_entropy(model(x), examples.labels()[rows].to(x.device), reduction="none")


def count_classes(model: nn.Module, examples: Examples) -> int:
    """How many logits the model gives. Looks at one example, so the model must be in eval mode, as methods get it."""
    with torch.no_grad():
        classes: int = model(examples.x[:1].to(device_of_model(model))).shape[1]
    if classes < 2:
        raise UsageError(f"the model must tell at least 2 classes apart, got {classes}")
    return classes


def two_parts(rows: Int[Tensor, " b"], n: int) -> tuple[Int[Tensor, " i"], Int[Tensor, " j"]]:
    """Rows of two sets that are counted through, the first of which has `n`: the rows in each."""
    return rows[rows < n], rows[rows >= n] - n


def flat(model: nn.Module) -> Float[Tensor, " p"]:
    """A copy of all weights in one vector, in the order of `parameters()`."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@torch.no_grad()
def set_flat(model: nn.Module, vector: Float[Tensor, " p"]) -> None:
    """Write such a vector into the weights."""
    for parameter, part in zip(model.parameters(), by_name(model, vector).values(), strict=True):
        parameter.copy_(part)


def gradient(
    model: nn.Module, loss: Float[Tensor, ""], *, retain_graph: bool = False, create_graph: bool = False
) -> Float[Tensor, " p"]:
    """∂loss/∂θ over all weights in one vector, zero where a weight is not used. Leaves no `.grad` behind."""
    parameters = list(model.parameters())
    parts = torch.autograd.grad(
        loss, parameters, retain_graph=retain_graph or create_graph, create_graph=create_graph, allow_unused=True
    )
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, parts, strict=True)]
    )


def summed_gradient(model: nn.Module, examples: Examples, *, batch_size: int) -> Float[Tensor, " p"]:
    """The gradient of the cross-entropy summed over the examples; the model must be in eval mode."""
    total = torch.zeros_like(flat(model))
    for rows in torch.split(torch.arange(len(examples)), batch_size):
        x = inputs(model, examples, rows)
        y = examples.labels()[rows].to(x.device)
        total += gradient(model, functional.cross_entropy(model(x), y, reduction="sum"))
    return total


def by_name(model: nn.Module, vector: Shaped[Tensor, " p"]) -> dict[str, Tensor]:
    """A vector over all weights, cut into the shapes of the parameters; views, named as in `named_parameters`."""
    named = dict(model.named_parameters())
    parts = torch.split(vector, [p.numel() for p in named.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}


def part_of(n: int, share: float) -> int:
    """floor(share · n), the share as it is written: 0.29 of 100 is 29, though 0.29 * 100 lies below it in floats."""
    return math.floor(Fraction(str(share)) * n)


def require_some(model: nn.Module, share: float, what: str) -> None:
    """Refuses a share of the model's weights that is not even one; `what` names the field. The model would not move."""
    n = sum(p.numel() for p in model.parameters())
    if not part_of(n, share):
        raise UsageError(f"{what}: {share:g} of {n:,} weights selects none of them; choose at least {_above(1 / n)}")


def _above(share: float) -> str:
    """Two digits, rounded up, so that the advice holds."""
    unit = 10.0 ** (math.floor(math.log10(share)) - 1)
    return f"{math.ceil(share / unit) * unit:.2g}"


def largest(scores: Float[Tensor, " p"], count: int) -> Bool[Tensor, " p"]:
    """True at the `count` largest scores; of equal ones the first."""
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    chosen[scores.sort(descending=True, stable=True).indices[:count]] = True
    return chosen


@dataclass(frozen=True, eq=False)
class Hold:
    """Keeps the weights outside a mask exactly where they are, whatever the optimizer does.

    Masking the gradient alone does not: weight decay adds to it afterwards, and momentum carries that on (methods.md
    7.4). Hand both actions to `take_steps`. Buffers, such as running statistics, are not held.
    """

    optimizer: torch.optim.Optimizer
    free: tuple[Bool[Tensor, ...], ...]  # per parameter; True = may move
    parameters: tuple[nn.Parameter, ...]
    start: tuple[Tensor, ...]

    @classmethod
    def outside(cls, model: nn.Module, optimizer: torch.optim.Optimizer, free: Mapping[str, Tensor]) -> Hold:
        """Hold what is False in `free`, named as in `named_parameters`, at its present value."""
        names, parameters = zip(*model.named_parameters(), strict=True)
        start = tuple(p.detach().clone() for p in parameters)
        return cls(optimizer, tuple(free[name] for name in names), parameters, start)

    def mask_gradients(self) -> None:
        """Before the step: held weights get no gradient and do not count when the gradient's norm is clipped."""
        for parameter, free in zip(self.parameters, self.free, strict=True):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(~free, 0)

    @torch.no_grad()
    def write_back(self) -> None:
        """After the step: held weights return to their start, and the optimizer forgets its state for them."""
        for parameter, free, start in zip(self.parameters, self.free, self.start, strict=True):
            parameter.copy_(torch.where(free, parameter, start))
            for state in self.optimizer.state[parameter].values():
                if isinstance(state, Tensor) and state.shape == parameter.shape:
                    state.masked_fill_(~free, 0)
