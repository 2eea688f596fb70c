"""CFk: fine-tune the last k blocks on the retain set, and leave the blocks before them as they are.

Idea: catastrophic forgetting where the answer is formed, at the price of a few layers.

A block is one child of the network's body that has weights, such as a stage of a ResNet; normalization belongs to the
block before it, and the last linear layer is a block. Blocks are counted in the order in which the model declares them.

Reference: CF-k of "Towards Adversarial Evaluations for Inexact Machine Unlearning", arXiv 2201.06640.

Must see: the retain set with labels; never the forget set.

Differences from the published code: for a ResNet, ports disagree whether the last layer moves with the last stage; here
it is a block of its own and the default is both. Batch normalization runs in train mode in the blocks that are
trained and in eval mode in the others, so that those stay as they were, bit for bit, running statistics included.
Random crops and flips only if `augment` asks for them.

Weaknesses: nothing before the last k blocks can forget. A probe on their features finds what it found before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from unlearnkit.methods.hyperparameters import Count, Momentum, NotNegative, Positive, check
from unlearnkit.methods.steps import cross_entropy
from unlearnkit.models import Classifier
from unlearnkit.result import UsageError
from unlearnkit.train import Augmentation, make_optimizer, shuffled, take_steps, train_mode
from unlearnkit.types import Access, Method, Need


@dataclass(frozen=True)
class CFk(Method):
    """FineTune on the last k blocks; with k as large as the model it is FineTune."""

    needs: ClassVar[Need] = Need.RETAIN

    k: Count = 2  # blocks that are trained; of a ResNet the last stage and the last layer
    epochs: Count = 10  # passes over the retain set
    lr: Positive = 0.01
    momentum: Momentum = 0.9
    weight_decay: NotNegative = 5e-4
    batch_size: Count = 64  # examples
    augment: Augmentation = "none"

    def __post_init__(self) -> None:
        check(self)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return self.train_last(model, last_blocks(model, self.k, what=self.name), access, rng, what=self.name)

    def train_last(
        self, model: nn.Module, last: dict[str, nn.Module], access: Access, rng: torch.Generator, *, what: str
    ) -> nn.Module:
        """Train these modules alone, for `what` in error messages."""
        retain = access.retain
        model.requires_grad_(False)
        for module in last.values():
            module.requires_grad_(True)
        optimizer = make_optimizer(
            model, "sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=False
        )

        def loss(rows: Tensor) -> Tensor:
            return cross_entropy(model, retain, rows, self.augment, rng).mean()

        trained = {inner for module in last.values() for inner in module.modules()}
        train_mode(model, len(retain), self.batch_size)
        for module in set(model.modules()) - trained:
            if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                module.training = False  # only itself: it may hold a block that is trained
        for epoch in range(self.epochs):
            batches = shuffled(len(retain), self.batch_size, rng)
            take_steps(optimizer, batches, loss, what=f"{what}, epoch {epoch + 1}")
        return model


def last_blocks(model: nn.Module, k: int, *, what: str) -> dict[str, nn.Module]:
    """The modules of the last k blocks, by name. Refuses a model with fewer."""
    found: list[dict[str, nn.Module]] = []
    parts = _children("", model)
    if isinstance(model, Classifier) and "body" in parts:
        parts = {**_children("body", model.body), **{name: part for name, part in parts.items() if name != "body"}}
    for name, part in parts.items():
        if found and all(p.ndim < 2 for p in part.parameters()):  # normalization
            found[-1][name] = part
        else:
            found.append({name: part})
    if k > len(found):
        raise UsageError(f"{what}.k: must be at most {len(found)}, the blocks of this model, got {k}")
    return {name: part for block in found[-k:] for name, part in block.items()}


def _children(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """The children that have weights; wrappers around a single one are opened."""
    children = {f"{name}.{n}".lstrip("."): m for n, m in module.named_children() if any(True for _ in m.parameters())}
    if not children:
        return {name: module}
    if len(children) == 1 and not list(module.parameters(recurse=False)) and not isinstance(module, Classifier):
        return _children(*next(iter(children.items())))
    return children
