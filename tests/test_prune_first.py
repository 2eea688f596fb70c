"""PruneFirst: which weights go, that they stay zero whatever runs inside, and how a spec writes the inner method."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
import test_methods as shared
import torch
from test_methods import CLASSES, Task, differing
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import optimizer as optimizers

from unlearnkit.audits.records import in_words
from unlearnkit.methods import METHODS, method_named, prune_first
from unlearnkit.methods.eu_k import EUk
from unlearnkit.methods.finetune import FineTune
from unlearnkit.methods.negative_gradient import NegativeGradient
from unlearnkit.methods.neggrad_plus import NegGradPlus
from unlearnkit.methods.prune_first import PruneFirst, magnitude_mask, staying_pruned, synaptic_flow, synflow_mask
from unlearnkit.methods.random_label import RandomLabel
from unlearnkit.methods.retrain import Retrain
from unlearnkit.methods.salun import SalUn, saliency_mask
from unlearnkit.methods.steps import flat
from unlearnkit.models import Architecture, build
from unlearnkit.reports.view import _pairs
from unlearnkit.result import UsageError
from unlearnkit.train import fit, train_mode
from unlearnkit.types import Access, Examples, Method, Need
from unlearnkit.unlearning import unlearn

task = shared.task
FEW = FineTune(epochs=2, lr=0.05, batch_size=32)


def granted(task: Task, method: Method) -> nn.Module:
    """Unlearned with everything that a method could ask for."""
    fresh = build(task.recipe.architecture, seed=9)
    classes = task.splits.forget.labels()
    splits = replace(task.splits, forget=task.splits.forget.take((classes == 1).numpy()), forget_class=1)
    given: dict[str, Any] = {"recipe": task.recipe, "unseen": splits.test, "pretrained": fresh}
    return unlearn(task.model, splits, method, seed=0, **given).model


def zeros(model: nn.Module) -> Tensor:
    return flat(model) == 0


# Which weights


@pytest.mark.parametrize("sparsity", [0.0, 0.29, 0.5, 0.95])
def test_the_smallest_weights_of_all_matrices_go(task: Task, sparsity: float) -> None:
    matrices = {name: p.detach().abs() for name, p in task.model.named_parameters() if p.ndim > 1}
    kept = dict(zip(dict(task.model.named_parameters()), magnitude_mask(task.model, sparsity), strict=True))
    assert all(mask.all() for name, mask in kept.items() if name not in matrices)
    sizes = torch.cat([size.flatten() for size in matrices.values()])
    chosen = torch.cat([kept[name].flatten() for name in matrices])
    assert int((~chosen).sum()) == math.floor(round(sparsity * 100) * len(sizes) / 100)
    if sparsity:
        assert sizes[~chosen].max() <= sizes[chosen].min()


def test_synaptic_flow_is_conserved() -> None:
    """Without biases every layer carries the whole of R; the papers' conservation law."""
    rng = torch.Generator().manual_seed(0)
    flow = nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)).double()
    for p in flow.parameters():
        p.data = torch.rand(p.shape, generator=rng, dtype=torch.float64)
    ones = torch.ones(1, 5, dtype=torch.float64)
    first, last = torch.split(synaptic_flow(flow, ones), [35, 21])
    whole = float(flow(ones).detach().sum())
    assert float(first.sum()) == pytest.approx(whole)
    assert float(last.sum()) == pytest.approx(whole)


def test_synflow_cuts_no_layer_off_where_magnitudes_do() -> None:
    """Layer collapse: small weights in one layer lose it to magnitude pruning, while paths still need it."""
    model = build(Architecture("small-cnn", CLASSES, (1, 8, 8)), seed=0)
    model.body[3].weight.data *= 1e-3
    by_size, by_flow = magnitude_mask(model, 0.95), synflow_mask(model, (1, 8, 8), 0.95)
    names = list(dict(model.named_parameters()))
    second = names.index("body.3.weight")
    assert not by_size[second].any()
    assert all(mask.any() for mask in by_flow)
    prunable = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert sum(int((~mask).sum()) for mask in by_flow) == math.floor(0.95 * prunable)


def test_synflow_is_blind_to_sign_and_normalization(task: Task) -> None:
    shape = task.recipe.architecture.shape
    mask = synflow_mask(task.model, shape, 0.7)
    other = copy.deepcopy(task.model)
    for module in other.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.add_(5.0)
    for p in other.parameters():
        p.data = -p.data
    assert all(torch.equal(one, two) for one, two in zip(mask, synflow_mask(other, shape, 0.7), strict=True))


# That they stay zero


@pytest.mark.parametrize("name", [name for name in METHODS if name != "PruneFirst"])
def test_pruned_weights_are_zero_after_any_method(task: Task, name: str) -> None:
    inner = METHODS[name]()
    changes = {"epochs": 2, "batch_size": 32, "momentum": 0.9, "weight_decay": 0.01}
    inner = replace(inner, **{key: value for key, value in changes.items() if key in inner.params})
    try:
        granted(task, inner)
    except UsageError as error:
        pytest.skip(f"not for this model: {error}")
    kept = magnitude_mask(task.model, 0.6)
    result = granted(task, PruneFirst(inner=inner, sparsity=0.6))
    assert all(not p[~mask].any() for p, mask in zip(result.parameters(), kept, strict=True))
    assert sum(int((~mask).sum()) for mask in kept) <= int(zeros(result).sum()) < len(flat(result))


def test_synflow_prunes_by_its_mask(task: Task) -> None:
    kept = synflow_mask(task.model, task.recipe.architecture.shape, 0.6)
    result = shared.run(task, PruneFirst(inner=FEW, pruning="synflow", sparsity=0.6))
    assert torch.equal(zeros(result), ~torch.cat([mask.flatten() for mask in kept]))


def test_nothing_pruned_is_the_inner_method(task: Task) -> None:
    for inner in (FEW, SalUn(epochs=2, batch_size=32), Retrain()):
        assert not differing(granted(task, PruneFirst(inner=inner, sparsity=0.0)), granted(task, inner))


def test_finetune_inside_is_finetune_of_the_masked_network(task: Task) -> None:
    """Against a loop whose network multiplies its weights by the mask, so that pruned weights do not exist."""
    kept = magnitude_mask(task.model, 0.6)
    model, retain = copy.deepcopy(task.model), task.splits.retain
    names = list(dict(model.named_parameters()))
    raw = [p.detach().clone().requires_grad_() for p in model.parameters()]
    optimizer = torch.optim.SGD(raw, lr=0.05, momentum=0.9, weight_decay=5e-4)
    train_mode(model, len(retain), 256)
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(3):
            order = torch.randperm(len(retain), generator=rng)
            masked = {name: p * mask for name, p, mask in zip(names, raw, kept, strict=True)}
            logits = torch.func.functional_call(model, masked, retain.x[order])
            optimizer.zero_grad()
            functional.cross_entropy(logits, retain.labels()[order]).backward()
            optimizer.step()
    method = PruneFirst(inner=FineTune(epochs=3, lr=0.05, batch_size=256), sparsity=0.6)
    result = shared.run(task, method)
    for p, own, mask in zip(result.parameters(), raw, kept, strict=True):
        torch.testing.assert_close(p.detach(), (own * mask).detach(), rtol=1e-4, atol=1e-5)


def test_pruned_weights_do_not_compete_for_a_mask(task: Task) -> None:
    model = copy.deepcopy(task.model)
    kept = magnitude_mask(model, 0.9)
    with staying_pruned(model, kept):
        free = saliency_mask(model, task.splits.forget, 0.05, batch_size=32)
    assert all(not (mask & ~keep).any() for mask, keep in zip(free.values(), kept, strict=True))


def test_pruned_weights_do_not_count_when_a_gradient_is_clipped(task: Task) -> None:
    """One step without momentum and decay moves what is kept by all of lr · clip."""
    inner = NegativeGradient(epochs=1, lr=0.1, momentum=0.0, weight_decay=0.0, clip=0.01)
    result = shared.run(task, PruneFirst(inner=inner, sparsity=0.9))
    start = copy.deepcopy(task.model)
    prune_first._prune(list(start.parameters()), magnitude_mask(start, 0.9))
    assert float((flat(result) - flat(start)).double().norm()) == pytest.approx(1e-3, rel=1e-3)


@dataclass(frozen=True)
class _Noisy(Method):
    """Writes into the weights behind the optimizer's back, then stops, if it is asked to."""

    needs: ClassVar[Need] = Need(0)
    fails: bool = False

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        if self.fails:
            raise UsageError("_Noisy: as it was asked to")
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=rng))
        return model


@dataclass(frozen=True)
class _Greedy(Method):
    needs: ClassVar[Need] = Need.FORGET_INPUTS

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        assert access.forget.y is None
        assert len(access.retain)
        return model


def test_noise_is_pruned_too(task: Task) -> None:
    result = shared.run(task, PruneFirst(inner=_Noisy(), sparsity=0.6))
    assert torch.equal(zeros(result), ~torch.cat([mask.flatten() for mask in magnitude_mask(task.model, 0.6)]))


@pytest.mark.parametrize("fails", [False, True])
def test_no_hook_is_left_behind(task: Task, fails: bool) -> None:
    model, method = copy.deepcopy(task.model), PruneFirst(inner=_Noisy(fails=fails), sparsity=0.6)
    hooks = len(optimizers._global_optimizer_post_hooks)
    try:
        method.run(model, shared.access(task, method), torch.Generator().manual_seed(0))
    except UsageError:
        assert fails
    assert len(optimizers._global_optimizer_post_hooks) == hooks
    assert not any(p._backward_hooks for p in model.parameters())


# What it must see


def test_it_must_see_what_inner_must_see() -> None:
    assert PruneFirst().needs == Need.RETAIN
    assert PruneFirst(inner=NegativeGradient()).needs == Need.FORGET
    assert PruneFirst(inner=NegativeGradient(), pruning="synflow").needs == Need.FORGET | Need.RECIPE
    everything = Need.FORGET | Need.RETAIN | Need.RECIPE
    assert PruneFirst(inner=FEW, pruning="iterative").needs == everything


def test_the_inner_method_sees_only_what_it_declares(task: Task) -> None:
    """What iterative pruning sees is not handed on."""
    with pytest.raises(UsageError, match=r"^_Greedy asked for retain_inputs without declaring it"):
        shared.run(task, PruneFirst(inner=_Greedy(), pruning="iterative", sparsity=0.1, per_round=1.0))


# Iterative pruning


def test_rounds_prune_and_train_afresh_from_one_initialization(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.2 of what is left per round: 0.2, 0.36, 0.488, then 0.5; each on all data, with one seed."""
    seen: list[tuple[int, int, Tensor]] = []

    def spy(recipe: Any, examples: Examples, *, seed: int, device: str) -> nn.Module:
        trained = fit(recipe, examples, seed=seed, device=device)
        seen.append((len(examples), seed, zeros(trained)))
        return trained

    monkeypatch.setattr(prune_first, "fit", spy)
    result = shared.run(task, PruneFirst(inner=FEW, pruning="iterative", sparsity=0.5))
    prunable = sum(p.numel() for p in task.model.parameters() if p.ndim > 1)
    assert [int(pruned.sum()) for _, _, pruned in seen] == [math.floor(s * prunable) for s in (0.2, 0.36, 0.488, 0.5)]
    assert {(n, seed) for n, seed, _ in seen} == {(200, seen[0][1])}
    nested = [pruned for _, _, pruned in seen] + [zeros(result)]
    assert all((later[earlier]).all() for earlier, later in pairwise(nested))


def test_one_round_is_one_shot_pruning_with_training(task: Task) -> None:
    """Masked by the given magnitudes, trained anew: as accurate on the retain set as a dense model, nearly."""
    model = shared.run(task, PruneFirst(inner=_Still(), pruning="iterative", sparsity=0.5, per_round=1.0))
    pruned = torch.cat([~mask.flatten() for mask in magnitude_mask(task.model, 0.5)])
    assert torch.equal(zeros(model), pruned)
    hit = (model(task.splits.retain.x).argmax(1) == task.splits.retain.labels()).float().mean()
    assert hit > 0.8


@dataclass(frozen=True)
class _Still(Method):
    needs: ClassVar[Need] = Need(0)

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return model


# A method in a method, as a spec writes it


def test_a_table_is_a_method_inside() -> None:
    written = {"inner": {"name": "SalUn", "fraction": 0.3}, "sparsity": 0.5}
    method = method_named("PruneFirst", written)
    assert method == PruneFirst(inner=SalUn(fraction=0.3), sparsity=0.5)
    assert method_named(method.name, method.params) == method
    twice = PruneFirst(inner=PruneFirst(inner=NegGradPlus(alpha=0.5)))
    assert method_named(twice.name, twice.params) == twice
    assert written == {"inner": {"name": "SalUn", "fraction": 0.3}, "sparsity": 0.5}


def test_a_report_names_the_method_inside() -> None:
    """Page one in a few words, a later page setting by setting; what a method finds itself is not worth a word."""
    twice = PruneFirst(inner=PruneFirst(inner=SalUn(fraction=0.3)), sparsity=0.5)
    assert in_words(twice) == "PruneFirst(PruneFirst), pruning magnitude, sparsity 0.5, per round 0.2"
    assert in_words(EUk(k=1, epochs=None)) == "EUk, k 1, lr 0.01, momentum 0.9"
    assert in_words(Retrain()) == "Retrain"
    pairs = dict(_pairs(twice.params))
    assert [pairs[name] for name in ("inner", "inner.inner", "inner.inner.fraction")] == ["PruneFirst", "SalUn", "0.3"]
    assert [pairs[name] for name in ("inner.sparsity", "sparsity")] == ["0.95", "0.5"]
    assert _pairs({"lr": 0.1, "seen": {"a": 1}}) == [["lr", "0.1"], ["seen", '{"a": 1}']]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"inner": {"name": "SalUm"}}, "method.inner.name: there is no method 'SalUm'; did you mean 'SalUn'?"),
        (
            {"inner": {"name": "SalUn", "fractoin": 0.5}},
            "method.inner.fractoin: SalUn has no parameter 'fractoin'; did you mean 'fraction'?",
        ),
        (
            {"inner": {"name": "FineTune", "lr": 0.0}},
            "FineTune.lr: must be greater than 0, got 0.0",
        ),
        (
            {"inner": {"lr": 0.1}},
            "method.inner: a table must name a method, got {'lr': 0.1}; write {name = \"FineTune\"}",
        ),
        ({"inner": "SalUn"}, "PruneFirst.inner: must be an instance of Method, got 'SalUn'"),
        ({"sparsity": 1.0}, "PruneFirst.sparsity: must be less than 1, got 1.0"),
        ({"per_round": 0}, "PruneFirst.per_round: must be greater than 0, got 0"),
        (
            {"pruning": "synflo"},
            "PruneFirst.pruning: must be 'magnitude', 'iterative' or 'synflow', got 'synflo'",
        ),
    ],
)
def test_wrong_use_is_said_in_one_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        method_named("PruneFirst", params)
    assert str(caught.value) == sentence


def test_a_number_is_no_method() -> None:
    with pytest.raises(UsageError, match=r"^FineTune.lr: must be a valid number, got RandomLabel\("):
        method_named("FineTune", {"lr": {"name": "RandomLabel"}})


def test_random_labels_run_inside(task: Task) -> None:
    """The sparse model forgets as the dense one does: the loss on the forget set rises, that on the retain set less."""
    inner = RandomLabel(epochs=20, lr=0.05, batch_size=32)
    result = shared.run(task, PruneFirst(inner=inner, sparsity=0.3))
    assert shared.loss_on(result, task.splits.forget) > 2 * shared.loss_on(result, task.splits.retain)
    assert np.isfinite(flat(result).numpy()).all()
