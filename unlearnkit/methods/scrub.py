"""SCRUB: a student that leaves its teacher on the forget set and stays with it on the retain set.

Idea: student and teacher both start as the original; the teacher stays. In each of the first `max_epochs` epochs one
pass over the forget set drives the student away, and every epoch has one pass over the retain set that holds it:

    forget pass:  maximize T²·KL(teacher ‖ student)
    retain pass:  minimize gamma · CE + alpha · T²·KL(teacher ‖ student)

both softened by the temperature T. With `rewind` (SCRUB+R) the student is kept after every epoch, and the one whose
error on the forget set is nearest to the last student's error on held-out examples of the same classes is returned: a
forget error above that of unseen data would itself give the deletion away.

Reference: "Towards Unbounded Machine Unlearning", NeurIPS 2023, arXiv 2302.09880.

Must see: the forget set without labels and the retain set with labels. With `rewind` also the labels of the forget
set, and held-out examples with labels.

Differences from the paper: at the start student and teacher are one, the divergence has its minimum there, and without
batch normalization or dropout the first forget pass would not move a weight. `nudge` is ours: noise of that deviation
on every weight before the first forget pass; 0 is the published start. Held-out examples "distributed like the forget
set" are those of its classes.
Differences from the published code: its rewinding looks for a first checkpoint that it never wrote, here there is one
per epoch; among equals the last is taken, since it was held to the retain set longest. It lowers the learning rate to
a tenth after epochs 3, 5 and 9, counted from 1, and so never within three epochs; here it falls once, at `decay_epoch`.
Batch normalization runs in train mode in the student, as published, and in eval mode in the teacher. Random crops and
flips only if `augment` asks for them.

Weaknesses: sensitive to `max_epochs`. The divergence has no upper end. A forgotten class ends with accuracy 0, but an
attack still tells its examples from unseen ones unless the model is rewound.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.distill import collect, divergence, frozen
from unlearnkit.methods.hyperparameters import Count, CountOrZero, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import inputs
from unlearnkit.result import UsageError
from unlearnkit.train import Augmentation, augment, make_optimizer, shuffled, take_steps, train_mode
from unlearnkit.types import Access, Examples, Method, Need


@dataclass(frozen=True)
class SCRUB(Method):
    """Passes away from the teacher on the forget set, between passes with it on the retain set."""

    epochs: Count = 3  # passes over the retain set
    max_epochs: CountOrZero = 2  # of these, how many begin with a pass over the forget set
    lr: Positive = 5e-4
    decay_epoch: Count = 4  # from this epoch on the learning rate is a tenth
    gamma: NotNegative = 0.99  # weight of the cross-entropy on the retain set
    alpha: NotNegative = 0.001  # weight of the divergence on the retain set
    temperature: Positive = 4.0
    nudge: NotNegative = 1e-4  # standard deviation of the noise on the weights before the first forget pass
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 128  # retain examples
    forget_batch_size: Count = 32  # forget examples; 512 for whole classes in the paper's code
    augment: Augmentation = "none"
    rewind: bool = False  # SCRUB+R: return the epoch whose forget error is nearest to that on unseen examples

    @property
    def needs(self) -> Need:
        plain = Need.FORGET_INPUTS | Need.RETAIN
        return plain | Need.FORGET_LABELS | Need.UNSEEN if self.rewind else plain

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget, retain = access.forget, access.retain
        peers = like(access.unseen, forget) if self.rewind else None
        retain_y = retain.labels()
        teacher = frozen(model)
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )

        def away(rows: Tensor) -> Tensor:
            x = augment(inputs(model, forget, rows), self.augment, rng)
            return -divergence(teacher(x), model(x), self.temperature).mean()

        def near(rows: Tensor) -> Tensor:
            x = augment(inputs(model, retain, rows), self.augment, rng)
            logits = model(x)
            right = functional.cross_entropy(logits, retain_y[rows].to(x.device))
            return self.gamma * right + self.alpha * divergence(teacher(x), logits, self.temperature).mean()

        if self.max_epochs and self.nudge:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(self.nudge * torch.randn(weight.shape, generator=rng).to(weight.device))
        students = []
        for epoch in range(1, self.epochs + 1):
            if epoch == self.decay_epoch:
                for group in optimizer.param_groups:
                    group["lr"] = self.lr / 10
            what = f"{self.name}, epoch {epoch}"
            if epoch <= self.max_epochs:
                train_mode(model, len(forget), self.forget_batch_size)
                take_steps(optimizer, shuffled(len(forget), self.forget_batch_size, rng), away, what=what)
            train_mode(model, len(retain), self.batch_size)
            take_steps(optimizer, shuffled(len(retain), self.batch_size, rng), near, what=what)
            if self.rewind:
                students.append(copy.deepcopy(model.state_dict()))
        if peers is not None:
            target = error(model, peers, self.batch_size)
            gaps = []
            for student in students:
                model.load_state_dict(student)
                gaps.append(abs(error(model, forget, self.batch_size) - target))
            model.load_state_dict(students[len(gaps) - 1 - int(np.argmin(gaps[::-1]))])
        return model


def like(unseen: Examples, forget: Examples) -> Examples:
    """The held-out examples of the classes that occur in the forget set."""
    rows = np.isin(unseen.labels().numpy(), forget.labels().numpy())
    if not rows.any():
        raise UsageError(
            "SCRUB.rewind: the unseen examples must hold some of the classes to forget, got none; hold some out, or "
            "set rewind = false"
        )
    return unseen.take(rows)


def error(model: nn.Module, examples: Examples, batch_size: int) -> float:
    """Share of wrong answers, in eval mode."""
    answers = collect(model, model, examples, batch_size).argmax(dim=1).cpu()
    return float((answers != examples.labels()).double().mean())
