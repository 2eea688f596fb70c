"""Class-vector arithmetic against encoders whose features are known in closed form."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from torch import Tensor, nn

from unlearnkit.editing import (
    ClassVector,
    Gate,
    best_threshold,
    class_accuracy,
    class_vector,
    features,
    gate,
    nearest_mean,
    normalization_layers,
    optimize_patch,
    pasted,
    steer,
    write,
)
from unlearnkit.models import Architecture, Classifier, Normalize, build
from unlearnkit.result import UsageError
from unlearnkit.train import Recipe, fit
from unlearnkit.types import Examples

ALWAYS = -1.5  # below every cosine


def linear(weight: Tensor, classes: Tensor | None = None) -> Classifier:
    """f(x) = weight · x, logits = classes · f(x) (the features themselves if left out)."""
    body = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head = nn.Linear(weight.shape[0], len(weight if classes is None else classes), bias=False)
    body.weight.data = weight.clone()
    head.weight.data = torch.eye(len(weight)) if classes is None else classes.clone()
    return Classifier(Normalize(weight.shape[1], 1), body, head).eval()


def points(x: Tensor, y: list[int] | None = None) -> Examples:
    labels = torch.zeros(len(x), dtype=torch.int64) if y is None else torch.tensor(y)
    return Examples(x, labels, np.arange(len(x)).astype(str))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clusters(n: int = 12, classes: int = 3, noise: float = 0.05) -> Examples:
    """Class c lies around 4 · e_c: features under neural collapse."""
    y = [i % classes for i in range(n)]
    return points(4 * torch.eye(classes)[y] + noise * normal(n, classes), y)


@pytest.fixture(scope="module")
def trained(blobs: MakeBlobs) -> tuple[Classifier, Classifier, Examples]:
    """A small network, the same before training, and what it was trained on."""
    train = blobs(120, classes=4)
    architecture = Architecture("small-cnn", 4, (1, 8, 8))
    after, before = fit(Recipe(architecture, epochs=6), train, seed=0), build(architecture, seed=0)
    before.normalize.load_state_dict(after.normalize.state_dict())
    return after, before, train


def logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


# Vectors


def test_the_class_vector_is_the_mean_displacement():
    before, after = normal(5, 4), normal(5, 4, seed=1)
    x, y = normal(20, 4, seed=2) + 1, [i % 2 for i in range(20)]
    vector = class_vector(linear(after), linear(before), points(x, y), label=1)
    torch.testing.assert_close(vector.direction, (after - before) @ x[1::2].mean(0))
    assert vector.norm == pytest.approx(float(((after - before) @ x[1::2].mean(0)).norm()), rel=1e-5)
    everything = class_vector(linear(after), linear(before), points(x, y))
    torch.testing.assert_close(everything.direction, (after - before) @ x.mean(0))


def test_an_unchanged_encoder_has_no_class_vector(trained: tuple[Classifier, Classifier, Examples]):
    after, before, train = trained
    assert not class_vector(after, copy.deepcopy(after), train, label=2).direction.any()
    assert class_vector(after, before, train, label=2).norm > 1


def test_vectors_add_subtract_and_scale():
    a, b = ClassVector(torch.tensor([1.0, 2.0])), ClassVector(torch.tensor([0.5, -1.0]))
    assert (a + b).direction.tolist() == [1.5, 1.0]
    assert (a - b).direction.tolist() == [0.5, 3.0]
    assert (-2.0 * a).direction.tolist() == (a * -2.0).direction.tolist() == [-2.0, -4.0]
    assert (3.0 * a - 4.0 * a).norm == pytest.approx(5**0.5)


def test_features_are_read_in_eval_mode_and_modes_are_put_back():
    model = linear(torch.eye(3))
    model.body = nn.Sequential(nn.Dropout(0.5), model.body)
    model.train()
    model.head.eval()
    x = normal(700, 3)
    assert torch.equal(features(model, points(x)), x)
    assert (model.training, model.body.training, model.head.training) == (True, True, False)


# Gates and steering


def test_the_threshold_is_that_of_a_search_by_hand():
    """Against every cut between neighbors; values are rounded so that the two sides tie. A gap is cut near its foot."""
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.3, 3.0):
        inside, outside = (rng.normal(shift, 0.3, 30).round(1), rng.normal(0, 0.3, 50).round(1))

        def balanced(cut: float, a: Any = inside, b: Any = outside) -> float:
            return float((a > cut).mean() + (b <= cut).mean())

        values = np.unique(np.concatenate([inside, outside]))
        best = max(balanced(cut) for cut in (values[1:] + values[:-1]) / 2)
        assert balanced(best_threshold(inside, outside)) == pytest.approx(max(best, 1.0))
    assert best_threshold(np.array([0.8, 0.9]), np.array([0.1, 0.4])) == pytest.approx(0.44)
    assert best_threshold(np.array([0.5]), np.array([0.5])) == 0.5  # nothing to tell apart: stays shut


def test_the_gate_opens_for_its_class_only():
    data, model = clusters(), linear(torch.eye(3))
    y = data.labels().numpy()
    where = gate(model, data.take(y == 1), data.take(y != 1))
    torch.testing.assert_close(where.anchor, data.x[1::3].mean(0))
    edited = steer(model, ClassVector(torch.tensor([8.0, 0.0, 0.0])), where)
    moved = (logits(edited, data.x) != logits(model, data.x)).any(1)
    assert moved.tolist() == (y == 1).tolist()
    torch.testing.assert_close(logits(edited, data.x)[1::3], data.x[1::3] + torch.tensor([8.0, 0.0, 0.0]))


def test_the_negated_vector_leads_back_to_before_training():
    before, after = normal(5, 4), normal(5, 4, seed=1)
    x = points(normal(30, 4, seed=2) + 2)
    vector = class_vector(linear(after), linear(before), x)
    edited = steer(linear(after), -1.0 * vector, Gate(features(linear(after), x).mean(0), ALWAYS))
    torch.testing.assert_close(logits(edited, x.x).mean(0), features(linear(before), x).mean(0), rtol=1e-4, atol=1e-5)


def test_no_edit_and_a_gate_that_never_opens_leave_every_logit(trained: tuple[Classifier, Classifier, Examples]):
    after, before, train = trained
    vector = class_vector(after, before, train, label=0)
    anchor = features(after, train).mean(0)
    for edit, threshold in ((vector, 1.01), (0.0 * vector, ALWAYS)):
        assert torch.equal(logits(steer(after, edit, Gate(anchor, threshold)), train.x), logits(after, train.x))
    assert not torch.equal(logits(steer(after, vector, Gate(anchor, ALWAYS)), train.x), logits(after, train.x))
    assert after.steering is None


@pytest.mark.parametrize(("alpha", "answer"), [(0.0, 0), (0.4, 0), (0.49, 0), (0.51, 1), (0.6, 1), (1.0, 1)])
def test_one_class_becomes_another_at_one_half(alpha: float, answer: int):
    """Collapsed classes at 4 · e_c, all at the origin before training: logits are 4(1 − α) and 4α."""
    data, model, nothing = clusters(noise=0.0), linear(torch.eye(3)), linear(torch.zeros(3, 3))
    first, second = (class_vector(model, nothing, data, label=label) for label in (0, 1))
    edited = steer(model, alpha * second - alpha * first, Gate(first.direction, 0.5))
    predicted = logits(edited, data.x).argmax(1)
    assert predicted.tolist() == [answer if label == 0 else label for label in data.labels().tolist()]


def test_an_environment_is_taken_away():
    """Snow adds one vector to every feature: κ_snow+c − κ_c is that vector."""
    clean, model, nothing = clusters(), linear(torch.eye(3)), linear(torch.zeros(3, 3))
    clean = clean.take(clean.labels().numpy() == 2)
    snow = torch.tensor([7.0, 1.0, -2.0])
    snowy = points(clean.x + snow, [2] * len(clean))
    assert (logits(model, snowy.x).argmax(1) == 0).all()
    edit = -1.0 * (class_vector(model, nothing, snowy) - class_vector(model, nothing, clean))
    torch.testing.assert_close(edit.direction, -snow)
    edited = steer(model, edit, gate(model, snowy, clean))
    torch.testing.assert_close(logits(edited, snowy.x), logits(model, clean.x))
    assert torch.equal(logits(edited, clean.x), logits(model, clean.x))


def pictures(n: int) -> tuple[Classifier, Classifier, Tensor]:
    """A linear network on 4×4 pictures in [0, 1] whose lower right 2×2 corner is dark, and the one before training."""
    weight = normal(6, 16)
    model, before = (linear(w, classes=normal(3, 6, seed=1)) for w in (weight, torch.zeros(6, 16)))
    for net in (model, before):
        net.body = nn.Sequential(nn.Flatten(), net.body)
        net.normalize = Normalize(1, 3)
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    x[:, :, 2:, 2:] = 0
    return model, before, x


def test_a_patch_is_disarmed():
    model, before, x = pictures(10)
    attacked = pasted(x, torch.ones(1, 2, 2))
    edit = -1.0 * (class_vector(model, before, points(attacked)) - class_vector(model, before, points(x)))
    edited = steer(model, edit, gate(model, points(attacked), points(x)))
    found = (logits(edited, attacked) - logits(model, attacked)).abs().sum(1) > 0
    assert found.float().mean() >= 0.8
    torch.testing.assert_close(logits(edited, attacked)[found], logits(model, x)[found], rtol=1e-3, atol=1e-4)


def test_edits_stand_beside_each_other_and_the_nearest_acts():
    model = linear(torch.eye(2))
    first, second = torch.tensor([10.0, 0.0]), torch.tensor([0.0, 10.0])
    model = steer(model, ClassVector(first), Gate(torch.tensor([1.0, 0.0]), 0.5))
    model = steer(model, ClassVector(second), Gate(torch.tensor([1.0, 1.0]), 0.5))
    x = torch.tensor([[1.0, 0.1], [1.0, 0.9], [0.0, 1.0], [-1.0, 0.0]])  # cosines .995 .78 | .74 .999 | 0 .71 | -1 -.71
    assert torch.equal(logits(model, x), x + torch.stack([first, second, second, 0 * first]))


def test_a_random_vector_of_the_same_length_does_not_forget(trained: tuple[Classifier, Classifier, Examples]):
    """The paper's negative control."""
    after, before, train = trained
    y = train.labels().numpy()
    vector = class_vector(after, before, train, label=1)
    where = gate(after, train.take(y == 1), train.take(y != 1))
    noise = normal(len(vector.direction), seed=3)
    noise = ClassVector(noise * vector.norm / noise.norm())
    assert (logits(steer(after, -1.5 * vector, where), train.x[y == 1]).argmax(1) == 1).float().mean() < 0.05
    assert (logits(steer(after, -1.5 * noise, where), train.x[y == 1]).argmax(1) == 1).float().mean() > 0.9


# Writing into weights


def normalized(*, norm: nn.Module | None = None) -> Classifier:
    model = linear(torch.eye(6))
    model.body = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), norm or nn.LayerNorm(6))
    for name, weight in model.body.named_parameters():
        if name.split(".")[0] in "03":
            weight.data = normal(*weight.shape, seed=len(name))
    return model.eval()


def changed(model: nn.Module, other: nn.Module) -> set[str]:
    state = other.state_dict()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}


def test_one_reference_moves_exactly_where_it_is_sent():
    """The layer's bias alone can shift every feature: the distance falls below the tolerance."""
    model, x = normalized(), points(normal(1, 6, seed=4))
    edit = ClassVector(normal(6, seed=5))
    edited = write(model, edit, x, tolerance=0.01, epochs=1000)
    distance = (features(edited, x) - features(model, x) - edit.direction).norm()
    assert 0 < float(distance) < 0.01 * edit.norm
    assert changed(edited, model) == {"body.4.weight", "body.4.bias"}
    assert edited.steering is None
    assert all(p.requires_grad for p in edited.parameters())


def test_only_the_last_layers_are_written():
    model, x = normalized(norm=nn.BatchNorm1d(6)), points(normal(3, 6))
    assert normalization_layers(model) == ["body.1", "body.4"]
    two = write(model, ClassVector(torch.ones(6)), x, layers=2, epochs=3)
    assert changed(two, model) == {f"body.{i}.{kind}" for i in (1, 4) for kind in ("weight", "bias")}
    one = write(model, ClassVector(torch.ones(6)), x, epochs=3)
    assert changed(one, model) == {"body.4.weight", "body.4.bias"}


def test_others_are_held_as_strongly_as_asked():
    model, x, others = normalized(), points(normal(4, 6)), points(normal(20, 6, seed=1))
    moved = []
    for locality in (0.0, 1.0, 30.0):
        edited = write(model, ClassVector(torch.ones(6)), x, others, locality=locality)
        moved.append(float((features(edited, others) - features(model, others)).norm(dim=1).mean()))
    assert moved[0] > 1.5 * moved[1] > 3 * moved[2]


def test_writing_nothing_changes_nothing():
    model = normalized()
    assert not changed(write(model, ClassVector(torch.zeros(6)), points(normal(4, 6)), epochs=5), model)


# The attacker's side


def test_the_best_patch_of_a_linear_network_is_black_and_white():
    """⟨W · patch, edit⟩ is largest with 1 where Wᵀ · edit is positive and 0 elsewhere."""
    model, _, x = pictures(5)
    edit = ClassVector(normal(6, seed=9))
    patch = optimize_patch(model, points(x), edit, size=2)
    pull = (edit.direction @ model.body[1].weight.detach()).view(1, 4, 4)[:, 2:, 2:]
    assert (patch == (pull > 0)).all()
    assert {*patch.flatten().tolist()} == {0.0, 1.0}


def test_pictures_are_pasted_over_in_the_corner():
    x = torch.full((2, 3, 4, 5), 51, dtype=torch.uint8)
    y = pasted(x, torch.ones(3, 2, 2))
    assert y.dtype == torch.float32
    assert (y[:, :, 2:, 3:] == 1).all()
    assert float(y.sum()) == pytest.approx(2 * 3 * (16 * 0.2 + 4))


# What is left in the features


def test_a_head_that_forgot_does_not_make_features_forget():
    data, model = clusters(30), linear(torch.eye(3))
    whole = class_accuracy(model, data, data, label=1)
    assert (whole.head, whole.nearest_mean) == (1.0, 1.0)
    model.head.weight.data[1] = -1
    hidden = class_accuracy(model, data, data, label=1)
    assert (hidden.head, hidden.nearest_mean) == (0.0, 1.0)
    model.body.weight.data[1, 1] = 0
    model.body.weight.data[0, 1] = 1  # class 1 now lies where class 0 does
    gone = class_accuracy(model, data, data, label=1)
    assert gone.head == 0.0
    assert 0.1 < gone.nearest_mean < 0.9


def test_the_nearest_mean_is_that_of_all_distances():
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(30, 5)).astype(np.float32)
    y = rng.integers(0, 4, 40) * 2 + 1  # labels need not be 0, 1, 2
    means = {label: known[y == label].mean(0) for label in np.unique(y)}
    by_hand = [min(means, key=lambda label: float(((point - means[label]) ** 2).sum())) for point in asked]
    assert nearest_mean(known, y, asked).tolist() == by_hand


# What is refused


def test_wrong_use_is_said_in_one_sentence():
    model, vector = linear(torch.eye(3)), ClassVector(torch.ones(3))
    plain, whole = nn.Flatten(), Classifier(Normalize(3, 1), nn.Flatten(), nn.Identity())
    data = clusters()
    pixels = points(torch.zeros(2, 1, 4, 4))
    for make, sentence in (
        (
            lambda: class_vector(model, model, data, label=7),
            "class_vector: there are no examples of class 7; give at l",
        ),
        (lambda: class_vector(model, model, points(torch.zeros(0, 3))), "class_vector: there are no examples; give at"),
        (
            lambda: class_vector(model, linear(torch.zeros(2, 3)), data),
            "class_vector: both models must have features of one width, got 3 after and 2 before training",
        ),
        (
            lambda: class_vector(plain, model, data),
            "class_vector: class vectors need a model split into body and head, got Flatten; use an architecture that",
        ),
        (
            lambda: steer(whole, vector, Gate(torch.ones(3), 0.5)),
            "steer: class vectors need a model split into body and head, got a body without a head; use an",
        ),
        (
            lambda: write(model, vector, data),
            "write: the model has 0 normalization layers with weights to write into, got layers=1; use a model with",
        ),
        (
            lambda: optimize_patch(model, pixels, vector, size=5),
            r"optimize_patch: size must be at least 1 and fit into the images, got 5 for inputs of shape \(1, 4, 4\)",
        ),
        (
            lambda: optimize_patch(model, data, vector, size=1),
            r"optimize_patch: size must be at least 1 and fit into the images, got 1 for inputs of shape \(3,\)",
        ),
        (
            lambda: optimize_patch(model, pixels, 0.0 * vector, size=2),
            "optimize_patch: the edit is the zero vector, which points nowhere; give another",
        ),
        (
            lambda: class_accuracy(model, data, data.take(np.array([0])), label=1),
            "class_accuracy: class 1 does not occur in the examples; give some of it",
        ),
        (
            lambda: class_accuracy(model, data.take(np.array([0])), data, label=1),
            "class_accuracy: class 1 does not occur in the references; give some of it",
        ),
    ):
        with pytest.raises(UsageError, match=f"^{sentence}"):
            make()
