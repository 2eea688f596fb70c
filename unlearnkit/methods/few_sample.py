"""FewSample: forget a class with a handful of images, in the few weights whose loss would destroy it.

Idea: rank all weights by |Σ over a few images of the class of ∂CE(x, y)/∂θ|, and take the smallest top share whose
zeroing brings accuracy on these images below that of a guess. Only those weights are trained, the rest is held bit for
bit:

    CE(retain) + distill · T² · KL(original ‖ edited, retain, other classes' logits)
               − ascent · min(CE(forget), cap · log C)

until accuracy on the few forget images is that of a guess, or the epochs are over.

Reference: "Attaining Class-level Forgetting in Pretrained Model using Few Samples", ECCV 2022, arXiv 2210.10670.

Must see: the forget set and the retain set, both with labels, of which it draws a few images and never looks at the
rest. It stands for the case that only these are left.

Differences from the paper: of it only the outline could be read, and no code was published, so the shares 0.1 to 20 %,
the loss's weights and the hyperparameters are ours: 50 epochs, not 10, since of a few images an epoch is a few steps.
The ascent is capped, since it has no upper end. Batch normalization runs in eval mode: a few images are no statistics.
Random crops and flips only if `augment` asks for them, and then five of each image enter the ranking too.

Weaknesses: ascent on a few images overfits them, so look at images of the class that the method never saw. Whole
classes only. Features may keep what the head has lost: `unlearnkit.editing.class_accuracy` compares the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.distill import divergence, frozen
from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.salun import saliency_mask
from unlearnkit.methods.steps import Hold, count_classes, cross_entropy, inputs
from unlearnkit.train import Augmentation, augment, forever, make_optimizer, shuffled, take_steps
from unlearnkit.types import Access, Examples, Method, Need

_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # of all weights
_COPIES = 5  # augmented copies of an image that rank the weights


@dataclass(frozen=True)
class FewSample(Method):
    """Capped ascent, rehearsal and distillation on a few images, in the weights that matter most to the class."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN | Need.CLASS_WISE

    forget_images: Count = 50  # images of the class
    retain_images: Count = 450  # images of the others, as evenly over classes as they allow
    epochs: Count = 50  # passes over the retain images, at most
    lr: Positive = 0.01  # search 1e-3 to 1e-2
    ascent: NotNegative = 1.0
    distill: NotNegative = 1.0
    temperature: Positive = 2.0  # T
    cap: Positive = 2.0  # the ascent on an image ends at this many times log C
    momentum: Momentum = 0.9
    batch_size: Count = 64  # images of each set
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        forget, retain = few(access.forget, self.forget_images, rng), few(access.retain, self.retain_images, rng)
        classes = count_classes(model, forget)
        kept = torch.arange(classes) != access.forget_class
        free = relevant_weights(model, several(forget, self.augment, rng), batch_size=self.batch_size)
        original = frozen(model)
        optimizer = make_optimizer(model, "sgd", lr=self.lr, momentum=self.momentum, nesterov=False)
        hold = Hold.outside(model, optimizer, free)

        def loss(rows: tuple[Tensor, Tensor]) -> Tensor:
            x = augment(inputs(model, retain, rows[0]), self.augment, rng)
            logits = model(x)
            keep = functional.cross_entropy(logits, retain.labels()[rows[0]].to(x.device))
            mask = kept.to(x.device)
            pull = divergence(original(x)[:, mask], logits[:, mask], self.temperature).mean()
            ceiling = self.cap * math.log(classes)
            climb = cross_entropy(model, forget, rows[1], self.augment, rng).clamp(max=ceiling).mean()
            return keep + self.distill * pull - self.ascent * climb

        forget_batches = forever(len(forget), self.batch_size, rng)
        for epoch in range(self.epochs):
            batches = zip(shuffled(len(retain), self.batch_size, rng), forget_batches, strict=False)
            take_steps(
                optimizer,
                batches,
                loss,
                what=f"{self.name}, epoch {epoch + 1}",
                before_step=hold.mask_gradients,
                after_step=hold.write_back,
            )
            if accuracy(model, forget, self.batch_size) <= 1 / classes:
                break
        return model


def few(examples: Examples, count: int, rng: torch.Generator) -> Examples:
    """At most `count` of the examples at random, as evenly over their classes as these allow."""
    order = torch.randperm(len(examples), generator=rng).numpy()
    y = examples.labels().numpy()[order]
    turn = np.empty(len(y), dtype=np.int64)  # the first of each class, the second of each, and so on
    for label in np.unique(y):
        turn[y == label] = np.arange((y == label).sum())
    return examples.take(order[np.argsort(turn, kind="stable")[:count]])


def several(examples: Examples, kind: Augmentation, rng: torch.Generator) -> Examples:
    """Five augmented copies of each example; the examples themselves without augmentation."""
    if kind == "none":
        return examples
    x = torch.cat([augment(examples.x, kind, rng) for _ in range(_COPIES)])
    ids = np.array([f"{name}/{turn}" for turn in range(_COPIES) for name in examples.ids])
    return Examples(x, examples.labels().repeat(_COPIES), ids)


def relevant_weights(model: nn.Module, forget: Examples, *, batch_size: int) -> dict[str, Tensor]:
    """True at the smallest top share of weights whose zeroing brings accuracy on `forget` below 1 / C.

    One mask per parameter. Where even the top 20 % do not, they are taken all the same.
    """
    chance = 1 / count_classes(model, forget)
    mask: dict[str, Tensor] = {}
    for share in _SHARES:
        mask = saliency_mask(model, forget, share, batch_size=batch_size)
        zeroed = {name: p.detach().masked_fill(mask[name], 0) for name, p in model.named_parameters()}
        if accuracy(model, forget, batch_size, weights=zeroed) < chance:
            break
    return mask


@torch.no_grad()
def accuracy(
    model: nn.Module, examples: Examples, batch_size: int, *, weights: dict[str, Tensor] | None = None
) -> float:
    """Share of the examples that the model gets right, with other weights in place of its own if given."""
    y, right = examples.labels(), 0
    for rows in torch.split(torch.arange(len(examples)), batch_size):
        logits = torch.func.functional_call(model, weights or {}, (inputs(model, examples, rows),))
        right += int((logits.argmax(1).cpu() == y[rows]).sum())
    return right / len(examples)
