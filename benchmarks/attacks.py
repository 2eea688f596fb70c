"""What the attacks cost and what they find; written to benchmarks/attacks.md, a section for each thing measured.

    python benchmarks/attacks.py --speed                     # the fast paths against naive twins and plain formulas
    python benchmarks/attacks.py --data digits               # what every attack finds: members, canaries, the forgotten
    python benchmarks/attacks.py --data npz:PATH             # the same on your images (members only), --epochs, --seeds

A minute or two each on digits; images take as long as 20 trainings. --store DIR keeps the models for another run.

Speed: one thread. Every figure is the best of several repeats; on a shared machine the ratios of one run say more than
the seconds. The naive twin works point by point (or model by model); the plain formulas are what one would write in
numpy without a thought for memory. Where these take long they are timed on a part and scaled up, as the table says.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

import unlearnkit as uk
from unlearnkit.attacks import (
    ATTACKS,
    IAM,
    LABEL_ONLY,
    RULI,
    AttackR,
    LiRA,
    RMIAOffline,
    Threshold,
    TwoModel,
    ULiRA,
    leave_one_out,
)
from unlearnkit.attacks.label_only import labels_of
from unlearnkit.audits.statistics.roc import auc, tpr_at_fpr
from unlearnkit.fleet import Fleet, Observations
from unlearnkit.jobs import ObserveJob, Points, Sets, TrainJob, UnlearnJob
from unlearnkit.masks import Stage, State, random_halves, tri_state
from unlearnkit.methods import METHODS
from unlearnkit.types import Attack, Known, Observation, References, Scores

RESULTS = Path(__file__).parent / "attacks.md"
COUNTS = (1, 4, 16)  # reference models
MODELS = max(COUNTS)
FPR = 0.01
# Attacks on unlearned models have a table of their own.
AFTERWARDS = (ULiRA, RULI, TwoModel)
ASKED: list[Attack] = [
    *(attack() for attack in ATTACKS.values() if attack not in AFTERWARDS),
    Threshold("entropy"),
    Threshold("modified-entropy"),
    LiRA("example"),
    LiRA("fixed"),
    LiRA("legacy"),
]


@dataclass
class Row:
    """One line of the table of speed."""

    work: str
    seconds: float
    megabytes: float
    naive: float  # seconds, scaled up
    naive_part: str
    plain: float
    plain_part: str
    target: str

    def __str__(self) -> str:
        return (
            f"| {self.work} | {self.target} | {self.seconds:.3f} s | {self.megabytes:.0f} MB | "
            f"{self.naive:.3g} s ({self.naive_part}) | {self.naive / self.seconds:.0f}× | "
            f"{self.plain:.3g} s ({self.plain_part}) | {self.plain / self.seconds:.1f}× |"
        )


def best(work: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the fastest of several runs."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def peak(work: Callable[[], object]) -> float:
    """Megabytes held at most beyond what was held before."""
    tracemalloc.start()
    work()
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return megabytes


def observation(margins: NDArray[np.floating], name: str = "point") -> Observation:
    """Margins [point, view] with ids."""
    ids = np.array([f"{name}/{i}" for i in range(len(margins))])
    return Observation(ids, np.zeros(len(margins), dtype=np.int64), margins)


def pool(models: int, points: int, states: tuple[int, ...], seed: int = 0) -> References:
    """float32 margins of one view; every point is in each of the states in an equal share of the models."""
    rng = np.random.default_rng(seed)
    state = np.array(states, dtype=np.uint8)[
        rng.permuted(np.arange(models * points).reshape(points, models), axis=1).T % len(states)
    ]
    margins = rng.normal(0, 2, points) + state + rng.normal(0, 1, (models, points))
    return References(margins[..., None].astype(np.float32), state)


def lira(points: int = 50_000, models: int = 64, part: int = 500) -> list[Row]:
    """Online LiRA with shrunk variances, and as published."""
    references = pool(models, points, (0, 1))
    target = observation(np.random.default_rng(1).normal(0, 2, (points, 1)))
    known = Known(references)

    def twin() -> None:
        x, inside = references.margins[:, :part, 0].astype(np.float64), references.state[:, :part] == 1
        for i in range(part):
            one, other = x[inside[:, i], i], x[~inside[:, i], i]
            phi = target.margins[i, 0]
            stats.norm.logpdf(phi, one.mean(), one.std()) - stats.norm.logpdf(phi, other.mean(), other.std())

    def plain() -> None:
        x, inside = references.margins[..., 0].astype(np.float64), references.state == 1
        scores = np.zeros(points)
        for sign, mask in ((1, inside), (-1, ~inside)):
            side = np.where(mask, x, np.nan)
            law = stats.norm.logpdf(target.margins[:, 0], np.nanmean(side, axis=0), np.nanstd(side, axis=0))
            scores += sign * law

    naive, formulas = best(twin, 3) * points / part, best(plain, 3)

    def row(attack: Attack) -> Row:
        work = f"{attack.name}, {points:,} points × {models} models"
        run = lambda: attack.score(target, known)  # noqa: E731
        return Row(work, best(run), peak(run), naive, f"from {part} points", formulas, "whole", "≤ 0.3 s")

    return [row(LiRA()), row(LiRA("example"))]


def rmia(points: int = 50_000, others: int = 10_000, models: int = 4, part: int = 1_000) -> list[Row]:
    """Offline RMIA; the pairwise count is what costs."""
    rng = np.random.default_rng(2)
    references, beside = pool(models, points, (0,)), pool(models, others, (0,), seed=3)
    target = observation(rng.normal(0, 2, (points, 1)))
    population = observation(rng.normal(0, 2, (others, 1)), "population")
    known = Known(references, population=population, population_references=beside)

    def ratios(seen: Observation, among: References) -> NDArray[np.float64]:
        mean = expit(among.margins[..., 0].astype(np.float64)).mean(axis=0)
        return np.asarray(expit(seen.margins[:, 0]) / ((1.3 * mean + 0.7) / 2))

    def twin() -> None:
        x, z = ratios(target, references)[: part // 5], ratios(population, beside)
        for one in x:
            np.mean(one / z >= 2.0)

    def plain() -> None:  # the whole matrix would hold 4 GB
        x, z = ratios(target, references)[:part], ratios(population, beside)
        np.mean(x[:, None] / z >= 2.0, axis=1)

    run = lambda: RMIAOffline().score(target, known)  # noqa: E731
    work = f"RMIAOffline, {points:,} points, {others:,} population points, {models} references"
    return [
        Row(
            work,
            best(run),
            peak(run),
            best(twin, 3) * points / (part // 5),
            f"from {part // 5} points",
            best(plain, 3) * points / part,
            f"from {part} points",
            "≤ 0.05 s, < 100 MB",
        )
    ]


def u_lira(models: int = 256, points: int = 5_000, part: int = 8) -> list[Row]:
    """U-LiRA, every model as the target once."""
    references = pool(models, points, (0, 1, 2))
    run = lambda: leave_one_out(ULiRA(), references)  # noqa: E731

    def twin() -> None:
        for model in range(part):
            ULiRA().score(observation(references.margins[model]), Known(references.without(model)))

    def plain() -> None:
        for model in range(part):
            rest = np.arange(models) != model
            x, state = references.margins[rest, :, 0].astype(np.float64), references.state[rest]
            scores = np.zeros(points)
            for sign, one in ((1, 2), (-1, 0)):
                side = np.where(state == one, x, np.nan)
                center, spread = np.nanmean(side, axis=0), np.nanstd(side, axis=0)
                scores += sign * stats.norm.logpdf(references.margins[model, :, 0], center, spread)

    work = f"ULiRA, leave one out, {models} models × {points:,} points"
    scale = models / part
    return [
        Row(
            work,
            best(run, 3),
            peak(run),
            best(twin, 2) * scale,
            f"refit, from {part} models",
            best(plain, 2) * scale,
            f"from {part} models",
            "≤ 5 s",
        )
    ]


def speed() -> str:
    """The section on speed."""
    rows = [*lira(), *rmia(), *u_lira()]
    head = (
        "| work | to reach | ours | memory | naive twin | ratio | plain formulas | ratio |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    where = (
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    )
    return (
        f"Recorded by `OMP_NUM_THREADS=1 python benchmarks/attacks.py --speed` ({where}), one thread, best of several "
        "repeats. The machine was shared: read the ratios. The time is that of `score`, checks and flags included; "
        "memory is what it takes beyond its input.\n\n" + head + "\n".join(map(str, rows))
    )


@dataclass(frozen=True, eq=False)
class Setup:
    """Candidates, half of which the original is trained on; all others of the training set are kept by every model.

    So members and held-out candidates are exchangeable, and a model retrained without them (the oracle) cannot tell
    them apart. 16 references are trained on random halves of the candidates, in pairs of complements.
    """

    title: str
    recipe: uk.Recipe
    sets: Sets
    candidates: NDArray[np.int64]  # rows of the training set
    member: NDArray[np.bool_]  # [candidate]
    kept: NDArray[np.int64]
    known: NDArray[np.int64]  # of the kept: those whose state the attacker knows
    seeds: int

    def targets(self) -> list[TrainJob]:
        """Originals, then oracles."""
        forgotten = self.candidates[self.member]
        rows = {"original": np.sort(np.concatenate([self.kept, forgotten])), "oracle": self.kept}
        return [
            TrainJob(f"{name} {seed}", self.recipe, 1000 * place + seed, rows[name])
            for place, name in enumerate(rows)
            for seed in range(self.seeds)
        ]

    def references(self) -> tuple[list[ObserveJob], NDArray[np.uint8]]:
        """Jobs, and who was trained on which candidate."""
        mask = random_halves(self.candidates.size, MODELS, seed=1)
        points = Points(train=self.candidates, test=np.arange(len(self.sets.test)))
        jobs = []
        for number, row in enumerate(mask):
            rows = np.sort(np.concatenate([self.kept, self.candidates[row]]))
            trained = TrainJob(f"reference {number}", self.recipe, 2000 + number, rows)
            jobs.append(ObserveJob(f"look {number}", (trained,), points, flips=True, keep_weights=False))
        return jobs, mask.astype(np.uint8)


def setup(title: str, data: uk.Dataset, recipe: uk.Recipe, *, candidates: int, wrong: bool, seeds: int) -> Setup:
    """Deals the training set. wrong: candidates, known members and population carry a label drawn among the others."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data.train))
    chosen, kept = order[:candidates], np.sort(order[candidates:])
    known = rng.permutation(kept)[:200]
    train, test = data.train, data.test
    if wrong:
        planted = np.concatenate([chosen, known])
        train, test = _mislabeled(train, planted, rng), _mislabeled(test, np.arange(len(test)), rng)
    member = rng.permutation(candidates) < candidates // 2
    return Setup(title, recipe, Sets(train, test), chosen, member, kept, known, seeds)


def _mislabeled(examples: uk.Examples, rows: NDArray[np.int64], rng: np.random.Generator) -> uk.Examples:
    y = examples.labels().numpy().copy()
    y[rows] = (y[rows] + rng.integers(1, 10, rows.size)) % 10
    return uk.Examples(examples.x, torch.from_numpy(y), examples.ids)


class Evidence:
    """What an attacker of each target may hold, with one view or with the flipped image as a second one."""

    def __init__(self, asked: Setup, store: uk.Store) -> None:
        self.asked = asked
        self.fleet = Fleet(asked.sets, store)
        jobs, mask = asked.references()
        targets = asked.targets()
        keys = self.fleet.run([*targets, *jobs])[len(targets) :]
        margins = Observations(self.fleet.store, keys).margins()[:, 0]
        inside = asked.candidates.size
        self.references = References(margins[:, :inside], mask)
        beside = margins[:, inside:]
        self.beside = References(beside, np.zeros(beside.shape[:2], dtype=np.uint8))
        self.models = [self.fleet.read(job) for job in targets]
        self.seen = [self._look(model) for model in self.models]

    def _look(self, model: uk.Classifier) -> tuple[Observation, Observation, Observation]:
        train = self.asked.sets.train
        parts = (train.take(self.asked.candidates), self.asked.sets.test, train.take(self.asked.known))
        points, population, members = (uk.observe(model, part, flips=True, features=True) for part in parts)
        return points, population, members

    def of(self, target: int, count: int, views: int) -> tuple[Observation, Known]:
        """A target's answers, and all that may be held beside them with so many references and views."""

        def cut(one: Observation) -> Observation:
            return Observation(one.ids, one.y, one.margins[:, :views], one.outputs()[:, :views], one.features)

        points, population, members = map(cut, self.seen[target])
        return points, Known(
            References(self.references.margins[:count, :, :views], self.references.state[:count]),
            population,
            References(self.beside.margins[:count, :, :views], self.beside.state[:count]),
            members,
            cut(self.seen[target % self.asked.seeds][0]),
        )


def found(all_scores: list[Scores], member: NDArray[np.bool_], *, tpr: bool = True) -> str:
    """AUC over seeds with half its range, and the first seed's TPR with its exact limits."""
    sides = []
    for scores in all_scores:
        inside = member if scores.rows is None else member[scores.rows]
        sides.append((scores.values[inside], scores.values[~inside]))
    areas = [auc(*one) for one in sides]
    text = f"{np.mean(areas):.3f}" + (f" ± {np.ptp(areas) / 2:.3f}" if len(areas) > 1 else "")
    if not tpr:
        return text
    rate = tpr_at_fpr(*sides[0], fpr=FPR).tpr
    return f"{text}; {100 * rate.value:.1f} ({100 * (rate.low or 0):.1f}–{100 * (rate.high or 0):.1f})"


def members_found(held: Evidence) -> str:
    """The table of every attack on originals, with few and many references, and on oracles."""
    seeds = held.asked.seeds
    head = ["attack", *(f"{count} reference{'s' * (count > 1)}" for count in COUNTS), "16, flips too", "oracle, 16"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]

    def cell(attack: Attack, count: int, views: int, *, oracle: bool = False) -> str:
        targets = range(seeds, 2 * seeds) if oracle else range(seeds)
        try:
            scores = [attack.score(*held.of(target, count, views)) for target in targets]
        except uk.UsageError as error:
            if "no point has" not in str(error):
                raise
            return "–"  # one model is no reference of both states to any point
        return found(scores, held.asked.member, tpr=not oracle)

    for attack in ASKED:
        name = attack.name if attack.weight else f"{attack.name} (comparison only)"
        alone = not attack.states()
        few = ["", "", cell(attack, MODELS, 1)] if alone else [cell(attack, count, 1) for count in COUNTS]
        row = [name, *few, cell(attack, MODELS, 2), cell(attack, MODELS, 1, oracle=True)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def labels_only(held: Evidence, count: int) -> str:
    """The table of label-only attacks on so many members and held-out candidates of the first original and oracle."""
    asked = held.asked
    rows = np.concatenate([np.flatnonzero(asked.member)[:count], np.flatnonzero(~asked.member)[:count]])
    examples = asked.sets.train.take(asked.candidates[rows])
    lines = ["| attack | queries per example, at most | original | oracle |", "| --- | --- | --- | --- |"]
    for attack in LABEL_ONLY.values():
        model, oracle = (
            [attack().score(labels_of(held.models[target]), examples, seed=0)] for target in (0, asked.seeds)
        )
        member = asked.member[rows]
        told = f"{found(model, member)} | {found(oracle, member, tpr=False)}"
        lines.append(f"| {attack.__name__} | {attack().queries} | {told} |")
    return "\n".join(lines)


def section(asked: Setup, store: uk.Store, command: str, about: str, *, ask: int) -> None:
    """Record what attacks find with and without references, and by labels alone."""
    held = Evidence(asked, store)
    train, test = asked.sets.train, asked.sets.test
    right = [float(seen[0].right()[asked.member].mean()) for seen in held.seen]
    fresh = [float(seen[0].right()[~asked.member].mean()) for seen in held.seen]
    first, oracle = 0, asked.seeds
    members = int(asked.member.sum())
    text = (
        f"Recorded by `{command}`. {about} {len(train):,} training examples; {members} members and "
        f"{asked.member.size - members} held-out candidates, dealt at random; {asked.kept.size} examples kept by "
        f"every model, {asked.known.size} of them known to the attacker; {len(test)} test examples as population. "
        f"{asked.recipe.architecture.name}, {asked.recipe.epochs} epochs. The original is right on "
        f"{right[first]:.1%} of its members and {fresh[first]:.1%} of held-out candidates, the oracle (trained on "
        f"what is kept) on {right[oracle]:.1%} and {fresh[oracle]:.1%}.\n\n"
        f"AUC, mean of {asked.seeds} seeds ± half their range; TPR in % at the largest FPR not above 1 %, of the first "
        "seed, with exact 95 % limits given the held-out examples. References are trained on random halves of the "
        "candidates: of 16 models 8 know a point and 8 do not; with one, the points it knows are left out. Attacks "
        "without references stand in the last of the three columns. Models are not trained on mirrored images, so that "
        "a second view adds little here. IAM compares with the original and so reads an oracle below 0.5: its members "
        "moved furthest.\n\n"
    )
    text += (
        members_found(held) + f"\n\nBy labels alone, {ask} + {ask} candidates, one seed:\n\n" + labels_only(held, ask)
    )
    record(asked.title, text)


def images(source: str, store: uk.Store, *, epochs: int, seeds: int, note: str) -> None:
    """The section on a file of images. note: what the file holds."""
    data = uk.load(source)
    recipe = uk.Recipe(uk.Architecture("small-cnn", len(data.classes), tuple(data.train.x.shape[1:])), epochs=epochs)
    name = Path(source.partition(":")[2]).name
    asked = setup(f"Images: {name}", data, recipe, candidates=800, wrong=False, seeds=seeds)
    section(
        asked, store, f"python benchmarks/attacks.py --data npz:{name}", f"{note} No augmentation.".lstrip(), ask=100
    )


def digits(store: uk.Store) -> None:
    """The sections on digits: members, canaries, and what is left after unlearning."""
    data = uk.load("digits")
    recipe = uk.Recipe(uk.Architecture("mlp", 10, (1, 8, 8)), epochs=60, weight_decay=0.0)
    command = "python benchmarks/attacks.py --data digits"
    for title, wrong, about in (
        ("Digits: natural examples", False, "Digits as they are, which hardly need to be learned by heart."),
        ("Digits: mislabeled canaries", True, "Candidates, known members and population carry a wrong label each."),
    ):
        asked = setup(title, data, recipe, candidates=480 if wrong else 800, wrong=wrong, seeds=5)
        section(asked, store, command, about, ask=200)
    record("Digits: after unlearning", afterwards(data, recipe, store, command))


def afterwards(data: uk.Dataset, recipe: uk.Recipe, store: uk.Store, command: str) -> str:
    """Attacks on a tri-state pool: what is left of forgotten canaries, by method."""
    models = 48
    rng = np.random.default_rng(0)
    targets = np.sort(rng.permutation(len(data.train))[:300])
    train = _mislabeled(data.train, targets, rng)
    sets = Sets(train, _mislabeled(data.test, np.arange(len(data.test)), rng))
    mask = tri_state(len(train), targets, models, seed=0)
    state = mask[:, targets]
    points = Points(train=targets, test=np.arange(len(data.test)))
    fleet = Fleet(sets, store)
    columns = {}
    for name in ("FineTune", "NegGradPlus", "Retrain"):
        jobs = []
        for seed, row in enumerate(mask):
            trained = TrainJob(f"train {seed}", recipe, 3000 + seed, np.flatnonzero(row != State.OUT))
            forget, retain = np.flatnonzero(row == State.FORGOTTEN), np.flatnonzero(row == State.IN)
            unlearned = UnlearnJob(f"{name} {seed}", recipe, 4000 + seed, trained, METHODS[name](), forget, retain)
            jobs.append(ObserveJob(f"look {seed}", (trained, unlearned), points))
        margins = Observations(store, fleet.run(jobs)).margins()
        columns[name] = _left_behind(margins[:, :, : targets.size], margins[:, :, targets.size :], state)
    lines = ["| attack | " + " | ".join([*list(columns)[:-1], "Retrain (oracle)"]) + " |", "| --- " * 4 + "|"]
    lines += [f"| {row} | " + " | ".join(one[row] for one in columns.values()) + " |" for row in columns["Retrain"]]
    return (
        f"Recorded by `{command}`. {targets.size} mislabeled canaries in a tri-state pool of {models} mlp: to each "
        "model a third of them is unseen, a third trained on, and a third trained on and then forgotten by the method "
        "with its default settings. Every model is the target once, with those of other triples as references; "
        "forgotten is told from unseen. AUC, and TPR in % at FPR 1 %, means over targets ± one standard deviation "
        'between them. "Retrained without": the unseen are read off the models before unlearning, so that any change '
        "which unlearning makes counts (also that retraining learns fewer canaries than the models before it did). "
        "TwoModel sees that something was deleted, even by retraining: only the distance to the oracle's column means "
        "anything, as for IAM.\n\n" + "\n".join(lines)
    )


def _left_behind(pool: NDArray[np.float32], beside: NDArray[np.float32], state: NDArray[np.uint8]) -> dict[str, str]:
    """One column: what each attack finds on [model, stage, point, view]."""
    unlearned, retrained = (References.from_pool(pool, state, out_stage=stage) for stage in reversed(Stage))
    after = beside[:, Stage.UNLEARNED]
    population = References(after, np.zeros(after.shape[:2], dtype=np.uint8))
    originals = np.ascontiguousarray(pool[:, Stage.TRAINED])
    triple = np.arange(len(pool)) // 3  # alone, a target would leave its own state with a reference less
    rows: list[tuple[str, tuple[Scores, ...]]] = []
    for attack in (ULiRA(), RULI()):
        rows.append((f"{attack.name}, unlearned without", leave_one_out(attack, unlearned, together=triple)))
        rows.append((f"{attack.name}, retrained without", leave_one_out(attack, retrained, together=triple)))
    rows += [
        (other.name, leave_one_out(other, unlearned, population=population, originals=originals, together=triple))
        for other in (Threshold(), AttackR(), RMIAOffline(), IAM(), TwoModel("margin"))
    ]
    column = {}
    for name, scores in rows:
        sides = [
            (one.values[own == State.FORGOTTEN], one.values[own == State.OUT])
            for one, own in zip(scores, state, strict=True)
        ]
        areas = [auc(*one) for one in sides]
        rates = [100 * tpr_at_fpr(*one, fpr=FPR).tpr.value for one in sides]
        column[name] = f"{np.mean(areas):.3f} ± {np.std(areas):.3f}; {np.mean(rates):.1f} ± {np.std(rates):.1f}"
    return column


def record(title: str, text: str) -> None:
    """Puts a section into the file of results in the place of the one with its title; the others stay."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# The attacks\n"
    head, *sections = old.split("\n## ")
    kept = {section.partition("\n")[0]: section.partition("\n")[2].strip() for section in sections}
    kept[title] = text
    body = "".join(f"\n## {name}\n\n{content}\n" for name, content in kept.items())
    RESULTS.write_text(head.rstrip() + "\n" + body, encoding="utf-8")


def main() -> None:
    """Measures what the switches ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="time the fast paths")
    parser.add_argument("--data", help="digits or npz:PATH: what every attack finds there")
    parser.add_argument("--epochs", type=int, default=20, help="of images; digits have their own")
    parser.add_argument("--seeds", type=int, default=2, help="originals and oracles of images; digits: 5")
    parser.add_argument("--note", default="", help="a sentence on what the file of images holds")
    parser.add_argument("--store", help="a folder that keeps the models")
    asked = parser.parse_args()
    if not asked.speed and asked.data is None:
        parser.error("name what to measure: --speed, --data digits or --data npz:PATH")
    if asked.speed:
        record("Speed", speed())
    with contextlib.ExitStack() as stack:
        folder = asked.store or stack.enter_context(tempfile.TemporaryDirectory())
        if asked.data == "digits":
            digits(uk.Store(folder))
        elif asked.data is not None:
            images(asked.data, uk.Store(folder), epochs=asked.epochs, seeds=asked.seeds, note=asked.note)


if __name__ == "__main__":
    main()
