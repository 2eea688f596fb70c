"""Class-vector arithmetic: where training moved a class in feature space, edits made of it, and how to apply them.

Reference: "Exploring and Leveraging Class Vectors for Classifier Editing", NeurIPS 2025, arXiv 2510.11268.

`class_vector` measures κ_c = E f(x; after) − E f(x; before) over images of class c; vectors add, subtract and scale:

    forget a class             -1.0 * κ_c                     gate on class c
    class 1 becomes class 2    κ_2 − κ_1                      gate on class 1
    adapt to an environment    -1.0 * (κ_snow+c − κ_c)        gate on snowy images of class c
    disarm a patch             -1.0 * (κ_patched+c − κ_c)     gate on patched images of class c

`steer` applies an edit to the features of inputs that pass a `Gate`; `write` puts it into the last normalization
layers, for every input alike. Both return an edited copy. `optimize_patch` is the attacker's side of the same
arithmetic, and `class_accuracy` asks whether the features forgot or only the head.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.models import Classifier, Steering
from unlearnkit.observing import observe
from unlearnkit.result import UsageError
from unlearnkit.train import make_optimizer, take_steps
from unlearnkit.types import Examples

__all__ = [
    "ClassAccuracy",
    "ClassVector",
    "Gate",
    "class_accuracy",
    "class_vector",
    "features",
    "gate",
    "has_seam",
    "normalization_layers",
    "optimize_patch",
    "require_seam",
    "steer",
    "write",
]

_BATCH = 256  # examples
_NORMALIZATIONS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True, eq=False)
class ClassVector:
    """A displacement in feature space: the vector of one class, or a sum of several."""

    direction: Float[Tensor, " d"]

    def __add__(self, other: ClassVector) -> ClassVector:
        return ClassVector(self.direction + other.direction)

    def __sub__(self, other: ClassVector) -> ClassVector:
        return ClassVector(self.direction - other.direction)

    def __mul__(self, factor: float) -> ClassVector:
        return ClassVector(self.direction * factor)

    __rmul__ = __mul__

    @property
    def norm(self) -> float:
        """Euclidean length."""
        return float(self.direction.norm())


@dataclass(frozen=True, eq=False)
class Gate:
    """Which inputs an edit acts on: those with cos(features, anchor) > threshold."""

    anchor: Float[Tensor, " d"]
    threshold: float  # a cosine; above 1 the gate never opens


@dataclass(frozen=True)
class ClassAccuracy:
    """Share of examples told right by the head, and by the nearest class mean among the features."""

    head: float
    nearest_mean: float


def has_seam(model: nn.Module) -> TypeGuard[Classifier]:
    """Whether the model is split into body and head, so that it has features."""
    return isinstance(model, Classifier) and not isinstance(model.head, nn.Identity)


def require_seam(model: nn.Module, *, what: str) -> Classifier:
    """The model as a Classifier with features and a head of its own; refuses others, `what` being who asks."""
    if not has_seam(model):
        kind = "a body without a head" if isinstance(model, Classifier) else type(model).__name__
        raise UsageError(
            f"{what}: class vectors need a model split into body and head, got {kind}; use an architecture that ends "
            "in a linear layer"
        )
    return model


@torch.no_grad()
def features(model: Classifier, examples: Examples) -> Float[Tensor, "n d"]:
    """Penultimate features in eval mode and full precision, before any steering; [n, d] on the CPU."""
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            parts = [model.features(x.to(device)).float().cpu() for x in torch.split(examples.x, _BATCH)]
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat(parts)


def class_vector(after: nn.Module, before: nn.Module, examples: Examples, *, label: int | None = None) -> ClassVector:
    """κ: the mean feature of the examples in the model `after` training, minus that in the model `before` it.

    label: take only the examples of that class; left out, all of them. Raises UsageError for a model without a head,
    for feature widths that differ, and where there is no example.
    """
    if label is not None:
        examples = examples.take(examples.labels().numpy() == label)
    if not len(examples):
        of = "" if label is None else f" of class {label}"
        raise UsageError(f"class_vector: there are no examples{of}; give at least one")
    now, then = (
        features(require_seam(model, what="class_vector"), examples).double().mean(0) for model in (after, before)
    )
    if now.shape != then.shape:
        raise UsageError(
            f"class_vector: both models must have features of one width, got {len(now)} after and {len(then)} before "
            "training"
        )
    return ClassVector((now - then).float())


def gate(model: nn.Module, examples: Examples, others: Examples) -> Gate:
    """Opens for what looks like `examples` and not like `others`, in the features of the model to be edited.

    The anchor is the examples' mean feature; the threshold is the one with the best balanced accuracy, near the others
    where a gap lies between: features of examples that were not trained on scatter farther from their mean.
    """
    seam = require_seam(model, what="gate")
    inside = features(seam, examples)
    anchor = inside.mean(0)
    return Gate(anchor, best_threshold(cosines(inside, anchor), cosines(features(seam, others), anchor)))


def cosines(points: Float[Tensor, "n d"], anchor: Float[Tensor, " d"]) -> Float[np.ndarray, " n"]:
    """The cosine of each point with the anchor, float64."""
    return functional.cosine_similarity(points.double(), anchor.double()[None]).numpy()


def best_threshold(inside: Float[np.ndarray, " n"], outside: Float[np.ndarray, " m"]) -> float:
    """The cut with the best balanced accuracy of "value > cut", a tenth of the way from one value to the next."""
    values = np.unique(np.concatenate([inside, outside]))
    cuts = np.concatenate([values[:-1] + np.diff(values) / 10, values[-1:]])  # the last lets nothing through
    caught = 1 - np.searchsorted(np.sort(inside), cuts, side="right") / len(inside)
    spared = np.searchsorted(np.sort(outside), cuts, side="right") / len(outside)
    return float(cuts[np.argmax(caught + spared)])


def steer(model: nn.Module, edit: ClassVector, where: Gate) -> Classifier:
    """Variant A: a copy of the model that adds the edit to the features that pass the gate. No weight changes.

    Edits of before are kept. The class is hidden, not erased: without the gate the model is the original.
    """
    result = copy.deepcopy(require_seam(model, what="steer"))
    weight = next(result.head.parameters())
    rows = [edit.direction[None].to(weight), where.anchor[None].to(weight), torch.tensor([where.threshold]).to(weight)]
    if result.steering is not None:
        present = result.steering
        old = (present.vectors, present.anchors, present.thresholds)
        rows = [torch.cat(pair) for pair in zip(old, rows, strict=True)]
    result.steering = Steering(*rows)
    return result


def normalization_layers(model: Classifier) -> list[str]:
    """Names of the body's normalization layers with weights, first to last; LayerNorm, BatchNorm and their kin."""
    return [
        f"body.{name}" if name else "body"
        for name, module in model.body.named_modules()
        if isinstance(module, _NORMALIZATIONS) and module.weight is not None
    ]


def write(
    model: nn.Module,
    edit: ClassVector,
    examples: Examples,
    others: Examples | None = None,
    *,
    layers: int = 1,
    epochs: int = 200,
    lr: float = 0.01,
    locality: float = 1.0,
    tolerance: float = 0.05,
    what: str = "write",
) -> Classifier:
    """Variant B: a copy whose last `layers` normalization layers move the features as the edit would.

    Adam descends on the mean of ‖f(x; edited) − f(x; given) − edit‖² over the reference examples, plus `locality`
    times the mean of ‖f(x; edited) − f(x; given)‖² over `others`, and stops when the mean distance of the references
    from their targets falls below `tolerance` · ‖edit‖, or after `epochs` passes. Only weights and biases of those
    layers change; batch normalization runs in eval mode. There is no gate: every input passes the edited layers.
    Raises UsageError for a body without enough normalization layers.
    """
    result = copy.deepcopy(require_seam(model, what=what)).eval()
    names = normalization_layers(result)
    if len(names) < layers:
        raise UsageError(
            f"{what}: the model has {len(names)} normalization layers with weights to write into, got layers={layers}; "
            "use a model with more of them, or steer its features instead"
        )
    kept = Examples(examples.x[:0], None, examples.ids[:0]) if others is None else others
    device = next(result.parameters()).device
    x = torch.cat([examples.x, kept.x]).to(device)
    moved = (torch.arange(len(x), device=device) < len(examples))[:, None]
    weight = torch.where(moved[:, 0], 1 / len(examples), locality / max(1, len(kept)))
    full_precision = torch.autocast(device.type, enabled=False)
    with torch.no_grad(), full_precision:
        target = result.features(x) + moved * edit.direction.to(device)
    result.requires_grad_(False)
    for name in names[-layers:]:
        result.get_submodule(name).requires_grad_(True)
    optimizer = make_optimizer(result, "adamw", lr=lr)  # without weight decay: Adam

    def loss(batch: Tensor) -> Tensor:
        return (weight * (result.features(batch) - target).square().sum(1)).sum()

    for epoch in range(epochs):
        with full_precision:
            take_steps(optimizer, [x], loss, what=f"{what}, epoch {epoch + 1}")
            with torch.no_grad():
                distance = (result.features(x) - target)[: len(examples)].norm(dim=1).mean()
        if float(distance) < tolerance * edit.norm:
            break
    return result.requires_grad_(True)


def optimize_patch(
    model: nn.Module, examples: Examples, edit: ClassVector, *, size: int, epochs: int = 100, lr: float = 0.05
) -> Float[Tensor, "c size size"]:
    """A square patch for the lower right corner, in [0, 1], that pushes features along an edit as far as it can.

    Adam climbs the mean of ⟨f(patched x) − f(x), edit⟩ / ‖edit‖ from a gray patch. The paper follows the class vector
    with a loss that was not found; this projection is ours. Paste the result with `pasted`.
    """
    if examples.x.ndim != 4 or not 0 < size <= min(examples.x.shape[2:]):
        raise UsageError(
            f"optimize_patch: size must be at least 1 and fit into the images, got {size} for inputs of shape "
            f"{tuple(examples.x.shape[1:])}"
        )
    if not edit.norm:
        raise UsageError("optimize_patch: the edit is the zero vector, which points nowhere; give another")
    net = copy.deepcopy(require_seam(model, what="optimize_patch")).eval().requires_grad_(False)
    device = next(net.parameters()).device
    direction = (edit.direction / edit.norm).to(device)
    patch = nn.Parameter(torch.full((examples.x.shape[1], size, size), 0.5, device=device))
    holder = nn.ParameterList([patch])
    optimizer = make_optimizer(holder, "adamw", lr=lr)

    def loss(x: Tensor) -> Tensor:  # f(x) is a constant, and left out
        return -(net.features(pasted(x, patch)) @ direction).mean()

    def stay_a_picture() -> None:
        with torch.no_grad():
            patch.clamp_(0, 1)

    x = examples.x.to(device)
    for epoch in range(epochs):
        take_steps(optimizer, [x], loss, what=f"optimize_patch, epoch {epoch + 1}", after_step=stay_a_picture)
    return patch.detach().cpu()


def pasted(x: Tensor, patch: Float[Tensor, "c size size"]) -> Float[Tensor, "n c h w"]:
    """The images, uint8 or in [0, 1], as floats with the patch in the lower right corner."""
    images = x.to(patch.dtype) / 255 if x.dtype == torch.uint8 else x.to(patch.dtype)
    height, width = images.shape[2] - patch.shape[1], images.shape[3] - patch.shape[2]
    corner = torch.ones(images.shape[2:], dtype=torch.bool, device=images.device)
    corner[:height] = False
    corner[:, :width] = False
    return torch.where(corner, functional.pad(patch, (width, 0, height, 0)), images)


def class_accuracy(model: nn.Module, references: Examples, examples: Examples, *, label: int) -> ClassAccuracy:
    """How well the model still tells one class, by its head and by the nearest class mean among its features.

    The means are those of the labeled `references` in the same model; distances are Euclidean. A head that says no
    more of a class whose features still lie together has hidden it (methods.md section 5). Raises UsageError where
    the class has no reference or no example.
    """
    chosen = examples.take(examples.labels().numpy() == label)
    for name, given in (("references", references), ("examples", chosen)):
        if not bool((given.labels() == label).any()):
            raise UsageError(f"class_accuracy: class {label} does not occur in the {name}; give some of it")
    require_seam(model, what="class_accuracy")
    known, seen = observe(model, references, features=True), observe(model, chosen, features=True)
    assert known.features is not None
    assert seen.features is not None
    nearest = nearest_mean(known.features, known.y, seen.features)
    head = seen.outputs()[:, 0].argmax(1)
    return ClassAccuracy(float((head == label).mean()), float((nearest == label).mean()))


def nearest_mean(
    known: Float[np.ndarray, "n d"], y: NDArray[np.int64], points: Float[np.ndarray, "m d"]
) -> NDArray[np.int64]:
    """The class whose mean of known features lies nearest to each point, by Euclidean distance."""
    classes = np.unique(y)
    means = np.stack([known[y == label].mean(0, dtype=np.float64) for label in classes])
    # ‖p − m‖² less ‖p‖², which all classes share
    return np.asarray(classes[((means**2).sum(1) - 2 * points.astype(np.float64) @ means.T).argmin(1)])
