"""FewSample: it sees a few images, moves a few weights, and says what the features keep."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from torch import Tensor, nn
from torch.nn import functional

from unlearnkit.editing import class_accuracy
from unlearnkit.methods import few_sample
from unlearnkit.methods.few_sample import FewSample, accuracy, few, relevant_weights, several
from unlearnkit.methods.salun import saliency_mask
from unlearnkit.models import Architecture, Classifier
from unlearnkit.result import UsageError
from unlearnkit.train import Recipe, fit
from unlearnkit.types import Examples, Need, Splits, join
from unlearnkit.unlearning import unlearn

LABEL, CLASSES = 1, 4


@pytest.fixture(scope="module")
def task(blobs: MakeBlobs) -> tuple[Classifier, Splits]:
    train, test = blobs(240, classes=CLASSES), blobs(120, seed=1, classes=CLASSES, prefix="test")
    model = fit(Recipe(Architecture("small-cnn", CLASSES, (1, 8, 8)), epochs=6), train, seed=0)
    y = train.labels().numpy()
    return model, Splits(train.take(y == LABEL), train.take(y != LABEL), test, LABEL)


METHOD = FewSample(forget_images=20, retain_images=60, batch_size=16, lr=0.02)


def run(task: tuple[Classifier, Splits], method: FewSample = METHOD, seed: int = 0) -> nn.Module:
    return unlearn(*task, method, seed=seed).model


def right(model: nn.Module, examples: Examples) -> float:
    with torch.no_grad():
        return float((model(examples.x).argmax(1) == examples.labels()).float().mean())


def differing(one: nn.Module, other: nn.Module) -> list[str]:
    state = other.state_dict()
    return [name for name, value in one.state_dict().items() if not torch.equal(value, state[name])]


def drawn(task: tuple[Classifier, Splits], method: FewSample, seed: int = 0) -> tuple[Examples, Examples]:
    """The images that a run with this seed draws."""
    rng, splits = torch.Generator().manual_seed(seed), task[1]
    return few(splits.forget, method.forget_images, rng), few(splits.retain, method.retain_images, rng)


def test_the_class_is_forgotten_with_few_images(task: tuple[Classifier, Splits]):
    model, splits = task
    edited = run(task)
    y = splits.test.labels().numpy()
    assert right(model, splits.test) > 0.95
    assert right(edited, splits.test.take(y == LABEL)) <= 1 / CLASSES
    assert right(edited, splits.test.take(y != LABEL)) >= 0.9
    assert right(edited, drawn(task, METHOD)[0]) <= 1 / CLASSES


def test_the_features_are_asked_beside_the_head(task: tuple[Classifier, Splits]):
    """The paper's point: nearest-class-mean accuracy says whether the features forgot, or the head alone."""
    model, splits = task
    references = join(splits.forget, splits.retain)
    before, after = (class_accuracy(net, references, splits.test, label=LABEL) for net in (model, run(task)))
    assert min(before.head, before.nearest_mean) > 0.9
    assert after.head <= 1 / CLASSES
    assert after.head < after.nearest_mean <= before.nearest_mean


def test_weights_outside_the_mask_stay_bit_for_bit(task: tuple[Classifier, Splits]):
    """At any learning rate; buffers too."""
    model = task[0]
    mask = relevant_weights(model, drawn(task, METHOD)[0], batch_size=16)
    share = sum(int(part.sum()) for part in mask.values()) / sum(part.numel() for part in mask.values())
    assert 0 < share <= 0.2
    edited = run(task, replace(METHOD, lr=0.1)).state_dict()
    moved = 0
    for name, before in model.state_dict().items():
        free = mask.get(name, torch.zeros_like(before, dtype=torch.bool))
        assert torch.equal(edited[name][~free], before[~free]), name
        moved += int((edited[name] != before).sum())
    assert moved > 0


def test_the_mask_is_the_smallest_whose_zeroing_destroys_the_class(
    task: tuple[Classifier, Splits], monkeypatch: pytest.MonkeyPatch
):
    model, splits = task
    forget = splits.forget.take(np.arange(20))
    found = relevant_weights(model, forget, batch_size=7)
    below = []
    for share in few_sample._SHARES:
        mask, zeroed = saliency_mask(model, forget, share, batch_size=7), copy.deepcopy(model)
        with torch.no_grad():
            for name, p in zeroed.named_parameters():
                p[mask[name]] = 0
        below.append(right(zeroed, forget) < 1 / CLASSES)
        if below[-1]:
            assert all(torch.equal(found[name], mask[name]) for name in mask)
            break
    assert below[-1]
    monkeypatch.setattr(few_sample, "_SHARES", (1e-5, 2e-5))  # where no share is enough, the last is taken
    none = relevant_weights(model, forget, batch_size=7)
    assert sum(int(part.sum()) for part in none.values()) == 2e-5 * sum(p.numel() for p in model.parameters()) // 1
    assert all(p.grad is None for p in model.parameters())


def test_one_step_by_hand(task: tuple[Classifier, Splits]):
    """CE + b · T² · KL over the other classes − a · capped CE, on the mask, without momentum."""
    model, temperature, lr = copy.deepcopy(task[0]), 3.0, 0.05
    method = FewSample(
        20, 60, epochs=1, lr=lr, ascent=0.7, distill=0.4, temperature=temperature, cap=1.0, momentum=0.0, batch_size=60
    )
    forget, retain = drawn(task, method)
    mask = relevant_weights(model, forget, batch_size=60)
    rest = [label for label in range(CLASSES) if label != LABEL]
    given, answers = task[0](retain.x)[:, rest].detach(), model(retain.x)
    p, q = (functional.softmax(z / temperature, dim=1) for z in (given, answers[:, rest]))
    kl = (p * (p.log() - q.log())).sum(1).mean()
    climb = functional.cross_entropy(model(forget.x), forget.labels(), reduction="none")
    climb = torch.where(climb > math.log(CLASSES), math.log(CLASSES), climb).mean()
    loss = functional.cross_entropy(answers, retain.labels()) + 0.4 * temperature**2 * kl - 0.7 * climb
    loss.backward()
    result = run(task, method).state_dict()
    for name, weight in model.named_parameters():
        expected = weight - lr * weight.grad * mask[name]
        torch.testing.assert_close(result[name], expected.detach(), rtol=1e-4, atol=1e-6)


def test_it_never_looks_at_the_rest(task: tuple[Classifier, Splits]):
    """Other pictures outside the few change nothing."""
    model, splits = task
    shown = {name for part in drawn(task, METHOD) for name in part.ids}
    assert len(shown) == 80

    def darkened(examples: Examples) -> Examples:
        kept = torch.from_numpy(np.isin(examples.ids, [*shown]))[:, None, None, None]
        return replace(examples, x=examples.x * kept)

    other = replace(splits, forget=darkened(splits.forget), retain=darkened(splits.retain))
    assert not torch.equal(other.retain.x, splits.retain.x)
    assert not differing(run((model, other)), run(task))


def test_few_images_are_spread_over_the_classes():
    y = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    examples = Examples(torch.zeros(73, 2), y, np.arange(73).astype(str))
    counts = [
        np.bincount(few(examples, count, torch.Generator().manual_seed(seed)).labels().numpy(), minlength=3).tolist()
        for seed, count in ((0, 6), (1, 9), (2, 13), (3, 500))
    ]
    assert counts == [[2, 2, 2], [3, 3, 3], [5, 3, 5], [50, 3, 20]]
    one, other = (few(examples, 6, torch.Generator().manual_seed(seed)).ids.tolist() for seed in (0, 1))
    assert sorted(one) != sorted(other)


def test_augmented_copies_enter_the_ranking(task: tuple[Classifier, Splits]):
    forget = task[1].forget.take(np.arange(4))
    rng = torch.Generator().manual_seed(0)
    assert several(forget, "none", rng) is forget
    copies = several(forget, "flip", rng)
    assert len(copies) == len({*copies.ids}) == 20
    assert copies.labels().tolist() == forget.labels().tolist() * 5
    for row, x in enumerate(copies.x):
        assert any(torch.equal(x, known) for known in (forget.x[row % 4], forget.x[row % 4].flip(2)))


def test_accuracy_counts_in_batches(task: tuple[Classifier, Splits]):
    model, splits = task
    assert accuracy(model, splits.test, 7) == pytest.approx(right(model, splits.test))
    dead = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    y = splits.test.labels().numpy()
    assert accuracy(model, splits.test, 7, weights=dead) == pytest.approx(float((y == 0).mean()))
    assert right(model, splits.test) > 0.9  # its own weights are untouched


def test_it_stops_when_the_class_is_gone(task: tuple[Classifier, Splits], monkeypatch: pytest.MonkeyPatch):
    """A class that is unknown from the start needs one epoch, however many are allowed."""
    steps: list[Any] = []
    original = few_sample.take_steps
    monkeypatch.setattr(few_sample, "take_steps", lambda *given, **named: (steps.append(1), original(*given, **named)))
    forgotten = run(task)
    assert 1 <= len(steps) < METHOD.epochs
    steps.clear()
    run((forgotten, task[1]))
    assert len(steps) == 1


def test_its_hyperparameters_matter(task: tuple[Classifier, Splits]):
    start = replace(METHOD, epochs=2, lr=1e-3)
    result = run(task, start)
    assert not differing(run(task, start), result)
    assert differing(run(task, start, seed=1), result)
    for name, value in {
        "forget_images": 10,
        "retain_images": 30,
        "epochs": 3,
        "lr": 2e-3,
        "ascent": 0.5,
        "distill": 0.5,
        "temperature": 1.0,
        "cap": 1e-3,
        "momentum": 0.5,
        "batch_size": 20,
        "augment": "flip",
    }.items():
        assert differing(run(task, replace(start, **{name: value})), result), name


def test_what_it_needs_and_refuses(task: tuple[Classifier, Splits]):
    model, splits = task
    assert FewSample.needs == Need.FORGET | Need.RETAIN | Need.CLASS_WISE
    with pytest.raises(UsageError, match=r"^FewSample forgets whole classes only"):
        unlearn(model, replace(splits, forget_class=None), FewSample(), seed=0)
    with pytest.raises(
        UsageError, match=r"^FewSample, epoch \d: the loss became (nan|-?inf) at step \d+ with learning"
    ):
        run(task, replace(METHOD, lr=1e30))
    for name in ("forget_images", "retain_images"):
        with pytest.raises(UsageError, match=f"^FewSample.{name}: must be greater than or equal to 1, got 0$"):
            FewSample(**{name: 0})


def test_one_image_of_each_side(task: tuple[Classifier, Splits]):
    result: Tensor = run(task, replace(METHOD, forget_images=1, retain_images=1, epochs=2))(task[1].test.x)
    assert torch.isfinite(result).all()
