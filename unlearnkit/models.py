"""Architectures by name or import path, normalization inside, split into body and head; weights in safetensors."""

from __future__ import annotations

import copy
import inspect
import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.data import resolve
from unlearnkit.result import UsageError, nearest
from unlearnkit.store import write_atomic

FORMAT = "unlearnkit-model-1"
_MEASURED = 1 << 22  # numbers looked at once when inputs are measured


@dataclass(frozen=True)
class Architecture:
    """What to build: a name, how many classes, and the shape of one input (channels, height, width).

    private: layers that mix examples are replaced as Opacus does, batch by group normalization above all, so that the
    model can be trained privately. Other layers are other weights: files of them say so.
    """

    name: str
    classes: int
    shape: tuple[int, ...]
    private: bool = False


class Normalize(nn.Module):
    """Scales uint8 to [0, 1], then subtracts the mean and divides by the standard deviation of each channel.

    Mean and deviation are buffers, measured by `fit` on the examples it trains on: an oracle measures them without
    the forget set, so that normalization carries no trace of it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        shape = (channels,) + (1,) * (dimensions - 1)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, x: UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        values = x.to(self.mean.dtype)
        if x.dtype == torch.uint8:
            values = values / 255
        return (values - self.mean) / self.std

    def measure(self, x: UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."]) -> None:
        """Set mean and deviation from `x`, in float64 and in slices, so that memory-mapped data stay on disk."""
        axes = tuple(i for i in range(x.ndim) if i != 1)
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
        total = torch.zeros(x.shape[1], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for part in torch.split(x, max(1, _MEASURED // max(1, x[:1].numel()))):
            values = part.double() / scale
            total += values.sum(axes)
            squares += values.square().sum(axes)
        count = x.numel() / x.shape[1]
        mean = total / count
        power = squares / count
        variance = (power - mean.square()).clamp_min(0)
        # A constant channel (an unused color) would be divided by rounding errors or by zero; only shift it.
        std = torch.where(variance > 1e-12 * power, variance.sqrt(), torch.ones_like(variance))
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std))


class Steering(nn.Module):
    """Moves the features of inputs that look like one class: r + β · vector with β = 1[cos(r, anchor) > threshold].

    One row per edit (methods.md section 3, variant A); where several gates open, the edit whose anchor has the largest
    cosine acts alone. Where none opens, and where the vector is zero, features stay bit for bit. Everything is a
    buffer, so a state dict carries the edits under `steering.*`.
    """

    vectors: Float[Tensor, "k d"]
    anchors: Float[Tensor, "k d"]
    thresholds: Float[Tensor, " k"]  # cosines; one above 1 never opens

    def __init__(
        self, vectors: Float[Tensor, "k d"], anchors: Float[Tensor, "k d"], thresholds: Float[Tensor, " k"]
    ) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.detach().clone())
        self.register_buffer("anchors", anchors.detach().clone())
        self.register_buffer("thresholds", thresholds.detach().clone())

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        cosines = functional.cosine_similarity(features[:, None], self.anchors[None], dim=2)
        gates = cosines > self.thresholds
        edit = cosines.masked_fill(~gates, -2.0).argmax(1)  # below every cosine
        return torch.where(gates.any(1, keepdim=True), features + self.vectors[edit], features)


class Classifier(nn.Module):
    """normalize -> body -> steering, if there is one -> head.

    `features` is what the body gives, before any steering; most methods and probes need that seam.
    """

    steering: Steering | None

    def __init__(self, normalize: nn.Module, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.body = body
        self.head = head
        self.register_module("steering", None)

    def features(self, x: UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        """Penultimate features."""
        features: Tensor = self.body(self.normalize(x))
        return features

    def forward(self, x: UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."]) -> Float[Tensor, "n k"]:
        features = self.features(x)
        if self.steering is not None:
            features = self.steering(features)
        logits: Tensor = self.head(features)
        return logits


def _mlp(architecture: Architecture) -> Classifier:
    """One hidden layer of 128 units."""
    inputs = math.prod(architecture.shape)
    body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 128), nn.ReLU())
    return Classifier(_normalize(architecture), body, nn.Linear(128, architecture.classes))


def _small_cnn(architecture: Architecture) -> Classifier:
    """Two 3×3 convolutions with pooling, one hidden layer, LayerNorm before the last ReLU.

    LayerNorm instead of batch normalization: no running statistics that would remember the forget set, and models
    retrained with other seeds agree more closely, which lets an audit see smaller traces.
    """
    channels, height, width = architecture.shape
    flat = 32 * (height // 4) * (width // 4)
    if not flat:
        raise UsageError(f"small-cnn: images must be at least 4×4 pixels, got {height}×{width}; use 'mlp'")
    body = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, 64),
        nn.LayerNorm(64),
        nn.ReLU(),
    )
    return Classifier(_normalize(architecture), body, nn.Linear(64, architecture.classes))


def _resnet18_cifar(architecture: Architecture) -> Classifier:
    """ResNet-18 for 32×32 images: 3×3 stem with stride 1, no max-pooling (methods.md 1.3)."""
    from torchvision.models import resnet18  # a second and 160 MB that small models do not need

    net = resnet18(weights=None, num_classes=architecture.classes)
    net.conv1 = nn.Conv2d(architecture.shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return _split(net, architecture)


class _Residual(nn.Module):
    """x + block(x)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        out: Tensor = x + self.block(x)
        return out


class _GlobalMax(nn.Module):
    """The largest value of each channel; unlike adaptive pooling, its gradient is deterministic on CUDA."""

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c"]:
        return x.amax((2, 3))


def _resnet9(architecture: Architecture) -> Classifier:
    """Nine layers for 32×32 images, made for fast shadow models: few wide convolutions, two residual blocks."""
    channels, height, width = architecture.shape
    if min(height, width) < 8:
        raise UsageError(f"resnet9: images must be at least 8×8 pixels, got {height}×{width}; use 'small-cnn'")

    def convolution(before: int, after: int, *, pool: bool = False) -> nn.Sequential:
        layers = [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))

    def residual(width: int) -> _Residual:
        return _Residual(nn.Sequential(convolution(width, width), convolution(width, width)))

    body = nn.Sequential(
        convolution(channels, 64),
        convolution(64, 128, pool=True),
        residual(128),
        convolution(128, 256, pool=True),
        convolution(256, 512, pool=True),
        residual(512),
        _GlobalMax(),
    )
    return Classifier(_normalize(architecture), body, nn.Linear(512, architecture.classes))


def _torchvision(architecture: Architecture) -> Classifier:
    from torchvision import models

    name = architecture.name.removeprefix("torchvision:")
    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(f"model.architecture: torchvision has no model {name!r}{nearest(name, known)}")
    return _split(models.get_model(name, weights=None, num_classes=architecture.classes), architecture)


def _imported(architecture: Architecture) -> Classifier:
    """A user's own factory; it is handed those of `classes`, `num_classes` and `shape` that it names."""
    factory = resolve(architecture.name)
    if not callable(factory):
        raise UsageError(f"model.architecture: {architecture.name!r} is not callable; name a function or a class")
    offered = {
        "classes": architecture.classes,
        "num_classes": architecture.classes,
        "shape": architecture.shape,
    }
    signature = inspect.signature(factory)
    handed = {name: value for name, value in offered.items() if name in signature.parameters}
    try:
        signature.bind(**handed)
    except TypeError as error:
        raise UsageError(
            f"model.architecture: {architecture.name!r} cannot be called ({error}); it may take {', '.join(offered)}, "
            "give everything else a default"
        ) from error
    net = factory(**handed)
    if not isinstance(net, nn.Module):
        raise UsageError(
            f"model.architecture: {architecture.name!r} must return a torch.nn.Module, got {type(net).__name__}"
        )
    if isinstance(net, Classifier):
        _logits(net.eval(), _probe(architecture), architecture)
        return net
    return _split(net, architecture)


_NAMED = {"mlp": _mlp, "small-cnn": _small_cnn, "resnet9": _resnet9, "resnet18-cifar": _resnet18_cifar}


def _normalize(architecture: Architecture) -> Normalize:
    return Normalize(architecture.shape[0], len(architecture.shape))


def _probe(architecture: Architecture) -> Float[Tensor, "2 ..."]:
    """Two inputs to try a net on."""
    return torch.linspace(0, 1, 2 * math.prod(architecture.shape)).view(2, *architecture.shape)


def _logits(net: nn.Module, probe: Float[Tensor, "2 ..."], architecture: Architecture) -> Float[Tensor, "2 k"]:
    """What a net in eval mode answers; refuses a net that does not take the inputs or answers in another shape."""
    with torch.no_grad():
        try:
            expected = net(probe)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"model.architecture: {architecture.name!r} does not take inputs of shape {architecture.shape}: "
                f"{(str(error) or type(error).__name__).splitlines()[0]}"
            ) from error
    if not isinstance(expected, Tensor) or expected.shape != (2, architecture.classes):
        got = tuple(expected.shape) if isinstance(expected, Tensor) else type(expected).__name__
        raise UsageError(
            f"model.architecture: {architecture.name!r} must return logits of shape (n, {architecture.classes}), "
            f"got {got} for n = 2"
        )
    return expected


def _split(net: nn.Module, architecture: Architecture) -> Classifier:
    """Cut the linear layer that answers off as the head, if that changes no output; else the whole net is the body."""
    probe = _probe(architecture)
    expected = _logits(net.eval(), probe, architecture)
    linear = [n for n, m in net.named_modules() if isinstance(m, nn.Linear) and m.out_features == architecture.classes]
    for name in reversed(linear):
        body = copy.deepcopy(net)
        parent, _, leaf = name.rpartition(".")
        head = body.get_submodule(name)
        setattr(body.get_submodule(parent), leaf, nn.Identity())
        with torch.no_grad(), suppress(RuntimeError, TypeError, ValueError):  # it was not the last layer
            features = body(probe)
            if features.ndim == 2 and torch.equal(head(features), expected):
                return Classifier(_normalize(architecture), body, head)
    return Classifier(_normalize(architecture), net, nn.Identity())


def build(architecture: Architecture, *, seed: int) -> Classifier:
    """A freshly initialized model in eval mode; the same seed gives the same weights, the global state is untouched."""
    if architecture.name in _NAMED:
        make = _NAMED[architecture.name]
    elif architecture.name.startswith("torchvision:"):
        make = _torchvision
    elif ":" in architecture.name:
        make = _imported
    else:
        raise UsageError(
            f"model.architecture: unknown name {architecture.name!r}{nearest(architecture.name, list(_NAMED))}; "
            f"there are {', '.join(_NAMED)}, torchvision:NAME and module:function"
        )
    with seeded(seed):
        model = make(architecture)
        if architecture.private:
            from unlearnkit.private import unmix  # brings Opacus, seconds that no other model needs

            unmix(model, architecture)
        return model.eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block only; layers and dropout draw from them."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def save_model(path: Path, model: nn.Module, architecture: Architecture, **metadata: str) -> None:
    """Write the weights as safetensors, atomically, with what is needed to build the model again."""
    write_atomic(path, pack(model.state_dict(), architecture, **metadata))


def pack(state: Mapping[str, Tensor], architecture: Architecture, **metadata: str) -> bytes:
    """The safetensors bytes of a state dict; the same weights and metadata give the same bytes."""
    header = {
        "format": FORMAT,
        "architecture": architecture.name,
        "classes": str(architecture.classes),
        "shape": json.dumps(architecture.shape),
        **({"private": "true"} if architecture.private else {}),
        **metadata,
    }
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    data = to_safetensors(tensors, header)
    # The library writes the entries of the header in an order that differs from call to call.
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def load_model(path: Path, architecture: Architecture) -> Classifier:
    """Build the architecture and load the weights into it; refuses weights that do not fit, naming the keys.

    A file that says it holds the layers of private training is given these, whatever `architecture` asks for.
    """
    if read_metadata(path).get("private") == "true":
        architecture = replace(architecture, private=True)
    model = build(architecture, seed=0)
    load_state(model, read_state(path), what=str(path), architecture=architecture)
    return model.eval()


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, what: str, architecture: Architecture) -> None:
    """Copy a state dict into a model, under our names or under the user's own (a plain torchvision state dict).

    A state that holds `steering.*` gives a Classifier that steering.
    """
    if isinstance(model, Classifier):
        _attach_steering(model, state)
    own = model.state_dict()
    given = dict(state)
    # One of our own files that lacks a key must not pass for a plain net's, whose normalization is filled in.
    ours = any(k in own and k.startswith("body.") for k in given)
    if not ours and not set(own) <= set(given):
        given = _rename(given, own)
    missing = sorted(set(own) - set(given))
    surplus = sorted(set(given) - set(own))
    shapes = sorted(k for k in set(own) & set(given) if own[k].shape != given[k].shape)
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing (first: {missing[0]})")
    if surplus:
        problems.append(f"{len(surplus)} unexpected (first: {surplus[0]})")
    if shapes:
        first = shapes[0]
        problems.append(
            f"{len(shapes)} of another shape (first: {first}, {tuple(given[first].shape)} instead of "
            f"{tuple(own[first].shape)})"
        )
    if problems:
        raise UsageError(f"{what}: the weights do not fit {architecture.name!r}: keys " + "; ".join(problems))
    bad = sorted(k for k, v in given.items() if v.is_floating_point() and not bool(torch.isfinite(v).all()))
    if bad:
        raise UsageError(f"{what}: the weights hold NaN or infinite values in {bad[0]!r}; this model cannot be audited")
    model.load_state_dict(given)


def _attach_steering(model: Classifier, state: Mapping[str, Tensor]) -> None:
    """Make room for the steering that a state holds; what does not fit there is found with the other keys."""
    vectors = state.get("steering.vectors")
    if vectors is None or vectors.ndim != 2 or not vectors.numel():
        return
    width = model.head.in_features if isinstance(model.head, nn.Linear) else vectors.shape[1]
    rows = torch.zeros(len(vectors), width, device=next(model.head.parameters(), vectors).device)
    model.steering = Steering(rows, rows, rows[:, 0])


def _rename(given: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of a plain net -> names of the split one: its last linear layer is `head`, the rest lies in `body`."""
    body = {k.removeprefix("body.") for k in own if k.startswith("body.")}
    strangers = [k for k in given if k not in body]
    stems = {k.rpartition(".")[0] for k in strangers}
    renamed = {f"body.{k}": v for k, v in given.items() if k in body}
    if len(stems) == 1:
        renamed |= {f"head.{k.rpartition('.')[2]}": given[k] for k in strangers}
    else:
        renamed |= {k: given[k] for k in strangers}
    # A plain net brings no normalization of ours: it expects inputs in [0, 1] as they are.
    return {k: v for k, v in own.items() if k.startswith("normalize.")} | renamed


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file that holds tensors only; never runs a pickle's code."""
    if not path.is_file():
        raise UsageError(f"{path}: no such weights file")
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file starts with the length of its header in eight bytes, the first of which may well be 0x80.
    if start[8:] != b"{" and (start[:1] == b"\x80" or zipfile.is_zipfile(path)):
        return _read_torch(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path}: not a readable safetensors file ({error})") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other files."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about a newer pickle, which is read or refused all the same
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        remedy = "save the weights with safetensors.torch.save_file(model.state_dict(), PATH) instead"
        if isinstance(error, pickle.UnpicklingError):
            reason = "this is a pickle that holds more than tensors, and loading it could run code"
        else:
            reason = f"not a readable file of tensors ({(str(error) or type(error).__name__).splitlines()[0]})"
        raise UsageError(f"{path}: {reason}; {remedy}") from error
    if isinstance(state, Mapping) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise UsageError(f"{path}: expected a state dict (names to tensors), got {type(state).__name__}")
    return dict(state)
