"""Every method is held to one contract; then each to the invariants that make it what it is."""

from __future__ import annotations

import copy
import inspect
import json
import math
import random
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.data import load, resolve
from unlearnkit.editing import normalization_layers
from unlearnkit.methods import (
    AMUN,
    DELETE,
    LAF,
    METHODS,
    SCRUB,
    SSD,
    BadTeacher,
    BoundaryExpand,
    BoundaryShrink,
    CFk,
    ClassVectors,
    ClassVectorsMapping,
    EUk,
    FewSample,
    FineTune,
    FisherForgetting,
    InfluenceUnlearning,
    L1Sparse,
    NegativeGradient,
    NegGradPlus,
    PruneFirst,
    RandomLabel,
    Retrain,
    SalUn,
    SalUnSoft,
    SVDProjection,
    method_named,
)
from unlearnkit.methods.random_label import random_labels
from unlearnkit.methods.salun import saliency_mask
from unlearnkit.methods.steps import Hold, count_classes
from unlearnkit.models import Architecture
from unlearnkit.result import UsageError
from unlearnkit.train import (
    Recipe,
    deterministic,
    fit,
    forever,
    initial,
    make_optimizer,
    shuffled,
    take_steps,
    train_mode,
)
from unlearnkit.types import Access, Examples, Method, Need, Splits, Unlearned
from unlearnkit.unlearning import unlearn

CLASSES, SHAPE = 4, (1, 8, 8)

METHODS_TABLE: list[Method] = [
    Retrain(),
    FineTune(epochs=2, lr=0.05, batch_size=32),
    FineTune(epochs=2, batch_size=32, augment="crop-flip"),
    NegativeGradient(epochs=2, lr=1e-2, batch_size=8),
    NegGradPlus(epochs=2, batch_size=32),
    RandomLabel(epochs=2, batch_size=32),
    RandomLabel(epochs=2, batch_size=32, legacy=True),
    SalUn(epochs=2, batch_size=32),
    SalUn(epochs=2, batch_size=32, legacy=True),
    SalUnSoft(epochs=2, batch_size=32),
    L1Sparse(epochs=2, batch_size=32),
    CFk(k=1, epochs=2, batch_size=32),
    EUk(k=1, epochs=2, batch_size=32),
    AMUN(epochs=2, attack_steps=4, epsilon=0.2, probes=10, batch_size=32),
    DELETE(epochs=2, lr=1e-2, batch_size=8),
    BoundaryShrink(epochs=2, lr=1e-2, batch_size=8),
    BoundaryExpand(epochs=2, lr=1e-2, batch_size=8),
    SCRUB(epochs=2, lr=1e-2, decay_epoch=2, batch_size=32, forget_batch_size=8),
    SCRUB(lr=1e-2, batch_size=32, rewind=True),
    BadTeacher(lr=1e-3, batch_size=32),
    LAF(epochs=2, vae_epochs=2, batch_size=16, repair_epochs=1),
    SSD(alpha=2.0, batch_size=16),
    SSD(alpha=2.0, batch_size=16, label_free=True),
    FisherForgetting(alpha=1e-6, examples=32),
    InfluenceUnlearning(samples=64, iterations=10),
    PruneFirst(inner=FineTune(epochs=2, batch_size=32), pruning="iterative", sparsity=0.5, per_round=0.3),
    FisherForgetting(alpha=1e-6, examples=32, class_wise=True),
    SVDProjection(samples=32, patches=30),
    FewSample(forget_images=10, retain_images=40, epochs=2, lr=1e-3, batch_size=16),
    ClassVectors(images=20, others=50),
    ClassVectorsMapping(references=8, kept=16, epochs=5, images=20, others=50),
]


class _BatchNorms(nn.Module):
    """Both kinds of batch normalization, and dropout."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(54, 24)
        self.hidden_norm = nn.BatchNorm1d(24)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().flatten(1)
        return self.out(self.drop(self.hidden_norm(self.hidden(x)).relu()))


def batch_norms(classes: int) -> nn.Module:
    return _BatchNorms(classes)


@dataclass(frozen=True, eq=False)
class Task:
    """A trained model, the recipe it was trained by, and two requests: to forget some examples, or a class."""

    recipe: Recipe
    splits: Splits
    model: nn.Module
    class_splits: Splits
    before: nn.Module  # the model before training

    def request(self, method: Method) -> Splits:
        """The one that the method can carry out."""
        return self.class_splits if Need.CLASS_WISE in method.needs else self.splits


def blobs(n: int, seed: int, prefix: str) -> Examples:
    """One bright blob per class on a noisy ground; close enough together that models make some mistakes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % CLASSES
    rows, columns = np.mgrid[:8, :8]
    centers = np.array([[2, 2], [2, 5], [5, 2], [5, 5]])[y] + rng.normal(0, 0.7, (n, 2))
    squares = (rows - centers[:, :1, None]) ** 2 + (columns - centers[:, 1:, None]) ** 2
    images = 160 * np.exp(-squares / 4) + rng.normal(40, 20, (n, 8, 8))
    ids = np.array([f"{prefix}/{i}" for i in range(n)])
    return Examples(torch.from_numpy(images.clip(0, 255).astype(np.uint8))[:, None], torch.from_numpy(y), ids)


@pytest.fixture(scope="session", params=["mlp", f"{__name__}:batch_norms"], ids=["mlp", "batch-norm"])
def task(request: pytest.FixtureRequest) -> Task:
    train = blobs(200, 0, "train")
    recipe = Recipe(Architecture(request.param, CLASSES, SHAPE), epochs=5, batch_size=32)
    test = blobs(80, 1, "test")
    splits = Splits(train.take(np.arange(24)), train.take(np.arange(24, 200)), test)
    mask = train.labels().numpy() == 1
    class_splits = Splits(train.take(mask), train.take(~mask), test, forget_class=1)
    return Task(recipe, splits, fit(recipe, train, seed=0), class_splits, initial(recipe, train, seed=0))


def run(task: Task, method: Method, seed: int = 0, splits: Splits | None = None) -> nn.Module:
    return perform(task, method, seed, splits).model


def perform(task: Task, method: Method, seed: int, splits: Splits | None = None) -> Unlearned:
    """Unlearned with everything that a method may ask for."""
    return unlearn(
        task.model,
        splits or task.request(method),
        method,
        seed=seed,
        recipe=task.recipe,
        unseen=blobs(40, 2, "unseen"),
        pretrained=task.before,
    )


def differing(one: nn.Module, other: nn.Module, *, buffers: bool = True) -> list[str]:
    """Names of weights that are not the same bit for bit, or only in one of the two; a steering counts as weights."""
    state, expected = one.state_dict(), other.state_dict()
    names = list(dict.fromkeys([*expected, *state]))
    if not buffers:
        parameters = dict(other.named_parameters())
        names = [name for name in names if name in parameters or name.startswith("steering.")]
    return [
        name
        for name in names
        if name not in state or name not in expected or not torch.equal(state[name], expected[name])
    ]


def loss_on(model: nn.Module, examples: Examples) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(model.eval()(examples.x), examples.labels()))


def access(task: Task, method: Method, granted: Need | None = None) -> Access:
    """What unlearn() would hand over, so that a test may call `run` itself."""
    needs, splits = method.needs if granted is None else granted, task.request(method)
    return Access(
        needs,
        method.name,
        splits.forget,
        splits.retain,
        splits.forget_class,
        blobs(40, 2, "unseen"),
        copy.deepcopy(task.before),
        task.recipe,
    )


def fits(task: Task, method: Method) -> bool:
    """Only a network with normalization layers has where ClassVectorsMapping could write."""
    return not isinstance(method, ClassVectorsMapping) or bool(normalization_layers(task.model))


# The contract: every row.

row = pytest.mark.parametrize("method", METHODS_TABLE, ids=lambda method: method.name)


@row
def test_contract(task: Task, method: Method) -> None:
    if not fits(task, method):
        with pytest.raises(UsageError, match=f"^{method.name}: the model has 0 normalization layers"):
            run(task, method)
        return
    before = copy.deepcopy(task.model)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    result = perform(task, method, 3)

    assert not differing(task.model, before)
    assert not task.model.training
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state()) == str(numpy_state)

    assert result.model is not task.model
    kept = {name: (value.shape, value.dtype) for name, value in task.model.state_dict().items()}
    state = result.model.state_dict()
    added = {name for name in state if name.startswith("steering.")}
    assert bool(added) == getattr(method, "adds_steering", False)
    assert {name: (value.shape, value.dtype) for name, value in state.items() if name not in added} == kept
    assert all(torch.isfinite(value).all() for value in state.values())
    assert not any(module.training for module in result.model.modules())
    assert all(p.requires_grad and p.grad is None for p in result.model.parameters())
    assert differing(result.model, task.model, buffers=False)

    assert (result.method, result.seed, result.saw) == (method.name, 3, method.needs.names())
    assert json.loads(json.dumps(result.params)) == result.params
    assert method_named(result.method, result.params) == method

    random.seed(8)  # cannot be compared like the other two: beartype itself draws from it
    assert not differing(run(task, method, seed=3), result.model)
    assert differing(run(task, method, seed=4), result.model)


@row
def test_chance_enters_through_the_generator(task: Task, method: Method) -> None:
    """Only layers that are random themselves, such as dropout, may draw from torch's own state."""
    if any(isinstance(module, nn.Dropout) for module in task.model.modules()) or not fits(task, method):
        return
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            rng = torch.Generator().manual_seed(0)
            results.append(method.run(copy.deepcopy(task.model), access(task, method), rng))
    assert not differing(*results)


@row
def test_needs_all_it_declares_and_nothing_else(task: Task, method: Method) -> None:
    if not fits(task, method):
        return
    if Need.CLASS_WISE in method.needs:
        with pytest.raises(UsageError, match=f"^{method.name} forgets whole classes only"):
            run(task, method, splits=task.splits)
    for need in (single for single in Need if single in method.needs & ~Need.CLASS_WISE):
        with pytest.raises(UsageError, match=r"without declaring it; add Need\.|handed over without labels"):
            method.run(copy.deepcopy(task.model), access(task, method, method.needs & ~need), torch.Generator())
    assert bool(method.needs & Need.UNSEEN) == method.params.get("rewind", False)  # nothing else needs it


@row
def test_its_hyperparameters_matter(task: Task, method: Method) -> None:
    """A field that changes nothing is not wired."""
    if not fits(task, method) or method.params.get("rewind"):  # going back hides what came after
        return
    other: dict[str, Any] = {
        "epochs": 3,
        "lr": 0.02,
        "alpha": 0.5,
        "momentum": 0.5,
        "weight_decay": 0.02,
        "batch_size": 16,
        "augment": "flip",
        "legacy": not method.params.get("legacy"),
        "clip": 1e-3,
        "cap": 0.01,
        "fraction": 0.25,
        "k": 2,
        "decay_every": 2,
        "epsilon": 0.5,
        "attack_steps": 2,
        "probes": 24,
        "use_retain": False,
        "max_epochs": 1,
        "decay_epoch": 3,
        "gamma": 0.5,
        "temperature": 1.5,
        "nudge": 1e-3,
        "forget_batch_size": 16,
        "retain_share": 0.5,
        "lr_unlearn": 1e-4,
        "lr_align": 1e-3,
        "latent": 4,
        "vae_epochs": 1,
        "vae_lr": 1e-2,
        "divergence_weight": 0.5,
        "repair_epochs": 2,
        "repair_lr": 1e-2,
        "dampening": 0.1,
        "label_free": not method.params.get("label_free"),
        "examples": 8,
        "mode": "woodfisher",
        "samples": 16,
        "damping": 1.0,
        "iterations": 2,
        "alpha_retain": 10.0,
        "alpha_forget": 10.0,
        "patches": 20,
        "forget_images": 5,
        "retain_images": 20,
        "ascent": 0.5,
        "distill": 0.0,
        "origin": "initialization",
        "scale": 0.7,
        "threshold": 0.5,
        "images": 10,
        "others": 3,
        "layers": 2,
        "references": 4,
        "kept": 8,
        "locality": 0.1,
        "inner": FineTune(epochs=1, lr=0.02),
        "pruning": "magnitude",
        "sparsity": 0.25,
        "per_round": 0.9,
    }
    if method.params.get("batch_size") == other["batch_size"]:
        other["batch_size"] = 8
    result = run(task, method)
    # `class_wise` asks for another request, and going back may end where it began: both have rows of their own.
    for field in (field for field in fields(method) if field.name not in ("class_wise", "rewind")):
        assert differing(run(task, replace(method, **{field.name: other[field.name]})), result, buffers=False), field


@row
def test_one_example_on_a_side(task: Task, method: Method) -> None:
    """Batch normalization has no statistics of a single example, and must not stop for want of them."""
    one = np.arange(1)
    if not fits(task, method):
        return
    request = task.request(method)
    for splits in (
        replace(request, forget=request.forget.take(one)),
        replace(request, forget=request.forget.take(one), retain=request.retain.take(one)),
    ):
        run(task, method, splits=splits)
    if "batch_size" in method.params:
        small = {"batch_size": 1, "epochs": 1, "lr": 1e-4, "samples": 8}
        run(task, replace(method, **{name: value for name, value in small.items() if name in method.params}))


@row
def test_more_to_forget_than_to_keep_is_refused(task: Task, method: Method) -> None:
    """But by Retrain, which the sentence names."""
    request = task.request(method)
    n = len(request.forget)
    splits = replace(request, retain=request.retain.take(np.arange(n - 1)))
    if isinstance(method, Retrain):
        assert run(task, method, splits=splits) is not None
        return
    with pytest.raises(
        UsageError,
        match=rf"^{method.name}: the forget set must not be larger than the retain set, got {n} against {n - 1} "
        r"examples; a model that keeps so little is to be trained afresh, by Retrain$",
    ):
        run(task, method, splits=splits)


@row
def test_a_loss_that_explodes_is_said(task: Task, method: Method) -> None:
    if "lr" not in method.params or not fits(task, method):
        return
    before = copy.deepcopy(task.model)
    with pytest.raises(
        UsageError,
        match=rf"^{method.name}, epoch \d: the loss became (nan|-?inf) at step \d+ with learning rate 1e\+30; "
        r"choose a smaller learning rate$",
    ):
        run(task, replace(method, lr=1e30))
    assert not differing(task.model, before)


@row
def test_running_statistics_move_in_train_mode_only(task: Task, method: Method) -> None:
    """Which mode that is, the module's text says. Of CFk and EUk the last block alone is trained here, without any."""
    if not any("running_" in name for name in task.model.state_dict()):
        return
    moved = [name for name in differing(run(task, method), task.model) if "running_" in name or "num_batches" in name]
    moving = (Retrain, FineTune, L1Sparse, RandomLabel, SalUn, SalUnSoft, AMUN, SCRUB, PruneFirst)
    assert bool(moved) == isinstance(method, moving)


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_the_module_says_what_a_reader_must_know(method: type[Method]) -> None:
    text = inspect.getmodule(method).__doc__
    assert text.splitlines()[0].startswith(f"{method.__name__}: ")
    assert text.splitlines()[0].endswith(".")
    assert re.search(r"arXiv \d{4}\.\d{5}", text)
    for part in (
        "Idea: ",
        "Reference: ",
        "Must see: ",
        "Differences from the p",
        "Weaknesses: ",
        "Batch normalization",
    ):
        assert part in text, part


def test_the_table_tests_every_method() -> None:
    assert {type(method) for method in METHODS_TABLE} == set(METHODS.values())
    assert all(name == method.__name__ == method().name for name, method in METHODS.items())


def readme_blocks() -> list[str]:
    """The code in the README, from "Adding a method" on."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text.partition("## Adding a method")[2], re.MULTILINE | re.DOTALL)


def test_the_method_of_the_readme_keeps_the_contract(
    task: Task, write_module: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import ClassVar
        import torch
        from torch import nn
        from unlearnkit.methods.hyperparameters import NotNegative
        from unlearnkit.types import Access, Method, Need
    """
    shake = resolve(write_module("shake", textwrap.dedent(imports) + readme_blocks()[0]) + ":Shake")
    monkeypatch.setitem(METHODS, "Shake", shake)
    test_contract(task, shake())
    test_needs_all_it_declares_and_nothing_else(task, shake())
    assert differing(run(task, shake(noise=0.2)), run(task, shake()))


def test_the_edit_of_the_readme_hides_a_class_from_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    digits = load("digits")
    recipe = Recipe(Architecture("small-cnn", classes=10, shape=(1, 8, 8)))
    names = {"digits": digits, "recipe": recipe, "original": fit(recipe, digits.train, seed=0)}
    [edit] = (block for block in readme_blocks() if "class_vector(" in block)
    exec(edit, names)
    said = re.fullmatch(r"ClassAccuracy\(head=([\d.]+), nearest_mean=([\d.]+)\)\n", capsys.readouterr().out)
    assert said is not None
    assert float(said[1]) < 0.1
    assert float(said[2]) > 0.9


def test_the_readme_says_what_each_method_sees() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").partition("## Methods")[2]
    table = dict(re.findall(r"^\| (\w+) \| [^|]+ \| ([^|]+ \| [^|]+) \|$", text, re.MULTILINE))
    del table["method"]
    short = {"forget": "F", "retain": "R", "pretrained": "start"}
    expected = {}
    for name, method in METHODS.items():
        words = []
        for need in method().needs.names():
            part, _, what = need.partition("_")
            words.append(f"y_{short[part]}" if what == "labels" else short.get(part, part))
        expected[name] = (" ".join(word for word in words if word != "class"), "class" in words)
    assert {name: (cells.split(" | ")[0], cells.endswith("only")) for name, cells in table.items()} == expected


@dataclass(frozen=True)
class _Nosy(Method):
    needs: ClassVar[Need] = Need.RETAIN

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        del rng
        assert len(access.forget)
        return model


def test_an_undeclared_look_is_refused(task: Task) -> None:
    with pytest.raises(
        UsageError, match=r"^_Nosy asked for forget_inputs without declaring it; add Need.FORGET_INPUTS to its `needs`$"
    ):
        run(task, _Nosy())


@pytest.mark.parametrize("part", ["forget", "retain"])
def test_an_empty_set_is_refused(task: Task, part: str) -> None:
    with pytest.raises(UsageError, match=f"^splits: the {part} set is empty; "):
        replace(task.splits, **{part: task.splits.forget.take(np.arange(0))})


# Retrain and FineTune


def test_retrain_is_fit_on_the_retain_set(task: Task) -> None:
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(5)))
    assert not differing(run(task, Retrain(), seed=5), fit(task.recipe, task.splits.retain, seed=seed))


def test_retrain_asks_for_the_recipe(task: Task) -> None:
    with pytest.raises(UsageError, match=r"^Retrain needs recipe; grant it with unlearn\(\.\.\., recipe=recipe\)$"):
        unlearn(task.model, task.splits, Retrain(), seed=0)


def test_finetune_lowers_the_retain_loss(task: Task) -> None:
    result = run(task, FineTune(epochs=5, lr=0.05, batch_size=32))
    assert loss_on(result, task.splits.retain) < loss_on(task.model, task.splits.retain)


def test_finetune_is_classical_momentum(task: Task) -> None:
    """Against a loop written out by hand: v ← μv + g + λθ; θ ← θ − ηv. No Nesterov step."""
    method = FineTune(epochs=2, lr=0.05, batch_size=256)
    splits = task.splits
    model = copy.deepcopy(task.model)
    train_mode(model, len(splits.retain), 256)
    speed = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(method.epochs):
            order = torch.randperm(len(splits.retain), generator=rng)
            model.zero_grad()
            functional.cross_entropy(model(splits.retain.x[order]), splits.retain.labels()[order]).backward()
            for name, p in model.named_parameters():
                speed[name] = 0.9 * speed[name] + p.grad + 5e-4 * p.detach()
                p.data -= 0.05 * speed[name]
    result = run(task, method).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-5)


# NegativeGradient


def test_negative_gradient_raises_the_forget_loss_and_keeps_the_statistics(task: Task) -> None:
    method = NegativeGradient(lr=1e-2, batch_size=8)
    result = run(task, method)
    assert loss_on(result, task.splits.forget) > loss_on(task.model, task.splits.forget)
    moved = differing(result, task.model)
    assert moved
    assert not [name for name in moved if "running" in name or "num_batches" in name]


def test_negative_gradient_never_reads_the_retain_set(task: Task) -> None:
    assert Need.RETAIN_INPUTS not in NegativeGradient.needs
    assert Need.RETAIN_LABELS not in NegativeGradient.needs
    few = replace(task.splits, retain=task.splits.retain.take(np.arange(30)))
    assert not differing(run(task, NegativeGradient(), splits=few), run(task, NegativeGradient()))


def test_negative_gradient_clips_the_whole_norm(task: Task) -> None:
    """One step without momentum and decay moves the weights by lr · clip, whatever the gradient."""
    result = run(task, NegativeGradient(epochs=1, lr=0.1, momentum=0.0, weight_decay=0.0, clip=0.01))
    before, after = dict(task.model.named_parameters()), dict(result.named_parameters())
    moved = math.sqrt(sum(float((after[name] - before[name]).detach().double().square().sum()) for name in before))
    assert moved == pytest.approx(0.1 * 0.01, rel=1e-3)


# NegGradPlus


def test_neggrad_plus_without_ascent_is_training_on_the_retain_set(task: Task) -> None:
    method = NegGradPlus(epochs=2, alpha=1.0, batch_size=32)
    model, rng = copy.deepcopy(task.model), torch.Generator().manual_seed(0)
    retain = task.splits.retain
    optimizer = make_optimizer(model, "sgd", lr=method.lr, momentum=method.momentum, nesterov=False)
    forget_batches = forever(len(task.splits.forget), 32, rng)  # drawn, never looked at: the order is the method's
    with deterministic(torch.device("cpu")):
        for rows, _unused in chain.from_iterable(
            zip(shuffled(len(retain), 32, rng), forget_batches, strict=False) for _ in range(2)
        ):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(retain.x[rows]), retain.labels()[rows], reduction="none").mean()
            loss.backward()
            optimizer.step()
    result = run(task, method)
    assert not differing(result, model)

    other = replace(task.splits.forget, y=task.splits.forget.labels().flip(0), x=task.splits.forget.x.flip(0))
    assert not differing(run(task, method, splits=replace(task.splits, forget=other)), result)


def test_neggrad_plus_pushes_no_example_beyond_the_cap(task: Task) -> None:
    """One step of ascent alone, by hand: the gradient is that of the examples below the cap."""
    losses = functional.cross_entropy(task.model(task.splits.forget.x), task.splits.forget.labels(), reduction="none")
    ceiling = float(losses.detach().median())
    model = copy.deepcopy(task.model)
    forget = task.splits.forget
    below = losses.detach() < ceiling
    assert 0 < below.sum() < len(forget)
    given = functional.cross_entropy(model(forget.x[below]), forget.labels()[below], reduction="sum") / len(forget)
    given.backward()
    method = NegGradPlus(epochs=1, alpha=0.0, lr=0.5, cap=ceiling / math.log(CLASSES), momentum=0.0)
    for name, p in run(task, method).named_parameters():
        before = dict(model.named_parameters())[name]
        torch.testing.assert_close(p, before + 0.5 * before.grad, rtol=1e-5, atol=1e-6)
    assert not differing(run(task, replace(method, epochs=3, cap=1e-12)), task.model)


def test_neggrad_plus_spares_the_retain_set(task: Task) -> None:
    result = run(task, NegGradPlus(epochs=15, lr=0.05, alpha=0.8, batch_size=32))
    rise = {part: loss_on(result, getattr(task.splits, part)) for part in ("forget", "retain")}
    assert rise["forget"] > loss_on(task.model, task.splits.forget) + 0.1
    assert rise["retain"] < rise["forget"] / 2


# RandomLabel


def test_random_labels_avoid_the_true_one_and_legacy_does_not() -> None:
    y = torch.arange(4000) % CLASSES
    avoided = random_labels(y, CLASSES, torch.Generator().manual_seed(0), avoid_true=True)
    assert not (avoided == y).any()
    for offset in range(1, CLASSES):  # uniform over the others: 1333 expected, standard deviation 30
        assert abs(int(((avoided - y) % CLASSES == offset).sum()) - 4000 / 3) < 150
    anything = random_labels(y, CLASSES, torch.Generator().manual_seed(0), avoid_true=False)
    assert abs(int((anything == y).sum()) - 1000) < 140
    assert {*avoided.tolist()} == {*anything.tolist()} == set(range(CLASSES))


@pytest.mark.parametrize("legacy", [False, True])
def test_random_label_trains_on_what_it_says(task: Task, legacy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch: each forget example once with a fresh label, each retain example once with its own."""
    seen: list[tuple[Tensor, Tensor]] = []
    original = functional.cross_entropy

    def spy(logits: Tensor, y: Tensor, **options: Any) -> Tensor:
        seen.append((batches.pop(), y))
        return original(logits, y, **options)

    batches: list[Tensor] = []
    model = copy.deepcopy(task.model)
    model.register_forward_pre_hook(lambda module, x: batches.append(x[0]))
    monkeypatch.setattr(functional, "cross_entropy", spy)
    method = RandomLabel(epochs=3, batch_size=32, legacy=legacy)
    method.run(model, access(task, method), torch.Generator().manual_seed(0))

    steps = 7  # 200 examples by 32
    assert len(seen) == 3 * steps
    known = {bytes(x.numpy().data): (True, int(y)) for x, y in _pairs(task.splits.forget)}
    known |= {bytes(x.numpy().data): (False, int(y)) for x, y in _pairs(task.splits.retain)}
    assert len(known) == 200
    drawn = []
    for epoch in range(3):
        given = {}
        for x, y in seen[epoch * steps : (epoch + 1) * steps]:
            given |= {bytes(image.numpy().data): int(label) for image, label in zip(x, y, strict=True)}
        assert given.keys() == known.keys()
        assert all(given[image] == label for image, (forgotten, label) in known.items() if not forgotten)
        drawn.append([(given[image], label) for image, (forgotten, label) in known.items() if forgotten])
    assert any(label == true for epoch in drawn for label, true in epoch) == legacy
    assert drawn[0] != drawn[1] != drawn[2]
    mixed = [
        {known[bytes(image.numpy().data)][0] for image in x} for x, _ in seen
    ]  # shuffled together, not one set after the other
    assert sum(kinds == {True, False} for kinds in mixed) > 2 * steps


def _pairs(examples: Examples) -> list[tuple[Tensor, Tensor]]:
    return list(zip(examples.x, examples.labels(), strict=True))


def test_alpha_weighs_the_retain_examples(task: Task) -> None:
    """With alpha 0 the retain images still pass, but their labels cannot matter."""
    method = RandomLabel(epochs=1, batch_size=32, alpha=0.0)
    shifted = replace(task.splits.retain, y=(task.splits.retain.labels() + 1) % CLASSES)
    splits = replace(task.splits, retain=shifted)
    assert not differing(run(task, method), run(task, method, splits=splits))
    weighed = replace(method, alpha=0.5)
    assert differing(run(task, weighed), run(task, weighed, splits=splits))


# SalUn


def full_gradient(task: Task) -> Tensor:
    """∂CE/∂θ over the whole forget set in one batch: the naive twin of the mask's gradient."""
    model = copy.deepcopy(task.model)
    forget = task.splits.forget
    functional.cross_entropy(model(forget.x), forget.labels(), reduction="sum").backward()
    return torch.cat([p.grad.abs().flatten() for p in model.parameters()])


def flat(mask: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in mask.values()])


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.5, 1.0])
def test_the_mask_marks_exactly_the_share_it_was_asked_for(task: Task, fraction: float) -> None:
    mask = saliency_mask(task.model, task.splits.forget, fraction, batch_size=256)
    assert {name: part.shape for name, part in mask.items()} == {n: p.shape for n, p in task.model.named_parameters()}
    marked, pull = flat(mask), full_gradient(task)
    assert int(marked.sum()) == math.floor(round(fraction * 100) * len(marked) / 100)
    if 0 < fraction < 1:
        assert pull[marked].min() >= pull[~marked].max()
    assert all(p.grad is None for p in task.model.parameters())
    assert not task.model.training


def test_a_decimal_share_is_meant_as_written() -> None:
    """0.29 · 100 lies below 29 in floating point."""
    assert math.floor(0.29 * 100) == 28
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, CLASSES, bias=False))  # 100 weights
    x = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    examples = Examples(x, torch.arange(6) % CLASSES, np.arange(6).astype(str))
    assert int(flat(saliency_mask(model, examples, 0.29, batch_size=4)).sum()) == 29


def test_ties_go_to_the_first_weight(task: Task) -> None:
    dead = copy.deepcopy(task.model)
    for p in dead.parameters():
        p.data.zero_()  # only the output's bias, the last parameter, has a gradient now
    forget = task.splits.forget.take(np.arange(5))  # unbalanced: every class pulls
    mask = flat(saliency_mask(dead, forget, 0.1, batch_size=8))
    count = int(mask.sum())
    assert mask[: count - CLASSES].all()
    assert mask[-CLASSES:].all()
    assert not mask[count - CLASSES : -CLASSES].any()


def test_the_mask_does_not_depend_on_the_batch_size(task: Task) -> None:
    """Up to rounding: a weight may change sides only if its gradient is a tie with the threshold."""
    one, many = (
        flat(saliency_mask(task.model, task.splits.forget, 0.3, batch_size=size)) for size in (256, 5)
    )  # 24 examples: the last batch of 5 holds 4
    pull = full_gradient(task)
    threshold = pull[one].min()
    changed = pull[one != many]
    assert changed.numel() == 0 or float((changed - threshold).abs().max()) < 1e-4 * float(pull.max())


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_salun_holds_the_masked_weights_bit_for_bit(task: Task, weight_decay: float) -> None:
    method = SalUn(fraction=0.3, epochs=3, lr=0.05, batch_size=32, weight_decay=weight_decay)
    free = saliency_mask(task.model, task.splits.forget, 0.3, batch_size=32)
    result = run(task, method)
    for name, before in task.model.named_parameters():
        assert torch.equal(result.state_dict()[name][~free[name]], before[~free[name]]), name
    after = torch.cat([result.state_dict()[name][free[name]] for name in free])
    start = torch.cat([p[free[name]] for name, p in task.model.named_parameters()])
    assert (after != start).float().mean() > 0.9


def test_legacy_drifts_as_the_published_code_did(task: Task) -> None:
    """The published defect: weight decay moves what the mask was to hold. Without decay nothing drifts."""
    legacy = SalUn(fraction=0.3, epochs=3, batch_size=32, legacy=True)
    free = saliency_mask(task.model, task.splits.forget, 0.3, batch_size=32)

    def drifted(result: nn.Module) -> float:
        held = torch.cat([result.state_dict()[name][~mask] for name, mask in free.items()])
        start = torch.cat([p[~free[name]] for name, p in task.model.named_parameters()])
        return float((held != start).float().mean())

    assert drifted(run(task, legacy)) > 0.9
    assert drifted(run(task, replace(legacy, weight_decay=0.0))) == 0
    assert drifted(run(task, replace(legacy, legacy=False))) == 0


@pytest.mark.parametrize("legacy", [False, True])
def test_salun_on_all_weights_is_random_label(task: Task, legacy: bool) -> None:
    shared = {"epochs": 2, "lr": 0.02, "batch_size": 32, "alpha": 0.5, "augment": "flip", "legacy": legacy}
    assert not differing(run(task, SalUn(fraction=1.0, **shared)), run(task, RandomLabel(**shared)))


def test_random_labels_on_no_weights_are_the_original(task: Task) -> None:
    """The mask's lower end; SalUn itself refuses to do nothing."""
    method, model = RandomLabel(epochs=2, lr=1.0, batch_size=32), copy.deepcopy(task.model)
    none = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    method.relabel(model, access(task, method), torch.Generator().manual_seed(0), what="a test", free=none)
    assert all("running" in name or "num_batches" in name for name in differing(model, task.model))


def test_a_mask_that_selects_nothing_is_refused(task: Task) -> None:
    n = sum(p.numel() for p in task.model.parameters())
    with pytest.raises(
        UsageError, match=rf"^SalUn\.fraction: 1e-07 of {n:,} weights selects none of them; choose at least 0\.\d+$"
    ) as caught:
        run(task, SalUn(fraction=1e-7))
    advice = float(str(caught.value).rsplit(" ", 1)[1])
    assert differing(run(task, SalUn(fraction=advice, lr=0.1, epochs=2)), task.model, buffers=False)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_held_weights_stay_and_the_optimizer_forgets_them(name: Any) -> None:
    torch_rng = torch.Generator().manual_seed(0)
    layer = nn.utils.skip_init(nn.Linear, 3, 2)
    for p in layer.parameters():
        p.data = torch.randn(p.shape, generator=torch_rng)
    start = {n: p.detach().clone() for n, p in layer.named_parameters()}
    free = {"weight": torch.tensor([[True, False, True], [False, False, True]]), "bias": torch.tensor([False, True])}
    optimizer = make_optimizer(layer, name, lr=0.1, weight_decay=0.1)
    hold = Hold.outside(layer, optimizer, free)
    batches = torch.randn(20, 4, 3, generator=torch_rng)
    take_steps(optimizer, batches, lambda x: layer(x).square().mean(), what="a test", after_step=hold.write_back)
    for n, p in layer.named_parameters():
        assert torch.equal(p[~free[n]], start[n][~free[n]])
        assert (p[free[n]] != start[n][free[n]]).all()
        for key, state in optimizer.state[p].items():
            if key != "step":
                assert not state[~free[n]].any()
                assert state[free[n]].all()
    layer.weight.grad = torch.ones(2, 3)
    hold.mask_gradients()
    assert torch.equal(layer.weight.grad, free["weight"].float())


# Hyperparameters and names


def test_a_float_may_be_written_as_an_integer() -> None:
    method = method_named("FineTune", {"lr": 1, "weight_decay": 0})
    assert (method.params["lr"], type(method.params["lr"])) == (1.0, float)
    assert type(method.params["weight_decay"]) is float
    assert method == FineTune(lr=1.0, weight_decay=0.0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FineTune(lr=0.0), "FineTune.lr: must be greater than 0, got 0.0"),
        (lambda: FineTune(lr=-0.1), "FineTune.lr: must be greater than 0, got -0.1"),
        (lambda: FineTune(lr=math.nan), "FineTune.lr: must be a finite number, got nan"),
        (lambda: FineTune(lr=math.inf), "FineTune.lr: must be a finite number, got inf"),
        (lambda: method_named("FineTune", {"lr": True}), "FineTune.lr: must be a valid number, got True"),
        (lambda: method_named("FineTune", {"lr": "high"}), "FineTune.lr: must be a valid number, got 'high'"),
        (
            lambda: method_named("FineTune", {"lr": "0.1"}),
            "FineTune.lr: must be a valid number, got '0.1'; write 0.1 without quotes",
        ),
        (
            lambda: method_named("FineTune", {"lr": "10 %"}),
            "FineTune.lr: must be a valid number, got '10 %'; write 0.1",
        ),
        (lambda: FineTune(epochs=0), "FineTune.epochs: must be greater than or equal to 1, got 0"),
        (lambda: method_named("FineTune", {"epochs": 2.5}), "FineTune.epochs: must be a valid integer, got 2.5"),
        (lambda: FineTune(momentum=1.0), "FineTune.momentum: must be less than 1, got 1.0"),
        (lambda: FineTune(batch_size=0), "FineTune.batch_size: must be greater than or equal to 1, got 0"),
        (
            lambda: method_named("FineTune", {"augment": "flop"}),
            "FineTune.augment: must be 'none', 'flip' or 'crop-flip', got 'flop'",
        ),
        (lambda: NegativeGradient(clip=0.0), "NegativeGradient.clip: must be greater than 0, got 0.0"),
        (lambda: NegGradPlus(alpha=1.5), "NegGradPlus.alpha: must be less than or equal to 1, got 1.5"),
        (lambda: RandomLabel(alpha=-1.0), "RandomLabel.alpha: must be greater than or equal to 0, got -1.0"),
        (lambda: method_named("RandomLabel", {"legacy": 1}), "RandomLabel.legacy: must be a valid boolean, got 1"),
        (lambda: SalUn(fraction=-0.5), "SalUn.fraction: must be greater than 0, got -0.5"),
        (lambda: method_named("SalUn", {"fraction": 2}), "SalUn.fraction: must be less than or equal to 1, got 2"),
        (lambda: method_named("SalUm", {}), "method.name: there is no method 'SalUm'; did you mean 'SalUn'?"),
        (
            lambda: method_named("magic", {}),
            f"method.name: there is no method 'magic'; methods are {', '.join(METHODS)}",
        ),
        (
            lambda: method_named("SalUn", {"fractoin": 0.5}),
            "method.fractoin: SalUn has no parameter 'fractoin'; did you mean 'fraction'?",
        ),
        (
            lambda: method_named("FineTune", {"temperature": 1}),
            "method.temperature: FineTune has no parameter 'temperature'; its parameters are epochs, lr, momentum, "
            "weight_decay, batch_size, augment",
        ),
        (
            lambda: method_named("Retrain", {"lr": 1}),
            "method.lr: Retrain has no parameter 'lr'; it has no parameters",
        ),
    ],
)
def test_wrong_use_is_said_in_one_sentence(make: Callable[[], Method], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value) == sentence


def test_a_model_with_one_output_has_no_wrong_label() -> None:
    model = nn.Sequential(nn.Flatten(), _Scale1(), nn.Linear(64, 1))
    with pytest.raises(UsageError, match=r"^the model must tell at least 2 classes apart, got 1$"):
        count_classes(model, blobs(4, 0, "a"))


class _Scale1(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255


# What the methods stand on


@pytest.mark.parametrize(("n", "size"), [(1, 8), (8, 8), (9, 8), (17, 8), (10, 8), (3, 1), (5, 256)])
def test_an_epoch_is_every_row_once_without_a_last_batch_of_one(n: int, size: int) -> None:
    batches = list(shuffled(n, size, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert all(1 < len(batch) <= size + 1 for batch in batches) or min(n, size) == 1


def test_gradients_are_masked_before_their_norm_is_clipped() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data.zero_()
    optimizer = make_optimizer(layer, "sgd", lr=1.0, momentum=0.0)

    def mask() -> None:
        layer.weight.grad[0, 0] = 0

    x = torch.tensor([100.0, 1.0])
    take_steps(optimizer, [x], lambda x: -layer(x).sum(), what="a test", clip=0.5, before_step=mask)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.0, 0.5]]))


def test_the_learning_rate_in_the_sentence_is_that_of_the_step() -> None:
    layer = nn.Linear(1, 1)
    optimizer = make_optimizer(layer, "sgd", lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [1.0, 0.5, 0.2, 0.0][step])
    losses = [1.0, math.nan, 1.0]
    with pytest.raises(
        UsageError,
        match=r"^a test: the loss became nan at step 2 with learning rate 0\.5; choose a smaller learning rate",
    ):
        take_steps(optimizer, losses, lambda x: layer.weight.sum() * x, what="a test", scheduler=scheduler)
