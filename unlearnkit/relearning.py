"""relearn(): go on training a copy of a model, and watch what it gets right on the way."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearnkit.methods.steps import cross_entropy, device_of_model
from unlearnkit.models import seeded
from unlearnkit.observing import observe
from unlearnkit.result import UsageError
from unlearnkit.train import deterministic, forever, make_optimizer, take_steps, train_mode
from unlearnkit.types import Examples

__all__ = ["Curves", "accuracy", "relearn"]


@dataclass(frozen=True, eq=False)
class Curves:
    """Accuracy in eval mode while a model relearns.

    steps: [k] steps taken so far, 0 first. accuracy: [watched set, k], shares in [0, 1].
    """

    steps: NDArray[np.int64]
    accuracy: Float[np.ndarray, "w k"]

    def areas(self) -> Float[np.ndarray, " w"]:
        """Mean height of each curve over the steps, by trapezoids: 1 = everything right from the start."""
        return np.asarray(np.trapezoid(self.accuracy, self.steps, axis=1) / self.steps[-1])


def relearn(
    model: nn.Module,
    examples: Examples,
    *,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    watch: Sequence[Examples],
    every: int,
    momentum: float = 0.9,
) -> Curves:
    """Fine-tune a copy on `examples` with SGD and a constant learning rate; the model stays as it is, bit for bit.

    Each watched set is looked at before the first step, after `every`, 2 · `every`, … steps and after the last. Batches
    are shuffled epochs, one after the other, drawn from `seed`. The same seed gives the same curves on the same kind
    of device. Raises UsageError for counts below 1, a learning rate that is not positive, a watched or fine-tuning set
    that is empty, and a loss that is not finite.
    """
    for name, count in (("steps", steps), ("batch_size", batch_size), ("every", every)):
        if count < 1:
            raise UsageError(f"relearn: {name} must be at least 1, got {count}")
    if not 0 < lr < np.inf:
        raise UsageError(f"relearn: lr must be above 0 and finite, got {lr}")
    if not 0 <= momentum < 1:
        raise UsageError(f"relearn: momentum must be at least 0 and below 1, got {momentum}")
    if not len(examples):
        raise UsageError("relearn: there are no examples to fine-tune on")
    if not watch or not all(len(part) for part in watch):
        raise UsageError(f"relearn: watch needs at least one set, and none empty, got {[len(part) for part in watch]}")
    learner = copy.deepcopy(model).requires_grad_(True)
    optimizer = make_optimizer(learner, "sgd", lr=lr, momentum=momentum, nesterov=False)
    rng = torch.Generator().manual_seed(seed)
    batches = forever(len(examples), batch_size, rng)
    at = [*range(0, steps, every), steps]

    def loss(rows: Tensor) -> Tensor:
        return cross_entropy(learner, examples, rows, "none", rng).mean()

    seen = []
    with seeded(seed), deterministic(device_of_model(model)):
        for before, now in itertools.pairwise([0, *at]):
            train_mode(learner, len(examples), batch_size)
            take_steps(optimizer, itertools.islice(batches, now - before), loss, what=f"relearn, step {now}")
            seen.append([accuracy(learner, part) for part in watch])
    return Curves(np.array(at), np.array(seen).T)


def accuracy(model: nn.Module, examples: Examples) -> float:
    """Share of the examples whose label has the largest logit, in eval mode; the model stays as it is."""
    seen = observe(model, examples, device=str(device_of_model(model)))
    return float((seen.outputs()[:, 0].argmax(1) == seen.y).mean())
