"""Private training: Opacus' steps against written-out ones, its accountant against closed forms, what is refused."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs, WriteModule
from opacus.validators import ModuleValidator
from scipy import integrate, stats
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit import private
from unlearnkit.audits.statistics.anchor import sampled_gaussian_epsilon
from unlearnkit.audits.statistics.epsilon import gaussian_epsilon, one_run_epsilon, one_run_guesses
from unlearnkit.data import load
from unlearnkit.models import Architecture, Classifier, build, load_model, pack, read_metadata, save_model
from unlearnkit.observing import observe
from unlearnkit.private import fit_private, spent
from unlearnkit.result import UsageError
from unlearnkit.stacked import fit_stack, stack_size
from unlearnkit.train import Privacy, Recipe, fit, initial, learning_rate
from unlearnkit.types import Examples

RECIPE = Recipe(Architecture("mlp", 3, (1, 8, 8)), epochs=2, batch_size=8, privacy=Privacy(1.0))
# One full batch an epoch, and steps that can be followed by hand.
PLAIN = replace(RECIPE, batch_size=32, momentum=0.0, weight_decay=0.0, schedule="constant", lr=0.5)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# -- the accountant ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.8, 1.0, 3.0])
@pytest.mark.parametrize("epochs", [1, 7])
def test_without_sampling_epsilon_is_that_of_gaussian_privacy(noise: float, epochs: int):
    recipe = replace(RECIPE, batch_size=50, epochs=epochs, privacy=Privacy(noise))
    found = spent(recipe, 50)
    exact = gaussian_epsilon(math.sqrt(epochs) / noise, delta=1e-5)
    assert (found.sample_rate, found.steps, found.accountant) == (1.0, epochs, "prv")
    assert exact <= found.epsilon <= exact + 0.02


@pytest.mark.parametrize(("examples", "batch"), [(100, 70), (1000, 700), (20, 15)])
def test_one_sampled_step_spends_what_its_hockey_stick_says(examples: int, batch: int):
    rate, noise = batch / examples, 0.9
    found = spent(replace(RECIPE, batch_size=batch, epochs=1, privacy=Privacy(noise)), examples)
    assert (found.sample_rate, found.steps) == (rate, 1)

    def excess(epsilon: float) -> float:
        def added(z: float) -> float:
            mixed = (1 - rate) * stats.norm.pdf(z, 0, noise) + rate * stats.norm.pdf(z, 1, noise)
            return float(max(0.0, mixed - math.exp(epsilon) * stats.norm.pdf(z, 0, noise)))

        return float(integrate.quad(added, -10, 15, limit=500, points=[2.0, 4.0, 6.0])[0])

    assert excess(found.epsilon) < 1e-5 < excess(found.epsilon - 0.03)


def test_beyond_any_promise_the_other_accountant_answers_and_is_named():
    recipe = replace(RECIPE, batch_size=50, epochs=4, privacy=Privacy(0.3, delta=1e-6))
    found = spent(recipe, 40)
    orders = np.concatenate([1 + np.arange(1, 100) / 10, np.arange(12.0, 64.0)])
    by_hand = 4 * orders / (2 * 0.3**2) + np.log((orders - 1) / orders) - np.log(1e-6 * orders) / (orders - 1)
    assert found.accountant == "rdp"
    assert found.epsilon == pytest.approx(by_hand.min(), rel=1e-12)
    tiny = spent(replace(recipe, privacy=Privacy(1.0, delta=1e-20)), 5000)  # too small for the other's grid
    assert tiny.accountant == "rdp"
    assert tiny.epsilon == pytest.approx(sampled_gaussian_epsilon(1.0, 0.01, 400, delta=1e-20), rel=0.05)


def test_sampled_steps_spend_a_little_less_than_renyi_shows():
    for noise, batch, epochs in ((1.0, 64, 5), (2.0, 10, 3), (0.7, 100, 2)):
        recipe = replace(RECIPE, batch_size=batch, epochs=epochs, privacy=Privacy(noise))
        found = spent(recipe, 1000)
        renyi = sampled_gaussian_epsilon(noise, found.sample_rate, found.steps, delta=1e-5)
        assert 0.6 * renyi < found.epsilon < renyi


def test_more_noise_spends_less_and_more_steps_spend_more():
    by_noise = [spent(replace(RECIPE, privacy=Privacy(noise)), 200).epsilon for noise in (0.6, 1.0, 2.0, 8.0)]
    by_steps = [spent(replace(RECIPE, epochs=epochs), 200).epsilon for epochs in (1, 3, 9)]
    assert by_noise == sorted(by_noise, reverse=True)
    assert by_steps == sorted(by_steps)
    assert len({*by_noise, *by_steps}) == 7
    assert spent(replace(RECIPE, privacy=Privacy(50.0, delta=0.3)), 200).epsilon == 0.0  # never below


def test_what_is_spent_follows_from_the_recipe():
    found = spent(replace(RECIPE, privacy=Privacy(1.5, clip=0.2, delta=1e-6)), 43)
    assert (found.delta, found.noise_multiplier, found.clip) == (1e-6, 1.5, 0.2)
    assert (found.sample_rate, found.steps) == (8 / 43, 2 * 5)


# -- the steps -----------------------------------------------------------------------------------------------------


def steps_by_hand(recipe: Recipe, examples: Examples, seed: int) -> Tensor:
    """Full batches without noise: the sum of every example's clipped gradient, divided by the batch size."""
    assert recipe.privacy is not None
    model = initial(recipe, examples, seed=seed).train()
    weights = list(model.parameters())
    for step in range(recipe.epochs):
        rate = recipe.lr * learning_rate(recipe.schedule, step / recipe.epochs)
        total = [torch.zeros_like(w) for w in weights]
        for i in range(len(examples)):
            logits, label = model(examples.x[i : i + 1]), examples.labels()[i : i + 1]
            loss = functional.cross_entropy(logits, label, label_smoothing=recipe.label_smoothing)
            gradients = torch.autograd.grad(loss, weights)
            norm = torch.cat([g.flatten() for g in gradients]).norm()
            for t, g in zip(total, gradients, strict=True):
                t += g * min(1.0, recipe.privacy.clip / float(norm))
        with torch.no_grad():
            for w, t in zip(weights, total, strict=True):
                w -= rate * t / recipe.batch_size
    return flat(model)


@pytest.mark.parametrize("name", ["mlp", "small-cnn"])
@pytest.mark.parametrize("clip", [0.3, 100.0])
def test_steps_are_clipped_sums_over_a_public_constant(blobs: MakeBlobs, name: str, clip: float):
    architecture = Architecture(name, 3, (1, 8, 8))
    recipe = replace(PLAIN, architecture=architecture, epochs=4, schedule="cosine", label_smoothing=0.1)
    recipe = replace(recipe, privacy=Privacy(1e-9, clip=clip))
    examples = blobs(20)  # fewer than a batch: all of them every time
    start = flat(initial(recipe, examples, seed=3))
    expected = steps_by_hand(recipe, examples, 3)
    found = flat(fit_private(recipe, examples, seed=3))
    assert (found - expected).norm() < 1e-4 * (expected - start).norm()


def test_noise_has_the_promised_size(blobs: MakeBlobs):
    """A clip so small that nothing but noise is left: σ C lr / batch on every weight, and two steps of it."""
    recipe = replace(PLAIN, privacy=Privacy(1e6, clip=1e-6))
    examples = blobs(20)
    moved = (flat(fit_private(recipe, examples, seed=0)) - flat(initial(recipe, examples, seed=0))).double()
    sigma = recipe.lr / recipe.batch_size * math.sqrt(2)
    assert float(moved.std()) == pytest.approx(sigma, rel=5 / math.sqrt(2 * len(moved)))
    assert abs(float(moved.mean())) < 5 * sigma / math.sqrt(len(moved))


def test_every_example_is_drawn_by_a_coin_of_its_own(blobs: MakeBlobs, monkeypatch: pytest.MonkeyPatch):
    examples, sizes, seen = blobs(40), [], []

    def spy(x: Tensor, kind: str, rng: torch.Generator) -> Tensor:
        sizes.append(len(x))
        seen.extend((x.double().flatten(1) @ torch.arange(64.0, dtype=torch.float64)).tolist())  # one number each
        return x

    monkeypatch.setattr(private, "augment", spy)
    epochs: list[int] = []
    recipe = replace(RECIPE, epochs=120, batch_size=8, lr=1e-4)
    fit_private(recipe, examples, seed=0, on_epoch=epochs.append)
    assert epochs == list(range(1, 121))
    steps, rate = spent(recipe, 40).steps, 0.2
    assert len(sizes) == steps == 600
    assert np.mean(sizes) == pytest.approx(8, abs=5 * math.sqrt(40 * rate * (1 - rate) / steps))
    assert np.var(sizes) == pytest.approx(40 * rate * (1 - rate), rel=0.3)
    totals, counts = np.unique(seen, return_counts=True)
    assert len(totals) == 40
    assert np.abs(counts - steps * rate).max() < 5 * math.sqrt(steps * rate * (1 - rate))


def test_empty_batches_are_steps_of_noise(blobs: MakeBlobs, monkeypatch: pytest.MonkeyPatch):
    examples, steps = blobs(3), []
    recipe = replace(PLAIN, epochs=10, batch_size=1, lr=0.01)
    monkeypatch.setattr(private, "augment", lambda x, kind, rng: (steps.append(len(x)), x)[1])
    fit_private(recipe, examples, seed=0)
    assert 0 < len(steps) < spent(recipe, 3).steps == 30  # the others were empty
    nothing = replace(recipe, batch_size=1, epochs=1)
    monkeypatch.setattr(private, "_rate", lambda recipe, n: 0.0)
    moved = flat(fit_private(nothing, examples, seed=0)) - flat(initial(nothing, examples, seed=0))
    assert float(moved.std()) == pytest.approx(0.01 * math.sqrt(3), rel=0.05)


def test_a_batch_in_parts_is_the_same_step(blobs: MakeBlobs, monkeypatch: pytest.MonkeyPatch):
    whole = fit_private(RECIPE, blobs(40), seed=1)
    monkeypatch.setattr(private, "_HELD", 3 * len(flat(whole)))  # three examples at once
    parts = fit_private(RECIPE, blobs(40), seed=1)
    torch.testing.assert_close(flat(parts), flat(whole), rtol=0, atol=1e-5)


def test_the_seed_decides_every_bit_and_nothing_outside_moves(blobs: MakeBlobs):
    state = torch.get_rng_state()
    first, again, other = (fit(replace(RECIPE, augment="flip"), blobs(40), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(flat(first), flat(again))
    assert not torch.equal(flat(first), flat(other))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(
        flat(fit(replace(RECIPE, compiled=True), blobs(40), seed=1)), flat(fit(RECIPE, blobs(40), seed=1))
    )


def test_noise_is_not_what_the_fresh_weights_were_drawn_from(blobs: MakeBlobs):
    """The seed of the weights would draw noise that the weights foretell."""
    recipe = replace(PLAIN, epochs=1, privacy=Privacy(1e6, clip=1e-6))
    start = initial(recipe, blobs(20), seed=4)
    moved = flat(fit_private(recipe, blobs(20), seed=4)) - flat(start)
    same = torch.normal(0.0, 1.0, (len(moved),), generator=torch.Generator().manual_seed(4))
    for foretold in (same, flat(start)):
        assert abs(float(torch.corrcoef(torch.stack([moved, foretold]))[0, 1])) < 5 / math.sqrt(len(moved))


def test_the_result_is_an_ordinary_model(blobs: MakeBlobs, tmp_path: Path):
    model = fit(RECIPE, blobs(40), seed=0)
    fresh = build(RECIPE.architecture, seed=0)
    assert type(model) is Classifier
    assert not model.training
    assert list(model.state_dict()) == list(fresh.state_dict())
    for name, module in model.named_modules():
        assert vars(module).keys() == vars(fresh.get_submodule(name)).keys()
        assert not module._forward_hooks
        assert not module._backward_hooks
    assert not any("grad_sample" in name for p in model.parameters() for name in vars(p))
    copy.deepcopy(model)
    functional.cross_entropy(model(blobs(4).x), blobs(4).labels()).backward()  # unlearning goes on from here
    save_model(tmp_path / "m.safetensors", model, RECIPE.architecture)
    assert torch.equal(flat(load_model(tmp_path / "m.safetensors", RECIPE.architecture)), flat(model))


def test_normalization_measures_nothing(blobs: MakeBlobs):
    model = fit(RECIPE, blobs(40), seed=0)
    assert isinstance(model, Classifier)
    assert (model.normalize.mean.item(), model.normalize.std.item()) == (0.5, 0.25)
    images = blobs(40)
    floats = Examples(images.x.float() / 255, images.labels(), images.ids)
    model = fit(RECIPE, floats, seed=0)
    assert (model.normalize.mean.item(), model.normalize.std.item()) == (0.0, 1.0)
    assert initial(replace(RECIPE, privacy=None), images, seed=0).normalize.mean.item() not in (0.0, 0.5)


# -- layers --------------------------------------------------------------------------------------------------------

NETS = """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, norm=nn.BatchNorm2d, **options):
            super().__init__()
            self.first = nn.Conv2d(1, 4, 3, padding=1)
            self.one = norm(4, **options)
            self.relu = nn.ReLU(inplace=True)
            self.second = nn.Conv2d(4, 4, 3, padding=1)
            self.two = norm(4, **options)
            self.drop = nn.Dropout(0.2)
        def forward(self, x):
            start = self.relu(self.one(self.first(x)))
            out = self.two(self.second(start))
            out += start
            return self.drop(self.relu(out))

    def net(body, classes=3):
        return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

    def batch():
        return net(Block())

    def direct():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))

    def bare():
        return net(Block(affine=False))

    def tracked():
        return net(Block(nn.InstanceNorm2d, affine=True, track_running_stats=True))

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
        def forward(self, x):
            x = x.flatten(1, 2)
            return self.inner(x, x, x)[0].flatten(1)

    def attention():
        return nn.Sequential(Attention(), nn.Linear(64, 3))

    class Centered(nn.Module):
        def forward(self, x):
            return x - x.mean(0) if self.training else x

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
        def forward(self, x):
            if self.training:
                self.seen += x.mean().detach()
            return x

    class Borrowed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 3)
        def forward(self, x):
            return nn.functional.linear(x, self.inner.weight, self.inner.bias)

    def flat(*layers):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3), *layers)

    def centered():
        return flat(Centered())

    def counting():
        return flat(Counting())

    def borrowed():
        return nn.Sequential(nn.Flatten(), Borrowed(), nn.Linear(3, 3))
"""


@pytest.mark.parametrize("net", ["batch", "bare", "attention"])
def test_layers_that_mix_examples_are_replaced_and_reload(
    blobs: MakeBlobs, write_module: WriteModule, tmp_path: Path, net: str
):
    mixing = Architecture(f"{write_module('nets', NETS)}:{net}", 3, (1, 8, 8))
    architecture = replace(mixing, private=True)
    built = build(architecture, seed=5)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in built.modules())
    if net == "batch":
        theirs = ModuleValidator.fix(build(mixing, seed=5)).state_dict()
        assert {name: tuple(value.shape) for name, value in built.state_dict().items()} == {
            name: tuple(value.shape) for name, value in theirs.items()
        }
        assert all(torch.equal(value, theirs[name]) for name, value in built.state_dict().items())
    model = fit(replace(RECIPE, architecture=architecture), blobs(24), seed=5)
    assert not torch.equal(flat(model), flat(built))
    assert list(model.state_dict()) == list(built.state_dict())
    path = tmp_path / "model.safetensors"
    save_model(path, model, architecture)
    assert read_metadata(path)["private"] == "true"
    for asked in (architecture, mixing):  # the file knows what it holds
        loaded = load_model(path, asked)
        assert torch.equal(loaded(blobs(4).x), model(blobs(4).x))


def test_activations_that_work_in_place_are_no_obstacle(blobs: MakeBlobs, write_module: WriteModule):
    architecture = Architecture(f"{write_module('nets', NETS)}:direct", 3, (1, 8, 8))
    model = fit(replace(RECIPE, architecture=architecture), blobs(24), seed=5)
    assert not torch.equal(flat(model), flat(build(architecture, seed=5)))
    assert any(getattr(layer, "inplace", False) for layer in model.modules())  # as it was built


def test_other_files_say_nothing_of_privacy():
    assert b"private" not in pack(build(RECIPE.architecture, seed=0).state_dict(), RECIPE.architecture)


@pytest.mark.parametrize(
    ("net", "asked", "reason"),
    [
        ("batch", False, r"its layer 'body.0.one' \(BatchNorm2d\) mixes examples or counts them; let Architecture"),
        ("bare", False, r"its layer 'body.0.one' \(BatchNorm2d\) mixes examples"),
        ("attention", False, r"its layer 'body.0.inner' \(MultiheadAttention\) mixes examples"),
        (
            "tracked",
            True,
            r"its layer 'body.0.one' \(InstanceNorm2d\) mixes examples or counts them; replace it by one",
        ),
        ("centered", True, "the gradient of one example changes with the others of its batch; replace it"),
        ("counting", True, "its buffer 'body.2.seen' changes with the examples it sees"),
        ("borrowed", True, r"Opacus finds no gradients of single examples \(.*\); replace it"),
    ],
)
def test_networks_that_cannot_be_trained_privately_are_refused(
    blobs: MakeBlobs, write_module: WriteModule, net: str, asked: bool, reason: str
):
    architecture = Architecture(f"{write_module('nets', NETS)}:{net}", 3, (1, 8, 8), private=asked)
    with pytest.raises(UsageError, match=f"'nets:{net}' cannot be trained privately: .*{reason}") as caught:
        fit(replace(RECIPE, architecture=architecture), blobs(24), seed=0)
    assert "\n" not in str(caught.value)


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"noise_multiplier": 0.0}, r"recipe\.privacy\.noise_multiplier: must be above 0 and finite, got 0.0"),
        ({"noise_multiplier": math.nan}, r"recipe\.privacy\.noise_multiplier: must be above 0 and finite, got nan"),
        ({"noise_multiplier": 1.0, "clip": -1.0}, r"recipe\.privacy\.clip: must be above 0 and finite, got -1.0"),
        ({"noise_multiplier": 1.0, "clip": math.inf}, r"recipe\.privacy\.clip: must be above 0 and finite, got inf"),
        ({"noise_multiplier": 1.0, "delta": 0.0}, r"recipe\.privacy\.delta: must lie between 0 and 1, got 0.0"),
        ({"noise_multiplier": 1.0, "delta": 1.0}, r"recipe\.privacy\.delta: must lie between 0 and 1, got 1.0"),
    ],
)
def test_privacy_that_makes_no_sense_is_refused(fields: dict[str, Any], sentence: str):
    with pytest.raises(UsageError, match=sentence):
        Privacy(**fields)


def test_what_private_training_cannot_go_with(blobs: MakeBlobs):
    with pytest.raises(UsageError, match=r"recipe\.privacy: the trainer 'mine:fit' replaces the built-in loop"):
        replace(RECIPE, trainer="mine:fit")
    assert stack_size(replace(RECIPE, privacy=None), "cpu") > 1
    assert stack_size(RECIPE, "cpu") == 1
    with pytest.raises(UsageError, match=r"stack: private training clips single gradients, .*; use fit"):
        fit_stack(RECIPE, blobs(8), [np.arange(8)], [0])
    for use in (lambda recipe: spent(recipe, 8), lambda recipe: fit_private(recipe, blobs(8), seed=0)):
        with pytest.raises(UsageError, match=r"recipe\.privacy: is missing; private training needs at least its noise"):
            use(replace(RECIPE, privacy=None))
    with pytest.raises(UsageError, match="examples: must be at least 1, got 0; pass the number"):
        spent(RECIPE, 0)
    with pytest.raises(UsageError, match="there are no examples to train on"):
        fit(RECIPE, blobs(0), seed=0)


def test_training_that_diverges_says_where(blobs: MakeBlobs):
    with pytest.raises(UsageError, match=r"private training, epoch \d: the loss became \w+ at step \d+ with learning"):
        fit(replace(RECIPE, lr=1e30, epochs=5), blobs(40), seed=0)
    once = replace(PLAIN, lr=1e38, epochs=1, weight_decay=1e3)
    with pytest.raises(
        UsageError, match=r"private training: '\S+' holds NaN or infinite values at the end; choose a s"
    ):
        fit(once, blobs(20), seed=0)


# -- the library ---------------------------------------------------------------------------------------------------


def test_library_check_one_run_on_digits():
    """Mislabeled digits as canaries, half of them in by coin, so many that the number of examples tells nothing.

    An excess here would be a finding about the library, no proof against the auditor (audits.md 4.7).
    """
    data, rng = load("digits", seed=0), np.random.default_rng(0)
    digits = data.train.take(np.arange(500))
    labels = digits.labels().clone()
    labels[:200] = (labels[:200] + torch.from_numpy(rng.integers(1, 10, 200))) % 10
    planted = Examples(digits.x, labels, digits.ids)
    heads = rng.permutation(200) < 100
    rows = np.concatenate([np.flatnonzero(heads), np.arange(200, 500)])
    architecture = Architecture("mlp", 10, data.shape)
    loud = Recipe(architecture, epochs=30, batch_size=50, optimizer="adamw", lr=0.01)
    quiet = replace(loud, epochs=2, optimizer="sgd", lr=0.2, privacy=Privacy(1.0))
    bounds = {}
    for recipe in (loud, quiet):
        scores = observe(fit(recipe, planted.take(rows), seed=1), planted.take(np.arange(200))).margins[:, 0]
        correct, guesses = one_run_guesses(scores.astype(np.float64), heads, positive=50, negative=50)
        bounds[recipe] = one_run_epsilon(correct, guesses, canaries=200, delta=1e-5)
    promised = spent(quiet, len(rows))
    assert promised.accountant == "prv"
    assert 2 < promised.epsilon < 5
    assert bounds[quiet] <= promised.epsilon
    assert bounds[loud] > bounds[quiet]  # the same audit does see what is memorized
