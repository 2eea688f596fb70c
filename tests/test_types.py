"""The words: what they refuse, in which sentence, and that access hands over what was declared and no more."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import MakeBlobs
from numpy.typing import NDArray
from torch import nn

from unlearnkit import types
from unlearnkit.masks import State
from unlearnkit.models import Architecture
from unlearnkit.observing import margin
from unlearnkit.result import UsageError
from unlearnkit.train import Recipe
from unlearnkit.types import (
    Access,
    Attack,
    Deletion,
    Examples,
    Holds,
    Known,
    Method,
    Need,
    Observation,
    Probe,
    Reading,
    References,
    Scores,
    Splits,
    join,
)

IDS = np.array([f"train/{row}" for row in range(20)])
LABELS = np.arange(20) % 4


@pytest.mark.usefixtures("as_users_run")
def test_examples_of_unequal_lengths_are_refused(blobs: MakeBlobs):
    whole = blobs(4)
    with pytest.raises(UsageError, match="must have one length, got 4 inputs, 3 labels, 4 ids"):
        Examples(whole.x, whole.labels()[:3], whole.ids)
    with pytest.raises(UsageError, match="must have one length, got 4 inputs, no labels, 3 ids"):
        Examples(whole.x, None, whole.ids[:3])


def test_take_copies_the_rows_that_indices_or_a_mask_name(blobs: MakeBlobs):
    whole = blobs(7)
    mask = np.array([True, False, False, True, False, False, True])
    for taken in (whole.take(mask), whole.take(np.flatnonzero(mask))):
        assert taken.ids.tolist() == ["train/0", "train/3", "train/6"]
        assert torch.equal(taken.x, whole.x[[0, 3, 6]])
        assert torch.equal(taken.labels(), whole.labels()[[0, 3, 6]])
    backwards = whole.take(np.arange(7)[::-1])
    assert torch.equal(backwards.x, whole.x.flip(0))
    assert backwards.ids.tolist() == whole.ids.tolist()[::-1]
    taken = whole.take(np.array([2]))
    taken.x.zero_()
    assert bool((whole.x[2] > 0).any())
    assert whole.without_labels().take(np.array([1, 1])).y is None
    assert len(whole.take(np.zeros(7, dtype=bool))) == 0


@pytest.mark.parametrize("length", [6, 8])
def test_a_mask_of_another_length_is_refused(blobs: MakeBlobs, length: int):
    with pytest.raises(UsageError, match=rf"mask must have one entry per example, got {length} for 7"):
        blobs(7).take(np.ones(length, dtype=bool))


def test_rows_that_may_not_be_written_to_are_taken_without_a_warning(blobs: MakeBlobs):
    rows = np.arange(3)
    rows.flags.writeable = False
    assert len(blobs(5).take(rows)) == 3


def test_labels_refuses_missing_ones_and_targets_that_are_no_classes(blobs: MakeBlobs):
    whole = blobs(3)
    with pytest.raises(UsageError, match="handed over without labels"):
        whole.without_labels().labels()
    with pytest.raises(UsageError, match=r"class labels are needed here, but these examples carry torch.float32"):
        Examples(whole.x, torch.tensor([0.7, 1.2, 0.1]), whole.ids).labels()
    assert Examples(whole.x, torch.tensor([0, 1, 2], dtype=torch.int32), whole.ids).labels().dtype == torch.int64


def test_join_keeps_order_and_float_targets_and_refuses_half_labeled_parts(blobs: MakeBlobs):
    first, second = blobs(2), blobs(3, prefix="more")
    both = join(first, second)
    assert both.ids.tolist() == ["train/0", "train/1", "more/0", "more/1", "more/2"]
    assert both.labels().tolist() == [0, 1, 0, 1, 2]
    assert torch.equal(both.x[2:], second.x)
    assert join(first.without_labels(), second.without_labels()).y is None
    with pytest.raises(UsageError, match="either all parts carry labels or none"):
        join(first, second.without_labels())
    targets = Examples(first.x, torch.tensor([0.25, 0.75]), first.ids)
    y = join(targets, targets).y
    assert y is not None
    assert y.tolist() == [0.25, 0.75, 0.25, 0.75]


def test_fingerprint_is_the_hash_over_types_shapes_bytes_and_ids(blobs: MakeBlobs):
    whole = blobs(5)
    digest = hashlib.sha256(b"torch.uint8(5, 1, 8, 8)" + whole.x.numpy().tobytes())
    digest.update(b"torch.int64(5,)" + whole.labels().numpy().tobytes())
    digest.update(json.dumps(whole.ids.tolist()).encode())
    assert whole.fingerprint == digest.hexdigest()


def test_fingerprint_changes_with_one_byte_anywhere(blobs: MakeBlobs):
    whole = blobs(5)
    x, y, ids = whole.x.clone(), whole.labels().clone(), whole.ids.copy()
    x[4, 0, 7, 7] += 1
    y[4] += 1
    ids[4] = "train/5"
    swapped = whole.take(np.array([1, 0, 2, 3, 4]))
    others = [
        Examples(x, whole.y, whole.ids),
        Examples(whole.x, y, whole.ids),
        Examples(whole.x, whole.y, ids),
        Examples(whole.x.float(), whole.y, whole.ids),
        Examples(whole.x.view(5, 8, 8), whole.y, whole.ids),
        Examples(whole.x, whole.labels().int(), whole.ids),
        whole.without_labels(),
        whole.take(np.arange(4)),
        swapped,
    ]
    assert len({part.fingerprint for part in [whole, *others]}) == 1 + len(others)
    assert blobs(5).fingerprint == whole.fingerprint


def test_fingerprint_tells_ids_with_line_breaks_apart(blobs: MakeBlobs):
    x = blobs(2).x
    one, other = (Examples(x, None, np.array(ids)) for ids in (["a\nb", "c"], ["a", "b\nc"]))
    assert one.fingerprint != other.fingerprint


def test_fingerprint_takes_file_names_that_are_no_unicode(blobs: MakeBlobs):
    Examples(blobs(1).x, None, np.array([b"caf\xe9.png".decode("utf-8", "surrogateescape")])).fingerprint  # noqa: B018


def test_fingerprint_of_memory_mapped_and_sliced_data_is_the_same(
    blobs: MakeBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = blobs(9)
    path = tmp_path / "x.npy"
    np.save(path, whole.x.numpy())
    mapped = Examples(torch.from_numpy(np.load(path, mmap_mode="c")), whole.y, whole.ids)
    assert mapped.fingerprint == whole.fingerprint
    monkeypatch.setattr(types, "_HASH_CHUNK", 130)  # two images at once
    turned = Examples(whole.x.transpose(2, 3).contiguous().transpose(2, 3), whole.y, whole.ids)
    assert turned.fingerprint == whole.fingerprint


def splits(blobs: MakeBlobs, **changes: Any) -> Splits:
    train = blobs(9)
    parts = {
        "forget": train.take(np.arange(3)),
        "retain": train.take(np.arange(3, 9)),
        "test": blobs(6, prefix="test"),
    }
    return Splits(**(parts | changes))


@pytest.mark.parametrize(
    ("part", "remedy"),
    [
        ("forget", "name at least one training example"),
        ("retain", "keep at least one training example"),
        ("test", "hold some examples out"),
    ],
)
def test_empty_splits_are_refused(blobs: MakeBlobs, part: str, remedy: str):
    with pytest.raises(UsageError, match=f"the {part} set is empty; {remedy}"):
        splits(blobs, **{part: blobs(0)})


def test_splits_that_overlap_are_refused(blobs: MakeBlobs):
    with pytest.raises(UsageError, match="2 examples are in forget and in retain, the first is 'train/1'"):
        splits(blobs, retain=blobs(9).take(np.array([1, 2, 3, 4])))
    with pytest.raises(UsageError, match="1 examples are in forget and in test, the first is 'train/0'"):
        splits(blobs, test=blobs(1))
    with pytest.raises(UsageError, match="1 examples are in retain and in twins, the first is 'train/3'"):
        splits(blobs, twins=blobs(9).take(np.array([3])))
    assert splits(blobs, twins=blobs(2, prefix="test")).twins is not None


def test_splits_of_two_shapes_or_types_are_refused(blobs: MakeBlobs):
    with pytest.raises(UsageError, match=r"one input type and shape, got uint8 \[1, 4, 4\] and uint8 \[1, 8, 8\]"):
        splits(blobs, test=blobs(3, prefix="test", side=4))
    test = blobs(3, prefix="test")
    with pytest.raises(UsageError, match=r"got float32 \[1, 8, 8\] and uint8 \[1, 8, 8\]"):
        splits(blobs, twins=Examples(test.x.float(), test.y, test.ids))


def test_deletion_of_a_class_names_all_its_rows():
    assert Deletion("D", forget_class=3).rows(IDS, LABELS).tolist() == [3, 7, 11, 15, 19]


def test_deletion_of_ids_names_them_in_the_order_of_the_data():
    assert Deletion("D", forget_ids=("train/12", "train/2", "train/12")).rows(IDS, LABELS).tolist() == [2, 12]


def test_deletion_of_a_fraction_is_drawn_by_its_seed_alone():
    rows = Deletion("D", forget_fraction=0.25, seed=3).rows(IDS, LABELS)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows.size == 5
    assert rows.tolist() == np.sort(np.random.default_rng(3).permutation(20)[:5]).tolist()
    assert Deletion("other", forget_fraction=0.25, seed=3).rows(IDS, LABELS).tolist() == rows.tolist()
    assert Deletion("D", forget_fraction=0.25, seed=4).rows(IDS, LABELS).tolist() != rows.tolist()


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({}, "give exactly one of forget_class, forget_ids, forget_fraction; got none of them"),
        ({"forget_class": 1, "forget_fraction": 0.1}, "got forget_class and forget_fraction"),
        ({"forget_ids": ()}, "forget_ids is empty; name at least one"),
        ({"forget_fraction": 10.0}, r"must lie between 0 and 1 \(0.1 is a tenth\), got 10.0"),
        ({"forget_fraction": 0.0}, "must lie between 0 and 1"),
        ({"forget_fraction": 1.0}, "must lie between 0 and 1"),
        ({"forget_fraction": float("nan")}, "must lie between 0 and 1"),
    ],
)
def test_deletions_that_say_nothing_sensible_are_refused(request_: dict[str, Any], sentence: str):
    with pytest.raises(UsageError, match=f"deletion 'DR-1': .*{sentence}"):
        Deletion("DR-1", **request_)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"forget_class": 4}, "class 4 does not occur in the training data; classes are 0 to 3"),
        ({"forget_class": -1}, "class -1 does not occur"),
        (
            {"forget_ids": ("train/3", "test/1", "test/0")},
            "2 of 3 forget ids are not in the training data, the first is 'test/0'; ids look like 'train/0'",
        ),
        ({"forget_fraction": 0.01}, "forget_fraction 0.01 of 20 examples is none; ask for at least 0.05"),
        ({"forget_fraction": 0.99}, "all 20 training examples would be forgotten; keep some"),
        ({"forget_ids": tuple(IDS.tolist())}, "all 20 training examples would be forgotten; keep some"),
    ],
)
def test_deletions_that_do_not_fit_the_data_are_refused(request_: dict[str, Any], sentence: str):
    with pytest.raises(UsageError, match=f"deletion 'DR-1': {sentence}"):
        Deletion("DR-1", **request_).rows(IDS, LABELS)


def test_deletion_of_the_only_class_is_refused():
    with pytest.raises(UsageError, match="all 20 training examples would be forgotten"):
        Deletion("D", forget_class=0).rows(IDS, np.zeros(20, dtype=np.int64))


def test_a_missing_id_shows_even_where_another_id_occurs_twice():
    ids = np.array(["a", "a", "b"])
    with pytest.raises(UsageError, match="1 of 2 forget ids are not in the training data, the first is 'zz'"):
        Deletion("D", forget_ids=("a", "zz")).rows(ids, np.array([0, 1, 2]))


def test_need_names_are_the_single_needs_in_order():
    assert (Need.RETAIN | Need.FORGET_INPUTS).names() == ("forget_inputs", "retain_inputs", "retain_labels")
    assert Need(0).names() == ()
    assert [one.name for one in Need][-1] == "CLASS_WISE"


PROPERTIES = {
    "forget": Need.FORGET_INPUTS,
    "retain": Need.RETAIN_INPUTS,
    "forget_class": Need.CLASS_WISE,
    "unseen": Need.UNSEEN,
    "pretrained": Need.PRETRAINED,
    "recipe": Need.RECIPE,
}


def access(blobs: MakeBlobs, granted: Need) -> Access:
    recipe = Recipe(Architecture("mlp", 3, (1, 8, 8)))
    return Access(granted, "Curious", blobs(3), blobs(5), 2, blobs(2, prefix="test"), nn.Linear(2, 2), recipe)


@pytest.mark.parametrize("name", PROPERTIES)
def test_access_refuses_what_was_not_declared_and_says_how_to_declare_it(blobs: MakeBlobs, name: str):
    need = PROPERTIES[name]
    others = Need(0)
    for other in Need:
        others |= Need(0) if other is need else other
    with pytest.raises(
        UsageError, match=rf"Curious asked for {need.names()[0]} .*add Need\.{need.name} to its `needs`"
    ):
        getattr(access(blobs, others), name)
    assert getattr(access(blobs, need), name) is not None


def test_access_strips_labels_that_were_not_declared(blobs: MakeBlobs):
    blind = access(blobs, Need.FORGET_INPUTS | Need.RETAIN_INPUTS)
    assert blind.forget.y is None
    assert blind.retain.y is None
    assert torch.equal(blind.forget.x, blobs(3).x)
    seeing = access(blobs, Need.FORGET | Need.RETAIN_INPUTS)
    assert seeing.forget.labels().tolist() == [0, 1, 2]
    assert seeing.retain.y is None


@dataclass(frozen=True)
class Nothing(Method):
    needs: ClassVar[Need] = Need(0)
    lr: float = 0.1
    inner: Method | None = None

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        return model


def test_params_spell_a_nested_method_out_and_survive_json():
    params = Nothing(0.2, Nothing(0.3)).params
    assert params == {"lr": 0.2, "inner": {"name": "Nothing", "lr": 0.3, "inner": None}}
    assert json.loads(json.dumps(params)) == params
    assert Nothing().name == "Nothing"


@dataclass(frozen=True)
class Guess(Attack):
    bins: int = 5
    signal: str = "margin"

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        return np.zeros(len(target))


def test_an_attack_is_named_with_what_differs_from_its_defaults():
    assert [Guess().name, Guess(bins=7).name, Guess(7, "loss").name] == [
        "Guess",
        "Guess(bins=7)",
        "Guess(bins=7, signal=loss)",
    ]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_must_be_finite(bad: float):
    with pytest.raises(UsageError, match="Guess: every score must be finite, got 1 of 3 that are not"):
        Scores(np.array([0.0, bad, 1.0]), "Guess")
    with pytest.raises(UsageError, match="scores: every score"):
        Scores(np.array([bad]))
    assert Scores(np.array([0.0, 1.0])).attack == ""


def seen(margins: list[float], views: int = 1) -> Observation:
    ids = np.array([f"p/{i}" for i in range(len(margins))])
    return Observation(ids, np.zeros(len(margins), dtype=np.int64), np.repeat(np.array(margins)[:, None], views, 1))


def test_right_is_the_largest_logit_even_where_the_margin_is_below_zero():
    logits = np.array([[[1.0, 0.9, 0.8]], [[0.0, 1.0, 0.0]], [[-5.0, -4.0, -3.0]]], dtype=np.float32)
    y = np.array([0, 1, 1])
    answered = Observation(np.array(["a", "b", "c"]), y, margin(logits, y), logits)
    assert answered.margins[0, 0] < 0
    assert answered.right().tolist() == [True, True, False]


def pool(state: list[list[int]], views: int = 1) -> References:
    mask = np.array(state, dtype=np.uint8)
    return References(np.arange(mask.size * views, dtype=np.float64).reshape(*mask.shape, views), mask)


@dataclass(frozen=True)
class Against(Attack):
    """Margin minus the mean of the references that never saw the point."""

    holds: ClassVar[Holds] = Holds.OUT | Holds.IN

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        assert known.references is not None
        return target.margins.mean(axis=1) - known.references.margins.mean(axis=(0, 2))


@dataclass(frozen=True)
class Greedy(Attack):
    holds: ClassVar[Holds] = Holds.POPULATION | Holds.MEMBERS | Holds.ORIGINAL | Holds.LOGITS | Holds.FEATURES

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        return np.zeros(len(target))


def test_points_that_no_reference_covers_are_left_out_named_and_counted():
    known = Known(references=pool([[0, 0, 1, 1], [1, 0, 1, 0]]))
    scores = Against().score(seen([1.0, 2.0, 3.0, 5.0]), known)
    assert scores.rows is not None
    assert scores.rows.tolist() == [0, 3]
    np.testing.assert_allclose(scores.values, [1.0 - 2.0, 5.0 - 5.0])
    assert [(flag.name, flag.sentence) for flag in scores.flags] == [
        (
            "points without references",
            "Against: 1 of 4 points are left out, the first is 'p/2': no reference is among reference models that "
            "never saw the points for them.",
        ),
        (
            "points without references",
            "Against: 1 of 4 points are left out, the first is 'p/1': no reference is among reference models that "
            "were trained on the points for them.",
        ),
    ]
    with pytest.raises(UsageError, match="Against: no point has reference models that never saw the points and"):
        Against().score(seen([1.0]), Known(references=pool([[State.IN]])))


@pytest.mark.usefixtures("as_users_run")
def test_an_attack_says_what_the_attacker_must_hold():
    for known in (None, Known(), Known(references=pool([[0, 1]]).take(np.array([True, True])))):
        with pytest.raises(UsageError, match="Greedy: needs a population: the target's answers on further points"):
            Greedy().score(seen([0.0, 1.0]), known)
    with pytest.raises(UsageError, match="Greedy: needs members: the target's answers"):
        Greedy().score(seen([0.0]), Known(population=seen([1.0])))
    with pytest.raises(UsageError, match="Greedy: needs the original: what the model before the deletion says"):
        Greedy().score(seen([0.0]), Known(population=seen([1.0]), members=seen([1.0])))
    with pytest.raises(UsageError, match="Greedy: needs the target's logits; observe with logits"):
        Greedy().score(seen([0.0]), Known(population=seen([1.0]), members=seen([1.0]), original=seen([2.0])))
    with pytest.raises(UsageError, match="Against: needs reference models that never saw the points and reference"):
        Against().score(seen([0.0]))
    with pytest.raises(UsageError, match=r"Against: the references must be seen .*, \[2, 1\], got \[3, 1\]"):
        Against().score(seen([0.0, 1.0]), Known(references=pool([[0, 1, 0], [1, 0, 1]])))
    with pytest.raises(UsageError, match=r"Guess: the original must be seen .*, \[1, 1\], got \[1, 2\]"):
        Guess().score(seen([0.0]), Known(original=seen([0.0], views=2)))
    with pytest.raises(UsageError, match="Guess: there is no point to score"):
        Guess().score(seen([]))
    with pytest.raises(UsageError, match="Guess: the target's margins must be finite, got 1 that are not"):
        Guess().score(seen([0.0, np.nan]))
    with pytest.raises(UsageError, match="logits are needed here, but only margins were kept"):
        seen([0.0]).outputs()


def test_constant_scores_are_flagged():
    scores = Guess().score(seen([0.0, 1.0]))
    assert [flag.sentence for flag in scores.flags] == ["Guess: every point has the same score; it tells nobody apart."]
    assert (scores.rows, Guess().score(seen([0.0])).flags) == (None, ())


@pytest.mark.usefixtures("as_users_run")
def test_references_refuse_masks_that_do_not_match():
    with pytest.raises(UsageError, match=r"one entry per model and point, got \[1, 2\] for margins \[1, 3, 1\]"):
        References(np.zeros((1, 3, 1)), np.zeros((1, 2), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"0 \(out\), 1 \(in\) or 2 \(forgotten\), got 3"):
        References(np.zeros((1, 1, 1)), np.full((1, 1), 3, dtype=np.uint8))
    with pytest.raises(UsageError, match="references: every margin must be finite, got 1 that are not"):
        References(np.full((1, 1, 1), np.inf), np.zeros((1, 1), dtype=np.uint8))


def test_references_are_taken_by_point_and_left_out_by_model():
    whole = pool([[0, 1, 2], [1, 2, 0]], views=2)
    assert whole.take(np.array([2, 0])).state.tolist() == [[2, 0], [0, 1]]
    assert whole.without(0).margins.tolist() == whole.margins[1:].tolist()
    assert (len(whole), whole.without(1).state.tolist()) == (2, [[0, 1, 2]])
    assert References.unseen([seen([1.0, 2.0]), seen([3.0, 4.0])]).state.tolist() == [[0, 0], [0, 0]]


@dataclass(frozen=True)
class Doubled(Probe):
    """Doubles every weight of the model it is given, and reads their sum."""

    class_wise: ClassVar[bool] = True

    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(2)
        return Reading(float(torch.rand((), generator=rng)), np.array([1.0]), np.array([float(model.training)]))


def test_a_probe_works_on_a_copy_in_eval_mode_from_its_seed(blobs: MakeBlobs):
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    whole = replace(splits(blobs), forget_class=1)
    first, again, other = (Doubled().read(model.train(), whole, seed=seed) for seed in (1, 1, 2))
    assert model.training
    assert torch.equal(before, model.weight)
    assert (first.value, first.curve.tolist()) == (again.value, [0.0])
    assert first.value != other.value
    with pytest.raises(UsageError, match="Doubled: asks about a forgotten class; this deletion names single examples"):
        Doubled().read(model, splits(blobs))
    with pytest.raises(UsageError, match="a probe must read finite numbers"):
        Reading(float("nan"), np.zeros(1), np.zeros(1))


def test_the_words_are_frozen(blobs: MakeBlobs):
    for one in (blobs(2), splits(blobs), Deletion("D", forget_class=1), Nothing()):
        with pytest.raises(AttributeError):
            one.x = None  # type: ignore[union-attr, misc]
    assert all(first != second for first, second in pairwise([Nothing(), replace(Nothing(), lr=1.0)]))
