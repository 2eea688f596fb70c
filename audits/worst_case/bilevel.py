"""Bilevel search for a worst-case forget set (Fan, Liu, Hero, Liu, ECCV 2024, arXiv 2403.07362).

Which m examples does the model still know best after it has tried to forget them?

    min over w in S of  sum_i w_i loss_i(θ(w)) + γ |w|²,    S = {w in [0, 1]^n, sum w = m}
    θ(w) = fine-tuning of the original on  sum_i (1 - w_i) loss_i

The lower level takes sign-gradient steps, so dθ/dw vanishes almost everywhere; the upper gradient is loss_i + 2γ w_i.
Any method may stand in the lower level; it is then asked to forget the m examples of largest weight.

Differences from the published code: the step in w is measured in differences of the losses (`simplex.scale_free_step`):
with the published length the set stays the random start; `step = "constant"` brings it back. Losses are taken in eval
mode and without augmentation, published in train mode and with it. Examples of weight 1 leave the batches; published
they stay in them with factor 0 and feed the statistics of batch normalization. γ acts at the new point.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch.nn import functional

from unlearnkit.audits.worst_case.apart import SearchSeeds
from unlearnkit.audits.worst_case.arena import Arena, Found, Over, Rows, Step, check_needs
from unlearnkit.audits.worst_case.simplex import check_size, descend, largest, random_start, scale_free_step
from unlearnkit.methods.steps import inputs
from unlearnkit.models import Classifier, seeded
from unlearnkit.observing import observe
from unlearnkit.provenance import code_of
from unlearnkit.result import UsageError
from unlearnkit.store import canonical, content_key
from unlearnkit.train import deterministic, device_of, not_finite, shuffled, train_mode
from unlearnkit.types import Examples, Method

StepRule = Literal["scale-free", "constant", "average"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """What a search will cost, known before it starts. A pass is one look at every training example."""

    upper: int
    trained: int  # passes forward and backward, of our own lower level
    looks: int  # passes forward only
    method: str | None  # a lower level whose passes only itself knows
    trainings: float  # all of it in trainings of the original, a look counting a third of a training pass

    @property
    def sentence(self) -> str:
        """For the screen."""
        if self.method is not None:
            return f"{self.upper} unlearnings with {self.method} and {self.looks} passes over the training data to look"
        return (
            f"{self.trained} passes over the training data forward and backward and {self.looks} forward only, about "
            f"{self.trainings:.1f} trainings of the original"
        )


@dataclass(frozen=True)
class Bilevel:
    """Settings. Fields up to `batch_size` are the paper's; `pace` goes with "scale-free", `rate` with "constant"."""

    size: int  # m: examples, or classes
    over: Over = "examples"
    upper: int = 20  # steps in w
    lower: int = 10  # epochs of sign-gradient steps in each
    lr: float = 1e-3  # length of a sign-gradient step in every weight of the model
    gamma: float = 0.0  # of |w|², in units of the loss
    batch_size: int = 256
    step: StepRule = "scale-free"  # constant: as published; average: the lowest mean loss of the last half, without w
    pace: float = 1.0  # a choice of typical loss changes places with an easy one within 1 / pace steps
    rate: float = 0.01  # 0.01 is the published code's default, which seldom moves anything
    budget: int | None = None  # passes over the training data, forward and backward or forward; fewer upper steps then
    method: Method | None = None  # in the lower level, instead of weighted fine-tuning

    def __post_init__(self) -> None:
        for name in ("upper", "lower", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"worst_case.{name}: must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "pace", "rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"worst_case.{name}: must be above 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.gamma < float("inf"):
            raise UsageError(f"worst_case.gamma: must be at least 0 and finite, got {self.gamma}")
        if self.budget is not None and self.budget < self._passes:
            raise UsageError(
                f"worst_case.budget: {self.budget} passes are too few for one upper step, which takes {self._passes}"
                f"{'' if self.method is not None else f' ({self.lower} to fine-tune, 1 to look)'}; raise it"
            )

    @property
    def _passes(self) -> int:
        """Of one upper step."""
        if self.method is None:
            return self.lower + 1
        epochs = getattr(self.method, "epochs", 1)  # a method without epochs passes over the data at least once
        return int(epochs) + 1

    @property
    def steps(self) -> int:
        """Upper steps that the budget allows."""
        return self.upper if self.budget is None else min(self.upper, self.budget // self._passes)

    def cost(self, epochs: int) -> Cost:
        """What the search will cost, where the original was trained for so many epochs."""
        if self.method is not None:
            return Cost(self.steps, 0, self.steps, self.method.name, 0.0)
        trained = self.steps * self.lower
        return Cost(self.steps, trained, self.steps, None, (trained + self.steps / 3) / epochs)


def bilevel(arena: Arena, settings: Bilevel, seeds: SearchSeeds) -> Found:
    """Search; interrupted, it goes on after the last finished upper step. The same seed gives the same set.

    Raises `UsageError` for a size of none or all, for one class only, and for a method that cannot be asked here.
    """
    labels = arena.labels
    classes, group = np.unique(labels, return_inverse=True)
    by_class = settings.over == "classes"
    if by_class and classes.size < 2:
        raise UsageError(
            f"worst_case.over: the training data hold one class only ({int(classes[0])}), and which classes are "
            'hardest is asked of at least two; use over = "examples"'
        )
    n, m = (classes.size if by_class else labels.size), settings.size
    check_size(m, n, "classes" if by_class else "training examples")
    whole = by_class and m == 1
    if settings.method is not None:
        check_needs(settings.method, arena, int(classes[0]) if whole else None)
    w = random_start(n, m, seeds.generator("bilevel start"))
    start = np.flatnonzero(w)
    chosen = start
    answers = _Lower(arena, settings, seeds)
    trace: list[Step] = []
    history: list[Array] = []
    for step in range(settings.steps):
        spread = w[group] if by_class else w
        places = np.flatnonzero(np.isin(group, chosen)) if by_class else np.sort(chosen)
        losses = answers.losses(step, spread, places, int(classes[chosen[0]]) if whole else None)
        each = np.bincount(group, losses) / np.bincount(group) if by_class else losses
        objective = float(w @ each + settings.gamma * w @ w)
        history.append(each)
        if settings.step == "average":
            lowest = np.mean(history[len(history) // 2 :], axis=0)
            w = np.zeros(n)
            w[largest(w, lowest, m)] = 1.0
        else:
            length = settings.rate if settings.step == "constant" else scale_free_step(each, m, pace=settings.pace)
            w = descend(w, each, step=length, gamma=settings.gamma)
        before, chosen = chosen, largest(w, each, m)
        trace.append(
            Step(objective / m, 1 - np.intersect1d(before, chosen).size / m, np.intersect1d(start, chosen).size / m)
        )
    places = np.concatenate([np.flatnonzero(group == c) for c in chosen]) if by_class else chosen
    last = history[-1][group] if by_class else history[-1]
    plain = {name: value for name, value in asdict(settings).items() if name != "method"}
    return Found(
        search="bilevel",
        against="weighted FineTune" if settings.method is None else settings.method.name,
        places=places,
        scores=last[places],
        unit="loss after unlearning (the smallest is the hardest: still known best)",
        trace=tuple(trace),
        forget_class=int(classes[chosen[0]]) if whole else None,
        keys=tuple(answers.keys),
        details=plain | {"method": None if settings.method is None else settings.method.params},
    )


class _Lower:
    """The lower level: what the model loses on every training example after it has tried to forget."""

    def __init__(self, arena: Arena, settings: Bilevel, seeds: SearchSeeds) -> None:
        self.arena, self.settings = arena, settings
        self.seeds = seeds.draw("bilevel lower level", settings.steps)
        self.keys: list[str] = []
        arena.fleet.run([arena.original])
        self._original: Classifier | None = None

    def losses(self, step: int, w: Array, places: Rows, forget_class: int | None) -> Array:
        """One loss per trained row; w and places speak of trained rows."""
        if self.settings.method is None:
            return self._weighted(step, w)
        job = self.arena.unlearned(self.settings.method, places, seed=self.seeds[step], forget_class=forget_class)
        margins = self.arena.margins([job])[0, : self.arena.trained.size]
        self.keys.append(self.arena.fleet.key(job))
        return np.asarray(np.logaddexp(0.0, -margins.astype(np.float64)))

    def _weighted(self, step: int, w: Array) -> Array:
        """Sign-gradient fine-tuning on sum (1 - w) loss; kept in the store under all that decides it."""
        fleet, settings = self.arena.fleet, self.settings
        sets, store = fleet.bench.sets, fleet.store
        description = {
            "job": "bilevel step",
            "start": fleet.key(self.arena.original),
            "data": sets.train.fingerprint,
            "rows": content_key(self.arena.trained.tolist()),
            "weights": content_key(w.tolist()),
            "lower": [settings.lower, settings.lr, settings.batch_size],
            "seed": self.seeds[step],
            "code": code_of(weighted_finetune),
        }
        key = content_key(description)
        if fleet.fresh and key not in self.keys:
            store.delete([key])
        self.keys.append(key)
        if key not in store:
            began = time.perf_counter()
            examples = sets.train.take(self.arena.trained)
            self._original = self._original or fleet.read(self.arena.original)
            losses = weighted_finetune(
                self._original,
                examples,
                w,
                epochs=settings.lower,
                lr=settings.lr,
                batch_size=settings.batch_size,
                seed=self.seeds[step],
                device=fleet.bench.device,
            )
            record = {
                "kind": "bilevel",
                "name": f"bilevel step {step + 1}",
                "seconds": time.perf_counter() - began,
                "description": canonical(description),
            }
            store.write(key, save({"losses": losses}), record)
        return np.asarray(store.read(key)["losses"].numpy(), dtype=np.float64)


def weighted_finetune(
    original: Classifier,
    examples: Examples,
    w: Array,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    device: str = "cpu",
) -> Array:
    """Losses [n] in eval mode after θ ← θ - lr · sign(∇ sum over the batch of (1 - w_i) loss_i), from the original on.

    The original stays as it is. Raises `UsageError` when the weights become infinite.
    """
    place = device_of(device)
    model = copy.deepcopy(original).to(place)
    keep = np.flatnonzero(w < 1.0)
    weight = torch.from_numpy(1.0 - w[keep]).float().to(place)
    kept = examples.take(keep)
    y = kept.labels().to(place)
    rng = torch.Generator().manual_seed(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with seeded(seed), deterministic(place):
        train_mode(model, len(kept), batch_size)
        for rows in _epochs(len(kept), batch_size, epochs, rng):
            loss = functional.cross_entropy(model(inputs(model, kept, rows)), y[rows.to(place)], reduction="none")
            gradients = torch.autograd.grad((weight[rows.to(place)] * loss).sum(), parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(lr * gradient.sign())
    if not_finite(model) is not None or not bool(torch.isfinite(loss).all()):
        raise UsageError(f"worst_case.lr: the model became infinite in the lower level; choose below {lr:g}")
    seen = observe(model.eval(), examples, device=device)
    return np.asarray(np.logaddexp(0.0, -seen.margins[:, 0]))


def _epochs(n: int, size: int, epochs: int, rng: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from shuffled(n, size, rng)


__all__ = ["Bilevel", "Cost", "bilevel", "weighted_finetune"]
