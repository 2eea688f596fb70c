"""What methods that descend on a loss share: batches on the model's device, the cross-entropy of rows, held weights.

`unlearnkit.train` has the loop itself: `shuffled` for one set; two sets in one step are
`zip(shuffled(...), forever(...))`, an epoch of the first with the second cycled beside it; `take_steps` for the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.result import UsageError
from unlearnkit.train import Augmentation, augment
from unlearnkit.types import Examples

__all__ = ["Hold", "count_classes", "cross_entropy", "device_of_model", "inputs"]


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
