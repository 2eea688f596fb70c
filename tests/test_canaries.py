"""Coin canaries: fair and sealed coins, what each kind plants, a manifest that notices every change, exact tests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from scipy import stats
from torch import nn

from unlearnkit.audits.canaries import (
    NOISE,
    Kind,
    Manifest,
    Patch,
    draw,
    fresh_patches,
    noise_of,
    patch_of,
    plant,
    plant_canaries,
    rows_of,
)
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.designs import MIN_CANARIES
from unlearnkit.audits.planted import noise_alignment, noise_test, patch_effect, patch_test, rank_p
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.statistics.coin import coin_test
from unlearnkit.data import Mapped, load, mapped_from
from unlearnkit.models import Architecture
from unlearnkit.observing import observe
from unlearnkit.result import UsageError
from unlearnkit.train import Recipe, fit
from unlearnkit.types import Examples


def examples(n: int = 400, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    ids = np.array([f"train/{i}" for i in range(n)])
    return Examples(torch.zeros(n, 1, 2, 2), torch.from_numpy(rng.integers(0, 10, n)), ids)


def test_exact_halves_and_never_the_true_label() -> None:
    train = examples()
    true = dict(zip(train.ids.tolist(), train.labels().tolist(), strict=True))
    counts = np.zeros(10)
    for seed in range(30):
        manifest = draw(train, count=100, classes=10, seed=seed)
        assert len(set(manifest.ids)) == 100
        assert sum(manifest.heads) == 50
        assert all(true[i] != label for i, label in zip(manifest.ids, manifest.labels, strict=True))
        for i, label in zip(manifest.ids, manifest.labels, strict=True):
            counts[(label - true[i]) % 10] += 1
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 0.001  # uniform over the other classes


def test_coins_do_not_depend_on_rows_labels_or_candidates_before_them() -> None:
    rows, labels = [], []
    for seed in range(200):
        manifest = draw(examples(), count=40, classes=10, seed=seed)
        heads = np.array(manifest.heads)
        row = np.array([int(i.split("/")[1]) for i in manifest.ids])
        rows.append(row[heads].mean() - row[~heads].mean())
        labels.append(np.array(manifest.labels)[heads].mean() - np.array(manifest.labels)[~heads].mean())
        assert heads[:20].sum() != 20  # neither the first half drawn nor the last
    for found in (rows, labels):
        assert stats.ttest_1samp(found, 0.0).pvalue > 0.001


def test_determinism_and_seeds() -> None:
    train = examples()
    assert draw(train, count=60, classes=10, seed=3) == draw(train, count=60, classes=10, seed=3)
    one, two = (draw(train, count=60, classes=10, seed=s) for s in (3, 4))
    assert one.heads != two.heads
    assert one.salt != two.salt
    assert one.commitment != two.commitment


@pytest.mark.parametrize("field", ["kind", "ids", "labels", "heads", "salt"])
def test_the_commitment_changes_with_everything_sealed(field: str) -> None:
    manifest = draw(examples(), count=40, classes=10, seed=0)
    old = getattr(manifest, field)
    change: dict[str, Callable[[Any], Any]] = {"ids": "{}x".format, "labels": lambda c: 9 - c, "heads": lambda c: not c}
    new: Any = f"{old}x" if isinstance(old, str) else (*old[:7], change[field](old[7]), *old[8:])
    assert dataclasses.replace(manifest, **{field: new}).commitment != manifest.commitment
    assert len(manifest.commitment) == 64


def test_planting_keeps_inputs_and_holds_tails_out() -> None:
    train = examples()
    manifest = draw(train, count=60, classes=10, seed=1)
    planted = plant(train, manifest)
    assert planted.train.x is train.x
    assert planted.heads.size == planted.tails.size == 30
    assert not np.intersect1d(planted.heads, planted.tails).size
    given = dict(zip(manifest.ids, manifest.labels, strict=True))
    heads = {i for i, head in zip(manifest.ids, manifest.heads, strict=True) if head}
    assert set(planted.train.ids[planted.heads].tolist()) == heads
    for row, (i, new, old) in enumerate(
        zip(train.ids.tolist(), planted.train.labels().tolist(), train.labels().tolist(), strict=True)
    ):
        assert new == given.get(i, old), row
        assert (new != old) == (i in given)


def test_planting_follows_ids_not_rows() -> None:
    train = examples()
    manifest = draw(train, count=60, classes=10, seed=1)
    order = np.random.default_rng(0).permutation(len(train))
    here, there = plant(train, manifest), plant(train.take(order), manifest)
    for rows in ("heads", "tails"):
        first, second = (p.train.ids[getattr(p, rows)].tolist() for p in (here, there))
        assert sorted(first) == sorted(second)


def test_round_trip(tmp_path: Path) -> None:
    manifest = draw(examples(), count=40, classes=10, seed=0)
    path = tmp_path / "deep" / "canaries.json"
    manifest.save(path)
    assert Manifest.load(path) == manifest
    first = path.read_bytes()
    manifest.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("field", ["ids", "labels", "heads", "salt", "kind", "commitment"])
def test_an_altered_manifest_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "canaries.json"
    draw(examples(), count=40, classes=10, seed=0).save(path)
    body = json.loads(path.read_text())
    if isinstance(body[field], str):
        body[field] = body[field][:-1] + ("0" if body[field][-1] != "0" else "1")
    elif field == "ids":
        body[field][0] += "x"
    else:
        body[field][0] = not body[field][0] if field == "heads" else (body[field][0] + 1) % 10
    path.write_text(json.dumps(body))
    with pytest.raises(
        UsageError, match=r"canaries\.json: the manifest does not open its commitment [0-9a-f]{12}…; coins"
    ):
        Manifest.load(path)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"\xff",
        b"{}",
        b"not json",
        b'{"kind": "mislabeled", "commitment": "0"}',
        b'{"kind":"m","ids":["a"],"labels":["1"],"heads":["yes"],"salt":"0","commitment":"0"}',
    ],
)
def test_what_is_no_manifest(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(body)
    with pytest.raises(UsageError, match=r"m\.json: not a canary manifest of unlearnkit"):
        Manifest.load(path)


def test_missing_folder_and_crooked_manifests(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such canary manifest"):
        Manifest.load(tmp_path / "none.json")
    with pytest.raises(UsageError, match="is a folder"):
        Manifest.load(tmp_path)
    path = tmp_path / "m.json"
    manifest = draw(examples(), count=40, classes=10, seed=0)
    for crooked in (
        dataclasses.replace(manifest, heads=manifest.heads[:-1]),
        dataclasses.replace(manifest, ids=(*manifest.ids[:-1], manifest.ids[0])),
    ):
        crooked.save(path)
        with pytest.raises(UsageError, match="one id of its own, a label and a coin"):
            Manifest.load(path)


def test_the_manifest_of_other_data_is_refused() -> None:
    manifest = draw(examples(), count=40, classes=10, seed=0)
    other = examples()
    other = Examples(other.x, other.y, np.array([f"other/{i}" for i in range(len(other))]))
    with pytest.raises(UsageError, match=r"40 of 40 canaries are not in the training data, the first is 'train/\d+'"):
        plant(other, manifest)


@pytest.mark.parametrize("count", [-2, 2 * MIN_CANARIES - 2, 2 * MIN_CANARIES + 1])
def test_count_is_even_and_large_enough_for_the_coin_test(count: int) -> None:
    with pytest.raises(UsageError, match=rf"canaries\.count: must be an even number of at least 40 .*got {count}"):
        draw(examples(), count=count, classes=10, seed=0)


def test_count_leaves_half_of_the_data() -> None:
    draw(examples(80), count=40, classes=10, seed=0)
    with pytest.raises(UsageError, match="at most half of the 80 training examples can be candidates, got 42"):
        draw(examples(80), count=42, classes=10, seed=0)


# -- kinds ----------------------------------------------------------------------------------------------------------

CHANGING: tuple[Kind, ...] = ("ood", "patch", "gaussian")


def test_manifests_sealed_before_there_were_kinds_still_open(tmp_path: Path) -> None:
    """Coins, bytes and commitment of mislabeled canaries are what they were in version 0.1."""
    manifest = draw(examples(), count=40, classes=10, seed=0)
    assert manifest.commitment == "109ebb8ef3bbdbe191820104e44d453353c2ad307f5a7ded4356d7e481a8294d"
    manifest.save(tmp_path / "m.json")
    body = json.loads((tmp_path / "m.json").read_text())
    assert sorted(body) == ["commitment", "heads", "ids", "kind", "labels", "salt"]
    assert Manifest.load(tmp_path / "m.json").treatment is None


def test_natural_canaries_are_as_they_were(blobs: MakeBlobs) -> None:
    train = blobs(120)
    planted = plant(train, draw(train, count=40, classes=3, seed=0, kind="natural"))
    assert planted.train.x is train.x
    assert planted.train.fingerprint == train.fingerprint
    assert planted.heads.size == planted.tails.size == 20


def test_memorized_canaries_are_those_of_the_highest_scores(blobs: MakeBlobs) -> None:
    train = blobs(120)
    scores = np.random.default_rng(0).permutation(120).astype(np.float64)
    manifest = draw(train, count=40, classes=3, seed=0, kind="memorized", scores=scores)
    assert sorted(rows_of(train, manifest)) == np.flatnonzero(scores >= 80).tolist()
    assert plant(train, manifest).train.fingerprint == train.fingerprint
    # the coins do not follow the scores
    gaps = []
    for seed in range(200):
        drawn = draw(train, count=40, classes=3, seed=seed, kind="memorized", scores=scores)
        own, heads = scores[rows_of(train, drawn)], np.array(drawn.heads)
        gaps.append(own[heads].mean() - own[~heads].mean())
    assert stats.ttest_1samp(gaps, 0.0).pvalue > 0.001


@pytest.mark.parametrize("kind", CHANGING)
@pytest.mark.parametrize("floats", [False, True])
def test_heads_and_tails_carry_the_same_treatment(blobs: MakeBlobs, kind: Kind, floats: bool) -> None:
    train = blobs(120)
    if floats:
        train = Examples(train.x.float() / 255, train.y, train.ids)
    manifest = draw(train, count=60, classes=3, seed=1, kind=kind)
    before = train.fingerprint
    planted = plant(train, manifest)
    rows, others = rows_of(train, manifest), np.setdiff1d(np.arange(120), rows_of(train, manifest))
    assert planted.train.x.dtype == train.x.dtype
    assert torch.equal(planted.train.x[others], train.x[others])
    assert Examples(train.x, train.y, train.ids).fingerprint == before  # the caller's set is left alone
    changed = (planted.train.x[rows].float() - train.x[rows].float()).flatten(1)
    assert (changed.abs().amax(1) > 0).all()
    labels, true = planted.train.labels()[rows], train.labels()[rows]
    if kind == "patch":
        patch = patch_of(train, manifest)
        assert patch.pixels.shape == (1, 2, 2)
        assert torch.equal(planted.train.x[rows], patch.stamp(train.x[rows]))
        assert (changed != 0).sum(1).max() <= 4
        assert len(labels.unique()) == 1
    elif kind == "gaussian":
        full = 1.0 if floats else 255.0
        expected = train.x[rows].float() + NOISE * full * noise_of(train, manifest)
        if floats:
            span = float(train.x.max() - train.x.min())
            expected = train.x[rows] + NOISE * span * noise_of(train, manifest)
            torch.testing.assert_close(planted.train.x[rows], expected)
        else:
            assert torch.equal(planted.train.x[rows], expected.round().clamp(0, 255).byte())
        assert torch.equal(labels, true)
    else:
        assert not np.array_equal(labels, true)
        assert len({image.numpy().tobytes() for image in planted.train.x[rows]}) == 60


@pytest.mark.parametrize("kind", CHANGING)
def test_a_seed_repeats_what_is_planted_and_the_commitment_covers_it(tmp_path: Path, blobs: MakeBlobs, kind: Kind):
    train = blobs(120)
    manifest = draw(train, count=40, classes=3, seed=5, kind=kind)
    assert manifest == draw(train, count=40, classes=3, seed=5, kind=kind)
    assert manifest.treatment is not None
    for field, value in (("seed", "0" * 32), ("amount", 3.0), ("digest", "0" * 64), ("given", True)):
        other = dataclasses.replace(manifest, treatment=dataclasses.replace(manifest.treatment, **{field: value}))
        assert other.commitment != manifest.commitment, field
    manifest.save(tmp_path / "m.json")
    assert Manifest.load(tmp_path / "m.json") == manifest
    body = json.loads((tmp_path / "m.json").read_text())
    body["treatment"]["seed"] = "0" * 32
    (tmp_path / "m.json").write_text(json.dumps(body))
    with pytest.raises(UsageError, match="does not open its commitment"):
        Manifest.load(tmp_path / "m.json")


@pytest.mark.parametrize("kind", ["patch", "gaussian"])
def test_inputs_that_are_not_those_sealed_are_refused(blobs: MakeBlobs, kind: Kind) -> None:
    train = blobs(120)
    manifest = draw(train, count=40, classes=3, seed=5, kind=kind)
    other = blobs(120, seed=1)
    with pytest.raises(UsageError, match="the inputs that would be planted are not those that were sealed"):
        plant(other, manifest)


def test_canaries_from_another_set(blobs: MakeBlobs) -> None:
    train, outside = blobs(120), blobs(50, seed=3, prefix="strange")
    manifest = draw(train, count=40, classes=3, seed=5, kind="ood", outside=outside)
    planted = plant(train, manifest, outside=outside)
    strange = {image.numpy().tobytes() for image in outside.x}
    assert all(image.numpy().tobytes() in strange for image in planted.train.x[rows_of(train, manifest)])
    with pytest.raises(UsageError, match="taken from another set, which the manifest does not hold; hand it over"):
        plant(train, manifest)
    with pytest.raises(UsageError, match="are not those that were sealed"):
        plant(train, manifest, outside=blobs(50, seed=4, prefix="strange"))


def test_a_memory_mapped_set_stays_on_disk_and_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[np.ndarray] = []
    open_map = Mapped.open
    monkeypatch.setattr(Mapped, "open", lambda place: opened.append(open_map(place)) or opened[-1])
    rng = np.random.default_rng(0)
    parts = {
        f"{name}_{what}": value
        for name, n in (("train", 200), ("test", 20))
        for what, value in (
            ("images", rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)),
            ("labels", np.arange(n)[:, None] % 2),
        )
    }
    np.savez(tmp_path / "d.npz", **parts)
    before = (tmp_path / "d.npz").read_bytes()
    train = load(f"npz:{tmp_path / 'd.npz'}").train
    assert mapped_from(train.x.numpy()) is not None
    manifest = draw(train, count=40, classes=2, seed=0, kind="gaussian")
    planted = plant(train, manifest)
    rows = rows_of(train, manifest)
    assert not torch.equal(planted.train.x[rows], train.x[rows])
    assert [array.ctypes.data for array in opened] == [planted.train.x.data_ptr()]  # mapped once more, not copied
    assert (tmp_path / "d.npz").read_bytes() == before
    # a worker is sent the changed bytes, not the place in the file that lacks them
    assert mapped_from(planted.train.x.numpy()) is None
    in_memory = Examples(train.x.clone(), train.y, train.ids)
    assert plant(in_memory, manifest).train.fingerprint == planted.train.fingerprint


def test_planting_in_a_set_of_ones_own(tmp_path: Path, blobs: MakeBlobs) -> None:
    train, path = blobs(120), tmp_path / "sealed.json"
    planted, manifest = plant_canaries(train, path, count=40, classes=3, kind="patch")
    assert Manifest.load(path) == manifest
    assert plant(train, manifest).train.fingerprint == planted.train.fingerprint
    _, second = plant_canaries(train, tmp_path / "other.json", count=40, classes=3, kind="patch")
    assert second.heads != manifest.heads  # secret coins
    with pytest.raises(UsageError, match=r"sealed\.json: a file is there already"):
        plant_canaries(train, path, count=40, classes=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "worst"}, "kind: must be one of natural, mislabeled, memorized, ood, patch, gaussian, got 'worst'"),
        ({"kind": "memorized"}, "memorized takes scores of memorization, no other does; memorized got none"),
        ({"scores": np.zeros(120)}, "mislabeled got scores"),
        ({"kind": "memorized", "scores": np.zeros(3)}, r"finite, one for each of the 120 .* got shape \(3,\)"),
        ({"kind": "memorized", "scores": np.full(120, np.nan)}, "must be finite"),
        ({"kind": "natural", "amount": 2.0}, "is for kinds patch and gaussian, not for natural; leave it out"),
        ({"kind": "patch", "amount": 2.5}, "must be a whole number of pixels above 0, got 2.5"),
        ({"kind": "gaussian", "amount": -1.0}, "must be a standard deviation, as a share of the range, above 0"),
        ({"kind": "patch", "amount": 9.0}, r"a patch of 9 pixels does not fit on images of \[8, 8\]"),
    ],
)
def test_what_a_kind_does_not_allow(
    as_users_run: None, blobs: MakeBlobs, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        draw(blobs(120), count=40, classes=3, seed=0, **changes)


def test_other_sets_that_do_not_fit(blobs: MakeBlobs) -> None:
    train = blobs(120)
    with pytest.raises(UsageError, match="only kind ood takes its inputs from another set, got one for natural"):
        draw(train, count=40, classes=3, seed=0, kind="natural", outside=blobs(50))
    with pytest.raises(UsageError, match=r"must hold 40 inputs like .*torch.uint8 \[1, 8, 8\], got 30 of torch.uint8"):
        draw(train, count=40, classes=3, seed=0, kind="ood", outside=blobs(30))
    flat = Examples(torch.zeros(120, 5), train.y, train.ids)
    with pytest.raises(UsageError, match=r"kind patch needs images \[n, c, h, w\], got inputs \[120, 5\]"):
        draw(flat, count=40, classes=3, seed=0, kind="patch")
    with pytest.raises(UsageError, match="kind 'patch' is needed here, got a manifest of kind 'natural'"):
        patch_of(train, draw(train, count=40, classes=3, seed=0, kind="natural"))


@pytest.mark.parametrize("kind", ["natural", "mislabeled", "ood", "patch", "gaussian"])
def test_a_spec_plants_every_kind_that_needs_nothing_else(tmp_path: Path, kind: Kind) -> None:
    body = {"canaries": {"count": 40, "kind": kind}, "deletion": {"forget_fraction": 0.1}}
    case = prepare(parse_spec(body, folder=tmp_path), sealed=tmp_path / "canaries.json")
    assert case.manifest is not None
    assert case.manifest.kind == kind
    again = prepare(parse_spec(body, folder=tmp_path), sealed=tmp_path / "canaries.json")
    assert again.train.fingerprint == case.train.fingerprint
    opened = prepare(parse_spec({"canaries": {"manifest": "canaries.json"}}, folder=tmp_path))
    assert opened.train.fingerprint == case.train.fingerprint
    assert demand(case).tails.size == 20


def test_what_a_spec_cannot_plant(tmp_path: Path) -> None:
    def spec(**canaries: Any) -> Any:
        return parse_spec({"canaries": {"count": 40, **canaries}}, folder=tmp_path)

    with pytest.raises(UsageError, match="memorized canaries are chosen by scores that a spec cannot hold; plant"):
        spec(kind="memorized")
    with pytest.raises(UsageError, match=r"canaries\.amount: is for kinds patch and gaussian, not for mislabeled"):
        spec(amount=3)
    with pytest.raises(UsageError, match=r"canaries\.kind: .*input should be 'natural'"):
        spec(kind="worst")
    sealed = tmp_path / "canaries.json"
    prepare(spec(kind="patch", amount=3), sealed=sealed)
    prepare(spec(kind="patch"), sealed=sealed)
    with pytest.raises(UsageError, match="seals patch canaries of 3, but the spec asks for patch 4; name another"):
        prepare(spec(kind="patch", amount=4), sealed=sealed)
    with pytest.raises(UsageError, match="seals patch canaries of 3, but the spec asks for natural; name another"):
        prepare(spec(kind="natural"), sealed=sealed)


# -- exact tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CHANGING)
def test_the_coin_test_is_exact_whatever_is_planted(blobs: MakeBlobs, kind: Kind) -> None:
    """A model that never used a canary, and hates or loves what is planted: rejected as often as stated."""
    train = blobs(120)
    rejected = 0
    for seed in range(100):
        manifest = draw(train, count=40, classes=3, seed=seed, kind=kind)
        x = plant(train, manifest).train.x[rows_of(train, manifest)].float()
        scores = (x - train.x[rows_of(train, manifest)].float()).flatten(1).norm(dim=1).double().numpy()
        result = coin_test(scores, np.array(manifest.heads), tolerance=0.05, permutations=199, seed=seed)
        rejected += result.p <= 0.05
    # had the tails been left alone, the treatment itself would give the coins away
    assert coin_test(scores * manifest.heads, np.array(manifest.heads), tolerance=0.05, seed=0).p < 0.001
    assert stats.binom.cdf(rejected, 100, 0.05) < 0.999


def test_rank_p_by_hand_and_uniform_under_the_null() -> None:
    assert rank_p(3.0, np.array([1.0, 2.0, 4.0])) == 2 / 4
    assert rank_p(4.0, np.array([1.0, 4.0, 2.0])) == 2 / 4  # a tie counts against it
    assert rank_p(5.0, np.array([1.0, 2.0, 4.0])) == 1 / 4
    rng = np.random.default_rng(0)
    found = [rank_p(float(rng.normal()), rng.normal(size=19)) for _ in range(1000)]
    assert stats.chisquare(np.bincount(np.rint(20 * np.array(found)).astype(int), minlength=21)[1:]).pvalue > 0.001


class Fixed(nn.Module):
    """Knows one patch by heart: the logit of class 1 is how well an image matches it there, nothing else."""

    def __init__(self, patch: Patch) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side, top, left = self.patch.pixels.shape[-1], self.patch.top, self.patch.left
        pixels = self.patch.pixels / 255
        seen = (x.float() / 255 if x.dtype == torch.uint8 else x)[:, :, top : top + side, left : left + side]
        match = ((seen - 0.5) * (pixels - 0.5).to(seen.dtype)).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(match), match], dim=1)


def test_a_model_that_knows_the_patch_and_one_that_knows_another(blobs: MakeBlobs) -> None:
    train, test = blobs(120), blobs(30, seed=9, prefix="test")
    patch = patch_of(train, draw(train, count=40, classes=3, seed=0, kind="patch", amount=4.0))
    fresh = fresh_patches(patch, train, count=39, seed=1)
    assert all(one.pixels.shape == patch.pixels.shape and one.top == patch.top for one in fresh)
    known = patch_test(Fixed(patch), test, patch, fresh, label=1)
    assert known.p == 1 / 40
    # by hand: margin of class 1 over class 0 is the match
    size = patch.stamp(test.x)[:, :, patch.top :, patch.left :][:, :, :4, :4].float() / 255 - 0.5
    plain = test.x[:, :, patch.top : patch.top + 4, patch.left : patch.left + 4].float() / 255 - 0.5
    by_hand = float(((size - plain) * (patch.pixels / 255 - 0.5)).sum((1, 2, 3)).mean())
    assert patch_effect(Fixed(patch), test, patch, label=1) == pytest.approx(by_hand, rel=1e-5)
    found = []
    for seed in range(25):  # the model knows a patch that is none of them: the planted one is a draw among others
        many = fresh_patches(patch, train, count=21, seed=seed)
        found.append(patch_test(Fixed(many[0]), test, many[1], many[2:], label=1).p)
    assert stats.binom.cdf(int(np.sum(np.array(found) <= 0.05)), 25, 0.05) < 0.999
    assert min(found) < 0.2 < 0.8 < max(found)
    with pytest.raises(UsageError, match="needs fresh patches to compare with, got none"):
        patch_test(Fixed(patch), test, patch, [], label=1)


def test_alignment_by_hand_and_its_exact_law(blobs: MakeBlobs) -> None:
    clean = blobs(50)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model[1].weight.data = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 64)).astype(np.float32))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 1, 8, 8)).astype(np.float32))
    found = noise_alignment(model, clean, noise)
    # by hand: φ of a linear model has gradient w_y minus the mean of the others under their softmax
    x = clean.x.double().flatten(1).numpy() / 255
    w, b = model[1].weight.detach().double().numpy(), model[1].bias.detach().double().numpy()
    for row in range(50):
        y = int(clean.labels()[row])
        others = [c for c in range(3) if c != y]
        z = np.exp(x[row] @ w[others].T + b[others])
        gradient = w[y] - (z / z.sum()) @ w[others]
        expected = gradient @ noise[row].double().numpy().ravel() / np.linalg.norm(gradient)
        assert found[row] == pytest.approx(expected, rel=1e-9)
    draws = [
        noise_alignment(model, clean, torch.from_numpy(np.random.default_rng(i).standard_normal((50, 1, 8, 8))))
        for i in range(1, 41)
    ]
    assert stats.kstest(np.concatenate(draws), "norm").pvalue > 0.001
    assert stats.kstest([noise_test(one).p for one in draws], "uniform").pvalue > 0.001
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.zeros_(dead[1].weight)
    np.testing.assert_array_equal(noise_alignment(dead, clean, noise), np.zeros(50))


def test_noise_test_by_hand() -> None:
    result = noise_test(np.array([1.0, 0.0, 2.0, 1.0]))
    assert (result.mean, result.z, result.count) == (1.0, 2.0, 4)
    assert result.p == pytest.approx(0.0455, abs=1e-4)
    with pytest.raises(UsageError, match="needs at least one alignment"):
        noise_test(np.array([]))
    with pytest.raises(UsageError, match=r"needs one noise per input, \[2, 3\], got \[1, 3\]"):
        noise_alignment(
            nn.Linear(3, 2),
            Examples(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), np.array(["a", "b"])),
            torch.zeros(1, 3),
        )


@pytest.fixture(scope="module")
def digits() -> Examples:
    return load("digits", test_fraction=0.6, seed=0).train.take(np.arange(500))


def trained(train: Examples, rows: np.ndarray, epochs: int = 20) -> nn.Module:
    recipe = Recipe(Architecture("mlp", 10, (1, 8, 8)), epochs=epochs, batch_size=32, lr=0.1, weight_decay=0.0)
    return fit(recipe, train.take(rows), seed=0)


def test_a_network_that_learned_a_patch_is_caught_and_one_without_it_is_not(digits: Examples) -> None:
    manifest = draw(digits, count=80, classes=10, seed=0, kind="patch", amount=3.0)
    planted = plant(digits, manifest)
    unseen = load("digits", test_fraction=0.6, seed=0).test.take(np.arange(200))
    patch, label = patch_of(digits, manifest), manifest.labels[0]
    fresh = fresh_patches(patch, digits, count=39, seed=0)
    natural = np.setdiff1d(np.arange(500), rows_of(digits, manifest))
    learned = trained(planted.train, np.union1d(natural, planted.heads))
    without = trained(planted.train, natural)
    assert patch_test(learned, unseen, patch, fresh, label=label).p == 1 / 40
    assert patch_test(without, unseen, patch, fresh, label=label).p > 0.05


def test_a_network_that_learned_noisy_images_leans_towards_their_noise(digits: Examples) -> None:
    manifest = draw(digits, count=120, classes=10, seed=0, kind="gaussian", amount=0.4)
    planted = plant(digits, manifest)
    rows, heads = rows_of(digits, manifest), np.array(manifest.heads)
    natural = np.setdiff1d(np.arange(500), rows)
    clean, noise = digits.take(rows), noise_of(digits, manifest)
    learned = trained(planted.train, np.union1d(natural, planted.heads))
    without = trained(planted.train, natural)
    own = noise_alignment(learned, clean, noise)
    assert noise_test(own[heads]).p < 0.001
    assert own[heads].mean() > 0
    assert noise_test(own[~heads]).p > 0.01  # noise that no model saw
    assert noise_test(noise_alignment(without, clean, noise)[heads]).p > 0.01
    margins = observe(learned, planted.train.take(rows)).margins[:, 0]
    assert coin_test(margins, heads, tolerance=0.05, seed=0).p < 0.05
