"""Recipe and fit(): the one training loop, and the batches and steps that unlearning methods share with it."""

from __future__ import annotations

import copy
import math
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.data import resolve
from unlearnkit.models import Architecture, Classifier, Normalize, build, seeded
from unlearnkit.result import UsageError, nearest
from unlearnkit.types import Examples

OptimizerName = Literal["sgd", "adamw"]
Schedule = Literal["constant", "cosine", "one-cycle"]
Augmentation = Literal["none", "flip", "crop-flip"]
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Privacy:
    """Differentially private training (DP-SGD, Abadi 2016): every example's gradient is clipped, and noise is added."""

    noise_multiplier: float  # standard deviation of the noise on the sum of clipped gradients, in units of `clip`
    clip: float = 1.0  # largest norm of one example's gradient, in units of the loss per unit of the weights
    delta: float = 1e-5  # probability; ε is stated at this δ, which should lie well below 1 / number of examples

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"recipe.privacy.{name}: must be above 0 and finite, got {getattr(self, name)}")
        if not 0 < self.delta < 1:
            raise UsageError(f"recipe.privacy.delta: must lie between 0 and 1, got {self.delta}; 1e-5 is usual")


@dataclass(frozen=True)
class Recipe:
    """How models are trained: the original, and by the same recipe everything it is held against."""

    architecture: Architecture
    epochs: int = 20
    batch_size: int = 64
    optimizer: OptimizerName = "sgd"
    lr: float = 0.05  # peak learning rate
    momentum: float = 0.9  # sgd only; Nesterov
    weight_decay: float = 5e-4
    schedule: Schedule = "one-cycle"
    augment: Augmentation = "none"
    label_smoothing: float = 0.0  # anything above 0 distorts the margin that attacks read
    trainer: str | None = None  # module:function(recipe, examples, *, seed) -> nn.Module replaces the built-in loop
    compiled: bool = False  # torch.compile, once per process: a minute at first, then faster steps of large models
    privacy: Privacy | None = None  # DP-SGD instead of plain steps (see private.py); never compiled or stacked

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"recipe.{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"recipe.lr: must be above 0, got {self.lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"recipe.weight_decay: must be at least 0, got {self.weight_decay}")
        for name in ("momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"recipe.{name}: must be at least 0 and below 1, got {getattr(self, name)}")
        for name, choices in (("optimizer", OptimizerName), ("schedule", Schedule), ("augment", Augmentation)):
            value, known = getattr(self, name), get_args(choices)
            if value not in known:
                raise UsageError(
                    f"recipe.{name}: must be one of {', '.join(known)}, got {value!r}{nearest(value, known)}"
                )
        if self.privacy is not None and self.trainer is not None:
            raise UsageError(
                f"recipe.privacy: the trainer {self.trainer!r} replaces the built-in loop, and nothing could vouch for "
                "its privacy; leave one of the two out"
            )


def fit(
    recipe: Recipe,
    examples: Examples,
    *,
    seed: int,
    device: str = "cpu",
    on_epoch: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train a fresh model on `examples`. The same seed gives the same weights on the same kind of device.

    Returns the model in eval mode on the CPU. `on_epoch` is told the number of finished epochs.
    """
    if recipe.trainer is not None:
        return _fit_with(recipe, examples, seed)
    if recipe.privacy is not None:
        from unlearnkit.private import fit_private  # brings Opacus, seconds that no other training needs

        return fit_private(recipe, examples, seed=seed, device=device, on_epoch=on_epoch)
    target = device_of(device)
    check_fit(recipe.architecture, examples)
    model = initial(recipe, examples, seed=seed).to(target)
    if target.type == "cuda":
        model.to(memory_format=torch.channels_last)
    compiled = _compiled(recipe, model, target) if recipe.compiled else None
    if compiled is not None:
        model = compiled.model
    x, y = examples.x.to(target), examples.labels().to(target)
    n = len(examples)
    optimizer = make_optimizer(
        model, recipe.optimizer, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * count_batches(n, recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(recipe.schedule, step / steps))
    rng = torch.Generator().manual_seed(seed)

    def loss(batch: Epoch) -> Tensor:
        inputs = transform(x[batch.rows], batch)
        # a batch of another size would be compiled anew
        answer = compiled if compiled is not None and len(batch.rows) == recipe.batch_size else model
        return functional.cross_entropy(answer(inputs), y[batch.rows], label_smoothing=recipe.label_smoothing)

    with seeded(seed), deterministic(target):
        for epoch in range(recipe.epochs):
            train_mode(model, n, recipe.batch_size)
            draws = draw_epoch(n, recipe.augment, tuple(x.shape[1:]), rng).to(target)
            batches = draws.batches(recipe.batch_size)
            take_steps(optimizer, batches, loss, what=f"training, epoch {epoch + 1}", scheduler=scheduler)
            if on_epoch is not None:
                on_epoch(epoch + 1)
    name = not_finite(model)
    if name is not None:
        raise UsageError(f"training: {name!r} holds NaN or infinite values at the end; choose a smaller learning rate")
    if recipe.compiled:  # the compiled network stays here for the next model; this one's weights go
        model = copy.deepcopy(model)
    return model.to(memory_format=torch.contiguous_format).cpu().eval()


class _Compiled:
    """A network and its compiled twin, which share their weights."""

    def __init__(self, model: Classifier, device: torch.device) -> None:
        self.model = model
        mode = "reduce-overhead" if device.type == "cuda" else None  # CUDA graphs
        self._step = torch.compile(model, mode=mode, dynamic=False)

    def __call__(self, x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        logits: Tensor = self._step(x)
        return logits


_COMPILED: dict[tuple[Architecture, int, torch.device], _Compiled] = {}


def _compiled(recipe: Recipe, fresh: Classifier, device: torch.device) -> _Compiled:
    """The one compiled network of this process, with the fresh weights in it.

    Compiling costs more than training a small model: it is done once for all models of a fleet.
    """
    place = (recipe.architecture, recipe.batch_size, device)
    if place not in _COMPILED:
        _COMPILED.clear()  # a process trains one kind of model at a time; another's graphs only hold memory
        _COMPILED[place] = _Compiled(fresh, device)
    _COMPILED[place].model.load_state_dict(fresh.state_dict())
    return _COMPILED[place]


def initial(recipe: Recipe, examples: Examples, *, seed: int) -> Classifier:
    """The model that training by the recipe starts from: fresh weights, normalization measured on the examples.

    Private training normalizes by constants, 0.5 and 0.25 of uint8 scaled to [0, 1] and none of floats: what is
    measured on the examples would tell of them, and no accountant would count it.
    """
    model = build(recipe.architecture, seed=seed)
    if isinstance(model.normalize, Normalize):
        if recipe.privacy is None:
            with deterministic(torch.device("cpu")):
                model.normalize.measure(examples.x)
        elif examples.x.dtype == torch.uint8:
            model.normalize.mean.fill_(0.5)
            model.normalize.std.fill_(0.25)
    return model


def check_fit(architecture: Architecture, examples: Examples) -> None:
    """Refuses examples that the architecture cannot be trained on."""
    if not len(examples):
        raise UsageError("training: there are no examples to train on")
    if tuple(examples.x.shape[1:]) != tuple(architecture.shape):
        raise UsageError(
            f"training: the examples have shape {tuple(examples.x.shape[1:])}, but the architecture was asked for "
            f"{tuple(architecture.shape)}"
        )
    labels = examples.labels()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= architecture.classes:
        raise UsageError(
            f"training: labels must lie in 0..{architecture.classes - 1}, the architecture's classes, got "
            f"{low if low < 0 else high}"
        )


def not_finite(model: nn.Module) -> str | None:
    """The name of the first weight or buffer that holds NaN or infinite values."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return None


def raised(error: Exception) -> str:
    """What a user's code raised, and where: `raised ValueError: no labels (mine.py, line 12)`."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"


@contextmanager
def _seeded_elsewhere(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators, seeded inside the block only."""
    here, there = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(here)
        np.random.set_state(there)


def _fit_with(recipe: Recipe, examples: Examples, seed: int) -> nn.Module:
    """The user's own training; what it returns is held to the same standard."""
    trainer: Any = resolve(recipe.trainer or "")
    # for trainers that draw from a global generator
    with seeded(seed), _seeded_elsewhere(seed), deterministic(torch.device("cpu")):
        try:
            model = trainer(replace(recipe, trainer=None), examples, seed=seed)
        except UsageError:
            raise
        except Exception as error:  # a user's code may raise anything; its own words are what helps
            raise UsageError(f"recipe.trainer: {recipe.trainer!r} {raised(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"recipe.trainer: {recipe.trainer!r} must return a torch.nn.Module, got {type(model).__name__}"
        )
    name = not_finite(model)
    if name is not None:
        raise UsageError(f"recipe.trainer: {recipe.trainer!r} returned NaN or infinite weights in {name!r}")
    return model.cpu().eval()


def device_of(name: str) -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; refuses a device that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: must be 'cpu', 'cuda' or 'cuda:N', got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device: must be 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"device: {name!r} was asked for, but this machine offers {count} CUDA devices; use 'cpu'")
    return device


def mixed_precision(kind: str) -> torch.autocast:
    """bf16 autocast for a whole training. It must not keep its casts of the weights, which the steps change."""
    return torch.autocast(kind, torch.bfloat16, cache_enabled=False)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On CUDA: bf16 autocast and deterministic convolutions. On the CPU: one thread, since sums depend on the split."""
    if device.type == "cuda":
        convolutions = torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,  # left out, it would switch cuDNN off
            deterministic=True,
            benchmark=False,
            allow_tf32=False,
        )
        with mixed_precision("cuda"), convolutions:
            yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def make_optimizer(
    model: nn.Module,
    name: OptimizerName,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, on the trainable parameters. Unlearning papers use SGD without Nesterov's step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return optimizer_of(parameters, name, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def optimizer_of(
    parameters: Sequence[Tensor],
    name: OptimizerName,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """The optimizer of `make_optimizer` on given tensors; one fused kernel on CUDA."""
    fused = all(p.is_cuda for p in parameters)
    how: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    if name == "sgd":
        nesterov = nesterov and momentum > 0
        return torch.optim.SGD(
            parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, **how
        )
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, **how)


def learning_rate(schedule: Schedule, done: float) -> float:
    """Share of the peak learning rate when the share `done` of all steps has been taken."""
    if schedule == "constant":
        return 1.0
    warm = 0.3 if schedule == "one-cycle" else 0.0
    if done < warm:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / warm)) / 2
    return (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2


def train_mode(model: nn.Module, n: int, size: int) -> None:
    """Train mode for the batches of `shuffled(n, size)`. Where a batch is one example, batch normalization stays in
    eval mode: one example has no batch statistics.
    """
    model.train()
    if min(n, size) == 1:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def count_batches(n: int, size: int) -> int:
    """How many batches `shuffled` yields."""
    return max(1, n // size if n % size == 1 else math.ceil(n / size))


def shuffled(n: int, size: int, rng: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
    """Row numbers of one epoch in random order. A last batch of one joins its neighbor: batch statistics need two."""
    order = torch.randperm(n, generator=rng)
    count = count_batches(n, size)
    for i in range(count):
        yield order[i * size : (i + 1) * size if i + 1 < count else n]


def forever(n: int, size: int, rng: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
    """Shuffled epochs one after the other, without end."""
    while True:
        yield from shuffled(n, size, rng)


@dataclass(frozen=True, eq=False)
class Epoch:
    """Everything random about one epoch, or about one batch of it: rows in their order, and how each is augmented.

    rows: [n]; shift: [2, n], down and right; flip: [n]. A stack of models has one more axis before n.
    """

    rows: Int[Tensor, "*models n"]
    shift: Int[Tensor, "2 *models n"] | None
    flip: Bool[Tensor, "*models n"] | None

    def to(self, device: torch.device) -> Epoch:
        """All of it on a device, in one transfer each: a step has nothing to wait for."""
        return self._each(lambda draws: draws.to(device))

    def batches(self, size: int) -> Iterator[Epoch]:
        """One batch after the other. A last batch of one joins its neighbor: batch statistics need two."""
        n = self.rows.shape[-1]
        count = count_batches(n, size)
        for i in range(count):
            part = slice(i * size, (i + 1) * size if i + 1 < count else n)
            yield self._each(lambda draws, part=part: draws[..., part])  # type: ignore[misc]  # mypy on defaults

    def _each(self, change: Callable[[Tensor], Tensor]) -> Epoch:
        parts = (None if draws is None else change(draws) for draws in (self.shift, self.flip))
        return Epoch(change(self.rows), *parts)


def draw_epoch(n: int, kind: Augmentation, shape: tuple[int, ...], rng: torch.Generator) -> Epoch:
    """The order of n rows, and their augmentation: the same draws on every device. shape: of one input."""
    return Epoch(torch.randperm(n, generator=rng), *_draw_augmentation(n, kind, shape, rng))


def _draw_augmentation(
    n: int, kind: Augmentation, shape: tuple[int, ...], rng: torch.Generator
) -> tuple[Tensor | None, Tensor | None]:
    """Shifts and flips of n images."""
    if kind == "none":
        return None, None
    if len(shape) != 3:
        raise UsageError(f"augment: {kind!r} needs images [n, c, h, w], got inputs of shape {(n, *shape)}; use 'none'")
    shift = None
    if kind == "crop-flip":
        reach = _reach(shape[1])
        shift = torch.randint(-reach, reach + 1, (2, n), generator=rng)
    return shift, torch.rand(n, generator=rng) < 0.5


def _reach(height: int) -> int:
    """The farthest an image of this height is shifted, pixels."""
    return max(1, height // 8)


Images = UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."]


def transform(x: Images, draws: Epoch) -> Images:
    """The batch's images shifted, zero-padded, and flipped as drawn; on the device of `x`, all images at once."""
    if draws.shift is not None:
        n, _, height, width = x.shape
        reach = _reach(height)
        down, right = draws.shift.flatten(1)[..., None] + reach
        rows = down + torch.arange(height, device=x.device)
        columns = right + torch.arange(width, device=x.device)
        padded = functional.pad(x, (reach, reach, reach, reach))
        picture = torch.arange(n, device=x.device)[:, None, None]
        x = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if draws.flip is None:
        return x
    return torch.where(draws.flip.flatten()[:, None, None, None], x.flip(3), x)


def augment(x: Images, kind: Augmentation, rng: torch.Generator) -> Images:
    """Random horizontal flip; `crop-flip` also shifts by up to an eighth of the side, zero-padded."""
    shift, flip = _draw_augmentation(len(x), kind, tuple(x.shape[1:]), rng)
    place = [None if draws is None else draws.to(x.device) for draws in (shift, flip)]
    return transform(x, Epoch(torch.arange(len(x)), *place))


def take_steps(
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    loss: Callable[[Batch], Tensor],
    *,
    what: str,
    clip: float | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    before_step: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """One optimizer step per batch. A loss that is not finite stops with the step and the learning rate.

    clip: largest gradient norm. before_step: called when the gradients are there, before they are clipped, e.g. to
    mask them. after_step: called after every step, e.g. to put masked weights back.
    """
    losses: list[Tensor] = []
    rates: list[float] = []
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        value = loss(batch)
        value.backward()
        if before_step is not None:
            before_step()
        if clip is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
        if scheduler is not None:
            scheduler.step()
        if after_step is not None:
            after_step()
        losses.append(value.detach())
    # Looked at once an epoch: reading every loss would make a GPU wait at each step.
    bad = [] if not losses else torch.nonzero(~torch.isfinite(torch.stack(losses))).flatten().tolist()
    if bad:
        raise UsageError(
            f"{what}: the loss became {losses[bad[0]].item()} at step {bad[0] + 1} with learning rate "
            f"{rates[bad[0]]:.3g}; choose a smaller learning rate"
        )


__all__ = [
    "Architecture",
    "Classifier",
    "Privacy",
    "Recipe",
    "augment",
    "deterministic",
    "device_of",
    "fit",
    "forever",
    "make_optimizer",
    "shuffled",
    "take_steps",
    "train_mode",
]
