"""What methods that ask the original model share: frozen copies, divergence from their answers, ways out of a class."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.methods.steps import device_of_model, inputs
from unlearnkit.models import Classifier, seeded
from unlearnkit.result import UsageError
from unlearnkit.types import Examples

__all__ = [
    "away_from",
    "check_pixels",
    "collect",
    "divergence",
    "frozen",
    "margins",
    "pixels",
    "reinitialized",
    "split_model",
    "within_box",
]


def frozen(model: nn.Module) -> nn.Module:
    """A copy that answers in eval mode and is never trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def reinitialized(model: nn.Module, rng: torch.Generator) -> nn.Module:
    """A frozen copy as it might have been before training: every layer draws its weights anew.

    Layers draw as they do on construction. A weight that stands outside such a layer (a class token, an attention's
    joint matrix) has its entries shuffled: the scale stays, what was learned does not.
    """
    seed = int(torch.randint(2**31, (), generator=rng))
    fresh = frozen(model).cpu()  # drawn on the CPU, so that every device gets the same weights
    with seeded(seed), torch.no_grad():
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for weight in module.parameters(recurse=False):
                weight.copy_(weight.flatten()[torch.randperm(weight.numel())].view_as(weight))
    return fresh.to(device_of_model(model))


def split_model(model: nn.Module, method: str) -> Classifier:
    """The model, if it has a seam between body and head."""
    if not isinstance(model, Classifier):
        raise UsageError(
            f"{method}: the model must be split into body and head, got {type(model).__name__}; "
            "wrap it in unlearnkit.models.Classifier"
        )
    return model


def divergence(teacher: Float[Tensor, "b k"], student: Float[Tensor, "b k"], temperature: float) -> Float[Tensor, " b"]:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)) of each row of logits: a sum over the classes, not their mean.

    Several published codes take the mean over batch and classes, which divides by the number of classes unsaid.
    """
    log_p = functional.log_softmax(teacher / temperature, dim=1)
    log_q = functional.log_softmax(student / temperature, dim=1)
    return temperature**2 * functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


@torch.no_grad()
def collect(
    ask: Callable[[Tensor], Tensor], model: nn.Module, examples: Examples, batch_size: int
) -> Float[Tensor, "n d"]:
    """`ask` (the model itself, or its features) about all examples, in batches, in eval mode; on the model's device."""
    was_training = model.training
    model.eval()
    batches = torch.split(torch.arange(len(examples)), batch_size)
    answers = torch.cat([ask(inputs(model, examples, rows)).float() for rows in batches])
    model.train(was_training)
    return answers


def pixels(x: UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """uint8 images as numbers in [0, 1], so that one may move them by less than a step; float inputs as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def check_pixels(model: nn.Module, examples: Examples, method: str) -> None:
    """Refuses a model that reads an image in [0, 1] otherwise than the same image in uint8."""
    x = inputs(model, examples, torch.arange(1))
    with torch.no_grad():
        stored, scaled = model(x), model(pixels(x))
    if not torch.allclose(stored, scaled, rtol=1e-3, atol=1e-3):
        raise UsageError(
            f"{method}: the model must answer alike to an image as uint8 and as numbers in [0, 1], got logits that "
            f"differ by {float((stored - scaled).abs().max()):.3g}; scale by 255 in the first layer for uint8 only"
        )


def margins(logits: Float[Tensor, "b k"], y: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
    """z_y − logsumexp of the other logits. Its gradient has the direction of the cross-entropy's, turned around.

    CE = log(1 + e^−margin), so both lead the same way; but that of the cross-entropy vanishes where a model is sure.
    """
    own = functional.one_hot(y, logits.shape[1]).bool()
    return logits[own] - logits.masked_fill(own, -torch.inf).logsumexp(dim=1)


def away_from(model: nn.Module, x: Float[Tensor, "b ..."], y: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
    """The direction in which each input leaves its class fastest: minus the gradient of its margin."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(-margins(model(x).float(), y).sum(), x)
    return gradient


def within_box(x: Float[Tensor, "b ..."], like: Tensor) -> Float[Tensor, "b ..."]:
    """Clipped to [0, 1] where the examples are stored as uint8; float inputs have no bounds that are known."""
    return x.clamp(0, 1) if like.dtype == torch.uint8 else x
