"""Private training: DP-SGD by Opacus in place of the plain loop, and what it promises by the accountant.

The known truth of the audit: for a model trained here, an upper limit of what may leak is known beforehand. It is one
of single examples, added or removed, and takes the number of examples to be public. Deviations from Abadi 2016, and
from what Opacus' PrivacyEngine would do:

- The sampling rate is exactly batch_size / n and the clipped sum is divided by batch_size itself; the engine rounds
  both to what the number of its batches divides.
- Momentum, weight decay, schedule and label smoothing are the recipe's; they read the noisy gradients or nothing of the
  data, and cost no privacy. Nor does augmentation: one random view of each example drawn.
- Inputs are normalized by constants (see `train.initial`).
- Noise comes from torch's own generator, seeded so that a run can be repeated: the promise holds against those who do
  not know the seed. A spec that is published with its seed is evidence about the audit, not protection of the data.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.models import Architecture, Classifier, build, seeded
from unlearnkit.result import UsageError
from unlearnkit.train import (
    Privacy,
    Recipe,
    augment,
    check_fit,
    deterministic,
    device_of,
    initial,
    learning_rate,
    make_optimizer,
    not_finite,
    take_steps,
)
from unlearnkit.types import Examples

_HELD = 1 << 28  # numbers of single examples' gradients held at once: 1 GiB
_LOOSE = 50.0  # nats; an ε beyond it promises nothing, and the better accountant needs minutes and gigabytes for it


@dataclass(frozen=True)
class Spent:
    """What private training promises: (ε, δ) for adding or removing one example, ε in nats, and how it is made.

    sample_rate: chance of each example to be in a batch. accountant: "prv" (Gopi 2021) or "rdp" (Mironov 2019), both
    upper limits, the second a looser one.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    clip: float
    sample_rate: float
    steps: int
    accountant: str


def spent(recipe: Recipe, examples: int) -> Spent:
    """What training by the recipe on so many examples promises; a function of these two alone.

    By the PRV accountant, accurate to 0.01 nats; by the RDP accountant where that shows ε above 50, or where the other
    finds no finite answer. Raises `UsageError` for a recipe without privacy or fewer than one example.
    """
    privacy = _privacy(recipe)
    if examples < 1:
        raise UsageError(f"examples: must be at least 1, got {examples}; pass the number that the model is trained on")
    rate, steps = _rate(recipe, examples), recipe.epochs * _steps(recipe, examples)
    epsilon, accountant = _account(privacy, rate, steps)
    return Spent(epsilon, privacy.delta, privacy.noise_multiplier, privacy.clip, rate, steps, accountant)


def fit_private(
    recipe: Recipe,
    examples: Examples,
    *,
    seed: int,
    device: str = "cpu",
    on_epoch: Callable[[int], None] | None = None,
) -> Classifier:
    """Train a fresh model with differential privacy; `fit` comes here for a recipe with privacy.

    Poisson sampling: every example is in a batch by a coin of its own, so that batches differ in size and may be empty,
    which is a step of noise alone. Everything is computed in float32. The same seed gives the same bits on the CPU.
    Raises `UsageError` for a network whose answer for one example depends on others.
    """
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    privacy = _privacy(recipe)
    target = device_of(device)
    check_fit(recipe.architecture, examples)
    model = initial(recipe, examples, seed=seed)
    _check_gradients(model, recipe.architecture)
    model.to(target).train()
    trained = model.state_dict()  # these tensors are the weights, under their ordinary names
    x, y = examples.x.to(target), examples.labels().to(target)
    n = len(examples)
    rate, steps = _rate(recipe, n), _steps(recipe, n)
    # Fresh weights come from the seed itself; noise drawn from the same numbers would not be independent of them.
    for_draws, for_noise = (int(s) for s in np.random.SeedSequence(seed % 2**64).generate_state(2, np.uint64))
    draws = torch.Generator().manual_seed(for_draws)
    noise = torch.Generator(device=target).manual_seed(for_noise)
    plain = make_optimizer(
        model, recipe.optimizer, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    every = recipe.epochs * steps
    scheduler = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: learning_rate(recipe.schedule, step / every))
    hooked = GradSampleModule(_hookable(model), loss_reduction="sum")
    hooked.forbid_grad_accumulation()
    optimizer = DPOptimizer(
        plain,
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.clip,
        expected_batch_size=recipe.batch_size,
        generator=noise,
    )
    weights = [p for p in model.parameters() if p.requires_grad]
    most = max(1, _HELD // sum(p.numel() for p in weights))

    def parts() -> Iterator[Int[Tensor, " b"]]:
        """One epoch's batches, the large ones in parts, whose clipped gradients are summed before the step is taken."""
        for _ in range(steps):
            drawn = torch.nonzero(torch.rand(n, generator=draws) < rate).flatten().split(most)
            for i, rows in enumerate(drawn):
                optimizer.signal_skip_step(i + 1 < len(drawn))
                yield rows
            scheduler.step()

    def loss(rows: Int[Tensor, " b"]) -> Tensor:
        if not len(rows):  # no gradients, noise alone
            for p in weights:
                p.grad_sample = p.new_zeros((0, *p.shape))  # type: ignore[attr-defined]
            return torch.zeros((), device=target, requires_grad=True)
        inputs = augment(x[rows.to(target)], recipe.augment, draws)
        labels = y[rows.to(target)]
        return functional.cross_entropy(hooked(inputs), labels, label_smoothing=recipe.label_smoothing, reduction="sum")

    # bf16 would round single gradients to norms above `clip`
    with seeded(seed), deterministic(target), torch.autocast(target.type, enabled=False), _quiet():
        for epoch in range(recipe.epochs):
            take_steps(optimizer, parts(), loss, what=f"private training, epoch {epoch + 1}")
            if on_epoch is not None:
                on_epoch(epoch + 1)
    result = build(recipe.architecture, seed=seed)  # without Opacus' hooks and what it hung onto the weights
    result.load_state_dict(trained)
    name = not_finite(result)
    if name is not None:
        raise UsageError(
            f"private training: {name!r} holds NaN or infinite values at the end; choose a smaller learning rate"
        )
    return result


def unmix(model: Classifier, architecture: Architecture) -> None:
    """Replace the layers that mix examples by those that Opacus has for them, in place.

    Batch normalization becomes group normalization, with or without weights of its own; attention and recurrent layers
    become Opacus' own. Raises `UsageError` for a layer that it has no replacement for.
    """
    from opacus.validators import ModuleValidator

    for name, layer in list(model.named_modules()):
        if type(layer) in ModuleValidator.FIXERS:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, ModuleValidator.FIXERS[type(layer)](layer))
    _check_layers(model, architecture)


def _privacy(recipe: Recipe) -> Privacy:
    if recipe.privacy is None:
        raise UsageError("recipe.privacy: is missing; private training needs at least its noise_multiplier")
    return recipe.privacy


def _rate(recipe: Recipe, n: int) -> float:
    """Chance of each example to be in a batch."""
    return min(1.0, recipe.batch_size / n)


def _steps(recipe: Recipe, n: int) -> int:
    """Steps of one epoch."""
    return max(1, round(n / recipe.batch_size))


def _account(privacy: Privacy, rate: float, steps: int) -> tuple[float, str]:
    """ε in nats, and the accountant that found it."""
    from opacus.accountants import PRVAccountant, RDPAccountant

    renyi, better = RDPAccountant(), PRVAccountant()
    renyi.history = better.history = [(privacy.noise_multiplier, rate, steps)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # both reach for logarithms of 0 where the rate is 1
        # Any order gives a true upper limit; the best of those tried may be the first or the last.
        warnings.filterwarnings("ignore", message="Optimal order is the (smallest|largest) alpha", category=UserWarning)
        loose = max(0.0, float(renyi.get_epsilon(privacy.delta)))
        if loose <= _LOOSE:
            with suppress(RuntimeError, ValueError):  # it says so where its grid is too coarse for so small a δ
                tight = max(0.0, float(better.get_epsilon(privacy.delta)))
                if np.isfinite(tight):
                    return tight, "prv"
    return loose, "rdp"


def _check_layers(model: nn.Module, architecture: Architecture) -> None:
    """Refuses layers that Opacus is known not to handle: those that mix examples, or keep count of them in buffers."""
    from opacus.grad_sample import GradSampleModule
    from opacus.validators import ModuleValidator

    mode = model.training
    model.train()  # layers are judged by what they do in training
    for name, layer in model.named_modules():
        known = ModuleValidator.VALIDATORS.get(type(layer))
        own = any(p.requires_grad for p in layer.parameters(recurse=False))
        if (known is not None and known(layer)) or (own and GradSampleModule.validate(layer)):
            raise _refused(architecture, f"its layer {name!r} ({type(layer).__name__}) mixes examples or counts them")
    model.train(mode)


def _check_gradients(model: Classifier, architecture: Architecture) -> None:
    """Refuses a network if Opacus' gradient of one example changes with another, or if the gradients do not add up.

    Layers that nobody has heard of may mix examples all the same, and then clipping single gradients promises nothing.
    """
    from opacus.grad_sample import GradSampleModule

    _check_layers(model, architecture)
    tried = copy.deepcopy(model).train()
    weights = [p for p in tried.parameters() if p.requires_grad]
    before = {name: value.clone() for name, value in tried.named_buffers()}
    inputs = torch.rand((3, *architecture.shape), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3) % architecture.classes
    found: list[Tensor] = []
    with deterministic(torch.device("cpu")), _quiet():
        try:
            hooked = GradSampleModule(_hookable(tried), loss_reduction="sum")
            for other in (1, 2):
                rows = torch.tensor([0, other])
                hooked.zero_grad()
                with seeded(0):  # the same draws in both batches, where layers draw
                    functional.cross_entropy(hooked(inputs[rows]), labels[rows], reduction="sum").backward()
                found.append(torch.cat([p.grad_sample.flatten(1) for p in weights], dim=1))  # type: ignore[attr-defined]
            whole = torch.cat([p.grad.flatten() for p in weights if p.grad is not None])
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
            raise _refused(architecture, f"Opacus finds no gradients of single examples ({reason})") from error
    if not _same(found[0][0], found[1][0]):
        raise _refused(architecture, "the gradient of one example changes with the others of its batch")
    if not _same(found[1].sum(0), whole):
        raise _refused(architecture, "the gradients of single examples do not add up to that of their batch")
    for name, value in tried.named_buffers():
        if not torch.equal(value, before[name]):
            raise _refused(architecture, f"its buffer {name!r} changes with the examples it sees, without noise")


def _hookable(model: nn.Module) -> nn.Module:
    """The model, changed so that nothing writes into a layer's output: the hooks that read it forbid that.

    Activations stop working in place; a copy is made of what a normalization gives, for residual networks add to it.
    """
    for name, layer in list(model.named_modules()):
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False
        if isinstance(layer, nn.GroupNorm):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _Copied(layer))
    return model


class _Copied(nn.Module):
    """A layer, and a copy of its answer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        answer: Tensor = self.layer(x)
        return answer.clone()


def _same(one: Tensor, other: Tensor) -> bool:
    """Within what float32 rounds."""
    return bool((one - other).norm() <= 1e-3 * one.norm())


def _refused(architecture: Architecture, reason: str) -> UsageError:
    remedy = "replace it by one that looks at single examples, e.g. group normalization"
    if not architecture.private:
        remedy = "let Architecture(..., private=True) replace what can be replaced"
    return UsageError(f"model.architecture: {architecture.name!r} cannot be trained privately: {reason}; {remedy}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark that the hooks of a first layer see no gradients of its inputs: nobody asks for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Full backward hook is firing when gradients are computed", category=UserWarning
        )
        yield


__all__ = ["Privacy", "Spent", "fit_private", "spent", "unmix"]
