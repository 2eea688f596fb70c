"""Jobs: the key is everything that decides the result and nothing else, and a batch is made whole or says why not."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import MakeBlobs, WriteModule
from fleet_samples import (
    ALONE,
    DIVERGES,
    POINTS,
    ROWS,
    STACKED,
    TRAINER,
    Keeps,
    kinds,
    observe_job,
    sets,
    train_jobs,
    unlearn_job,
)
from torch import nn

from unlearnkit import jobs, stacked
from unlearnkit.attacks import LinearProbe, Pruning
from unlearnkit.compress import pruned, quantized
from unlearnkit.data import resolve
from unlearnkit.jobs import (
    Bench,
    GivenModel,
    Job,
    ModelJob,
    ObserveJob,
    Points,
    ProbeJob,
    Sets,
    TrainJob,
    UnlearnJob,
    read_model,
)
from unlearnkit.methods import FineTune
from unlearnkit.methods.prune_first import PruneFirst
from unlearnkit.models import Architecture, build, pack
from unlearnkit.observing import observe
from unlearnkit.provenance import code_of
from unlearnkit.result import UsageError
from unlearnkit.store import Store
from unlearnkit.train import Privacy, Recipe, fit, initial
from unlearnkit.types import Access, Examples, Method, Need, Splits


@pytest.fixture
def bench(blobs: MakeBlobs, tmp_path: Path) -> Bench:
    return Bench(sets(blobs), Store(tmp_path / "store"), "cpu")


def one_byte_more(examples: Examples) -> Examples:
    x = examples.x.clone()
    x[-1, 0, -1, -1] += 1
    return Examples(x, examples.y, examples.ids)


def all_differ(bench: Bench, *some: Job) -> None:
    keys = [bench.key(job) for job in some]
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    assert len(set(keys)) == len(keys)


def weights(model: nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


# -- keys ----------------------------------------------------------------------------------------------------------


def test_everything_that_decides_a_training_is_in_its_key(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    job = TrainJob("a", STACKED, 0, ROWS)
    key = bench.key(job)
    assert bench.key(replace(job, name="b")) == key
    assert bench.key(replace(job, rows=ROWS.astype(">i8").astype(np.int64))) == key
    assert Bench(bench.sets, Store("memory://elsewhere"), "cpu").key(job) == key
    changes = {
        "architecture": Architecture("small-cnn", 3, (1, 8, 8)),
        "epochs": 3,
        "batch_size": 17,
        "optimizer": "adamw",
        "lr": 0.06,
        "momentum": 0.8,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "augment": "flip",
        "label_smoothing": 0.1,
        "trainer": "fleet_samples:train",
        "compiled": True,
        "privacy": Privacy(1.0),
    }
    assert set(changes) == set(Recipe.__dataclass_fields__)  # a new field belongs here too
    others = [
        job,
        replace(job, seed=1),
        replace(job, rows=ROWS[:-1]),
        replace(job, rows=ROWS[::-1].copy()),
        *(replace(job, recipe=replace(STACKED, **{name: value})) for name, value in changes.items()),
    ]
    all_differ(bench, *others)
    train, test = bench.sets.train, bench.sets.test
    other = Bench(Sets(one_byte_more(train), test), bench.store, "cpu").key(job)
    on_cuda = Bench(bench.sets, bench.store, "cuda").key(job)
    assert Bench(bench.sets, bench.store, "cuda:1").key(job) == on_cuda
    monkeypatch.setattr(torch, "__version__", "99.0")
    newer = Bench(bench.sets, bench.store, "cpu").key(job)
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    elsewhere = Bench(bench.sets, bench.store, "cpu").key(job)
    monkeypatch.undo()
    monkeypatch.setattr(stacked, "_STACKS", {})
    one_by_one = Bench(bench.sets, bench.store, "cpu").key(job)
    assert len({key, other, on_cuda, newer, elsewhere, one_by_one}) == 6


@dataclass(frozen=True)
class Renamed(FineTune):
    """The same fields under another name."""


class Outer:
    @dataclass(frozen=True)
    class FineTune(FineTune):
        """The same fields, and the same name elsewhere."""


def test_everything_that_decides_an_unlearning_is_in_its_key(bench: Bench):
    start = train_jobs(1)[0]
    job = unlearn_job(start)
    assert bench.key(replace(job, name="b", start=replace(start, name="c"))) == bench.key(job)
    unseen = np.arange(5)
    all_differ(
        bench,
        job,
        replace(job, seed=4),
        replace(job, start=replace(start, seed=1)),
        replace(job, start=GivenModel("given", STACKED, "ab" * 32)),
        replace(job, method=FineTune(epochs=1, batch_size=16, lr=0.02)),
        replace(job, method=Renamed(epochs=1, batch_size=16)),
        replace(job, method=Outer.FineTune(epochs=1, batch_size=16)),
        replace(job, method=PruneFirst()),
        replace(job, method=PruneFirst(inner=Renamed())),
        replace(job, method=PruneFirst(inner=FineTune(lr=0.02))),
        replace(job, forget=ROWS[20:29]),
        replace(job, retain=ROWS[31:]),
        replace(job, forget_class=1),
        replace(job, recipe=replace(STACKED, epochs=3)),
        replace(job, unseen=unseen),
        replace(job, unseen=unseen[:4]),
    )
    changed = Bench(Sets(bench.sets.train, one_byte_more(bench.sets.test)), bench.store, "cpu")
    assert changed.key(job) == bench.key(job)
    assert changed.key(replace(job, unseen=unseen)) != bench.key(replace(job, unseen=unseen))


def test_everything_that_decides_an_observation_is_in_its_key(bench: Bench):
    first, second = train_jobs(2)
    job = observe_job(first)
    assert bench.key(replace(job, name="b", keep_weights=False)) == bench.key(job)
    some = [
        job,
        observe_job(second),
        observe_job(first, second),
        observe_job(second, first),
        replace(job, flips=True),
        replace(job, logits=True),
        replace(job, points=Points(POINTS.train[1:], POINTS.test)),
        replace(job, points=Points(POINTS.train, POINTS.test[1:])),
        replace(job, points=Points(POINTS.test, POINTS.train)),
        replace(job, treatments=("4 bits",)),
        replace(job, treatments=("4 bits", "8 bits")),
    ]
    # looks at models as they are bear the names that they had before there were treatments
    assert not [name for name in bench.describe(job) if name.startswith("treat")]
    all_differ(bench, *some)
    changed = Bench(Sets(bench.sets.train, one_byte_more(bench.sets.test)), bench.store, "cpu")
    assert changed.key(job) != bench.key(job)


def test_a_given_model_is_called_what_it_is_kept_under(bench: Bench):
    assert bench.key(GivenModel("given", STACKED, "ab" * 32)) == "ab" * 32
    with pytest.raises(TypeError, match="GivenModel is no job that can be described"):
        bench.describe(GivenModel("given", STACKED, "ab" * 32))


THEIRS = """
    from theirs_helper import scale

    def fit(recipe, examples, *, seed):
        return scale(0)

    def net(classes):
        return scale(classes)
"""
HELPER = "def scale(value):\n    return value\n"


@pytest.mark.parametrize("part", ["trainer", "architecture", "given"])
def test_a_users_code_and_what_it_imports_are_in_the_key(
    blobs: MakeBlobs, tmp_path: Path, write_module: WriteModule, part: str
):
    write_module("theirs_helper", HELPER)
    write_module("theirs", THEIRS)
    trainer = "theirs:fit" if part == "trainer" else None
    recipe = replace(STACKED, trainer=trainer)
    if part != "trainer":
        recipe = replace(recipe, architecture=Architecture("theirs:net", 3, (1, 8, 8)))
    job: Job = TrainJob("a", recipe, 0, ROWS)
    if part == "given":  # whose key is that of its weights; what they mean, the network says
        job = observe_job(GivenModel("given", recipe, "ab" * 32))

    def key(*, anew: bool = True) -> str:
        for name in ("theirs", "theirs_helper") if anew else ():
            sys.modules.pop(name, None)  # as another process would import it
        return Bench(sets(blobs), Store(tmp_path), "cpu").key(job)

    first = key()
    (tmp_path / "theirs_helper.py").write_text(f'"""Words."""\n\n# more words\n{HELPER}')
    assert key() == first
    (tmp_path / "theirs_helper.py").write_text(HELPER.replace("return value", "return value + 1"))
    with pytest.raises(UsageError, match="its code has changed since it was imported; start the program again"):
        key(anew=False)  # what would run is the old code
    second = key()
    (tmp_path / "theirs.py").write_text((tmp_path / "theirs.py").read_text().replace("scale(0)", "scale(1)"))
    assert len({first, second, key()}) == 3


THEIR_METHOD = """
    from dataclasses import dataclass
    from unlearnkit.methods import FineTune

    @dataclass(frozen=True)
    class Theirs(FineTune):
        pass
"""


@pytest.mark.parametrize("inside", [False, True])
def test_the_code_of_a_users_method_is_in_the_key_also_inside_another(
    bench: Bench, tmp_path: Path, write_module: WriteModule, inside: bool
):
    theirs: Any = resolve(f"{write_module('their_method', THEIR_METHOD)}:Theirs")
    job = unlearn_job(train_jobs(1)[0], method=PruneFirst(inner=theirs()) if inside else theirs())
    before = bench.key(job)
    path = tmp_path / "their_method.py"
    path.write_text(path.read_text().replace("pass", "epochs: int = 3"))
    assert Bench(bench.sets, bench.store, "cpu").key(job) != before


def test_our_loops_decide_what_they_make_and_other_files_do_not(bench: Bench):
    """Held to by the code that is named: a change of the training changes the keys of trainings and unlearnings."""
    described = bench.describe(train_jobs(1)[0])
    assert described["code"] == [code_of(stacked.fit_stack)]
    method_code, *training = bench.describe(unlearn_job(train_jobs(1)[0]))["code"]
    assert training == described["code"]
    assert method_code == code_of(resolve("unlearnkit.unlearning:unlearn"), FineTune, Method)
    borrowed = replace(STACKED, architecture=Architecture("torchvision:resnet18", 3, (3, 32, 32)))
    assert len(bench.describe(TrainJob("a", borrowed, 0, ROWS))["code"]) == 2  # and torchvision's version


# -- making --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [STACKED, ALONE, TRAINER], ids=["stacked", "alone", "trainer"])
def test_a_model_is_what_training_makes_of_its_rows(bench: Bench, recipe: Recipe):
    first, second = (replace(job, rows=ROWS[7:41]) for job in train_jobs(2, recipe))
    made = bench.make([first, second], "cpu")
    assert [one.key for one in made] == [bench.key(first), bench.key(second)]
    assert all(one.fault is None for one in made)
    model = bench.read(second)
    assert not model.training
    twin = fit(recipe, bench.sets.train.take(second.rows), seed=second.seed)
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    record = bench.store.record(made[1].key)
    assert (record["kind"], record["name"]) == ("train", "model 1")
    assert record["seconds"] > 0
    assert bench.store.faults() == []  # every record describes the key it lies under
    assert weights(read_model(bench.store, made[1].key, recipe.architecture)) == weights(model)


def test_a_treated_model_is_seen_after_each_treatment_and_kept_as_it_is(bench: Bench):
    train, unlearned = train_jobs(1)[0], unlearn_job(train_jobs(1)[0])
    job = observe_job(train, unlearned, logits=True, treatments=("50 % pruned", "4 bits"))
    [made] = bench.make([job], "cpu")
    points, logits = bench.points(POINTS), bench.store.map(made.key)["logits"]
    assert logits.shape == (4, len(POINTS), 1, 3)
    for i, (model, treat) in enumerate(
        (model, treat)
        for model in (train, unlearned)
        for treat in (partial(pruned, share=0.5), partial(quantized, bits=4))
    ):
        np.testing.assert_array_equal(logits[i], observe(treat(bench.read(model)), points).outputs())
    [other] = bench.make([observe_job(train, treatments=("3 bits",))], "cpu")
    assert other.fault is not None
    assert other.fault.startswith("treatment: must be one of 8 bits, 4 bits, ")


def test_what_is_seen_of_a_model_is_what_observe_sees(bench: Bench):
    train, unlearned = train_jobs(1)[0], unlearn_job(train_jobs(1)[0])
    job = observe_job(train, unlearned, flips=True, logits=True)
    [made] = bench.make([job], "cpu")
    arrays = bench.store.map(made.key)
    assert {name: array.dtype for name, array in arrays.items()} == {"margins": np.float32, "logits": np.float32}
    assert arrays["margins"].shape == (2, len(POINTS), 2)
    assert arrays["logits"].shape == (2, len(POINTS), 2, 3)
    points = bench.points(POINTS)
    assert points.ids.tolist() == [f"train/{i}" for i in range(0, 60, 7)] + [f"test/{i}" for i in range(5)]
    for stage, model in enumerate((train, unlearned)):
        seen = observe(bench.read(model), points, flips=True)
        np.testing.assert_array_equal(arrays["margins"][stage], seen.margins.astype(np.float32))
        np.testing.assert_array_equal(arrays["logits"][stage], seen.outputs())
    assert (arrays["margins"][0] != arrays["margins"][1]).any()
    assert set(bench.store.map(bench.make([observe_job(train)], "cpu")[0].key)) == {"margins"}


def test_a_probe_is_read_off_the_model_and_kept(bench: Bench):
    train = train_jobs(1)[0]
    forget, retain = np.arange(6), np.arange(6, 60)
    job = ProbeJob("pruned", train, Pruning(), 3, forget, retain, np.arange(5), np.arange(5, 9))
    [made] = bench.make([job], "cpu")
    sets = bench.sets
    splits = Splits(sets.train.take(forget), sets.train.take(retain), sets.test.take(np.arange(5)))
    expected = Pruning().read(bench.read(train), splits, seed=3)
    kept = bench.store.read(made.key)
    assert kept["value"].item() == expected.value
    assert kept["curve"].tolist() == expected.curve.tolist()
    assert bench.make([job], "cpu") == [made]
    others = [
        replace(job, probe=Pruning(shares=(0.2,))),
        replace(job, seed=4),
        replace(job, forget=np.arange(7)),
        replace(job, twins=np.arange(5, 8)),
        replace(job, forget_class=1),
        replace(job, model=train_jobs(2)[1]),
    ]
    assert len({made.key, *(bench.key(other) for other in others)}) == 7
    [refused] = bench.make([replace(job, probe=LinearProbe())], "cpu")
    assert refused.fault == "LinearProbe: asks about a forgotten class; this deletion names single examples"


def test_weights_that_nobody_keeps_are_not_written(bench: Bench):
    train = train_jobs(1)[0]
    bench.make([observe_job(unlearn_job(train), keep_weights=False)], "cpu")
    assert kinds(bench.store) == {"observe": 1}
    bench.make([observe_job(unlearn_job(train), flips=True)], "cpu")
    assert kinds(bench.store) == {"observe": 2, "train": 1, "unlearn": 1}


def test_a_batch_that_was_half_done_is_finished_and_not_begun_again(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """As after a worker's death: what was seen is there, the weights are not."""
    first, second = (observe_job(job, keep_weights=False) for job in train_jobs(2))
    bench.make([first], "cpu")
    before = bench.store.path(bench.key(first)).stat().st_mtime_ns
    trained: list[str] = []
    true = jobs._Work.train

    def spy(work: Any, some: Sequence[TrainJob]) -> None:
        trained.extend(job.name for job in some)
        true(work, some)

    monkeypatch.setattr(jobs._Work, "train", spy)
    assert [one.fault for one in bench.make([first, second], "cpu")] == [None, None]
    assert trained == ["model 1"]
    assert bench.store.path(bench.key(first)).stat().st_mtime_ns == before


@dataclass(frozen=True)
class Looks(Method):
    """Says what it is shown."""

    needs: ClassVar[Need] = Need.FORGET | Need.RETAIN | Need.RECIPE | Need.CLASS_WISE | Need.UNSEEN | Need.PRETRAINED

    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        assert access.forget.ids.tolist() == ["train/1", "train/4"]
        assert access.retain.ids.tolist() == ["train/0", "train/2"]
        assert access.unseen.ids.tolist() == ["test/3", "test/8"]
        assert access.recipe == STACKED
        assert access.forget_class == 1
        model.load_state_dict(access.pretrained.state_dict())
        return model


def test_an_unlearning_sees_its_rows_its_unseen_rows_and_the_beginning(bench: Bench):
    start = train_jobs(1)[0]
    job = unlearn_job(
        start,
        method=Looks(),
        forget=np.array([1, 4]),
        retain=np.array([0, 2]),
        forget_class=1,
        unseen=np.array([3, 8]),
    )
    assert [one.fault for one in bench.make([job], "cpu")] == [None]
    beginning = initial(STACKED, bench.sets.train.take(start.rows), seed=start.seed)
    assert weights(bench.read(job)) == weights(beginning)
    assert weights(bench.read(start)) != weights(beginning)


def test_weights_that_were_handed_in_have_no_known_beginning(bench: Bench):
    data = pack(build(STACKED.architecture, seed=0).state_dict(), STACKED.architecture)
    bench.store.write("ab" * 32, data, {"kind": "given"})
    given = GivenModel("given", STACKED, "ab" * 32)
    [kept, refused] = bench.make(
        [unlearn_job(given, method=Keeps()), unlearn_job(given, method=Looks(), unseen=ROWS[:3], forget_class=1)], "cpu"
    )
    assert kept.fault is None
    assert bench.store.path(kept.key).read_bytes() == data
    assert refused.fault == "Looks needs pretrained; grant it with unlearn(..., pretrained=model_before_training)"


# -- failing -------------------------------------------------------------------------------------------------------


def test_each_job_of_a_batch_fails_for_itself(bench: Bench):
    some: list[Job] = [
        *train_jobs(1, TRAINER),
        *train_jobs(1, TRAINER, first=DIVERGES),
        observe_job(unlearn_job(train_jobs(1, TRAINER, first=DIVERGES)[0])),
        *train_jobs(1, TRAINER, first=2),
    ]
    made = bench.make(some, "cpu")
    fault = "recipe.trainer: 'fleet_samples:train' returned NaN or infinite weights in 'head.bias'"
    assert [one.fault for one in made] == [None, fault, fault, None]
    assert not any(one.again for one in made)
    assert bench.store.holding(one.key for one in made) == {made[0].key, made[3].key}


def test_a_stack_that_cannot_be_trained_says_why(bench: Bench):
    empty = TrainJob("empty", STACKED, 0, ROWS[:0])
    made = bench.make([empty, observe_job(train_jobs(1)[0])], "cpu")
    assert [one.fault for one in made] == ["training: there are no examples to train on", None]


def test_a_damaged_start_says_what_to_do(bench: Bench):
    [start] = train_jobs(1)
    bench.make([start], "cpu")
    path = bench.store.path(bench.key(start))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    [made] = bench.make([unlearn_job(start)], "cpu")
    assert made.fault is not None
    assert re.search(r"is damaged, .*'unlearnkit store gc' deletes it, then run again", made.fault)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory (MemoryError)"),
        (torch.OutOfMemoryError("CUDA out of memory.\nMore words."), "out of memory (CUDA out of memory.)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate"), "out of memory (DefaultCPUAllocator: can't allocate)"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_where_memory_ran_out_the_rest_of_the_batch_is_worth_another_try(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
):
    calls: list[str] = []

    def hungry(model: nn.Module, *arguments: Any, **more: Any) -> Any:
        calls.append("one more")
        if len(calls) == 2:
            raise error
        return observe(model, *arguments, **more)

    monkeypatch.setattr(jobs, "observe", hungry)
    made = bench.make([observe_job(job) for job in train_jobs(3)], "cpu")
    assert [(one.fault, one.again) for one in made] == [(None, False), (said, True), (said, True)]


def test_a_fault_of_the_program_is_none_of_a_job(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(jobs, "observe", broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        bench.make([observe_job(train_jobs(1)[0])], "cpu")


def test_a_trainer_of_another_network_is_refused(bench: Bench, write_module: WriteModule):
    module = write_module(
        "other_trainer",
        """
        from unlearnkit.models import Architecture, build
        def fit(recipe, examples, *, seed):
            return build(Architecture("small-cnn", 3, (1, 8, 8)), seed=seed)
        """,
    )
    [made] = bench.make([TrainJob("odd one", replace(STACKED, trainer=f"{module}:fit"), 0, ROWS)], "cpu")
    assert made.fault is not None
    assert made.fault.startswith("odd one: what the trainer returned: the weights do not fit 'mlp': keys")
    assert made.key not in bench.store


def test_a_trainer_may_return_the_plain_network(bench: Bench, write_module: WriteModule):
    module = write_module(
        "plain_trainer",
        """
        import torch
        def net():
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        def fit(recipe, examples, *, seed):
            return net()
        """,
    )
    recipe = replace(STACKED, architecture=Architecture(f"{module}:net", 3, (1, 8, 8)), trainer=f"{module}:fit")
    job = TrainJob("plain", recipe, 0, ROWS)
    assert bench.make([job], "cpu")[0].fault is None
    assert set(bench.read(job).state_dict()) >= {"normalize.mean", "head.weight"}


# -- stacks --------------------------------------------------------------------------------------------------------


def test_which_jobs_are_stacked(bench: Bench):
    first, second = train_jobs(2)
    assert bench.stack_of(first) == (STACKED, 50)
    assert bench.stack_of(unlearn_job(first)) == (STACKED, 50)
    assert bench.stack_of(observe_job(first, unlearn_job(first))) == (STACKED, 50)
    assert bench.stack_of(observe_job(first, replace(second, rows=ROWS[:40]))) is None
    assert bench.stack_of(train_jobs(1, TRAINER)[0]) is None
    assert bench.stack_of(train_jobs(1, ALONE)[0]) is None
    bench.make([first], "cpu")
    assert bench.stack_of(unlearn_job(first)) is None  # there is nothing left to train
    assert bench.stack_of(observe_job(unlearn_job(second))) == (STACKED, 50)


def test_the_names_of_kinds_are_those_of_the_records():
    assert {kind.kind for kind in (TrainJob, UnlearnJob, ObserveJob, GivenModel)} == {
        "train",
        "unlearn",
        "observe",
        "given",
    }
    assert issubclass(TrainJob, ModelJob)
    assert not issubclass(ObserveJob, ModelJob)
