"""Every architecture builds, splits and comes back from disk bit for bit; nothing a file holds is ever executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import WriteModule
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearnkit import models
from unlearnkit.models import (
    Architecture,
    Classifier,
    Normalize,
    Steering,
    build,
    load_model,
    pack,
    read_metadata,
    read_state,
    save_model,
    seeded,
)
from unlearnkit.result import UsageError

MLP = Architecture("mlp", 3, (1, 4, 4))
NETS = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, classes, inputs=48):
            super().__init__()
            self.first = nn.Linear(inputs, 8)
            self.norm = nn.BatchNorm1d(8)
            self.out = nn.Linear(8, classes)

        def forward(self, x):
            return self.out(self.norm(self.first(x.flatten(1))).relu())

    class Scaled(Net):
        def forward(self, x):
            return super().forward(x) * 2

    class Auxiliary(Net):
        def __init__(self, classes):
            super().__init__(classes)
            self.auxiliary = nn.Linear(8, classes)  # the last linear layer, but not the head

    class Square(Net):
        def __init__(self, num_classes):
            super().__init__(num_classes)
            self.hidden = nn.Linear(8, num_classes)
            self.out = nn.Linear(num_classes, num_classes)

        def forward(self, x):
            return self.out(self.hidden(self.first(x.flatten(1)).relu()).relu())

    def shaped(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    def narrow(classes):
        return Net(classes - 1)

    def named(classes):
        return Split(classes)

    class Split(Net):
        def forward(self, x):
            return {"logits": super().forward(x)}

    def silent(classes):
        return Silent()

    class Silent(nn.Module):
        def forward(self, x):
            raise ValueError

    def ready(classes, shape):
        from unlearnkit.models import Classifier, Normalize
        return Classifier(Normalize(shape[0], len(shape)), nn.Flatten(), nn.Linear(48, classes))

    def ready_but_wide(classes, shape):
        from unlearnkit.models import Classifier, Normalize
        return Classifier(Normalize(shape[0], len(shape)), nn.Flatten(), nn.Linear(48, classes + 1))

    def demanding(classes, width):
        return Net(classes)

    def text():
        return "no module"

    number = 3
"""


def inputs(shape: tuple[int, ...], n: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, *shape), generator=torch.Generator().manual_seed(0)).byte()


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "shape", "split"),
    [
        ("mlp", (1, 8, 8), True),
        ("mlp", (5,), True),
        ("small-cnn", (2, 8, 9), True),
        ("resnet9", (1, 8, 8), True),
        ("resnet18-cifar", (1, 8, 8), True),
        ("torchvision:mobilenet_v3_small", (3, 32, 32), True),
        ("torchvision:squeezenet1_1", (3, 32, 32), False),  # ends in a convolution: the whole net is the body
    ],
)
def test_named_architectures_build_and_answer(name: str, shape: tuple[int, ...], split: bool):
    model = build(Architecture(name, 3, shape), seed=1)
    assert isinstance(model.head, nn.Linear if split else nn.Identity)
    x = inputs(shape)
    with torch.no_grad():
        logits = model(x)
        assert torch.equal(model.head(model.features(x)), logits)
        assert torch.equal(model(x.float() / 255), logits)
        assert torch.allclose(model(x.double() / 255), logits, atol=1e-5)
    assert logits.shape == (3, 3)
    assert logits.dtype == torch.float32
    assert not model.training
    assert all(not module.training for module in model.modules())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_splitting_changes_no_logit_and_no_initial_weight(name: str):
    model = build(Architecture(f"torchvision:{name}", 3, (3, 32, 32)), seed=5)
    with seeded(5):
        plain = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    x = inputs((3, 32, 32))
    with torch.no_grad():
        assert torch.equal(model(x), plain(x.float() / 255))


@pytest.mark.parametrize(
    ("net", "split"), [("Net", True), ("Scaled", False), ("Auxiliary", True), ("Square", True), ("shaped", True)]
)
def test_a_users_net_is_split_only_where_no_logit_changes(write_module: WriteModule, net: str, split: bool):
    module = write_module("nets_split", NETS)
    model = build(Architecture(f"{module}:{net}", 3, (3, 4, 4)), seed=5)
    assert isinstance(model.head, nn.Linear if split else nn.Identity)
    with seeded(5):
        factory = getattr(sys.modules[module], net)
        plain = (factory((3, 4, 4), 3) if net == "shaped" else factory(3)).eval()
    x = inputs((3, 4, 4))
    with torch.no_grad():
        assert torch.equal(model(x), plain(x.float() / 255))


def test_a_users_classifier_is_taken_as_it_is(write_module: WriteModule):
    module = write_module("nets_ready", NETS)
    model = build(Architecture(f"{module}:ready", 3, (3, 4, 4)), seed=0)
    assert isinstance(model.body, nn.Flatten)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "small_cnn",
            "unknown name 'small_cnn'; did you mean 'small-cnn'.*; there are mlp, small-cnn, resnet9, resnet",
        ),
        ("vgg", "unknown name 'vgg'; there are mlp, .* torchvision:NAME and module:function"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; did you mean 'resnet1[0-9][0-9]?'"),
        ("NETS:narrow", r"must return logits of shape \(n, 3\), got \(2, 2\) for n = 2"),
        ("NETS:ready_but_wide", r"must return logits of shape \(n, 3\), got \(2, 4\) for n = 2"),
        ("NETS:named", r"must return logits of shape \(n, 3\), got dict for n = 2"),
        ("NETS:text", r"must return a torch.nn.Module, got str"),
        ("NETS:number", "'NETS:number' is not callable; name a function or a class"),
        (
            "NETS:demanding",
            r"'NETS:demanding' cannot be called \(missing a required argument: 'width'\); it may take cl",
        ),
        ("NETS:silent", r"does not take inputs of shape \(3, 4, 4\): ValueError"),
        ("NETS:missing", "has no attribute 'missing'"),
        ("no_such_module:net", "no_such_module cannot be imported"),
    ],
)
def test_architectures_that_cannot_be_built_are_named(write_module: WriteModule, name: str, sentence: str):
    write_module("NETS", NETS)
    with pytest.raises(UsageError, match=sentence):
        build(Architecture(name, 3, (3, 4, 4)), seed=0)


def test_inputs_that_a_net_cannot_take_are_named():
    with pytest.raises(
        UsageError, match=r"'torchvision:mobilenet_v3_small' does not take inputs of shape \(1, 32, 32\)"
    ):
        build(Architecture("torchvision:mobilenet_v3_small", 3, (1, 32, 32)), seed=0)
    with pytest.raises(UsageError, match="small-cnn: images must be at least 4×4 pixels, got 3×8; use 'mlp'"):
        build(Architecture("small-cnn", 3, (1, 3, 8)), seed=0)


@pytest.mark.usefixtures("as_users_run")  # the type checks of the test run draw from the global state
def test_the_seed_decides_the_weights_and_the_global_state_is_untouched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = (build(MLP, seed=seed) for seed in (4, 4, 5))
    assert same(first, again)
    assert not same(first, other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    with pytest.raises(UsageError):
        build(Architecture("small-cnn", 3, (1, 1, 1)), seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "flat", "sliced", "memory-mapped"])
def test_measure_is_numpys_mean_and_deviation(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shape = (6,) if kind == "flat" else (3, 4, 5)
    x = inputs(shape, n=50)
    if kind in ("float32", "float64", "flat"):
        x = x.to(torch.float64 if kind == "float64" else torch.float32) * 1e-3 - 4
    if kind == "sliced":
        monkeypatch.setattr(models, "_MEASURED", 7 * 60 + 3)
    if kind == "memory-mapped":
        np.save(tmp_path / "x.npy", x.numpy())
        x = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    normalize = Normalize(shape[0], len(shape))
    normalize.measure(x)
    values = x.numpy().astype(np.float64) / (255 if x.dtype == torch.uint8 else 1)
    axes = (0,) if kind == "flat" else (0, 2, 3)
    np.testing.assert_allclose(normalize.mean.numpy().ravel(), values.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(normalize.std.numpy().ravel(), values.std(axes), rtol=1e-5)
    out = normalize(x).numpy()
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean(axes), 0, atol=1e-3)
    np.testing.assert_allclose(out.std(axes), 1, rtol=1e-3)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1000.3])
def test_a_constant_channel_is_only_shifted(constant: float):
    x = torch.rand(64, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = constant
    normalize = Normalize(2, 3)
    normalize.measure(x)
    assert normalize.std.flatten()[1] == 1
    assert normalize(x)[:, 1].abs().max() < 1e-4
    assert normalize.std.flatten()[0] == pytest.approx(float(x[:, 0].std(correction=0)), rel=1e-5)


def test_a_channel_of_small_numbers_is_not_taken_for_a_constant():
    x = 1e-8 * torch.rand(64, 1, generator=torch.Generator().manual_seed(0))
    normalize = Normalize(1, 1)
    normalize.measure(x)
    assert float(normalize(x).std(correction=0)) == pytest.approx(1, rel=1e-4)


def test_weights_come_back_bit_for_bit_with_what_they_are(tmp_path: Path):
    architecture = Architecture("resnet18-cifar", 3, (1, 8, 8))
    model = build(architecture, seed=3)
    path = tmp_path / "deep" / "model.safetensors"
    save_model(path, model, architecture, note="of the test")
    assert same(load_model(path, architecture), model)
    assert read_metadata(path) == {
        "format": "unlearnkit-model-1",
        "architecture": "resnet18-cifar",
        "classes": "3",
        "shape": "[1, 8, 8]",
        "note": "of the test",
    }
    assert read_metadata(tmp_path / "none") == {}


def test_the_same_weights_give_the_same_bytes_in_any_process():
    model = build(MLP, seed=3)
    state = model.state_dict()
    first = pack(state, MLP, a="1", z="2")
    assert all(pack(dict(reversed(state.items())), MLP, z="2", a="1") == first for _ in range(5))
    code = (
        "import sys; from unlearnkit.models import *; a = Architecture('mlp', 3, (1, 4, 4));"
        "sys.stdout.buffer.write(pack(build(a, seed=3).state_dict(), a, a='1', z='2'))"
    )
    root = Path(models.__file__).parents[1]
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=root, check=True)
    assert made.stdout == first
    assert len(first) % 4 == 0
    assert (8 + int.from_bytes(first[:8], "little")) % 8 == 0


def test_weights_in_channels_last_order_are_saved_alike():
    architecture = Architecture("small-cnn", 3, (3, 8, 8))
    model = build(architecture, seed=3)
    before = pack(model.state_dict(), architecture)
    assert pack(model.to(memory_format=torch.channels_last).state_dict(), architecture) == before


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("safetensors", "squeezenet1_1"),
        *((form, "mobilenet_v3_small") for form in ("safetensors", "torch", "wrapped", "legacy")),
    ],
)
def test_a_plain_torchvision_state_dict_loads(tmp_path: Path, name: str, form: str):
    with seeded(9):
        plain = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    path = tmp_path / "weights"
    if form == "safetensors":
        save_file(plain.state_dict(), path)
    elif form == "torch":
        torch.save(plain.state_dict(), path)
    elif form == "wrapped":
        torch.save({"state_dict": plain.state_dict(), "epoch": 3}, path)
    else:
        torch.save(plain.state_dict(), path, _use_new_zipfile_serialization=False)
    model = load_model(path, Architecture(f"torchvision:{name}", 3, (3, 32, 32)))
    x = inputs((3, 32, 32))
    with torch.no_grad():
        assert torch.equal(model(x), plain(x.float() / 255))


def test_a_plain_state_dict_of_a_net_whose_last_linear_is_not_the_head_loads(write_module: WriteModule, tmp_path: Path):
    module = write_module("nets_aux", NETS)
    architecture = Architecture(f"{module}:Auxiliary", 3, (3, 4, 4))
    build(architecture, seed=0)
    with seeded(9):
        plain = sys.modules[module].Auxiliary(3).eval()
    save_file(plain.state_dict(), tmp_path / "weights")
    model = load_model(tmp_path / "weights", architecture)
    x = inputs((3, 4, 4))
    with torch.no_grad():
        assert torch.equal(model(x), plain(x.float() / 255))


def altered(tmp_path: Path, remove: str = "", **put: Tensor) -> Path:
    state = {k.replace("__", "."): v for k, v in {**build(MLP, seed=0).state_dict(), **put}.items() if k != remove}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize(
    ("remove", "put", "sentence"),
    [
        ("head.bias", {}, r"do not fit 'mlp': keys 1 missing \(first: head.bias\)$"),
        ("body.1.weight", {}, r"keys 1 missing \(first: body.1.weight\)$"),
        ("normalize.mean", {}, r"keys 1 missing \(first: normalize.mean\)$"),
        ("", {"extra": torch.zeros(1)}, r"keys 1 unexpected \(first: extra\)$"),
        (
            "",
            {"head.bias": torch.zeros(4)},
            r"keys 1 of another shape \(first: head.bias, \(4,\) instead of \(3,\)\)$",
        ),
        (
            "head.weight",
            {"extra": torch.zeros(1), "head.bias": torch.zeros(4)},
            r"1 missing \(first: head.weight\); 1 unexpected \(first: extra\); 1 of another shape",
        ),
        (
            "",
            {"head.bias": torch.tensor([0, np.nan, 0])},
            r"NaN or infinite values in 'head.bias'; this model cannot be",
        ),
        ("", {"head.bias": torch.tensor([0, np.inf, 0])}, r"NaN or infinite values in 'head.bias'"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, remove: str, put: dict[str, Tensor], sentence: str
):
    path = altered(tmp_path, remove, **put)
    with pytest.raises(UsageError, match=re.escape(str(path)) + ": .*" + sentence):
        load_model(path, MLP)


def test_a_plain_state_dict_of_another_net_is_refused(tmp_path: Path):
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "weights")
    with pytest.raises(UsageError, match=r"keys 2 missing \(first: body.1.bias\); 1 of another shape|keys . missing"):
        load_model(tmp_path / "weights", MLP)


class Payload:
    """Runs code when it is unpickled: makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("form", ["zip", "zip inside a state dict", "legacy", *[f"protocol {p}" for p in range(6)]])
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, form: str):
    proof, path = tmp_path / "executed", tmp_path / "weights.pt"
    payload: Any = Payload(proof)
    if form.startswith("zip"):
        torch.save({"weight": torch.zeros(1), "more": payload} if "inside" in form else payload, path)
    elif form == "legacy":
        torch.save(payload, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(payload, protocol=int(form[-1])))
    readable = (
        "not a readable safetensors file" if form in ("protocol 0", "protocol 1") else "this is a pickle that hol"
    )
    with pytest.raises(UsageError, match=rf"weights.pt: {readable}"):
        read_state(path)
    assert not proof.exists()
    assert read_metadata(path) == {}
    assert not proof.exists()
    if not form.startswith("zip") and form != "legacy":  # the payload is a real one
        pickle.loads(path.read_bytes())
        assert proof.is_dir()


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path: Path):
    torch.save(build(MLP, seed=0), tmp_path / "model.pt")
    with pytest.raises(
        UsageError, match=r"pickle that holds more than tensors.*safetensors.torch.save_file\(model.state_"
    ):
        load_model(tmp_path / "model.pt", MLP)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {0: torch.zeros(1)}, torch.zeros(2)])
def test_a_torch_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"expected a state dict \(names to tensors\), got (list|dict|Tensor)"):
        read_state(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0, 3, 9, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("form", ["safetensors", "torch", "legacy"])
def test_truncated_files_are_refused(tmp_path: Path, form: str, share: float):
    state = build(MLP, seed=0).state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=form == "torch")
    data = pack(state, MLP) if form == "safetensors" else buffer.getvalue()
    path = tmp_path / "weights"
    path.write_bytes(data[: int(share * len(data)) if 0 < share < 1 else int(share)])
    with pytest.raises(UsageError, match=f"{re.escape(str(path))}: (not a readable|this is a pickle)"):
        read_state(path)


def test_damaged_headers_are_refused_or_harmless(tmp_path: Path):
    data = pack({"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64)}, MLP)
    end = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    path = tmp_path / "weights"
    refused = 0
    for position in range(end):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            read_state(path)
        except UsageError:
            refused += 1
    assert refused > end / 4


def test_a_header_whose_length_starts_like_a_pickle_is_read(tmp_path: Path):
    state = {"a": torch.arange(3.0)}
    packed = [pack(state, MLP, note="x" * length) for length in range(0, 512, 8)]
    alike = [data for data in packed if data[0] == 0x80]
    assert alike
    for data in alike:
        (tmp_path / "weights").write_bytes(data)
        assert torch.equal(read_state(tmp_path / "weights")["a"], state["a"])


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none.safetensors: no such weights file"):
        load_model(tmp_path / "none.safetensors", MLP)


def test_tied_weights_are_packed_as_two_tensors():
    weight = torch.ones(2)
    data = pack({"a": weight, "b": weight}, MLP)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert {"a", "b"} < set(header)


def test_features_are_what_the_head_sees():
    model = build(MLP, seed=0)
    assert isinstance(model, Classifier)
    with torch.no_grad():
        assert model.features(inputs((1, 4, 4))).shape == (3, 128)


def steered(rows: int = 2, architecture: Architecture = MLP) -> Classifier:
    model, rng = build(architecture, seed=0), torch.Generator().manual_seed(1)
    vectors, anchors = (torch.randn(rows, model.head.in_features, generator=rng) for _ in range(2))
    model.steering = Steering(vectors, anchors, torch.linspace(-0.1, 0.1, rows))
    return model


def test_steering_adds_the_row_of_the_nearest_open_gate():
    rng = torch.Generator().manual_seed(0)
    vectors, anchors, thresholds = (
        torch.randn(3, 5, generator=rng),
        torch.randn(3, 5, generator=rng),
        torch.rand(3, generator=rng) / 4,
    )
    features = torch.cat([torch.randn(200, 5, generator=rng), torch.zeros(1, 5)])
    got = Steering(vectors, anchors, thresholds)(features)
    acted = []
    for before, after in zip(features, got, strict=True):
        cosines = anchors @ before / anchors.norm(dim=1) / before.norm().clamp(min=1e-8)
        open_rows = [row for row in range(3) if cosines[row] > thresholds[row]]
        row = max(open_rows, key=lambda row: float(cosines[row]), default=None)
        assert torch.equal(after, before if row is None else before + vectors[row])
        acted.append(row)
    assert {*acted} == {None, 0, 1, 2}
    assert acted[-1] is None


def test_steering_acts_between_body_and_head():
    model, x = steered(), inputs((1, 4, 4), n=40)
    plain = build(MLP, seed=0)
    assert model.steering is not None
    with torch.no_grad():
        assert torch.equal(model.features(x), plain.features(x))
        assert torch.equal(model(x), plain.head(model.steering(plain.features(x))))
        assert not torch.equal(model(x), plain(x))


@pytest.mark.parametrize("rows", [1, 3])
def test_steering_is_saved_and_loaded_with_the_weights(tmp_path: Path, rows: int):
    model = steered(rows)
    assert [name for name in model.state_dict() if name.startswith("steering.")] == [
        "steering.vectors",
        "steering.anchors",
        "steering.thresholds",
    ]
    save_model(tmp_path / "model.safetensors", model, MLP)
    loaded = load_model(tmp_path / "model.safetensors", MLP)
    assert same(loaded, model)
    with torch.no_grad():
        assert torch.equal(loaded(inputs((1, 4, 4))), model(inputs((1, 4, 4))))
    assert build(MLP, seed=0).steering is None
    assert not [name for name in build(MLP, seed=0).state_dict() if "steering" in name]


@pytest.mark.parametrize(
    ("remove", "put", "sentence"),
    [
        ("steering.anchors", {}, r"keys 1 missing \(first: steering.anchors\)$"),
        ("steering.vectors", {}, r"keys 2 unexpected \(first: steering.anchors\)$"),
        ("", {"steering.bias": torch.zeros(1)}, r"keys 1 unexpected \(first: steering.bias\)$"),
        ("", {"steering.thresholds": torch.zeros(5)}, r"steering.thresholds, \(5,\) instead of \(2,\)\)$"),
        ("", {"steering.vectors": torch.zeros(2)}, r"keys 3 unexpected \(first: steering.anchors\)$"),
        ("", {"steering.vectors": torch.zeros(0, 128)}, r"keys 3 unexpected \(first: steering.anchors\)$"),
        (
            "",
            {"steering.vectors": torch.zeros(2, 7), "steering.anchors": torch.zeros(2, 7)},
            r"2 of another shape \(first: steering.anchors, \(2, 7\) instead of \(2, 128\)\)$",
        ),
        ("", {"steering.vectors": torch.full((2, 128), torch.nan)}, r"NaN or infinite values in 'steering.vectors'"),
    ],
)
def test_steering_that_does_not_fit_is_refused(tmp_path: Path, remove: str, put: dict[str, Tensor], sentence: str):
    state = {name: value for name, value in {**steered().state_dict(), **put}.items() if name != remove}
    save_file(state, tmp_path / "weights")
    with pytest.raises(UsageError, match=sentence):
        load_model(tmp_path / "weights", MLP)


@pytest.mark.usefixtures("as_users_run")  # an exporter sees tensors that the shape checks cannot read
def test_a_steered_model_can_be_exported(tmp_path: Path):
    model = steered()
    x, other = inputs((1, 4, 4), n=4), inputs((1, 4, 4), n=11).flip(2)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    exported = torch.export.load(tmp_path / "model.pt2").module()
    for given in (x, other):
        torch.testing.assert_close(exported(given), model(given))
    assert not torch.equal(exported(other), build(MLP, seed=0)(other))
