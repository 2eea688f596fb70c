"""observe(): what a model says about named points, in bulk and once -> margins, logits, features."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import nn

from unlearnkit.models import Classifier
from unlearnkit.result import UsageError
from unlearnkit.train import deterministic, device_of
from unlearnkit.types import Examples, Observation


def margin(logits: Float[np.ndarray, "*shape c"], y: NDArray[np.int64]) -> Float[np.ndarray, "*shape"]:
    """φ = z_y − logsumexp of the other logits, in float64 (audits.md A1). `y` labels the first axis.

    loss = log(1 + e^−φ) and confidence = 1/(1 + e^−φ) follow from it without loss at |z| = 80 and beyond.
    """
    z = np.asarray(logits, dtype=np.float64)
    label = np.broadcast_to(y.reshape(-1, *([1] * (z.ndim - 1))), (*z.shape[:-1], 1))
    true = np.take_along_axis(z, label, axis=-1)[..., 0]
    others = z.copy()
    np.put_along_axis(others, label, -np.inf, axis=-1)
    return np.asarray(true - logsumexp(others, axis=-1))


def observe(
    model: nn.Module,
    examples: Examples,
    *,
    flips: bool = False,
    features: bool = False,
    batch_size: int = 1024,
    device: str = "cpu",
) -> Observation:
    """Run the model over labeled examples in eval mode; its weights and its mode stay as they were.

    flips: add the horizontally flipped image as a second view. features: keep the penultimate features too.
    Raises UsageError for logits that are not finite, for labels the model has no output for, and where features are
    asked of a model without a body.
    """
    if features and not isinstance(model, Classifier):
        raise UsageError(f"observe: features need a model with body and head, got {type(model).__name__}")
    if flips and examples.x.ndim != 4:
        raise UsageError(f"observe: flips need images [n, c, h, w], got inputs of shape {tuple(examples.x.shape)}")
    target = device_of(device)
    y = examples.labels().numpy()
    home = next((p.device for p in model.parameters()), target)
    modes = [(module, module.training) for module in model.modules()]
    logits: list[torch.Tensor] = []
    penultimate: list[torch.Tensor] = []
    full_precision = torch.autocast(target.type, enabled=False)  # bf16 would round away what attacks look for
    try:
        model.to(target).eval()
        with torch.inference_mode(), deterministic(target), full_precision:
            for x in torch.split(examples.x, batch_size):
                batch = x.to(target)
                views = (batch, batch.flip(-1)) if flips else (batch,)
                logits.append(torch.stack([model(view).float().cpu() for view in views], dim=1))
                if features and isinstance(model, Classifier):
                    penultimate.append(model.features(batch).float().cpu())
    finally:
        model.to(home)
        for module, mode in modes:
            module.training = mode
    z = torch.cat(logits).numpy()
    if not np.isfinite(z).all():
        point = examples.ids[int(np.argwhere(~np.isfinite(z))[0][0])]
        raise UsageError(f"observe: the model answers {str(point)!r} with logits that are NaN or infinite")
    if y.size and (y.min() < 0 or y.max() >= z.shape[-1]):
        worst = y.min() if y.min() < 0 else y.max()
        raise UsageError(f"observe: labels must lie in 0..{z.shape[-1] - 1}, the model's classes, got {worst}")
    return Observation(examples.ids, y, margin(z, y), z, torch.cat(penultimate).numpy() if features else None)
