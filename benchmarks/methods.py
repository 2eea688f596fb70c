"""Every method beside retraining on one data set: how near each comes to it, at what price, and what it saw.

    python benchmarks/methods.py --out benchmarks/methods.md
    python benchmarks/methods.py --data npz:cifar10.npz --architecture resnet18-cifar --epochs 60 --lr 0.1 \
        --augment crop-flip --classes 0,3 --tune-on 1 --device cuda --out benchmarks/methods-cifar10.md

Three requests: whole classes; a random tenth of the training set; and a random tenth of which some carry a wrong label,
canaries that only memory can answer as trained: on easy data, where a retrained model answers unseen examples as the
original answers its own, nothing else shows whether a method forgets single examples. For each request the settings of
every method are searched on models that are then put aside (seed 0): of a handful of candidates, the default among
them, the one with the smallest average gap to the models retrained without that set. These settings are frozen, and
models of other seeds are reported. Whole classes are searched on `--tune-on` of them together, since what forgets one
class may do nothing or harm for another; the gap over the classes that were not searched on stands beside that over
all. `--untuned` reports the defaults. What is finished is kept in the store: the same command goes on.

UA, RA and TA are the error on the forget set, the accuracy on the retain set and on the test set (without the forgotten
class), in percent; ACC_f, the accuracy on test examples of the forgotten class, stands beside them and is no part of
the gap. MIA is the share of the forget set that a support vector machine on the probability of the label calls unseen;
it is the score that publications report, and far weaker than an audit. The gap is the mean distance of the four from
those of a model retrained with the original's own seed. Retrain is a second one, with another seed: its gap is what
chance alone makes of two retrained models. Where the original's gap is no larger, as on a random tenth of the digits,
the four numbers cannot tell one method from another.

Times are taken on the first request of a table, one method after the other. Publications train for 182 epochs on
CIFAR-10, so the last ratio is that to 182 epochs at the speed of Retrain in the same round.

    python benchmarks/methods.py --cost --data npz:cifar10.npz --batch-size 256 --out benchmarks/methods-cost.md

takes nothing but times, of every method at its default settings. A model of CIFAR-10: on fewer than 50,000 examples,
numbers of examples that a method looks at however many there are, such as 1,000 for a curvature, are cut alike, since
they would cost more of a small retraining than of a large one.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearnkit.attacks.mia_efficacy import mia_efficacy
from unlearnkit.data import Dataset, load, split
from unlearnkit.fleet import Fleet, Progress
from unlearnkit.jobs import ModelJob, ObserveJob, Points, Rows, Sets, TrainJob, UnlearnJob
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
)
from unlearnkit.models import Architecture
from unlearnkit.observing import margin
from unlearnkit.result import UsageError
from unlearnkit.store import Store
from unlearnkit.train import Recipe, fit, initial
from unlearnkit.types import Deletion, Method, Need
from unlearnkit.unlearning import unlearn

TUNING_SEED = 0
PUBLISHED = 182  # epochs of the retraining that publications compare with
CHEAP = 15  # percent of it
RETRAINED = 3  # epochs at a time, where only their speed is asked for
CIFAR = 50_000  # training examples of CIFAR-10
MOST = 5_000  # examples of a side that the membership score is trained on; publications take the whole test set
COLUMNS = ("UA", "RA", "TA", "MIA")
SAW = {
    "forget_inputs": "F",
    "forget_labels": "y_F",
    "retain_inputs": "R",
    "retain_labels": "y_R",
    "unseen": "unseen",
    "pretrained": "start",
    "recipe": "recipe",
    "class_wise": "class",
}


def varied(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """lr=(1, 2), alpha=(3, 4) -> [{lr: 1, alpha: 3}, {lr: 2, alpha: 4}]."""
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


_SCRUB = varied(
    lr=(5e-3, 2e-3, 0.01, 0.01),
    epochs=(3, 10, 8, 10),
    max_epochs=(2, 5, 2, 5),
    forget_batch_size=(32, 32, 32, 512),
    decay_epoch=(4, 9, 9, 9),
)
_LAF = varied(lr_unlearn=(1e-5, 2e-4, 5e-4, 1e-3), lr_align=(5e-5, 4e-4, 5e-4, 1e-3))
_PRUNED = (
    FineTune(),
    FineTune(lr=0.1, batch_size=64),
    FineTune(lr=0.05),
    FineTune(lr=0.1, batch_size=64, weight_decay=0.02),
)

# Name in the table -> the default, and what is tried beside it: four or five candidates, of which the last are strong
# enough for small models. An epoch of the digits at the default batch size is six steps, of CIFAR-10 two hundred.
SEARCH: dict[str, tuple[Method, list[dict[str, Any]]]] = {
    "Retrain": (Retrain(), []),
    "FineTune": (
        FineTune(),
        varied(lr=(0.03, 0.1, 0.1, 0.1), batch_size=(256, 256, 64, 64), weight_decay=(5e-4, 5e-4, 5e-4, 0.02)),
    ),
    "CFk": (
        CFk(),
        varied(lr=(0.03, 0.1, 0.3, 0.1), epochs=(10, 10, 30, 10), weight_decay=(5e-4, 5e-4, 5e-4, 0.05)),
    ),
    "EUk": (EUk(), varied(lr=(1e-3, 0.03, 0.1, 0.2))),
    "L1Sparse": (
        L1Sparse(),
        varied(
            lr=(0.05, 0.1, 0.05, 0.05, 0.02),
            alpha=(5e-5, 5e-4, 5e-3, 1e-2, 5e-3),
            epochs=(10, 10, 30, 30, 30),
            batch_size=(256, 256, 256, 256, 128),
        ),
    ),
    "NegativeGradient": (
        NegativeGradient(),
        varied(lr=(1e-3, 0.03, 0.01, 5e-3, 0.01), epochs=(5, 5, 5, 10, 10), batch_size=(256, 256, 32, 32, 32)),
    ),
    "NegGradPlus": (
        NegGradPlus(),
        varied(
            lr=(0.01, 0.03, 0.03, 0.05, 0.01),
            alpha=(0.9999, 0.95, 0.8, 0.9, 0.5),
            epochs=(5, 5, 10, 10, 10),
            batch_size=(256, 256, 64, 64, 64),
        ),
    ),
    "RandomLabel": (RandomLabel(), varied(lr=(1e-3, 3e-3, 0.03, 0.05))),
    "SalUn": (SalUn(), varied(lr=(5e-3, 0.03, 0.05, 0.05), fraction=(0.5, 0.5, 0.5, 0.2))),
    "SalUnSoft": (SalUnSoft(), varied(lr=(0.03, 0.05, 0.1, 0.2))),
    "AMUN": (AMUN(), varied(lr=(1e-3, 0.03, 0.05, 0.05), decay_every=(5, 5, 1, 10))),
    "DELETE": (DELETE(), varied(lr=(3e-4, 1e-3, 3e-3, 0.01))),
    "BoundaryShrink": (BoundaryShrink(), varied(lr=(1e-4, 3e-4, 1e-3, 3e-3))),
    "BoundaryExpand": (BoundaryExpand(), varied(lr=(1e-4, 3e-4, 1e-3, 3e-3))),
    "SCRUB": (SCRUB(), _SCRUB),
    "SCRUB+R": (SCRUB(rewind=True), _SCRUB),
    "BadTeacher": (BadTeacher(), varied(lr=(1e-3, 1e-3, 3e-3, 3e-3), epochs=(1, 3, 3, 10))),
    "LAF": (LAF(), _LAF),
    "LAF+R": (LAF(repair_epochs=5), _LAF),
    "SSD": (SSD(), varied(alpha=(2.0, 5.0, 20.0, 50.0))),
    "SSD, label-free": (SSD(label_free=True), varied(alpha=(2.0, 5.0, 20.0, 50.0))),
    "FisherForgetting": (FisherForgetting(examples=300), varied(alpha=(1e-9, 1e-7, 1e-6, 1e-5))),
    "InfluenceUnlearning": (
        InfluenceUnlearning(samples=500, iterations=30),
        varied(damping=(0.01, 0.1, 0.1, 1.0), alpha=(1.0, 10.0, 30.0, 100.0)),
    ),
    "SVDProjection": (
        SVDProjection(),
        varied(alpha_retain=(30.0, 100.0, 300.0, 1000.0), alpha_forget=(3.0, 10.0, 10.0, 30.0)),
    ),
    "FewSample": (
        FewSample(),
        varied(lr=(3e-3, 0.01, 0.01, 0.02), ascent=(1.0, 0.3, 3.0, 1.0)),
    ),
    "ClassVectors": (
        ClassVectors(),
        varied(origin=("others", "initialization", "pretrained", "pretrained"), scale=(None, None, 1.0, 3.0)),
    ),
    "ClassVectorsMapping": (
        ClassVectorsMapping(),
        varied(
            origin=("others", "pretrained", "pretrained", "others"),
            layers=(1, 2, 1, 1),
            locality=(1.0, 1.0, 10.0, 10.0),
        ),
    ),
    "PruneFirst(FineTune)": (PruneFirst(), varied(sparsity=(0.5, 0.9, 0.95, 0.8), inner=_PRUNED)),
}


def candidates(name: str, recipe: Recipe, tries: int, *, class_wise: bool) -> list[Method]:
    """At most `tries` of them, evenly from the default, which is the first, to the last."""
    default, changes = SEARCH[name]
    changes = [{}, *changes]
    chosen = np.linspace(0, len(changes) - 1, min(tries, len(changes))).astype(int)
    return [fitted(replace(default, **changes[i]), recipe, class_wise=class_wise) for i in chosen]


def fitted(method: Method, recipe: Recipe, *, class_wise: bool) -> Method:
    """Augmenting as the original was trained, and told that a whole class goes; a method inside it likewise."""
    common: dict[str, Any] = {"augment": recipe.augment, "class_wise": class_wise}
    changes = {field.name: common[field.name] for field in fields(method) if field.name in common}
    if isinstance(method, PruneFirst):
        changes["inner"] = fitted(method.inner, recipe, class_wise=class_wise)
    return replace(method, **changes)


@dataclass(frozen=True, eq=False)
class Run:
    """One request made to one original, and the model retrained without what was asked for."""

    yardstick: Yardstick
    label: int | None  # the class, or None for a random share
    seed: int
    forget: Rows
    retain: Rows
    original: TrainJob
    oracle: TrainJob


@dataclass(frozen=True)
class Metrics:
    """In percent."""

    ua: float
    ra: float
    ta: float
    mia: float
    acc_f: float  # accuracy on test examples of the forgotten class; NaN, and left out, where no class is

    def values(self) -> NDArray[np.float64]:
        """In the order of the columns."""
        return np.array([self.ua, self.ra, self.ta, self.mia])

    def gap(self, oracle: Metrics) -> float:
        """The mean of the four distances, in percentage points."""
        return float(np.abs(self.values() - oracle.values()).mean())


@dataclass(frozen=True)
class Found:
    """What one method did with one request; either metrics or the fault that says why there are none."""

    run: Run
    metrics: Metrics | None = None
    gap: float = np.inf
    fault: str = ""


class Yardstick:
    """The data in two test parts, the fleet, and what was measured."""

    def __init__(
        self, data: Dataset, recipe: Recipe, fleet_for: Callable[[Dataset, bool], Fleet], fraction: float
    ) -> None:
        self.data, self.recipe, self.fleet_for, self.fraction = data, recipe, fleet_for, fraction
        self.fleet = fleet_for(data, False)
        self.y = data.train.labels().numpy()
        self.test_y = data.test.labels().numpy()
        rows = np.arange(len(data.test))
        self.lent, self.test = rows[rows % 5 == 0], rows[rows % 5 != 0]  # what SCRUB+R sees is not measured on

    def forget(self, label: int | None, seed: int) -> Rows:
        """The examples of a class, or a random share drawn by the seed."""
        share = None if label is not None else self.fraction
        deletion = Deletion("benchmark", forget_class=label, forget_fraction=share, seed=seed)
        return deletion.rows(self.data.train.ids, self.y)

    def run(self, label: int | None, seed: int) -> Run:
        """The request for a class, or for a random share."""
        forget = self.forget(label, seed)
        everything = np.arange(len(self.y))
        retain = np.setdiff1d(everything, forget)
        original = TrainJob(f"original {seed}", self.recipe, seed, everything)
        what = "a random share" if label is None else f"class {label}"
        oracle = TrainJob(f"oracle {seed} without {what}", self.recipe, seed, retain)
        return Run(self, label, seed, forget, retain, original, oracle)

    def mislabeled(self, share: float, seed: int) -> Yardstick:
        """The same, where a share of what the seed draws to be forgotten is trained on under a random wrong label."""
        rng = np.random.default_rng(seed)
        forget, y = self.forget(None, seed), self.data.train.labels().clone()
        rows = torch.from_numpy(rng.choice(forget, round(share * len(forget)), replace=False))
        y[rows] = (
            y[rows] + torch.from_numpy(rng.integers(1, self.data.num_classes, len(rows)))
        ) % self.data.num_classes
        data = replace(self.data, train=replace(self.data.train, y=y))
        return Yardstick(data, self.recipe, self.fleet_for, self.fraction)

    @property
    def points(self) -> Points:
        """All of both sets."""
        return Points(np.arange(len(self.y)), np.arange(len(self.test_y)))

    def job(self, run: Run, method: Method) -> UnlearnJob:
        """The method, let loose on the original of the run."""
        return UnlearnJob(
            f"{method.name}, seed {run.seed}",
            self.recipe,
            run.seed,
            run.original,
            method,
            run.forget,
            run.retain,
            run.label,
            self.lent if Need.UNSEEN in method.needs else None,
        )

    def measure(self, wanted: Sequence[tuple[Run, Method | None]]) -> list[Found]:
        """Make and measure; None stands for the original itself."""
        models: list[ModelJob] = []
        for run, method in wanted:
            models += [run.oracle, run.original if method is None else self.job(run, method)]
        jobs = [ObserveJob(model.name, (model,), self.points, logits=True) for model in models]
        made = self.fleet.attempt(jobs)
        found = []
        oracles: dict[str, Metrics] = {}
        for i, (run, _) in enumerate(wanted):
            reference, own = made[2 * i], made[2 * i + 1]
            fault = reference.fault or own.fault
            if fault is not None:
                found.append(Found(run, fault=fault))
                continue
            if reference.key not in oracles:
                oracles[reference.key] = self._metrics(run, reference.key)
            metrics = self._metrics(run, own.key)
            found.append(Found(run, metrics, metrics.gap(oracles[reference.key])))
        return found

    def oracle(self, run: Run) -> Found:
        """The retrained model's own metrics."""
        (key,) = self.fleet.run([ObserveJob(run.oracle.name, (run.oracle,), self.points, logits=True)])
        return Found(run, self._metrics(run, key), 0.0)

    def _metrics(self, run: Run, key: str) -> Metrics:
        logits = np.asarray(self.fleet.store.map(key)["logits"][0, :, 0])
        y = np.concatenate([self.y, self.test_y])
        right = logits.argmax(1) == y
        confidence = 1 / (1 + np.exp(-margin(logits, y)))
        test = self.test if run.label is None else self.test[self.test_y[self.test] != run.label]
        test = test + len(self.y)
        ua, ra, ta = (100 * float(right[rows].mean()) for rows in (run.forget, run.retain, test))
        mia = efficacy(confidence[run.forget], confidence[run.retain], confidence[test], run.seed)
        class_test = self.test[self.test_y[self.test] == run.label] + len(self.y)
        acc_f = 100 * float(right[class_test].mean()) if len(class_test) else float("nan")
        return Metrics(100 - ua, ra, ta, mia, acc_f)


def efficacy(forget: NDArray[np.float64], retain: NDArray[np.float64], test: NDArray[np.float64], seed: int) -> float:
    """Share of the forget set called unseen, in percent, by an SVM told as many retain as test examples."""
    rng = np.random.default_rng(seed)
    count = min(len(retain), len(test), MOST)
    seen, unseen = (rng.choice(len(part), count, replace=False) for part in (retain, test))
    return 100 * mia_efficacy(forget, retain[seen], test[unseen])


def measured(wanted: Sequence[tuple[Run, Method | None]]) -> list[Found]:
    """Make and measure runs of several data sets."""
    found: dict[int, Found] = {}
    for yardstick in dict.fromkeys(run.yardstick for run, _ in wanted):
        places = [i for i, (run, _) in enumerate(wanted) if run.yardstick is yardstick]
        found |= zip(places, yardstick.measure([wanted[i] for i in places]), strict=True)
    return [found[i] for i in range(len(wanted))]


def tuned(runs: Sequence[Run], settings: Mapping[str, Sequence[Method]]) -> dict[str, Method]:
    """The candidate of each method with the smallest gap, averaged over the runs that are tuned on."""
    tries = [(name, method) for name, methods in settings.items() for method in methods]
    found = measured([(run, method) for _, method in tries for run in runs])
    best: dict[str, tuple[float, Method]] = {}
    for i, (name, method) in enumerate(tries):
        gap = float(np.mean([one.gap for one in found[i * len(runs) : (i + 1) * len(runs)]]))
        if name not in best or gap < best[name][0]:
            best[name] = (gap, method)
    return {name: method for name, (_, method) in best.items()}


def spread(found: Sequence[Found], what: Sequence[float]) -> str:
    """mean ± sd over seeds; over classes, each averaged over seeds, where there are several."""
    labels = sorted({one.run.label for one in found if one.run.label is not None})
    values = np.array(what, dtype=float)
    if len(labels) > 1:
        values = np.array([values[[one.run.label == label for one in found]].mean() for label in labels])
    deviation = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{values.mean():.1f}{deviation}"


def over_seeds(found: Sequence[Found]) -> str:
    """The deviation over seeds of the gap averaged over classes."""
    seeds = sorted({one.run.seed for one in found})
    means = [np.mean([one.gap for one in found if one.run.seed == seed]) for seed in seeds]
    return f"{np.std(means, ddof=1):.1f}" if len(means) > 1 else "–"


def gap(found: Sequence[Found]) -> float:
    """The mean gap; infinite where nothing came out."""
    return float(np.mean([one.gap for one in found if one.metrics is not None] or [np.inf]))


def priced(run: Run, methods: Mapping[str, Method], times: int) -> dict[str, float]:
    """Seconds that each method takes on one request: made anew one after the other, and the median of some rounds.

    What else the machine does meanwhile slows neighbors alike, so that ratios hold where seconds do not. No rounds: the
    seconds of the runs that were reported.
    """
    yardstick = run.yardstick
    jobs = {name: yardstick.job(run, method) for name, method in methods.items()}
    rounds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(max(1, times)):
        fleet = yardstick.fleet_for(yardstick.data, times > 0)
        for name, made in zip(jobs, fleet.attempt(list(jobs.values())), strict=True):
            if made.fault is None:
                rounds[name].append(fleet.store.record(made.key)["seconds"])
    return {name: float(np.median(found or [np.nan])) for name, found in rounds.items()}


def percent(part: float, whole: float) -> str:
    """A share, or nothing where there is none."""
    share = 100 * part / whole
    return "" if np.isnan(share) else f"{share:.0f} %" if share >= 1 else f"{share:.1f} %"


def line(
    name: str, found: Sequence[Found], searched: Sequence[int], price: Sequence[str] = ("", ""), saw: str = ""
) -> str:
    """A row of the table. searched: the classes that were tuned on."""
    good = [one for one in found if one.metrics is not None]
    class_wise = found[0].run.label is not None
    if not good:
        return f"| {name} | " + "| " * (len(COLUMNS) + 4 + 2 * class_wise) + f"| {saw} |"
    rows = np.array([one.metrics.values() for one in good if one.metrics is not None])
    cells = [spread(good, column.tolist()) for column in rows.T] + [spread(good, [one.gap for one in good])]
    if class_wise:
        cells.insert(len(COLUMNS), spread(good, [one.metrics.acc_f for one in good if one.metrics is not None]))
        fresh = [one for one in good if one.run.label not in searched]
        cells.append(f"{gap(fresh):.1f}" if fresh else "–")
    cells += [over_seeds(good), *price, saw]
    return f"| {' | '.join([name, *cells])} |"


def settings(method: Method, default: Method) -> str:
    """What differs from the defaults of the class."""
    changed = []
    for field in fields(method):
        value, usual = getattr(method, field.name), getattr(default, field.name)
        if value != usual:
            inner = isinstance(value, Method) and type(value) is type(usual)
            changed.append(f"{field.name} {f'({settings(value, usual)})' if inner else value}")
    return ", ".join(changed) or "defaults"


@dataclass(frozen=True)
class Request:
    """One table: what is asked for, of which data, and how the settings are found."""

    title: str
    at: Callable[[int], Yardstick]  # the data of a seed
    labels: Sequence[int | None]  # classes, or None for a random share
    searched: Sequence[int | None]  # of these, what settings are searched on; none: the defaults
    tries: int  # settings of a method, at most

    def runs(self, labels: Sequence[int | None], seeds: Sequence[int]) -> list[Run]:
        """Every label with every seed."""
        return [self.at(seed).run(label, seed) for label in labels for seed in seeds]


def table(request: Request, names: Sequence[str], seeds: int, times: int) -> str:
    """One request's part of the page."""
    class_wise = request.labels[0] is not None
    names = [name for name in names if class_wise or Need.CLASS_WISE not in SEARCH[name][0].needs]
    runs = request.runs(request.labels, range(TUNING_SEED + 1, TUNING_SEED + 1 + seeds))
    recipe = runs[0].original.recipe
    tries = {name: candidates(name, recipe, request.tries, class_wise=class_wise) for name in names}
    search = request.runs(request.searched, [TUNING_SEED])
    chosen = tuned(search, tries) if search else {name: methods[0] for name, methods in tries.items()}
    found = measured([(run, None) for run in runs] + [(run, chosen[name]) for name in names for run in runs])
    nothing = found[: len(runs)]
    parts = {name: found[(i + 1) * len(runs) : (i + 2) * len(runs)] for i, name in enumerate(names)}
    prices = priced(runs[0], chosen, times)
    epoch = prices.get("Retrain", float("nan")) / recipe.epochs
    searched = [label for label in request.searched if label is not None]
    over = "classes" if len(request.labels) > 1 else "seeds"
    columns = [
        *COLUMNS,
        *["ACC_f"] * class_wise,
        "gap",
        *["gap, other classes"] * class_wise,
        "gap: sd over seeds",
    ]
    columns += ["time / retraining", f"time / {PUBLISHED} epochs", "saw"]
    oracles = [run.yardstick.oracle(run) for run in runs]
    lines = [
        f"## {request.title}\n\n{len(runs)} runs; mean ± standard deviation over {over}.\n",
        f"| method | {' | '.join(columns)} |",
        "| --- " * (len(columns) + 1) + "|",
        line("(oracle)", oracles, searched),
        line("(original)", nothing, searched),
    ]
    order = sorted(names, key=lambda name: gap(parts[name]))
    for name in order:
        saw = " ".join(SAW[need] for need in chosen[name].needs.names())
        price = [percent(prices[name], whole) for whole in (epoch * recipe.epochs, epoch * PUBLISHED)]
        lines.append(line(name, parts[name], searched, price, saw))
    shares = {name: 100 * price / (epoch * PUBLISHED) for name, price in prices.items()}
    lines.append("\n" + remarks(order, parts, gap(nothing), shares))
    for name in order:
        faults = [one.fault for one in parts[name] if one.fault]
        if faults:
            lines.append(f"\n{name}: {len(faults)} of {len(runs)} runs failed and are left out: {faults[0]}.")
    if search:
        where = f"classes {searched}" if len(searched) > 1 else f"class {searched[0]}" if searched else "the request"
        budget = sum(map(len, tries.values())) * len(search)
        lines.append(f"\nSearched on {where} of seed {TUNING_SEED}, {budget} runs in all:\n")
        lines.append("| method | tried | chosen |\n| --- | --- | --- |")
        lines += [f"| {name} | {len(tries[name])} | {settings(chosen[name], type(chosen[name])())} |" for name in names]
    return "\n".join(lines) + "\n"


def remarks(order: Sequence[str], parts: dict[str, list[Found]], nothing: float, shares: dict[str, float]) -> str:
    """What the table shows of distance and price, in words."""
    own = [name for name in order if name != "Retrain"]
    chance = gap(parts["Retrain"]) if "Retrain" in parts else 0.0
    far = [f"{name} ({gap(parts[name]):.1f})" for name in own if gap(parts[name]) > nothing / 2]
    if nothing < 2 * chance:
        words = f"Doing nothing ({nothing:.1f}) is about as near as a second retraining ({chance:.1f}): no order here."
    else:
        words = "Whatever the search tried, not nearer to retraining than half of doing nothing "
        words += f"({nothing:.1f}): {', '.join(far) or 'none'}."
    if np.isnan([shares[name] for name in own]).all():  # without Retrain in the table there is nothing to compare with
        return words
    dear = [f"{name} ({shares[name]:.0f} %)" for name in own if shares[name] > CHEAP]
    return f"{words} Dearer than {CHEAP} % of {PUBLISHED} epochs: {', '.join(dear) or 'none'}."


def default_settings(name: str) -> Method:
    """What the method's file says, but for the variants of a method that the name stands for."""
    default, own = SEARCH[name][0], type(SEARCH[name][0])()
    variants = ("rewind", "repair_epochs", "label_free")
    return replace(own, **{field: value for field, value in default.params.items() if field in variants})


def clocked(yardstick: Yardstick, run: Run, original: nn.Module, method: Method, device: str) -> float:
    """Seconds of one unlearning: the processor's own, which other programs do not enter; on a GPU those that pass."""
    job, recipe = yardstick.job(run, method), run.original.recipe
    train, test = yardstick.data.train, yardstick.data.test
    splits = split(train, test, run.forget, forget_class=run.label)
    unseen = None if job.unseen is None else test.take(job.unseen)
    before = initial(recipe, train, seed=run.seed).to(device)
    start = time.process_time()
    result = unlearn(original, splits, method, seed=run.seed, recipe=recipe, unseen=unseen, pretrained=before)
    return result.seconds if device.startswith("cuda") else time.process_time() - start


def for_classes(name: str) -> bool:
    """Made for whole classes, whether or not it is allowed for any request."""
    return Need.CLASS_WISE in SEARCH[name][0].needs or name in ("DELETE", "BoundaryShrink", "BoundaryExpand")


def costs(yardstick: Yardstick, names: Sequence[str], device: str) -> str:
    """Every method at its default settings, on one original, as a share of a retraining of the published length."""
    n, seed = len(yardstick.y), TUNING_SEED
    share, label = yardstick.run(None, seed), yardstick.run(0, seed)
    short = replace(share, original=replace(share.original, recipe=replace(yardstick.recipe, epochs=RETRAINED)))
    original = fit(yardstick.recipe, yardstick.data.train, seed=seed, device=device).to(device)
    epochs: list[float] = []  # seconds of one, before, between and after the methods
    seconds: dict[str, float] = {}
    for i, name in enumerate([*(name for name in names if name != "Retrain"), None]):
        if i % 9 == 0 or name is None:
            epochs.append(clocked(yardstick, short, original, Retrain(), device) / RETRAINED)
        if name is not None:
            class_wise = for_classes(name)
            method = fitted(in_proportion(default_settings(name), n), yardstick.recipe, class_wise=class_wise)
            seconds[name] = clocked(yardstick, label if class_wise else share, original, method, device)
            print(f"{name}: {seconds[name]:.1f} s", file=sys.stderr, flush=True)
    epoch = float(np.median(epochs))
    whole = PUBLISHED * epoch
    lines = [
        "## What a method costs\n",
        f"Default settings, one run each. {len(epochs)} retrainings of {RETRAINED} epochs, before, between and after "
        f"the methods, took {min(epochs):.2f} to {max(epochs):.2f} s an epoch; {PUBLISHED} epochs would take "
        f"{whole:,.0f} s. {'Seconds pass' if device.startswith('cuda') else 'Processor time'}; on a shared machine the "
        "shares are rough.",
        *[f"What a method draws however many examples there are was cut to {n:,} / {CIFAR:,} of it."] * (n < CIFAR),
        "",
        f"| method | forgets | seconds | epochs of retraining | share of {PUBLISHED} epochs |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        what = "a class" if for_classes(name) else f"{100 * yardstick.fraction:g} %"
        cells = [name, what, f"{seconds[name]:.1f}", f"{seconds[name] / epoch:.1f}", percent(seconds[name], whole)]
        lines.append(f"| {' | '.join(cells)} |")
    dear = [f"{name} ({percent(took, whole)})" for name, took in seconds.items() if took > CHEAP / 100 * whole]
    lines.append(f"\nDearer than {CHEAP} % of {PUBLISHED} epochs: {', '.join(dear) or 'none'}.")
    return "\n".join(lines) + "\n"


def in_proportion(method: Method, n: int) -> Method:
    """The method on n examples as it would be on CIFAR-10: what it draws of them is the same share of them."""
    counts = ("samples", "examples", "probes", "images", "others", "references", "kept", "forget_images")
    counts += ("retain_images",)
    drawn = {name: method.params[name] for name in counts if method.params.get(name) is not None}
    return replace(method, **{name: max(1, round(count * min(1, n / CIFAR))) for name, count in drawn.items()})


def told(progress: Progress) -> None:
    """Progress on one line of the terminal."""
    end = "\n" if progress.done == progress.total else "\r"
    print(f"{progress.done} of {progress.total} jobs, {progress.failed} failed", end=end, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune, freeze, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--architecture", default="small-cnn")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--augment", default="none")
    parser.add_argument("--fraction", type=float, default=0.1, help="random share; 0 leaves such requests out")
    parser.add_argument("--mislabeled", type=float, default=0.3, help="canaries in a random share; 0: no such request")
    parser.add_argument("--classes", default="all", help="all, none, or numbers: 0,3")
    parser.add_argument("--tune-on", type=int, default=2, help="how many of the classes, counted from the first")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--times", type=int, default=3, help="rounds in which run times are taken; 0: as they were")
    parser.add_argument("--methods", default="", help=f"some of: {'; '.join(SEARCH)}; separated by semicolons")
    parser.add_argument("--tries", type=int, default=9, help="settings of a method that are searched, at most")
    parser.add_argument("--untuned", action="store_true", help="report the defaults")
    parser.add_argument("--cost", action="store_true", help="only take run times, of the default settings")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--store", default=".unlearnkit/benchmark-methods", help="what is finished is kept here")
    parser.add_argument("--note", default="", help="a sentence for the top of the page")
    parser.add_argument("--out", type=Path, default=None, help="write the page here too")
    options = parser.parse_args(arguments)
    if {type(method) for method, _ in SEARCH.values()} != set(METHODS.values()):
        raise SystemExit("SEARCH must name every method in METHODS")
    names = options.methods.split(";") if options.methods else list(SEARCH)
    if not set(names) <= set(SEARCH):
        raise SystemExit(f"--methods: unknown {sorted(set(names) - set(SEARCH))}; there are {'; '.join(SEARCH)}")
    try:
        data = load(options.data)
        recipe = Recipe(
            Architecture(options.architecture, data.num_classes, data.shape),
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            augment=options.augment,
        )
        store = Store(options.store)

        def fleet_for(data: Dataset, clocked: bool) -> Fleet:
            sets, processes = Sets(data.train, data.test), 1 if clocked else options.processes
            return Fleet(sets, store, device=options.device, processes=processes, fresh=clocked, watch=told)

        natural = Yardstick(data, recipe, fleet_for, options.fraction)
        searched = 0 if options.untuned else options.tune_on
        requests = []
        if options.classes != "none":
            every = np.unique(natural.y).tolist()
            labels = every if options.classes == "all" else [int(part) for part in options.classes.split(",")]
            requests.append(Request("Whole classes", lambda seed: natural, labels, labels[:searched], options.tries))
        if options.fraction:
            share: list[int | None] = [None]
            tuned_on = [] if options.untuned else share
            title = f"A random {100 * options.fraction:g} %"
            requests.append(Request(title, lambda seed: natural, share, tuned_on, options.tries))
            if options.mislabeled:
                canaries = functools.cache(lambda seed: natural.mislabeled(options.mislabeled, seed))
                title += f", {100 * options.mislabeled:g} % of them under a random wrong label"
                requests.append(Request(title, canaries, share, tuned_on, options.tries))
        if options.cost:
            tables = [costs(natural, names, options.device)]
        else:
            tables = [table(request, names, options.seeds, options.times) for request in requests]
    except UsageError as error:
        raise SystemExit(str(error)) from error
    device = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "CPU"
    command = shlex.join(["python", "benchmarks/methods.py", *(sys.argv[1:] if arguments is None else arguments)])
    page = f"""# The methods

Recorded by `{command}` on {os.cpu_count()} CPU cores ({platform.machine()}, Python {platform.python_version()}, torch \
{torch.__version__}, {device}). {options.architecture}, {len(data.train):,} training and {len(data.test):,} test \
examples, {options.epochs} epochs. `python benchmarks/methods.py --help` and its first lines say what is measured.

F, R: inputs of the forget set and of the retain set; y: their labels; unseen: held-out examples, which no method is \
measured on; start: the weights before training; class: works for whole classes only.
{f"{chr(10)}{options.note}{chr(10)}" if options.note else ""}
{chr(10).join(tables)}"""
    print(page)
    if options.out is not None:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
