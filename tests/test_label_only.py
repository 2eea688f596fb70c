"""Label-only attacks: known distances, budgets that are never exceeded, and what a label alone gives away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from jaxtyping import Int
from scipy import stats
from torch import Tensor, nn

from unlearnkit.attacks.label_only import (
    LABEL_ONLY,
    AugmentationVotes,
    BoundaryDistance,
    LabelOnly,
    NoiseDistance,
    labels_of,
)
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.result import UsageError
from unlearnkit.types import Examples


class Half:
    """Class 1 beyond a plane, and a count of every query."""

    def __init__(self, normal: np.ndarray, offset: float) -> None:
        self.normal, self.offset = torch.from_numpy(normal).float(), offset
        self.queries = 0
        self.seen: list[Tensor] = []

    def side(self, x: Tensor) -> Tensor:
        return x.float().flatten(1) @ self.normal - self.offset

    def __call__(self, x: Tensor) -> Int[Tensor, " n"]:
        self.queries += len(x)
        self.seen.append(x)
        return (self.side(x) > 0).long()


def points(n: int = 40, d: int = 6, seed: int = 0) -> tuple[Examples, Half]:
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=d)
    x = torch.from_numpy(rng.uniform(size=(n, d)).astype(np.float32))
    plane = Half(normal, float(normal.sum() / 2))
    return Examples(x, (plane.side(x) > 0).long(), np.array([f"p/{i}" for i in range(n)])), plane


def images(blobs: MakeBlobs, n: int = 30) -> tuple[Examples, Half]:
    train = blobs(n, classes=2)
    weight = np.zeros((1, 8, 8))
    weight[0, :4, :4], weight[0, :4, 4:] = -1, 1
    return train, Half(weight.ravel(), 0.0)


def test_distances_to_a_plane_are_found() -> None:
    examples, plane = points()
    true = (plane.side(examples.x).abs() / plane.normal.norm()).numpy()
    scores = BoundaryDistance(budget=600).score(plane, examples, seed=0).values
    assert (scores >= true * (1 - 1e-4)).all()  # an upper limit: never below the truth
    assert np.median(scores / true) < 1.15
    assert stats.spearmanr(scores, true).statistic > 0.95
    rough = BoundaryDistance(budget=19, starts=10, halvings=8).score(plane, examples, seed=0).values
    assert np.median(rough / true) > 1.5  # so the rounds are what finds it


def test_who_is_wrong_already_is_at_distance_zero() -> None:
    examples, plane = points()
    turned = examples.labels().clone()
    turned[:5] = 1 - turned[:5]
    scores = BoundaryDistance(budget=100).score(plane, Examples(examples.x, turned, examples.ids), seed=0).values
    assert (scores[:5] == 0).all()
    assert (scores[5:] > 0).all()


@pytest.mark.parametrize("budget", [19, 20, 50, 51, 52, 83, 84, 115, 200])
def test_the_budget_is_never_exceeded(budget: int) -> None:
    attack = BoundaryDistance(budget=budget)
    assert attack.queries <= budget < attack.queries + attack.probes + attack.steps + attack.halvings
    for row in range(6):  # one example at a time: every query is about it
        examples, plane = points()
        attack.score(plane, examples.take(np.array([row])), seed=row)
        assert 0 < plane.queries <= budget
    examples, plane = points()
    attack.score(plane, examples, seed=0)
    assert plane.queries <= budget * len(examples)


@pytest.mark.parametrize("name", LABEL_ONLY)
def test_every_attack_keeps_to_the_queries_it_states(name: str, blobs: MakeBlobs) -> None:
    examples, plane = images(blobs)
    attack = LABEL_ONLY[name]()
    scores = attack.score(plane, examples, seed=0)
    assert plane.queries <= attack.queries * len(examples)
    if name != "BoundaryDistance":
        assert plane.queries == attack.queries * len(examples)
    assert scores.values.shape == (30,)
    assert scores.attack == name
    again = attack.score(plane, examples, seed=0)
    np.testing.assert_array_equal(scores.values, again.values)
    assert all(x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1 for x in plane.seen)


def test_noise_distance_grows_with_the_distance() -> None:
    examples, plane = points(200)
    true = (plane.side(examples.x).abs() / plane.normal.norm()).numpy()
    scores = NoiseDistance().score(plane, examples, seed=0)
    assert stats.spearmanr(scores.values, true).statistic > 0.8
    assert NoiseDistance(scales=(0.1,), draws=3).queries == 4
    other = NoiseDistance().score(plane, examples, seed=1)
    assert not np.array_equal(other.values, scores.values)


def test_augmentations_by_hand() -> None:
    """One bright pixel; the label is whether it stands where it stood."""
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 1] = 1.0
    asked: list[Tensor] = []

    def ask(inputs: Tensor) -> Int[Tensor, " n"]:
        asked.append(inputs)
        return (inputs[:, 0, 2, 1] > 0.5).long()

    examples = Examples(x, torch.ones(1, dtype=torch.int64), np.array(["a"]))
    scores = AugmentationVotes(shift=1, degrees=0.0).score(ask, examples, seed=0)
    assert scores.values.tolist() == [1 / 6]  # only the image itself: four shifts and the mirror move it
    bright = {tuple(int(i) for i in torch.nonzero(view[0, 0])[0]) for view in asked}
    assert bright == {(2, 1), (1, 1), (3, 1), (2, 0), (2, 2), (2, 3)}
    assert len(asked) == AugmentationVotes(shift=1, degrees=0.0).queries == 6
    assert AugmentationVotes(shift=2).queries == 1 + 8 + 2 + 1
    assert AugmentationVotes(shift=0, degrees=0.0, mirror=False).queries == 1


def test_rotations_turn_both_ways() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 0, 2] = 1.0  # above the center
    asked: list[Tensor] = []

    def ask(inputs: Tensor) -> Int[Tensor, " n"]:
        asked.append(inputs)
        return torch.zeros(len(inputs), dtype=torch.int64)

    examples = Examples(x, torch.zeros(1, dtype=torch.int64), np.array(["a"]))
    AugmentationVotes(shift=0, degrees=90.0, mirror=False).score(ask, examples, seed=0)
    assert {tuple(int(i) for i in torch.nonzero(view[0, 0] > 0.9)[0]) for view in asked} == {(0, 2), (2, 0), (2, 4)}


def test_a_boundary_that_no_random_image_crosses_is_flagged() -> None:
    examples, _ = points(8)
    everything = Examples(examples.x, torch.zeros(8, dtype=torch.int64), examples.ids)
    scores = BoundaryDistance(budget=60).score(lambda x: torch.zeros(len(x), dtype=torch.int64), everything, seed=0)
    assert (scores.values > 0).all()
    assert scores.flags[0].name == "boundary not found"
    assert "8 of 8 examples keep their label on all 10 random images" in scores.flags[0].sentence


@pytest.mark.parametrize("name", LABEL_ONLY)
def test_a_network_that_learned_by_heart_gives_members_away_by_labels_alone(name: str) -> None:
    """A nearest-neighbor memorizer of noise images under random labels: labels alone tell who was trained on."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (60, 1, 6, 6), dtype=np.uint8))
    y = torch.from_numpy(rng.integers(0, 3, 60))
    known = x[:30].float().flatten(1) / 255

    def ask(inputs: Tensor) -> Int[Tensor, " n"]:
        return y[:30][torch.cdist(inputs.flatten(1), known).argmin(1)]

    examples = Examples(x, y, np.array([f"p/{i}" for i in range(60)]))
    scores = LABEL_ONLY[name]().score(ask, examples, seed=0).values
    assert auc(scores[:30], scores[30:]) > 0.7


def test_labels_of_a_model(blobs: MakeBlobs) -> None:
    examples = blobs(20)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))

    class Floats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.inner(x / 255 if x.dtype == torch.uint8 else x)
            return answer

    asked = Floats().train()
    ask = labels_of(asked, batch_size=7)
    told = ask(examples.x)
    assert asked.training  # as it was
    torch.testing.assert_close(told, ask(examples.x.float() / 255))
    with torch.no_grad():
        torch.testing.assert_close(told, asked.eval()(examples.x).argmax(1))


def test_mistakes_are_named(as_users_run: None, blobs: MakeBlobs) -> None:
    examples, plane = points()
    empty = examples.take(np.array([], dtype=np.int64))
    blank = Examples(0 * examples.x, examples.y, examples.ids)
    for message, attack, data in (
        ("AugmentationVotes: needs images", AugmentationVotes(), examples),
        ("NoiseDistance: there is no example to score", NoiseDistance(), empty),
        ("all inputs are 0; there is nothing to change", NoiseDistance(), blank),
    ):
        with pytest.raises(UsageError, match=message):
            attack.score(plane, data, seed=0)
    with pytest.raises(UsageError, match=r"ask\(\) must return one label per input, got \[1\] for 40 inputs"):
        NoiseDistance().score(lambda x: torch.zeros(1), examples, seed=0)
    with pytest.raises(UsageError, match=r"BoundaryDistance\.budget: must be at least 19 .* got 18"):
        BoundaryDistance(budget=18)
    with pytest.raises(UsageError, match="starts, probes, halvings and steps must be at least 1"):
        BoundaryDistance(probes=0)
    with pytest.raises(UsageError, match="needs scales above 0 and one draw at least"):
        NoiseDistance(scales=())
    with pytest.raises(UsageError, match="shift and degrees must be at least 0, got -1 and 5"):
        AugmentationVotes(shift=-1)
    assert issubclass(BoundaryDistance, LabelOnly)
