"""The one training loop: it learns, repeats bit for bit, and says what is wrong with what it was given."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs, WriteModule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit import train
from unlearnkit.models import Architecture, build, seeded
from unlearnkit.result import UsageError
from unlearnkit.train import (
    Epoch,
    Recipe,
    augment,
    count_batches,
    deterministic,
    device_of,
    draw_epoch,
    fit,
    forever,
    initial,
    learning_rate,
    make_optimizer,
    mixed_precision,
    shuffled,
    take_steps,
    train_mode,
    transform,
)
from unlearnkit.types import Examples

RECIPE = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=4, batch_size=32)


def weights(model: nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "lr": 0.01, "schedule": "cosine"},
        {"augment": "crop-flip", "epochs": 12},
        {"architecture": Architecture("small-cnn", 3, (1, 8, 8)), "schedule": "constant"},
    ],
)
def test_it_learns(blobs: MakeBlobs, changes: dict[str, Any]):
    recipe = replace(RECIPE, **changes)
    model = fit(recipe, blobs(192), seed=0)
    test = blobs(90, seed=1)
    if recipe.augment == "crop-flip":  # a flip turns the class of the left quarter into that of the right
        test = test.take(np.flatnonzero(test.labels().numpy() == 2))
    with torch.no_grad():
        accuracy = float((model(test.x).argmax(1) == test.labels()).float().mean())
    assert accuracy > 0.95
    assert not model.training


def test_the_seed_decides_the_weights_whatever_the_threads(blobs: MakeBlobs, threads: Callable[[int], None]):
    recipe = replace(RECIPE, augment="crop-flip", architecture=Architecture("small-cnn", 3, (1, 16, 16)), epochs=1)
    data = blobs(1024, side=16)  # large enough for torch to split sums among threads
    made = []
    for count in (1, 2, 3):
        threads(count)
        made.append(weights(fit(recipe, data, seed=7)))
    assert made[0] == made[1] == made[2]
    assert weights(fit(recipe, data, seed=8)) != made[0]


def test_the_loop_is_the_plain_one(blobs: MakeBlobs):
    """A naive twin: torch's own pieces, row by row in the same order."""
    data = blobs(50)
    recipe = replace(RECIPE, batch_size=16, epochs=2)
    model = build(recipe.architecture, seed=3)
    values = data.x.numpy() / 255
    model.normalize.mean.fill_(values.mean())
    model.normalize.std.fill_(values.std())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4, nesterov=True)
    rng = torch.Generator().manual_seed(3)
    step = 0
    for _ in range(2):
        order = torch.randperm(50, generator=rng)
        for rows in order.split(16):
            done = step / 8
            share = 0.04 + 0.96 * (1 - math.cos(math.pi * done / 0.3)) / 2
            if done >= 0.3:
                share = (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2
            optimizer.param_groups[0]["lr"] = 0.05 * share
            optimizer.zero_grad()
            functional.cross_entropy(model(data.x[rows]), data.labels()[rows]).backward()
            optimizer.step()
            step += 1
    made = fit(recipe, data, seed=3)
    for (name, value), other in zip(model.state_dict().items(), made.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.usefixtures("as_users_run")  # the type checks of the test run draw from the global state
def test_global_state_and_threads_are_put_back(blobs: MakeBlobs, threads: Callable[[int], None]):
    threads(2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    fit(replace(RECIPE, epochs=1), blobs(20), seed=0)
    with pytest.raises(UsageError):
        fit(replace(RECIPE, lr=1e38), blobs(20), seed=0)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_global_state_does_not_matter(blobs: MakeBlobs, write_module: WriteModule):
    name = write_module(
        "drops",
        """
        from torch import nn
        def net(classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, classes))
        """,
    )
    recipe = replace(RECIPE, architecture=Architecture(f"{name}:net", 3, (1, 8, 8)))
    made = []
    for state in (1, 2):
        with seeded(state):
            made.append(weights(fit(recipe, blobs(40), seed=0)))
    assert made[0] == made[1]


def test_memory_mapped_data_train_the_same_model(blobs: MakeBlobs, tmp_path: Path):
    data = blobs(64)
    np.save(tmp_path / "x.npy", data.x.numpy())
    mapped = Examples(torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c")), data.y, data.ids)
    recipe = replace(RECIPE, augment="flip")
    assert weights(fit(recipe, mapped, seed=0)) == weights(fit(recipe, data, seed=0))


def test_normalization_is_measured_on_the_training_examples_only(blobs: MakeBlobs):
    data = blobs(30)
    model = fit(replace(RECIPE, epochs=1), data, seed=0)
    values = data.x.numpy() / 255
    assert float(model.normalize.mean) == pytest.approx(values.mean(), rel=1e-6)
    assert float(model.normalize.std) == pytest.approx(values.std(), rel=1e-6)


def test_on_epoch_is_told_every_epoch(blobs: MakeBlobs):
    told: list[int] = []
    fit(RECIPE, blobs(20), seed=0, on_epoch=told.append)
    assert told == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("schedule", "done", "share"),
    [
        ("constant", 0.0, 1.0),
        ("constant", 0.99, 1.0),
        ("cosine", 0.0, 1.0),
        ("cosine", 1 / 3, 0.75),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("one-cycle", 0.0, 0.04),
        ("one-cycle", 0.15, 0.52),
        ("one-cycle", 0.3, 1.0),
        ("one-cycle", 0.65, 0.5),
        ("one-cycle", 1.0, 0.0),
    ],
)
def test_schedules(schedule: Any, done: float, share: float):
    assert learning_rate(schedule, done) == pytest.approx(share, abs=1e-12)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 5))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_an_epoch_holds_every_row_once_and_no_batch_of_one(n: int, size: int, seed: int):
    batches = list(shuffled(n, size, torch.Generator().manual_seed(seed)))
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert len(batches) == count_batches(n, size)
    assert all(len(batch) <= size + 1 for batch in batches)
    if min(n, size) > 1:
        assert all(len(batch) > 1 for batch in batches)


def test_batches_are_the_given_size_in_a_random_order():
    batches = list(shuffled(10, 4, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert torch.cat(batches).tolist() == torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    endless = forever(3, 2, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([next(endless) for _ in range(4)]).tolist()) == sorted([0, 1, 2] * 4)


def test_batch_normalization_trains_except_on_batches_of_one():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    for n, size, mode in ((9, 4, True), (1, 4, False), (9, 1, False)):
        train_mode(net, n, size)
        assert [module.training for module in net] == [True, mode, True]


def test_one_example_can_be_trained_on(blobs: MakeBlobs, write_module: WriteModule):
    name = write_module(
        "norms",
        """
        from torch import nn
        def net(classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))
        """,
    )
    recipe = replace(RECIPE, architecture=Architecture(f"{name}:net", 3, (1, 8, 8)))
    assert math.isfinite(float(fit(recipe, blobs(1), seed=0)(blobs(1).x).detach().sum()))
    fit(replace(recipe, batch_size=1), blobs(3), seed=0)
    fit(replace(recipe, batch_size=4), blobs(5), seed=0)


def epoch_of(rows: int = 10, models: int | None = None) -> Epoch:
    """Draws that can be told apart: row i is shifted by i down and -i to the right."""
    order = torch.arange(rows) if models is None else torch.arange(rows).expand(models, rows)
    return Epoch(order, torch.stack([order, -order]), order % 3 == 0)


@pytest.mark.parametrize("models", [None, 3])
@pytest.mark.parametrize(("n", "size", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 8, [3]), (1, 4, [1])])
def test_an_epoch_is_cut_into_batches_with_their_augmentation(n: int, size: int, sizes: list[int], models: int | None):
    epoch = epoch_of(n, models)
    batches = list(epoch.batches(size))
    assert [batch.rows.shape[-1] for batch in batches] == sizes
    assert len(batches) == count_batches(n, size)
    for batch in batches:
        assert batch.shift is not None
        assert batch.flip is not None
        assert torch.equal(batch.shift, torch.stack([batch.rows, -batch.rows]))
        assert torch.equal(batch.flip, batch.rows % 3 == 0)
    assert torch.equal(torch.cat([batch.rows for batch in batches], dim=-1), epoch.rows)
    moved = epoch.to(torch.device("meta"))
    assert moved.shift is not None
    assert moved.rows.device.type == moved.shift.device.type == "meta"
    plain = Epoch(epoch.rows, None, None)
    assert all(batch.shift is batch.flip is None for batch in plain.batches(size))


def test_an_epoch_is_drawn_in_one_order():
    """Rows, shifts, flips: whoever draws them otherwise trains other models from the same seed."""
    epoch = draw_epoch(12, "crop-flip", (1, 16, 16), torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    assert torch.equal(epoch.rows, torch.randperm(12, generator=rng))
    assert epoch.shift is not None
    assert torch.equal(epoch.shift, torch.randint(-2, 3, (2, 12), generator=rng))
    assert epoch.flip is not None
    assert torch.equal(epoch.flip, torch.rand(12, generator=rng) < 0.5)
    assert set(epoch.shift.flatten().tolist()) == {-2, -1, 0, 1, 2}
    flips = draw_epoch(12, "flip", (1, 16, 16), torch.Generator().manual_seed(5))
    assert flips.shift is None
    assert flips.flip is not None
    bare = torch.Generator().manual_seed(5)
    plain = draw_epoch(12, "none", (7,), bare)
    assert plain.shift is plain.flip is None
    after = torch.Generator().manual_seed(5)
    torch.randperm(12, generator=after)
    assert torch.equal(bare.get_state(), after.get_state())  # nothing else was drawn
    with pytest.raises(UsageError, match=r"'crop-flip' needs images \[n, c, h, w\], got inputs of shape \(12, 7\)"):
        draw_epoch(12, "crop-flip", (7,), bare)


def test_a_shift_is_down_and_to_the_right_before_the_flip():
    x = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    x[:, 0, 3, 4] = 9
    draws = Epoch(torch.arange(3), torch.tensor([[0, 1, -1], [0, 1, 1]]), torch.tensor([False, False, True]))
    spots = [tuple(image[0].nonzero()[0].tolist()) for image in transform(x, draws)]
    assert spots == [(3, 4), (2, 3), (4, 7 - 3)]


def test_augmented_training_is_the_loop_over_augmented_batches(blobs: MakeBlobs):
    """A naive twin: every epoch is drawn whole, then image by image shifted and flipped."""
    data = blobs(40)
    recipe = replace(RECIPE, batch_size=16, epochs=2, augment="crop-flip", schedule="constant")
    model = initial(recipe, data, seed=3)
    optimizer = make_optimizer(model, "sgd", lr=0.05, weight_decay=5e-4)
    rng = torch.Generator().manual_seed(3)
    for _ in range(2):
        order = torch.randperm(40, generator=rng)
        shift = torch.randint(-1, 2, (2, 40), generator=rng)
        flip = torch.rand(40, generator=rng) < 0.5
        images = []
        for row, down, right, flipped in zip(order, *shift.tolist(), flip, strict=True):
            image = functional.pad(data.x[row], (1, 1, 1, 1))[:, 1 + down : 9 + down, 1 + right : 9 + right]
            images.append(image.flip(2) if flipped else image)
        for x, rows in zip(torch.stack(images).split(16), order.split(16), strict=True):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), data.labels()[rows]).backward()
            optimizer.step()
    made = fit(recipe, data, seed=3)
    for (name, value), other in zip(model.state_dict().items(), made.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("kind", "height", "width"), [("flip", 8, 6), ("crop-flip", 16, 16), ("crop-flip", 5, 9)])
def test_augmentation_is_its_naive_twin(dtype: torch.dtype, kind: Any, height: int, width: int):
    x = torch.randint(1, 256, (12, 3, height, width), generator=torch.Generator().manual_seed(0)).to(dtype)
    before = x.clone()
    out = augment(x, kind, torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    pad = max(1, height // 8)
    shift = torch.randint(0, 2 * pad + 1, (2, 12), generator=rng) if kind == "crop-flip" else None
    flip = torch.rand(12, generator=rng) < 0.5
    for i in range(12):
        image = x[i]
        if shift is not None:
            framed = torch.zeros(3, height + 2 * pad, width + 2 * pad, dtype=dtype)
            framed[:, pad : pad + height, pad : pad + width] = image
            top, left = shift[:, i].tolist()
            image = framed[:, top : top + height, left : left + width]
        assert torch.equal(out[i], image.flip(2) if flip[i] else image)
    assert 0 < int(flip.sum()) < 12
    assert out.dtype == dtype
    assert torch.equal(x, before)


def test_no_augmentation_draws_nothing_and_vectors_cannot_be_augmented():
    rng = torch.Generator().manual_seed(0)
    x = torch.zeros(2, 5)
    assert augment(x, "none", rng) is x
    assert torch.equal(rng.get_state(), torch.Generator().manual_seed(0).get_state())
    with pytest.raises(
        UsageError, match=r"'flip' needs images \[n, c, h, w\], got inputs of shape \(2, 5\); use 'none'"
    ):
        augment(x, "flip", rng)


def test_defaults_leave_the_margin_undistorted():
    assert Recipe(RECIPE.architecture).label_smoothing == 0
    assert Recipe(RECIPE.architecture).augment == "none"


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 0}, "recipe.epochs: must be at least 1, got 0"),
        ({"batch_size": -1}, "recipe.batch_size: must be at least 1, got -1"),
        ({"lr": 0.0}, "recipe.lr: must be above 0, got 0.0"),
        ({"lr": -1.0}, "recipe.lr: must be above 0, got -1.0"),
        ({"lr": math.nan}, "recipe.lr: must be above 0, got nan"),
        ({"lr": math.inf}, "recipe.lr: must be above 0, got inf"),
        ({"momentum": 1.0}, "recipe.momentum: must be at least 0 and below 1, got 1.0"),
        ({"weight_decay": -0.1}, "recipe.weight_decay: must be at least 0, got -0.1"),
        ({"label_smoothing": 1.0}, "recipe.label_smoothing: must be at least 0 and below 1, got 1.0"),
        ({"optimizer": "adam"}, "recipe.optimizer: must be one of sgd, adamw, got 'adam'; did you mean 'adamw'"),
        ({"schedule": "linear"}, "recipe.schedule: must be one of constant, cosine, one-cycle, got 'linear'"),
        ({"augment": "crop"}, "recipe.augment: must be one of none, flip, crop-flip, got 'crop'"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes: dict[str, Any], sentence: str):
    with pytest.raises(UsageError, match=sentence):
        replace(RECIPE, **changes)


def test_a_loss_that_is_not_finite_names_step_and_learning_rate():
    weight = nn.Parameter(torch.ones(1))
    optimizer = make_optimizer(nn.ParameterList([weight]), "sgd", lr=0.5)
    factors = iter([torch.tensor(1.0), torch.tensor(2.0), torch.tensor(math.nan), torch.tensor(math.inf)])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1**step)
    with pytest.raises(
        UsageError, match=r"here: the loss became nan at step 3 with learning rate 0.005; choose a small"
    ):
        take_steps(optimizer, factors, lambda factor: (weight * factor).sum(), what="here", scheduler=scheduler)


def test_training_that_diverges_says_where(blobs: MakeBlobs):
    with pytest.raises(
        UsageError, match=r"training, epoch \d: the loss became \w+ at step \d+ with learning rate .*e\+"
    ):
        fit(replace(RECIPE, lr=1e30), blobs(64), seed=0)
    once = replace(RECIPE, lr=1e38, epochs=1, batch_size=64, schedule="constant", weight_decay=1e3)
    with pytest.raises(UsageError, match=r"training: '\S+' holds NaN or infinite values at the end; choose a smaller"):
        fit(once, blobs(64), seed=0)


def test_steps_call_back_in_order_and_clip():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    calls: list[str] = []

    def loss(batch: int) -> Tensor:
        calls.append(f"loss {batch}")
        return (weight * torch.tensor([3.0, 4.0])).sum()

    def before() -> None:
        calls.append(f"before {[] if weight.grad is None else weight.grad.tolist()}")

    take_steps(optimizer, [1, 2], loss, what="", clip=1.0, before_step=before, after_step=lambda: calls.append("after"))
    assert calls == ["loss 1", "before [3.0, 4.0]", "after", "loss 2", "before [3.0, 4.0]", "after"]
    torch.testing.assert_close(weight.detach(), torch.tensor([-1.2, -1.6]))


def test_optimizers_are_what_they_are_called_and_leave_frozen_weights_out():
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    sgd = make_optimizer(net, "sgd", lr=0.1, weight_decay=0.2)
    assert isinstance(sgd, torch.optim.SGD)
    assert [len(group["params"]) for group in sgd.param_groups] == [1]
    assert {key: sgd.defaults[key] for key in ("lr", "momentum", "weight_decay", "nesterov")} == {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.2,
        "nesterov": True,
    }
    assert not make_optimizer(net, "sgd", lr=0.1, nesterov=False).defaults["nesterov"]
    assert not make_optimizer(net, "sgd", lr=0.1, momentum=0.0).defaults["nesterov"]
    assert isinstance(make_optimizer(net, "adamw", lr=0.1), torch.optim.AdamW)


def test_examples_that_do_not_fit_the_architecture_are_refused(blobs: MakeBlobs):
    with pytest.raises(
        UsageError, match=r"examples have shape \(1, 4, 4\), but the architecture was asked for \(1, 8, 8"
    ):
        fit(RECIPE, blobs(6, side=4), seed=0)
    with pytest.raises(UsageError, match=r"labels must lie in 0..2, the architecture's classes, got 3"):
        fit(RECIPE, blobs(8, classes=4), seed=0)
    whole = blobs(3)
    with pytest.raises(UsageError, match=r"labels must lie in 0..2, the architecture's classes, got -1"):
        fit(RECIPE, Examples(whole.x, whole.labels() - 1, whole.ids), seed=0)
    with pytest.raises(UsageError, match="there are no examples to train on"):
        fit(RECIPE, blobs(0), seed=0)
    with pytest.raises(UsageError, match="handed over without labels"):
        fit(RECIPE, whole.without_labels(), seed=0)


TRAINERS = """
    import torch
    from torch import nn
    from unlearnkit.models import build

    def random(recipe, examples, *, seed):
        assert recipe.trainer is None
        model = build(recipe.architecture, seed=seed).train()
        with torch.no_grad():
            model.head.bias.copy_(torch.rand(3))  # from the global generator
            model.head.bias[0] = torch.get_num_threads()
        return model

    class Callable:
        def __call__(self, recipe, examples, *, seed):
            return build(recipe.architecture, seed=seed)

    instance = Callable()

    def path(recipe, examples, *, seed):
        return "weights.pt"

    def nan(recipe, examples, *, seed):
        model = build(recipe.architecture, seed=seed)
        nn.init.constant_(model.head.bias, float("nan"))
        return model
"""


def test_a_users_trainer_is_held_to_the_same_standard(
    blobs: MakeBlobs, write_module: WriteModule, threads: Callable[[int], None]
):
    name = write_module("trainers", TRAINERS)
    recipe = replace(RECIPE, trainer=f"{name}:random")
    threads(2)
    state = torch.get_rng_state()
    first = fit(recipe, blobs(4), seed=1)
    assert not first.training
    assert weights(first) == weights(fit(recipe, blobs(4), seed=1))
    assert first.head.bias[0].item() == 1  # one thread, whatever the caller has
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    fit(replace(recipe, trainer=f"{name}:instance"), blobs(4), seed=1)


@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [
        ("trainers:path", "recipe.trainer: 'trainers:path' must return a torch.nn.Module, got str"),
        ("trainers:nan", "recipe.trainer: 'trainers:nan' returned NaN or infinite weights in 'head.bias'"),
        ("trainers:pathh", "has no attribute 'pathh'.*did you mean 'path'"),
        ("nowhere:fit", "nowhere cannot be imported"),
        ("fit", "must read package.module:attribute, got 'fit'"),
    ],
)
def test_trainers_that_return_something_else_are_named(
    blobs: MakeBlobs, write_module: WriteModule, trainer: str, sentence: str
):
    write_module("trainers", TRAINERS)
    with pytest.raises(UsageError, match=sentence):
        fit(replace(RECIPE, trainer=trainer), blobs(4), seed=0)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "mps", "meta"])
def test_unknown_devices_are_refused(name: str):
    with pytest.raises(UsageError, match=f"device: must be 'cpu', 'cuda' or 'cuda:N', got {name!r}"):
        device_of(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, blobs: MakeBlobs):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="'cuda' was asked for, but this machine offers 0 CUDA devices; use 'cpu'"):
        fit(RECIPE, blobs(3), seed=0, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="'cuda:2' was asked for, but this machine offers 2 CUDA devices"):
        device_of("cuda:2")
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.filterwarnings("ignore:.*Disabling autocast")
def test_on_cuda_convolutions_stay_with_cudnn_and_are_deterministic():
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with deterministic(torch.device("cuda")):
        assert torch.backends.cudnn.enabled
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
    after = torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    assert after == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_seed_decides_the_weights(blobs: MakeBlobs):
    recipe = replace(RECIPE, architecture=Architecture("small-cnn", 3, (1, 8, 8)), augment="crop-flip")
    made = [fit(recipe, blobs(128), seed=1, device="cuda") for _ in range(2)]
    assert weights(made[0]) == weights(made[1])
    assert all(value.device.type == "cpu" for value in made[0].state_dict().values())


def test_mixed_precision_keeps_no_cast_of_weights_that_change():
    """One autocast spans a whole training; a kept cast of the first weights would be all that the model ever sees."""
    layer = nn.Linear(4, 4)
    x = torch.ones(2, 4)
    with mixed_precision("cpu"):
        before = layer(x).detach()
        with torch.no_grad():
            layer.weight.add_(1.0)
        assert not torch.equal(layer(x), before)


# -- compiled ------------------------------------------------------------------------------------------------------


class Compiler:
    """Stands for torch.compile: what it was asked to compile, and the batches that went through it."""

    def __init__(self) -> None:
        self.models: list[nn.Module] = []
        self.sizes: list[int] = []

    def __call__(self, model: nn.Module, **options: Any) -> Callable[[Tensor], Tensor]:
        assert options == {"mode": None, "dynamic": False}
        self.models.append(model)

        def step(x: Tensor) -> Tensor:
            self.sizes.append(len(x))
            logits: Tensor = model(x)
            return logits

        return step


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(torch, "compile", made)
    monkeypatch.setattr(train, "_COMPILED", {})
    return made


COMPILED = replace(RECIPE, epochs=2, batch_size=16, compiled=True)


def test_one_compiled_network_trains_every_model(blobs: MakeBlobs, compiler: Compiler):
    data = blobs(41)
    first, second = fit(COMPILED, data, seed=1), fit(COMPILED, data.take(np.arange(9, 41)), seed=2)
    assert len(compiler.models) == 1
    assert set(compiler.sizes) == {16}  # the last nine of 41 would be compiled anew
    assert len(compiler.sizes) == 2 * 2 + 2 * 2
    plain = replace(COMPILED, compiled=False)
    for made, twin in (
        (first, fit(plain, data, seed=1)),
        (second, fit(plain, data.take(np.arange(9, 41)), seed=2)),
    ):
        for (name, value), other in zip(twin.state_dict().items(), made.state_dict().values(), strict=True):
            torch.testing.assert_close(other, value, rtol=0, atol=1e-6, msg=name)
        assert not made.training
    assert weights(fit(COMPILED, data, seed=1)) == weights(first)


def test_the_resident_network_lends_its_weights_to_nobody(blobs: MakeBlobs, compiler: Compiler):
    first = fit(COMPILED, blobs(40), seed=1)
    before = weights(first)
    [resident] = compiler.models
    places = {value.data_ptr() for value in resident.state_dict().values()}
    assert places.isdisjoint(value.data_ptr() for value in first.state_dict().values())
    fit(COMPILED, blobs(40), seed=2)
    assert weights(first) == before
    with torch.no_grad():
        first.head.weight.zero_()
    assert weights(fit(COMPILED, blobs(40), seed=1)) == before


def test_another_network_is_compiled_anew_and_takes_the_place(blobs: MakeBlobs, compiler: Compiler):
    fit(COMPILED, blobs(40), seed=1)
    fit(replace(COMPILED, lr=0.01, epochs=1), blobs(40), seed=1)
    assert len(compiler.models) == 1
    fit(replace(COMPILED, batch_size=20), blobs(40), seed=1)
    fit(replace(COMPILED, architecture=Architecture("small-cnn", 3, (1, 8, 8)), epochs=1), blobs(40), seed=1)
    assert len(compiler.models) == 3
    assert len(train._COMPILED) == 1


def test_a_compiled_training_that_diverged_leaves_no_trace(blobs: MakeBlobs, compiler: Compiler):
    data = blobs(40)
    before = weights(fit(COMPILED, data, seed=1))
    with pytest.raises(UsageError, match="the loss became"):
        fit(replace(COMPILED, lr=1e30), data, seed=1)
    assert weights(fit(COMPILED, data, seed=1)) == before
    assert len(compiler.models) == 1
