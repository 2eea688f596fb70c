"""Stacked training: many small models of one recipe as one batch of models, one operation for all of them (vmap).

A small model's training is mostly the cost of starting operations. Stacked, each operation is started once for all
models; every model keeps its own data order, augmentation and random numbers, and its own fate: one that diverges
leaves the others as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from unlearnkit.result import UsageError
from unlearnkit.train import (
    Epoch,
    Recipe,
    check_fit,
    count_batches,
    deterministic,
    device_of,
    draw_epoch,
    initial,
    learning_rate,
    not_finite,
    optimizer_of,
    transform,
)
from unlearnkit.types import Examples

# (kind of device, architecture) -> (largest input in numbers, models per stack), as measured by benchmarks/fleet.py;
# what is not listed trains faster alone, or has not been measured.
_STACKS: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {
    ("cpu", "mlp"): ((100, 32), (800, 8)),
    ("cpu", "small-cnn"): ((100, 8),),
}


def stack_size(recipe: Recipe, device: str) -> int:
    """How many models of a recipe train fastest as one stack; 1: each alone.

    It follows from recipe and device only, so that the same job takes the same path however many others wait.
    """
    if recipe.trainer is not None or recipe.compiled or recipe.privacy is not None:
        return 1
    sizes = _STACKS.get((device.partition(":")[0], recipe.architecture.name), ())
    numbers = math.prod(recipe.architecture.shape)
    return next((models for most, models in sizes if numbers <= most), 1)


def fit_stack(
    recipe: Recipe, examples: Examples, rows: Sequence[NDArray[np.int64]], seeds: Sequence[int], *, device: str = "cpu"
) -> list[nn.Module | UsageError]:
    """Train one model per entry of `rows` and `seeds`; all entries of `rows` have one length.

    Each model is what `fit(recipe, examples.take(rows), seed=seed)` makes, within rounding, and has the same bits
    whatever the other models of the stack are. In the place of a model that diverged stands the error that says so.
    """
    if recipe.privacy is not None:
        raise UsageError("stack: private training clips single gradients, which a stack does not hold; use fit")
    lengths = {len(part) for part in rows}
    if len(lengths) != 1 or len(rows) != len(seeds):
        raise UsageError(f"stack: all models need equally many rows and a seed each, got lengths {sorted(lengths)}")
    if len(rows) == 1:  # a stack of one takes other kernels; two of the same take those of every stack
        return fit_stack(recipe, examples, [*rows, *rows], [*seeds, *seeds], device=device)[:1]
    target = device_of(device)
    n = lengths.pop()
    starts = []
    for part, seed in zip(rows, seeds, strict=True):
        own = examples.take(part)
        check_fit(recipe.architecture, own)
        starts.append(initial(recipe, own, seed=seed).to(target))
    parameters, buffers = stack_module_state(starts)
    trained = {name: value.detach().requires_grad_(True) for name, value in parameters.items()}
    net = starts[0].train()
    forward = vmap(lambda p, b, x: functional_call(net, (p, b), (x,)))
    optimizer = optimizer_of(
        list(trained.values()),
        recipe.optimizer,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    batches = count_batches(n, recipe.batch_size)
    steps = recipe.epochs * batches
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(recipe.schedule, step / steps))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    place = torch.from_numpy(np.stack(rows)).to(target)
    x, y = examples.x.to(target), examples.labels().to(target)
    shape = tuple(x.shape[1:])
    losses = torch.empty((steps, len(rows)), device=target)
    step = 0
    with deterministic(target):
        for _ in range(recipe.epochs):
            draws = _stacked([draw_epoch(n, recipe.augment, shape, rng) for rng in generators]).to(target)
            for batch in draws.batches(recipe.batch_size):
                chosen = place.gather(1, batch.rows)
                inputs = transform(x[chosen.flatten()], batch).unflatten(0, tuple(chosen.shape))
                logits = forward(trained, buffers, inputs)
                loss = (
                    functional.cross_entropy(
                        logits.flatten(0, 1),
                        y[chosen.flatten()],
                        reduction="none",
                        label_smoothing=recipe.label_smoothing,
                    )
                    .unflatten(0, tuple(chosen.shape))
                    .mean(1)
                )
                optimizer.zero_grad(set_to_none=True)
                loss.sum().backward()  # no model's loss depends on another's weights
                losses[step] = loss.detach()
                optimizer.step()
                scheduler.step()
                step += 1
    finite = torch.isfinite(losses).cpu()
    made: list[nn.Module | UsageError] = []
    for i, model in enumerate(starts):
        model.load_state_dict({name: value[i].detach() for name, value in {**trained, **buffers}.items()})
        bad = not_finite(model)
        if not finite[:, i].all() or bad is not None:
            made.append(_diverged(recipe, finite[:, i], batches, bad))
        else:
            made.append(model.cpu().eval())
    return made


def _stacked(epochs: Sequence[Epoch]) -> Epoch:
    """The draws of several models side by side."""
    shifts = [epoch.shift for epoch in epochs if epoch.shift is not None]
    flips = [epoch.flip for epoch in epochs if epoch.flip is not None]
    return Epoch(
        torch.stack([epoch.rows for epoch in epochs]),
        torch.stack(shifts, dim=1) if shifts else None,
        torch.stack(flips) if flips else None,
    )


def _diverged(recipe: Recipe, finite: Tensor, batches: int, weight: str | None) -> UsageError:
    """In the words of training alone."""
    if finite.all():
        return UsageError(
            f"training: {weight!r} holds NaN or infinite values at the end; choose a smaller learning rate"
        )
    first = int((~finite).nonzero()[0])
    rate = recipe.lr * learning_rate(recipe.schedule, first / len(finite))
    return UsageError(
        f"training, epoch {first // batches + 1}: the loss became NaN or infinite at step {first % batches + 1} with "
        f"learning rate {rate:.3g}; choose a smaller learning rate"
    )
