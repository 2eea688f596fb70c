"""Recipe and fit(): the one training loop, and the batches and steps that unlearning methods share with it."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Int, UInt8
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

    def code(self) -> str:
        """The source text that decides what this recipe makes: our loop, or the user's trainer and architecture."""
        texts = [Path(__file__).read_text(), Path(inspect.getfile(inspect.unwrap(build))).read_text()]
        for name in (self.trainer, self.architecture.name):
            if name and ":" in name and not name.startswith("torchvision:"):
                found: Any = resolve(name)
                try:
                    file = inspect.getsourcefile(inspect.unwrap(found))
                except TypeError:  # a callable object has no source of its own; its module does
                    file = sys.modules[name.partition(":")[0]].__file__
                texts.append(Path(file).read_text() if file else name)
        return "\n".join(texts)


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
    target = device_of(device)
    _check_fit(recipe.architecture, examples)
    model = build(recipe.architecture, seed=seed)
    if isinstance(model.normalize, Normalize):
        with deterministic(torch.device("cpu")):
            model.normalize.measure(examples.x)
    model.to(target)
    if target.type == "cuda":
        model.to(memory_format=torch.channels_last)
    x, y = examples.x, examples.labels()
    if target.type == "cuda":
        x, y = x.to(target), y.to(target)
    optimizer = make_optimizer(
        model, recipe.optimizer, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * count_batches(len(examples), recipe.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(recipe.schedule, step / steps))
    rng = torch.Generator().manual_seed(seed)

    def loss(rows: Tensor) -> Tensor:
        batch = augment(x[rows.to(x.device)], recipe.augment, rng)
        return functional.cross_entropy(model(batch), y[rows.to(y.device)], label_smoothing=recipe.label_smoothing)

    with seeded(seed), deterministic(target):
        for epoch in range(recipe.epochs):
            train_mode(model, len(examples), recipe.batch_size)
            batches = shuffled(len(examples), recipe.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"training, epoch {epoch + 1}", scheduler=scheduler)
            if on_epoch is not None:
                on_epoch(epoch + 1)
    model.to(memory_format=torch.contiguous_format)
    name = not_finite(model)
    if name is not None:
        raise UsageError(f"training: {name!r} holds NaN or infinite values at the end; choose a smaller learning rate")
    return model.cpu().eval()


def _check_fit(architecture: Architecture, examples: Examples) -> None:
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


def _fit_with(recipe: Recipe, examples: Examples, seed: int) -> nn.Module:
    """The user's own training; what it returns is held to the same standard."""
    trainer: Any = resolve(recipe.trainer or "")
    with seeded(seed), deterministic(torch.device("cpu")):  # for trainers that draw from torch's global generator
        try:
            model = trainer(replace(recipe, trainer=None), examples, seed=seed)
        except UsageError:
            raise
        except Exception as error:  # a user's code may raise anything; its own words are what helps
            raise UsageError(
                f"recipe.trainer: {recipe.trainer!r} raised {type(error).__name__}: {error}; --debug shows where"
            ) from error
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
    if name == "sgd":
        nesterov = nesterov and momentum > 0
        return torch.optim.SGD(
            parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, foreach=True
        )
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, foreach=True)


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


def augment(
    x: UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."], kind: Augmentation, rng: torch.Generator
) -> UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."]:
    """Random horizontal flip; `crop-flip` also shifts by up to an eighth of the side, zero-padded."""
    if kind == "none":
        return x
    if x.ndim != 4:
        raise UsageError(
            f"augment: {kind!r} needs images [n, c, h, w], got inputs of shape {tuple(x.shape)}; use 'none'"
        )
    n, _, height, width = x.shape
    if kind == "crop-flip":
        pad = max(1, height // 8)
        shift = torch.randint(0, 2 * pad + 1, (2, n), generator=rng).to(x.device)
        rows = shift[0][:, None] + torch.arange(height, device=x.device)
        columns = shift[1][:, None] + torch.arange(width, device=x.device)
        padded = functional.pad(x, (pad, pad, pad, pad))
        picture = torch.arange(n, device=x.device)[:, None, None]
        x = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    flip = (torch.rand(n, generator=rng) < 0.5).to(x.device)
    return torch.where(flip[:, None, None, None], x.flip(3), x)


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
