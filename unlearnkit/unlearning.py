"""unlearn(): copy the model, grant access, seed, run the method, verify what came back, and time it."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from unlearnkit.models import seeded
from unlearnkit.result import UsageError
from unlearnkit.train import Recipe, deterministic, not_finite, raised
from unlearnkit.types import Access, Examples, Method, Need, Splits, Unlearned

_GRANT = {  # what to hand to unlearn() when a method needs more than the splits
    Need.UNSEEN: "unseen=held_out_examples",
    Need.PRETRAINED: "pretrained=model_before_training",
    Need.RECIPE: "recipe=recipe",
}


def unlearn(
    model: nn.Module,
    splits: Splits,
    method: Method,
    *,
    seed: int,
    recipe: Recipe | None = None,
    unseen: Examples | None = None,
    pretrained: nn.Module | None = None,
) -> Unlearned:
    """Carry out a deletion on a copy of `model`; the caller's model stays as it is, bit for bit.

    Raises UsageError when the method needs what was not granted, when more is to be forgotten than kept (which only
    Retrain does), when the method returns weights of other names or shapes (but for the `steering.*` of a method that
    says `adds_steering = True`), or when a weight is not finite. Torch's global random state is untouched.
    """
    granted = method.needs
    for need, value in ((Need.UNSEEN, unseen), (Need.PRETRAINED, pretrained), (Need.RECIPE, recipe)):
        if need in granted and value is None:
            raise UsageError(f"{method.name} needs {need.names()[0]}; grant it with unlearn(..., {_GRANT[need]})")
    check_request(method, forget=len(splits.forget), retain=len(splits.retain), forget_class=splits.forget_class)
    lent = copy.deepcopy(pretrained) if Need.PRETRAINED in granted else None
    access = Access(granted, method.name, splits.forget, splits.retain, splits.forget_class, unseen, lent, recipe)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    private = copy.deepcopy(model).eval()
    for parameter in private.parameters():
        parameter.requires_grad_(True)
    rng = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    device = next(private.parameters()).device
    with seeded(seed), deterministic(device):
        result = _run(method, private, access, rng)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    if not isinstance(result, nn.Module):
        raise UsageError(f"{method.name}: `run` must return the model it edited, got {type(result).__name__}")
    result = _verified(result, before, model, method)
    return Unlearned(result, method.name, method.params, granted.names(), seed, seconds)


def check_request(method: Method, *, forget: int, retain: int, forget_class: int | None) -> None:
    """Refuses a request that the method does not carry out; forget, retain: how many examples."""
    if Need.CLASS_WISE in method.needs and forget_class is None:
        raise UsageError(f"{method.name} forgets whole classes only; ask for a class (forget_class), not for examples")
    if forget > retain and not method.forgets_most:
        raise UsageError(
            f"{method.name}: the forget set must not be larger than the retain set, got {forget:,} against {retain:,} "
            "examples; a model that keeps so little is to be trained afresh, by Retrain"
        )


def _run(method: Method, model: nn.Module, access: Access, rng: torch.Generator) -> object:
    """A user's method may raise anything: its own words are what helps. One of ours that does is a fault of ours."""
    try:
        return method.run(model, access, rng)
    except (UsageError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if type(method).__module__.startswith("unlearnkit.") or "DefaultCPUAllocator" in str(error):
            raise
        raise UsageError(f"{method.name} {raised(error)}") from error


def _verified(result: nn.Module, before: dict[str, torch.Tensor], model: nn.Module, method: Method) -> nn.Module:
    after = result.state_dict()
    kinds = {name: (value.shape, value.dtype) for name, value in before.items()}
    adds = getattr(method, "adds_steering", False)
    free = {name for name in after if adds and name.startswith("steering.")}  # an edit is a row more
    changed = sorted((set(after) ^ set(before)) - free) or sorted(
        k for k in kinds if k not in free and (after[k].shape, after[k].dtype) != kinds[k]
    )
    if changed:
        raise UsageError(
            f"{method.name} returned a model with other weights than it was given; the first that differs in name, "
            f"shape or type is {changed[0]!r}"
        )
    now = model.state_dict()
    lent = {value.untyped_storage().data_ptr() for value in now.values() if value.numel()}
    shared = [name for name, value in after.items() if value.numel() and value.untyped_storage().data_ptr() in lent]
    if shared:
        raise UsageError(
            f"{method.name} returned weights of the caller's model ({shared[0]!r}); it must return its copy"
        )
    bad = not_finite(result)
    if bad is not None:
        raise UsageError(f"{method.name}: {bad!r} holds NaN or infinite values; choose a smaller learning rate")
    for name, value in before.items():
        if name not in now or not torch.equal(now[name], value):
            raise UsageError(f"{method.name} changed the caller's model ({name!r}); it must edit its own copy only")
    for parameter in result.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return result.eval()
