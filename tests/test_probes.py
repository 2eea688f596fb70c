"""All probes: the contract, and plants whose truth is known."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from probe_samples import CLASS, head, hidden, oracles, original, splits, within_half_a_step
from torch import nn

from unlearnkit.attacks import PROBES
from unlearnkit.attacks.compression import Measure
from unlearnkit.attacks.geometry import ClassCollapse, MahalanobisNovelty
from unlearnkit.attacks.inversion import Inversion
from unlearnkit.attacks.linear_probe import LinearProbe, TwinProbe
from unlearnkit.attacks.prototype import Prototype
from unlearnkit.attacks.pruning import Pruning
from unlearnkit.attacks.quantization import Quantization
from unlearnkit.attacks.relearning import FewShotRelearning, RetainRelearning
from unlearnkit.attacks.residual_knowledge import SearchedNeighbors
from unlearnkit.audits.readings import Readings, read_all
from unlearnkit.audits.statistics.resurrection import Resurrection, resurrection
from unlearnkit.compress import quantized
from unlearnkit.methods.negative_gradient import NegativeGradient
from unlearnkit.models import Architecture, build
from unlearnkit.relearning import accuracy
from unlearnkit.result import UsageError
from unlearnkit.types import Probe, Splits
from unlearnkit.unlearning import unlearn

SHORT = {"RetainRelearning": {"steps": 12, "every": 4}, "FewShotRelearning": {"steps": 12, "every": 4}}


def make(name: str, *, class_wise: bool) -> Probe:
    if name == "Inversion":
        return Inversion(original(class_wise=class_wise), steps=10, restarts=1)
    made: Probe = PROBES[name](**SHORT.get(name, {}))
    return made


def judged(probe: Probe, audited: nn.Module, *, class_wise: bool = True) -> Resurrection:
    models = [audited, original(class_wise=class_wise), *oracles(class_wise=class_wise)]
    values = read_all([probe], models, splits(class_wise=class_wise), seed=4).values
    return resurrection(values[0], values[1], values[2:])[0]


# --- the contract --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_wise", [True, False])
@pytest.mark.parametrize("name", PROBES)
def test_reads_the_same_twice_and_leaves_everything_as_it_was(name: str, class_wise: bool):
    probe, parts = make(name, class_wise=class_wise), splits(class_wise=class_wise)
    model = copy.deepcopy(oracles(class_wise=class_wise)[0]).train()
    if probe.class_wise and not class_wise:
        with pytest.raises(UsageError, match="asks about a forgotten class; this deletion names single examples"):
            probe.read(model, parts)
        return
    before = {key: value.clone() for key, value in model.state_dict().items()}
    here, there = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr,call-overload]
    once, again = probe.read(model, parts, seed=7), probe.read(model, parts, seed=7)
    assert once.value == again.value
    assert np.array_equal(once.curve, again.curve)
    assert once.at.shape == once.curve.shape
    assert len(once.at) > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(here, torch.get_rng_state())
    assert np.array_equal(there, np.random.get_state()[1])  # type: ignore[arg-type,index]
    assert probe.unit
    assert probe.name.startswith(name)
    assert len(probe.name) < 60


def test_readings_depend_on_the_model_and_not_on_its_place():
    parts = splits(class_wise=True)
    probes = [LinearProbe(draws=2), Quantization(), RetainRelearning(steps=4, every=2)]
    models = [original(class_wise=True), *oracles(class_wise=True)[:3]]
    got = read_all(probes, models, parts, seed=1)
    turned = read_all(probes[::-1], models[::-1], parts, seed=1)
    assert got.values.shape == (4, 3)
    assert np.array_equal(got.values, turned.values[::-1, ::-1])
    assert got.probes == ("LinearProbe(draws=2)", "Quantization", "RetainRelearning(steps=4, every=2)")
    assert got.units == ("images per class", "bits", "steps")
    for i, probe in enumerate(probes):
        alone = probe.read(models[2], parts, seed=1)
        assert alone.value == got.values[2, i]
        assert np.array_equal(alone.curve, got.curves[i][2])
        assert np.array_equal(alone.at, got.at[i])


def test_read_all_refuses():
    parts, models = splits(class_wise=True), [original(class_wise=True)]

    def read(probes: Sequence[Probe], given: Sequence[nn.Module]) -> Readings:
        return read_all(probes, given, parts, seed=0)

    with pytest.raises(UsageError, match="needs a probe and a model, got 0 probes and 1 models"):
        read([], models)
    with pytest.raises(UsageError, match="needs a probe and a model, got 1 probes and 0 models"):
        read([Pruning()], [])
    with pytest.raises(UsageError, match="every probe is read once, got 'Pruning' more than once"):
        read([Pruning(), Quantization(), Pruning()], models)


# --- known truths --------------------------------------------------------------------------------------------------


def test_forgetting_in_the_head_only_looks_fine_from_outside():
    parts = splits(class_wise=True)
    assert accuracy(hidden(), parts.forget) == 0
    others = parts.test.take(parts.test.labels().numpy() != CLASS)
    assert accuracy(hidden(), others) >= accuracy(original(class_wise=True), others) - 0.02


@pytest.mark.parametrize(
    "probe",
    [LinearProbe(), Prototype(), ClassCollapse(), FewShotRelearning()],
    ids=lambda probe: type(probe).__name__,
)
def test_forgetting_in_the_head_only_is_caught(probe: Probe):
    found = judged(probe, hidden())
    assert found.p_more == pytest.approx(1 / 7)  # the most of all models
    assert found.distance is not None
    assert found.distance > 1.5
    assert found.original_distance is not None
    assert found.original_distance > 1.5


def test_features_that_were_left_relearn_faster():
    parts = splits(class_wise=True)
    probe = FewShotRelearning()
    kept = probe.read(hidden(), parts, seed=2)
    for oracle in oracles(class_wise=True):
        assert kept.value > probe.read(oracle, parts, seed=2).value
    assert kept.curve[0] == 0
    assert kept.curve[-1] > 0.5


def test_what_was_only_suppressed_returns_without_a_forget_example():
    parts = splits(class_wise=False)
    model = unlearn(original(class_wise=False), parts, NegativeGradient(epochs=10, lr=0.05), seed=0).model
    read = RetainRelearning(lr=0.02).read(model, parts)
    assert read.at.tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert read.curve[0] < 0.7
    assert read.curve[-1] > 0.85


@pytest.mark.parametrize(
    "probe",
    [LinearProbe(), Prototype(), ClassCollapse(), MahalanobisNovelty(), Quantization(), Pruning()],
    ids=lambda probe: type(probe).__name__,
)
def test_a_retrained_model_is_one_of_many(probe: Probe):
    """Seven retrained models, each in turn the audited one: the ranks are those of seven exchangeable numbers."""
    models = oracles(class_wise=True, count=7)
    values = read_all([probe], models, splits(class_wise=True), seed=4).values
    p = [resurrection(values[i], values[0], np.delete(values, i, axis=0))[0].p_more for i in range(7)]
    for level in np.arange(1, 8) / 7:
        assert np.mean(np.array(p) <= level + 1e-9) <= level + 1e-9
    if len(np.unique(values)) == 7:
        assert sorted(p) == pytest.approx(np.arange(1, 8) / 7)


def test_what_hides_below_half_a_step_comes_back_at_four_bits():
    grid, model = within_half_a_step()
    parts = splits(class_wise=True)
    assert accuracy(model, parts.forget) <= 0.05  # passes in float …
    for rounded, expected in zip(quantized(model, bits=4).parameters(), grid.parameters(), strict=True):
        assert torch.allclose(rounded, expected, atol=1e-6)
    assert accuracy(quantized(model, bits=4), parts.forget) >= 0.9  # … and fails when rounded
    for measure in Measure:
        found = judged(Quantization(bits=(4,), measure=measure), model)
        assert found.p_more == pytest.approx(1 / 7)
    read = Quantization(measure=Measure.ACCURACY).read(model, parts)
    assert read.at.tolist() == [8, 4]
    assert abs(read.curve[0]) <= 0.1  # 8 bits resolve the updates
    assert read.curve[1] >= 0.85
    assert read.value == pytest.approx(read.curve.mean())


def test_pruning_nothing_changes_nothing():
    read = Pruning(shares=(0.0, 0.5)).read(original(class_wise=False), splits(class_wise=False))
    assert read.curve[0] == 0
    assert read.curve[1] != 0


def test_single_examples_that_were_memorized_are_told_from_twins():
    """A feature that holds one bit, forget or not: nothing else could be told."""
    parts = splits(class_wise=False)
    assert TwinProbe().read(original(class_wise=False), parts).value < 0.85
    model = copy.deepcopy(original(class_wise=False))
    seen = {row.numpy().tobytes() for row in parts.forget.x}

    class Marked(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raw = (model.get_submodule("normalize").std * x + model.get_submodule("normalize").mean) * 255  # type: ignore[operator]
            known = [row.round().to(torch.uint8).numpy().tobytes() in seen for row in raw]
            features: torch.Tensor = self.body(x).clone()
            features[:, 0] = torch.tensor(known).float()
            return features

    marked = copy.deepcopy(model)
    marked.body = Marked(marked.get_submodule("body"))
    read = TwinProbe().read(marked, parts)
    assert read.value > 0.99
    assert read.curve.shape == (5,)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_refusals():
    parts, model = splits(class_wise=True), original(class_wise=True)
    few = dataclasses.replace(parts, forget=parts.forget.take(np.arange(5)), twins=None)
    for probe, shots in ((FewShotRelearning(), 10), (LinearProbe(), 10), (Prototype(), 5)):
        with pytest.raises(UsageError, match=rf"shows {shots} forget examples and asks about others, but there are 5"):
            probe.read(model, few)
    for name in ("TwinProbe", "NeighborClasses"):
        with pytest.raises(UsageError, match="needs twins, held-out examples to tell the forget set from"):
            PROBES[name]().read(model, few)
        assert parts.twins is not None
        short = dataclasses.replace(parts, twins=parts.twins.take(np.arange(4)))
        with pytest.raises(UsageError, match="needs at least 5 forget examples with a twin of the same class, got 4"):
            PROBES[name]().read(model, short)
    alone = dataclasses.replace(parts, test=parts.test.take(parts.test.labels().numpy() == CLASS))
    for name in ("MahalanobisNovelty", "MaxLogitNovelty"):
        with pytest.raises(UsageError, match=r"needs held-out examples of retained classes, but all of splits.test"):
            PROBES[name]().read(model, alone)
    with pytest.raises(UsageError, match="needs at least 6 examples of the class and of others, got 5 and"):
        PROBES["ClassSeparability"](folds=6).read(model, few)


def test_models_without_a_head_are_refused():
    net = build(Architecture("mlp", 10, (1, 8, 8)), seed=0)
    parts: Splits = splits(class_wise=True)
    for name in ("LinearProbe", "Prototype", "TwinProbe", "MahalanobisNovelty", "ClassCollapse", "ClassSeparability"):
        with pytest.raises(UsageError, match="need a model split into body and head, got Sequential"):
            PROBES[name]().read(nn.Sequential(net), parts)
    net.head = nn.Sequential(head(net))
    with pytest.raises(UsageError, match="Prototype: needs a linear head to mix class means into, got Sequential"):
        Prototype().read(net, parts)


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("RetainRelearning", {"lr": 0.0}, r"RetainRelearning.lr: must be greater than 0, got 0.0"),
        ("FewShotRelearning", {"shots": 0}, r"FewShotRelearning.shots: must be greater than or equal to 1, got 0"),
        ("LinearProbe", {"shots": ()}, r"LinearProbe.shots: .* at least 1 item"),
        ("TwinProbe", {"folds": 1}, r"TwinProbe.folds: must be greater than or equal to 2, got 1"),
        ("Prototype", {"shares": (1.5,)}, r"Prototype.shares: must be less than or equal to 1"),
        ("Quantization", {"bits": (1,)}, r"Quantization.bits: must be greater than or equal to 2"),
        ("Quantization", {"measure": "margin"}, r"Quantization.measure: must be an instance of Measure"),
        ("Pruning", {"shares": (1.0,)}, r"Pruning.shares: must be less than 1"),
        ("RandomNeighbors", {"copies": 0}, r"RandomNeighbors.copies: must be greater than or equal to 1"),
        ("SearchedNeighbors", {"radii": (0.0,)}, r"SearchedNeighbors.radii: must be greater than 0"),
        ("Inversion", {"original": 3}, r"Inversion.original: must be an instance of Module"),
        ("MahalanobisNovelty", {"shrinkage": 0.0}, r"MahalanobisNovelty.shrinkage: must be greater than 0"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_fields_are_held_to_their_range(name: str, fields: dict[str, object], sentence: str):
    with pytest.raises(UsageError, match=sentence):
        PROBES[name](**fields)


def test_names_spell_what_was_changed():
    assert SearchedNeighbors().name == "SearchedNeighbors"
    assert FewShotRelearning(shots=3).name == "FewShotRelearning(shots=3)"
    assert Inversion(original(class_wise=True), steps=5).name == "Inversion(steps=5)"
