"""AMUN: fine-tune on the nearest adversarial examples of the forget set, with the wrong answers they were given.

Idea: around every forget example the nearest point is sought that the original answers wrongly, by projected gradient
ascent in a ball whose radius is doubled until that happens. Trained on these points with the model's own wrong answers,
beside the forget set with its true labels, the model comes to be about as sure of the forget set as of unseen data.

Reference: "AMUN: Adversarial Machine UNlearning", ICML 2025, arXiv 2503.00917.

Must see: the forget set with labels, and the retain set with labels unless `use_retain` is off.

Differences from the paper: none in the idea. It chooses the first radius on about 100 images, so that the search takes
fewer than three rounds, and does not say how; here `probes` of the forget set are searched from `epsilon` on, and the
others from the radius below which a tenth of these were found. The direction of a step is that of the margin's
gradient, which is the cross-entropy's, but does not vanish where the model is sure. An example for which twenty
doublings are not enough is refused. Differences from the published code: a mask as in SalUn is not offered with it.
Images stay within [0, 1]; float inputs are not bounded, and `epsilon` is in their unit. Batch normalization runs in
train mode, as for fine-tuning. Random crops and flips only if `augment` asks for them, and never for the adversarial
examples, as published. These are kept in memory as floats: four times the forget set in uint8.

Weaknesses: made for random subsets; a whole class is not forgotten. The effect fades over successive requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.distill import away_from, check_pixels, frozen, pixels, within_box
from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import count_classes, device_of_model, inputs, two_parts
from unlearnkit.result import UsageError
from unlearnkit.train import Augmentation, augment, make_optimizer, shuffled, take_steps, train_mode
from unlearnkit.types import Access, Examples, Method, Need

_DOUBLINGS = 20  # to a million times the first radius: a model that does not change its answer there has only one


@dataclass(frozen=True)
class AMUN(Method):
    """Fine-tuning on forget set, adversarial examples and retain set together."""

    epochs: Count = 10  # passes over all of them together
    lr: Positive = 0.01  # search 1e-5 to 1e-1
    decay_every: Count = 1  # epochs after which the learning rate is a tenth: 1, 5 or 10 in the paper
    epsilon: Positive = 0.04  # first radius of the ball (L2, pixels in [0, 1]); the paper's for CIFAR-10
    probes: Count = 100  # forget examples that are searched from that radius on, and tell the others' first one
    attack_steps: Count = 50  # each a tenth of the radius long
    use_retain: bool = True  # fine-tune on the retain set too
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 128  # examples
    augment: Augmentation = "none"

    @property
    def needs(self) -> Need:
        return Need.FORGET | Need.RETAIN if self.use_retain else Need.FORGET

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget, retain = access.forget, access.retain if self.use_retain else None
        found = self._search(model, forget, rng)
        n_f, n_r = len(forget), 0 if retain is None else len(retain)
        # Rows: the adversarial examples, then the forget set, then the retain set.
        y = torch.cat([found.y, forget.labels(), *([] if retain is None else [retain.labels()])])
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, self.decay_every, gamma=0.1)

        def loss(rows: Tensor) -> Tensor:
            moved, clean_rows = two_parts(rows, n_f)
            old, kept = two_parts(clean_rows, n_f)
            clean = [inputs(model, forget, old)]
            if retain is not None:
                clean.append(inputs(model, retain, kept))
            x = augment(torch.cat(clean), self.augment, rng)
            x = torch.cat([found.x[moved].to(x.device), pixels(x)])
            return functional.cross_entropy(model(x), y[torch.cat([moved, old + n_f, kept + 2 * n_f])].to(x.device))

        train_mode(model, 2 * n_f + n_r, self.batch_size)
        for epoch in range(self.epochs):
            batches = shuffled(2 * n_f + n_r, self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{self.name}, epoch {epoch + 1}")
            scheduler.step()
        return model

    def _search(self, model: nn.Module, forget: Examples, rng: torch.Generator) -> Adversaries:
        """Adversarial examples of the forget set: of some first, and of the others from where those were found."""

        def search(rows: Tensor, epsilon: float) -> Adversaries:
            part = forget.take(rows.numpy())
            return adversaries(model, part, epsilon=epsilon, attack_steps=self.attack_steps, batch_size=self.batch_size)

        n = len(forget)
        if n <= self.probes:
            return search(torch.arange(n), self.epsilon)
        drawn = torch.randperm(n, generator=rng)
        probe, rest = drawn[: self.probes], drawn[self.probes :]
        first = search(probe, self.epsilon)
        start = first.radius.sort().values[len(probe) // 10]  # nine tenths are not found in a smaller ball
        return joined(first, search(rest, float(start)), drawn)


@dataclass(frozen=True, eq=False)
class Adversaries:
    """One misclassified point near every example.

    x: float [n, ...], in [0, 1] for images. y: the model's wrong answers. radius: the ball it was found in.
    """

    x: Float[Tensor, "n ..."]
    y: Int[Tensor, " n"]
    radius: Float[Tensor, " n"]


def joined(first: Adversaries, second: Adversaries, rows: Int[Tensor, " n"]) -> Adversaries:
    """Both, put to the rows they belong to."""
    place = rows.argsort()
    x, y, radius = ((getattr(first, name), getattr(second, name)) for name in ("x", "y", "radius"))
    return Adversaries(torch.cat(x)[place], torch.cat(y)[place], torch.cat(radius)[place])


def adversaries(
    model: nn.Module, examples: Examples, *, epsilon: float, attack_steps: int, batch_size: int
) -> Adversaries:
    """The nearest misclassified points, by PGD in L2 balls of radius epsilon, 2·epsilon, 4·epsilon, … (AMUN, alg. 1).

    Raises UsageError where even a ball of 2^20·epsilon holds none that the search finds.
    """
    y = examples.labels()
    count_classes(model, examples)
    check_pixels(model, examples, "AMUN")
    original, device = frozen(model), device_of_model(model)
    moved = torch.empty(examples.x.shape)
    answer, radius = y.clone(), torch.full((len(y),), epsilon)
    waiting = torch.arange(len(y))
    for _ in range(_DOUBLINGS + 1):
        # Ball after ball for all that still wait, so that batches stay full: most are found in the first few.
        for rows in torch.split(waiting, batch_size):
            stored, own = inputs(model, examples, rows), y[rows].to(device)
            x = ascend(original, pixels(stored), own, radius[rows].to(device), attack_steps, stored)
            with torch.no_grad():
                answer[rows] = original(x).argmax(dim=1).cpu()
            moved[rows] = x.float().cpu()
        waiting = waiting[answer[waiting] == y[waiting]]
        if not len(waiting):
            return Adversaries(moved, answer, radius)
        radius[waiting] *= 2
    raise UsageError(
        f"AMUN.epsilon: the model answers {str(examples.ids[int(waiting[0])])!r} alike at every distance up to "
        f"{epsilon * 2**_DOUBLINGS:.3g}; there is no adversarial example to learn from"
    )


def ascend(
    model: nn.Module,
    start: Float[Tensor, "b ..."],
    y: Int[Tensor, " b"],
    radius: Float[Tensor, " b"],
    attack_steps: int,
    stored: Tensor,
) -> Float[Tensor, "b ..."]:
    """Steps of a tenth of the radius out of the class, each followed by the projection into ball and box."""
    x = start
    length = radius.view(-1, *[1] * (start.ndim - 1))
    for _ in range(attack_steps):
        x = x + length / 10 * _unit(away_from(model, x, y))
        shift = x - start
        x = within_box(start + shift * (length / _norm(shift).clamp_min(1e-30)).clamp(max=1), stored)
    return x


def _norm(v: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """The L2 norm of each example, with axes of one for the others."""
    norms: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return norms.view(-1, *[1] * (v.ndim - 1))


def _unit(v: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """Each example at norm 1; a zero stays one."""
    return v / _norm(v).clamp_min(1e-30)
