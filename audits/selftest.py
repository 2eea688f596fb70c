"""The auditor's known-answer checks: sixteen audits whose right answer is known beforehand (audits.md 13).

Some need real models: small networks on the embedded digits, trained in seconds. The others are about statistics and
use simulated evidence. Everything is seeded; each check can fail, and the tests make it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

from unlearnkit.audits.audit import fleet_for, plan_of
from unlearnkit.audits.battery import ATTACKS, Judgement, judge
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.compressed import compressed
from unlearnkit.audits.designs import Plan, Tolerances, coin_design, rank_tests
from unlearnkit.audits.evidence import Evidence, FloatArray, Group
from unlearnkit.audits.findings import comparisons, other_classes, single_examples
from unlearnkit.audits.gathering import gather, looks
from unlearnkit.audits.simulate import simulate, standard_plan, with_audited
from unlearnkit.audits.spec import AuditSpec, parse_spec
from unlearnkit.audits.statistics.anchor import (
    GaussianMechanism,
    Mechanism,
    RandomizedResponse,
    alive,
    one_run_bounds,
    two_world_bounds,
    violations,
)
from unlearnkit.audits.statistics.coin import CoinResult, coin_test
from unlearnkit.audits.statistics.epsilon import Split, choose_rule, one_run_epsilon, one_run_guesses, rule_epsilon
from unlearnkit.audits.statistics.rank import RankResult, oracle_rank, power_at
from unlearnkit.audits.subjects import models_of
from unlearnkit.compress import quantized
from unlearnkit.data import load
from unlearnkit.fleet import Fleet, Watch
from unlearnkit.jobs import ObserveJob, Points, Sets, TrainJob
from unlearnkit.models import Architecture, Classifier
from unlearnkit.observing import observe
from unlearnkit.result import Outcome, UsageError
from unlearnkit.store import Store
from unlearnkit.train import Recipe, fit
from unlearnkit.types import Deletion, Examples, join

RUNS, LONG = 200, 1000  # simulated audits per check
SLACK = 0.001  # a check may fail by chance once in a thousand seeds
_FEW = Tolerances(auc=0.2)  # what the points of a small audit can decide
_STRICT = Tolerances(auc=0.001, margin=0.001, worst=0.001)  # next to nothing is tolerated: a FAIL comes easily


@dataclass(frozen=True)
class Known:
    """One check: what was measured, and what it had to be."""

    number: int
    name: str
    measured: str
    limit: str
    passed: bool


def selftest(*, runs: int = RUNS, seed: int = 0, watch: Watch | None = None) -> Iterator[Known]:
    """All sixteen checks, as they are done. runs: simulated audits in each check that counts them."""
    with tempfile.TemporaryDirectory() as folder:
        lab = build_lab(Path(folder), seed=seed, watch=watch)
        twice = duplicates(Path(folder), seed=seed, watch=watch)
    steps: tuple[Callable[[], Known], ...] = (
        partial(oracle_passes, runs=runs, seed=seed),
        partial(untouched_original_fails, lab, runs=runs, seed=seed),
        partial(shuffled_coins, lab, runs=runs, seed=seed),
        partial(random_scores, runs=runs, seed=seed),
        partial(private_anchors, runs=runs, seed=seed),
        partial(planted_duplicates, twice),
        partial(leak_of_known_size, lab, runs=runs, seed=seed),
        partial(over_forgetting, runs=runs, seed=seed),
        partial(global_artifact, runs=runs, seed=seed),
        partial(sparse_leak, runs=runs, seed=seed),
        partial(lowered_confidence, lab),
        lambda: quantization(lab, hidden_in_rounding(lab, bits=4, seed=seed)),
        partial(half_the_battery, runs=runs, seed=seed),
        partial(threshold_selection, runs=runs, seed=seed),
        partial(same_arrays, lab, seed=seed),
        units,
    )
    for step in steps:
        yield step()


# -- models with a known past --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lab:
    """Small networks on digits: an original with mislabeled canaries, retrained ones, and what they answer.

    The audited model of `evidence` is a further retrained one. points: of the evidence, in its order.
    """

    evidence: Evidence
    plan: Plan
    points: Examples
    retain: Examples
    test: Examples
    original: Classifier
    held_out: Classifier

    def audited(self, model: nn.Module) -> Evidence:
        """The evidence of an audit of this model."""
        seen = observe(model, self.points)
        return dataclasses.replace(
            self.evidence,
            margins={**self.evidence.margins, "audited": seen.margins[:, 0]},
            scores={**self.evidence.scores, **{f"{a.name}/audited": a.score(seen).values for a in ATTACKS}},
        )


# Half of the digits, so that training is quick and canaries are learned by heart.
_SPEC: dict[str, Any] = {
    "data": {"source": "digits", "test_fraction": 0.6},
    "model": {"architecture": "mlp"},
    "recipe": {"epochs": 40, "batch_size": 32, "lr": 0.1, "weight_decay": 0.0},
    "canaries": {"count": 120, "seed": 0},
    "deletion": {"id": "SELFTEST", "forget_fraction": 0.15},
    "method": {"name": "Retrain"},
    # 60 + 60 canaries resolve an AUC of 0.65
    "audit": {"oracles": 19, "tolerances": {"auc": 0.2}},
}


def build_lab(folder: Path, *, seed: int, watch: Watch | None = None) -> Lab:
    """Train an original, 19 references, a held-out one, and one more by unlearning with Retrain."""
    spec = parse_spec({**_SPEC, "audit": {**_SPEC["audit"], "seed": seed}}, folder=folder)
    case = prepare(spec)
    wanted = demand(case)
    store = Store(folder / "lab")
    models = models_of(case, wanted, store)
    looked = looks(case, wanted, models)
    fleet = fleet_for(case, store, watch=watch)
    fleet.run([job for group in looked.jobs.values() for job in group])
    keys = {name: [fleet.key(job) for job in group] for name, group in looked.jobs.items()}
    return Lab(
        evidence=gather(looked, wanted.notes, store, keys),
        plan=plan_of(case, wanted),
        points=join(
            case.train.take(np.concatenate([wanted.requested, wanted.heads])),
            case.dataset.test.take(wanted.twins),
            case.train.take(wanted.tails),
        ),
        retain=case.train.take(wanted.retain),
        test=case.dataset.test.take(wanted.held_out),
        original=fleet.read(models.original),
        held_out=fleet.read(models.oracles[-1]),
    )


def duplicates(folder: Path, *, seed: int, watch: Watch | None = None, copies: int = 10) -> dict[str, Evidence]:
    """Evidence about an original that forgot nothing, in two worlds: all mislabeled examples that it was asked to
    forget lie in the retained data as well ("copied"), or they do not ("alone"). References know the retained data."""
    data, own = load("digits", test_fraction=0.6, seed=seed), 20
    base = data.train.take(np.arange(400))
    labels = base.labels().clone()
    labels[:own] = (labels[:own] + 1) % 10
    again = [
        Examples(base.x[:own], labels[:own], np.array([f"copy {i} of {name}" for name in base.ids[:own]]))
        for i in range(copies)
    ]
    train = join(Examples(base.x, labels, base.ids), *again)
    recipe = Recipe(Architecture("mlp", 10, data.shape), **_SPEC["recipe"])
    points = Points(np.arange(own), np.arange(200))
    worlds = {"copied": np.arange(len(train)), "alone": np.arange(len(base))}
    first, count = 1_000 * (seed + 1), 21
    jobs = []
    for name, rows in worlds.items():
        models = [TrainJob(f"original, {name}", recipe, first, rows)]
        models += [TrainJob(f"oracle {i}, {name}", recipe, first + i, rows[own:]) for i in range(1, count)]
        jobs += [ObserveJob(f"look at {model.name}", (model,), points) for model in models]
    fleet = Fleet(Sets(train, data.test), Store(folder / "twice"), watch=watch)
    margins = np.stack([fleet.store.map(key)["margins"][0, :, 0].astype(np.float64) for key in fleet.run(jobs)])
    group = np.repeat(np.array([Group.REQUESTED, Group.TWINS], dtype=np.uint8), [own, 200])

    def of(seen: FloatArray) -> Evidence:
        parts = {"original": seen[0], "audited": seen[0], "held_out": seen[1], "oracles": seen[2:]}
        scores = {f"{ATTACKS[0].name}/{name}": values for name, values in parts.items()}
        return Evidence(group, np.zeros(group.size, dtype=np.int64), parts, scores, {}, {}, {})

    return {"copied": of(margins[:count]), "alone": of(margins[count:])}


def wide(classes: int) -> nn.Module:
    """So many weights that small updates of all of them can hide what the network knows."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, classes))


def _levels(bits: int) -> int:
    """On each side of zero."""
    return int(2 ** (bits - 1) - 1)


def _matrices(model: nn.Module) -> list[torch.Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.Linear)]


# -- what the tests of the battery say -----------------------------------------------------------------------------


def p_values(evidence: Evidence, plan: Plan, *, permutations: int = 999) -> dict[str, float]:
    """Every raw p-value that the battery and its findings give of the audited model, by name.

    The family of rank tests has one too: its smallest adjusted one.
    """
    found: dict[str, float] = {}
    ranks = rank_results(evidence, plan)
    found |= {name: rank.p for name, rank in ranks.items()}
    if ranks:
        found["Oracle rank, all tests at once"] = min(rank.p_adjusted for rank in ranks.values())
    if coin_design(evidence) is not None:
        coin = coin_result(evidence, plan, permutations=permutations)
        found |= {"Coin test": coin.p, "Coin test, right guesses": coin.p_guesses}
    copies = compressed(evidence, plan, ATTACKS[0], permutations=permutations)
    found |= {f"Coin test, {copy.told}": copy.coin.p for copy in copies}
    if copies:
        found["Coin test, all compressed copies (Holm)"] = min(copy.p_adjusted for copy in copies)
    found |= {row.name: row.p for row in comparisons(evidence, plan) if row.p is not None}
    singles, classes = single_examples(evidence, plan), other_classes(evidence, plan)
    if singles is not None:
        found["Share of examples far out"] = singles.p
    if classes is not None:
        found["Worst class"] = classes.p
    return found


def rank_results(evidence: Evidence, plan: Plan) -> dict[str, RankResult]:
    """The oracle rank tests of the audited model, by name."""
    tests = rank_tests(evidence, plan)
    if not tests:
        return {}
    values = np.stack([test.values(test.read(evidence, "audited"), evidence) for test in tests], axis=1)
    tolerances = np.array([test.tolerance for test in tests])
    ranks = oracle_rank(values, tolerances=tolerances, confidence=plan.confidence, power=plan.power)
    return {test.name: rank for test, rank in zip(tests, ranks, strict=True)}


def coin_result(evidence: Evidence, plan: Plan, *, permutations: int = 999) -> CoinResult:
    """The canary coin test of the audited model; the evidence must hold canaries enough."""
    design = coin_design(evidence)
    assert design is not None
    return design.test(design.scores(evidence, "audited", plan), evidence, plan, permutations=permutations)


def most(runs: int, share: float, *, checks: int = 1) -> int:
    """The most of `runs` that chance brings about at `share`, 99.9 % of times for all checks together."""
    return int(stats.binom.isf(SLACK / checks, runs, share))


def least(runs: int, share: float, *, checks: int = 1) -> int:
    """The least."""
    return int(stats.binom.ppf(SLACK / checks, runs, share))


def _named(judged: Judgement, name: str) -> Outcome:
    return next(test for test in judged.tests if test.name == name)


def small(seed: int, **changes: Any) -> Evidence:
    """Simulated evidence of few points."""
    return simulate(seed, **{"requested": 60, "twins": 60, "canaries": 60, **changes})


# -- the checks ----------------------------------------------------------------------------------------------------


def oracle_passes(*, runs: int, seed: int) -> Known:
    """1. A retrained model is rejected as often as stated, and never called a FAIL more often than that."""
    plan = standard_plan(tolerances=_STRICT, classes=tuple("0123456789"))
    counts: dict[str, int] = {}
    for i in range(runs):
        for name, p in p_values(small(seed * runs + i, outputs=True), plan, permutations=199).items():
            counts[name] = counts.get(name, 0) + (p <= plan.significance)
    top = most(runs, plan.significance, checks=len(counts))
    bottom = least(runs, plan.significance, checks=len(counts))
    worst = max(counts, key=lambda name: counts[name])
    # Statistics without ties reject at 5 % and no less: a test that never does is dead.
    smooth = [name for name in counts if name.startswith("Oracle rank, ") or name == "Coin test"]
    quietest = min(smooth, key=lambda name: counts[name])
    rejudged = [judge(small(seed + i), standard_plan(tolerances=_FEW)) for i in range(max(2, runs // 100))]
    failed = sum(judged.verdict.word in ("FAIL", "INVALID") for judged in rejudged)
    return Known(
        1,
        "a retrained model passes",
        f"{runs} audits: {worst!r} rejects {counts[worst]}, {quietest!r} {counts[quietest]}; "
        f"{failed} of {len(rejudged)} whole audits fail",
        f"{bottom} to {top} of {runs} rejected at p ≤ {plan.significance:g}; no audit fails",
        counts[worst] <= top and counts[quietest] >= bottom and not failed,
    )


def untouched_original_fails(lab: Lab, *, runs: int, seed: int) -> Known:
    """2. The untouched original fails every test that claims the power to see it; canaries above AUC 0.9."""
    area = coin_result(lab.audited(lab.original), lab.plan).auc.value
    word = judge(lab.audited(lab.original), lab.plan).verdict.word
    claimed = failed = 0
    for i in range(max(2, runs // 100)):
        made = small(seed + i)
        judged = judge(with_audited(made, made.margins["original"]), standard_plan(tolerances=_FEW))
        able = [test for test in judged.tests if test.mde is not None and test.mde <= test.tolerance]
        claimed += len(able)
        failed += sum(test.state == "FAIL" for test in able)
    return Known(
        2,
        "the untouched original fails",
        f"real canaries: AUC {area:.3f}, verdict {word}; simulated: {failed} of {claimed} able tests FAIL",
        "AUC > 0.9, FAIL; all of them",
        area > 0.9 and word == "FAIL" and failed == claimed > 0,
    )


def shuffled_coins(lab: Lab, *, runs: int, seed: int) -> Known:
    """3. With shuffled coins nothing is left of the plainest trace: intervals hold 0.5, p-values are uniform."""
    evidence = lab.audited(lab.original)
    canaries = np.flatnonzero(np.isin(evidence.group, (Group.HEADS, Group.TAILS)))
    rng = np.random.default_rng([seed, 3])
    p, held = np.empty(runs), 0
    for i in range(runs):
        group = evidence.group.copy()
        group[canaries] = rng.permutation(group[canaries])
        plan = dataclasses.replace(lab.plan, seed=seed + i)
        coin = coin_result(dataclasses.replace(evidence, group=group), plan, permutations=199)
        p[i] = coin.p
        held += coin.auc.low is not None and coin.auc.high is not None and coin.auc.low <= 0.5 <= coin.auc.high
    uniform = float(stats.kstest(p, "uniform").pvalue)
    needed = least(runs, lab.plan.confidence)
    return Known(
        3,
        "shuffled coins say nothing",
        f"{held} of {runs} intervals hold 0.5; p uniform: KS p = {uniform:.2g}",
        f"at least {needed}; KS p > {SLACK:g}",
        held >= needed and uniform > SLACK,
    )


def random_scores(*, runs: int, seed: int) -> Known:
    """4. Random scores against random coins: AUC 0.5, and no epsilon in 95 % of audits."""
    rng = np.random.default_rng([seed, 4])
    areas, zero = np.empty(runs), 0
    for i in range(runs):
        scores, heads = rng.standard_normal(100), rng.permutation(100) < 50
        coin = coin_test(scores, heads, tolerance=0.05, permutations=1, seed=seed)
        guessed = one_run_guesses(scores, heads, positive=50, negative=50)
        record = one_run_epsilon(guessed.correct, guessed.guesses, canaries=100, split=Split(50, 50))
        areas[i] = coin.auc.value
        zero += coin.epsilon_set == 0.0 and record == 0.0
    error = math.sqrt(101 / (12 * 50 * 50) / runs)
    off, needed = abs(float(areas.mean()) - 0.5), least(runs, 0.95)
    return Known(
        4,
        "random scores show no epsilon",
        f"mean AUC {areas.mean():.3f}; ε = 0 in {zero} of {runs}",
        f"0.5 ± {4 * error:.3f}; at least {needed}",
        off <= 4 * error and zero >= needed,
    )


def private_anchors(*, runs: int, seed: int) -> Known:
    """5. Where epsilon is known no more limits exceed it than their confidence says, and large ones are seen."""
    delta = 1e-5
    anchors: tuple[Mechanism, ...] = (
        RandomizedResponse(0.0),
        RandomizedResponse(1.0),
        RandomizedResponse(2.0),
        GaussianMechanism(1.0),
        GaussianMechanism(2.0),
    )
    worst, limit, dead = 0, 0, 1.0
    sound = True
    for mechanism in anchors:
        truth = mechanism.epsilon(delta=delta)
        tails = (
            one_run_bounds(mechanism, repetitions=runs, positive=40, negative=40, delta=delta, seed=seed),
            two_world_bounds(mechanism, repetitions=runs, runs=1000, delta=delta, seed=seed),
        )
        for bounds in tails:
            counted = violations(bounds, truth)
            sound &= counted.sound
            worst, limit = max(worst, counted.count), counted.limit
            if truth >= 2.0:
                dead = min(dead, alive(bounds))
    return Known(
        5,
        "known epsilons are not exceeded",
        f"at most {worst} of {runs} limits above the truth; of ε ≥ 2 at least {dead:.0%} is seen",
        f"at most {limit}; at least 90 %",
        sound and dead >= 0.9,
    )


def planted_duplicates(evidence: dict[str, Evidence]) -> Known:
    """6. An example whose copies were never asked for is no leak, for retraining knows it too; left alone it is one."""
    ranks = {name: rank_results(made, standard_plan())["Oracle rank, mean margin"] for name, made in evidence.items()}
    copied, alone = ranks["copied"], ranks["alone"]
    return Known(
        6,
        "duplicates in the retained data",
        f"with copies {copied.shift.value:.2f} σ (p = {copied.p_tolerance:.2g}), "
        f"without {alone.shift.value:.2f} σ (p = {alone.p_tolerance:.2g})",
        "within 1 σ; beyond at p ≤ 0.05",
        copied.p_tolerance > 0.05 >= alone.p_tolerance and alone.shift.value > 0,
    )


def leak_of_known_size(lab: Lab, *, runs: int, seed: int) -> Known:
    """7. Logits mixed from retrained to original: the leak grows with the share; power is what the formula says."""
    target, start = (_logits(model, lab.points) for model in (lab.held_out, lab.original))
    values = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        mixed = _Answers(target + share * (start - target))
        values.append(rank_results(lab.audited(mixed), lab.plan)["Oracle rank, canary gap"].shift.value)
    rises = all(a < b for a, b in itertools.pairwise(values))
    off, tried = 0.0, []
    oracles = 39
    for sizes in (1.5, 2.5, 3.5):
        found = 0
        for i in range(runs):
            made = small(seed * runs + i, oracles=oracles, requested=30, twins=20, canaries=0, common=1.0)
            test = rank_tests(made, standard_plan())[0]
            # The mean of 30 margins between models: noise of the model, and a thirtieth of that of the points.
            shift = sizes * math.sqrt(1.0 + 1 / 30)
            leaked = made.margins["audited"] + shift * (made.group == Group.REQUESTED)
            values_of = test.values(test.read(with_audited(made, leaked), "audited"), made)
            found += oracle_rank(values_of[:, None], tolerances=np.array([1.0]))[0].p <= 0.05
        expected = power_at(sizes, oracles=oracles)
        error = math.sqrt(expected * (1 - expected) / runs)
        off = max(off, abs(found / runs - expected) / error)
        tried.append(f"{found / runs:.0%} for {expected:.0%}")
    allowed = float(stats.norm.isf(SLACK / 2 / 3))
    return Known(
        7,
        "a leak of known size",
        f"leak {', '.join(f'{v:.1f}' for v in values)} σ; power {', '.join(tried)}",
        f"rising; within {allowed:.1f} standard errors",
        rises and off <= allowed,
    )


def over_forgetting(*, runs: int, seed: int) -> Known:
    """8. Margins pushed far down: two-sided tests fire, what looks for memory only stays silent."""
    tries = max(4, runs // 20)
    rank = coins = guesses = 0
    for i in range(tries):
        made = small(seed + i, leak=-3.0, leak_canaries=-3.0)
        plan = standard_plan(tolerances=_FEW)
        found, coin = rank_results(made, plan)["Oracle rank, mean margin"], coin_result(made, plan)
        rank += found.p_tolerance <= 0.05 and found.shift.value < 0
        coins += coin.p_tolerance <= 0.05 and coin.auc.value < 0.5
        guesses += coin.p_guesses <= 0.05
    return Known(
        8,
        "over-forgetting is found",
        f"of {tries}: oracle rank {rank}, coin test {coins}, one-sided guesses {guesses}",
        f"{tries}, {tries}, 0",
        rank == coins == tries and guesses == 0,
    )


def global_artifact(*, runs: int, seed: int) -> Known:
    """9. All logits doubled: forgotten and never-used examples look alike, but the model does not look retrained."""
    plan = standard_plan(tolerances=_FEW)
    silent = fired = 0
    for i in range(runs):
        made = small(seed * runs + i)
        doubled = with_audited(made, 2.0 * made.margins["audited"])
        silent += coin_result(doubled, plan, permutations=199).p <= 0.05
        fired += rank_results(doubled, plan)["Oracle rank, mean margin"].p_tolerance <= 0.05
    top, needed = most(runs, 0.05), least(runs, 0.99)
    return Known(
        9,
        "doubled logits",
        f"of {runs}: coin test {silent}, oracle rank {fired}",
        f"at most {top}; at least {needed}",
        silent <= top and fired >= needed,
    )


def sparse_leak(*, runs: int, seed: int) -> Known:
    """10. Five in a hundred examples are still known: their mean may hide it, the worst examples do not."""
    plan = standard_plan(tolerances=_FEW)
    tries = max(20, runs // 5)
    mean = worst = named = 0
    for i in range(tries):
        made = small(seed + i, requested=100, twins=60, canaries=0, outputs=True)
        margins = made.margins["audited"].copy()
        margins[made.rows(Group.REQUESTED)[:5]] += 6.0
        leaked = with_audited(made, margins)
        ranks, singles = rank_results(leaked, plan), single_examples(leaked, plan)
        mean += ranks["Oracle rank, mean margin"].p_tolerance <= 0.05
        worst += ranks["Oracle rank, worst examples"].p <= 0.05
        named += singles is not None and singles.flagged > 0
    needed = least(tries, 0.95)
    return Known(
        10,
        "a leak on 5 % of the examples",
        f"of {tries}: worst examples {worst}, single examples named {named}, mean margin beyond tolerance {mean}",
        f"at least {needed}; at least {needed}; any number",
        min(worst, named) >= needed,
    )


def lowered_confidence(lab: Lab) -> Known:
    """11. Confidence cut on the forgotten examples only: an SVC calls them unseen, the coin test calls them deleted."""
    forgotten = np.isin(lab.evidence.group, (Group.REQUESTED, Group.HEADS))
    untouched = lab.audited(lab.original)
    margins = untouched.margins["audited"]
    cut = margins - np.median(margins[forgotten]) * forgotten
    before, after = (_svc_efficacy(lab, values[forgotten]) for values in (margins, cut))
    coin = coin_result(with_audited(untouched, cut), lab.plan)
    return Known(
        11,
        "lowered confidence",
        f"SVC efficacy {before:.2f} to {after:.2f}; coin test p = {coin.p:.2g}",
        "rises by 0.2; p ≤ 0.05",
        after >= before + 0.2 and coin.p <= 0.05,
    )


def quantization(lab: Lab, hidden: Classifier) -> Known:
    """12. Weights moved by less than half a 4-bit step: forgotten in float, and back once they are rounded."""
    plain, rounded = (coin_result(lab.audited(model), lab.plan) for model in (hidden, quantized(hidden, bits=4)))
    return Known(
        12,
        "forgotten until quantized",
        f"coin test: p = {plain.p:.2g} in float; AUC {rounded.auc.value:.2f} in 4 bits "
        f"(p beyond tolerance {rounded.p_tolerance:.2g})",
        "p > 0.05 in float; p ≤ 0.05 in 4 bits",
        plain.p > 0.05 >= rounded.p_tolerance,
    )


def half_the_battery(*, runs: int, seed: int) -> Known:
    """13. With half the models or half the points an audit says less, and never turns a FAIL into a PASS."""
    plan = standard_plan(tolerances=_FEW)
    tries = max(1, runs // 50)
    turned = risen = unable = clean = 0
    ratios: list[float] = []
    for i in range(tries):
        for leak in (0.0, 3.0):
            made = small(seed + i, leak=leak, leak_canaries=leak)
            points = np.arange(made.group.size)
            parts = (made, made.part(points[::2]), made.part(points, np.arange(made.oracles // 2)))
            whole, *halves = (judge(part, plan) for part in parts)
            word, words = whole.verdict.word, [half.verdict.word for half in halves]
            turned += word == "FAIL" and "PASS" in words
            risen += word not in ("FAIL", "PASS") and "PASS" in words
            clean += word == "PASS" and not leak
            for test in itertools.chain(whole.tests, *(half.tests for half in halves)):
                unable += test.state == "PASS" and (test.mde is None or test.mde > test.tolerance)
            full, less = (_named(judged, "Canary coin test").mde for judged in (whole, halves[0]))
            ratios.append((less or math.inf) / (full or math.inf))
    return Known(
        13,
        "half the battery",
        f"{turned} FAIL to PASS, {risen} other to PASS, {unable} PASS without power; {clean} of {tries} clean audits "
        f"PASS; coin MDE × {np.mean(ratios):.2f}",
        "0; 0; 0; all; √2 ± 0.05",
        turned == risen == unable == 0 and clean == tries and all(abs(r - math.sqrt(2)) <= 0.05 for r in ratios),
    )


def threshold_selection(*, runs: int, seed: int) -> Known:
    """14. A rule chosen on the scores it is counted on is refused, whole or in part and in any order."""
    rng = np.random.default_rng([seed, 14])
    refused = tries = lucky = 0
    rules = max(10, runs // 10)
    for _ in range(rules):
        members, others = rng.standard_normal(100), rng.standard_normal(100)
        rule = choose_rule(members, others)
        for again in ((members, others), (members[::-1], others), (members[:50], rng.standard_normal(50))):
            tries += 1
            refused += _refuses(partial(rule_epsilon, rule, *again))
        bound = rule_epsilon(rule, rng.standard_normal(100), rng.standard_normal(100))
        lucky += bound.epsilon > 0.0
    top = most(rules, 0.05)
    return Known(
        14,
        "no threshold chosen on its own scores",
        f"{refused} of {tries} refused; on fresh noise {lucky} of {rules} limits above 0",
        f"all; at most {top}",
        refused == tries and lucky <= top,
    )


def same_arrays(lab: Lab, *, seed: int) -> Known:
    """15. The same arrays give the same judgement bit for bit; the order of models and of points changes nothing."""
    rng = np.random.default_rng([seed, 15])
    made, plan = lab.evidence, lab.plan
    first = judge(made, plan)
    same = judge(Evidence.from_bytes(made.to_bytes()), plan) == first
    turned = judge(made.part(rng.permutation(made.group.size), rng.permutation(made.oracles)), plan)
    farthest = 0.0
    states = turned.verdict.word == first.verdict.word
    for one, two in zip(first.tests, turned.tests, strict=True):
        states &= (one.name, one.state) == (two.name, two.state)
        farthest = max(farthest, abs(one.leak.value - two.leak.value))
        # p of the coin test is drawn over the points in their order: equal within four errors of 9,999 draws
        error = 4 * math.sqrt(one.p * (1 - one.p) / 9999) + 2e-4 if one.kind == "coin" else 1e-12
        states &= abs(one.p - two.p) <= error
    return Known(
        15,
        "same arrays, same verdict",
        f"{'same' if same else 'OTHER'} bits; in another order {'same' if states else 'OTHER'} states, "
        f"leaks {farthest:.0e} apart",
        "same; same; at most 1e-09",
        same and states and farthest <= 1e-9,
    )


def units() -> Known:
    """16. A percentage where a share is meant is refused with a sentence, and shares in results lie within 0 and 1."""
    mistaken: tuple[Callable[[], object], ...] = (
        lambda: Tolerances(auc=5.0),
        lambda: Tolerances(recognition=5.0),
        lambda: AuditSpec(significance=5.0),
        lambda: AuditSpec(power=80.0),
        lambda: Deletion("x", forget_fraction=10.0),
        lambda: load("digits", test_fraction=20.0),
        lambda: one_run_epsilon(60, 100, canaries=100, confidence=95.0),
        lambda: coin_test(np.arange(4.0), np.arange(4) < 2, tolerance=5.0, seed=0),
    )
    refused = sum(_refuses(attempt) for attempt in mistaken)
    plan = standard_plan(classes=tuple("0123456789"))
    judged = judge(small(0, oracles=19, outputs=True), plan)
    shares = [rate for row in judged.accuracy for rate in (row.rate.low, row.rate.value, row.rate.high)]
    shares += [group.audited for group in judged.collateral.groups] if judged.collateral is not None else []
    shares += [p for test in judged.tests for p in (test.p, test.p_adjusted, test.p_tolerance)]
    outside = sum(share is None or not 0.0 <= share <= 1.0 for share in shares)
    return Known(
        16,
        "percent is not a share",
        f"{refused} of {len(mistaken)} refused; {outside} of {len(shares)} shares outside 0 to 1",
        "all; 0",
        refused == len(mistaken) and outside == 0,
    )


# -- what the checks are made of -----------------------------------------------------------------------------------


def _refuses(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except UsageError:
        return True
    return False


def _logits(model: nn.Module, points: Examples) -> torch.Tensor:
    return torch.from_numpy(observe(model, points).outputs()[:, 0])


class _Answers(nn.Module):
    """Answers the points of a lab, asked in their order, with given logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.asked = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start, self.asked = self.asked, (self.asked + len(x)) % len(self.logits)
        return self.logits[start : start + len(x)]


def _svc_efficacy(lab: Lab, margins: FloatArray) -> float:
    """MIA efficacy: share of forgotten examples that an SVC on confidence, taught on retained and test examples of the
    original, calls unseen (Jia 2023)."""
    from sklearn.svm import SVC  # costs a second

    known, unseen = (observe(lab.original, part).margins[:, :1] for part in (lab.retain, lab.test))
    size = min(len(known), len(unseen))
    taught = np.concatenate([known[:size], unseen[:size]])
    machine = SVC(C=3, gamma="auto").fit(1 / (1 + np.exp(-taught)), np.repeat([1, 0], size))
    return float(np.mean(machine.predict(1 / (1 + np.exp(-margins[:, None]))) == 0))


def hidden_in_rounding(lab: Lab, *, bits: int, seed: int, steps: int = 80) -> Classifier:
    """A wide original, taught to answer like a retrained model by updates that rounding to `bits` undoes entirely.

    Whoever plants this knows the coins: he has the margins of all canaries agree with those of the retrained model.
    """
    recipe = Recipe(
        Architecture(f"{__name__}:wide", 10, (1, 8, 8)), epochs=30, batch_size=32, lr=0.03, weight_decay=0.0
    )
    requested, heads, tails = (
        lab.points.take(lab.evidence.rows(group)) for group in (Group.REQUESTED, Group.HEADS, Group.TAILS)
    )
    model = fit(recipe, join(lab.retain, requested, heads), seed=seed)
    assert isinstance(model, Classifier)  # the built-in loop makes no other
    teacher = fit(recipe, lab.retain, seed=seed + 1)
    canaries, others = join(heads, tails), join(lab.retain, requested)
    y = canaries.labels()[:, None]

    def margins(net: nn.Module) -> torch.Tensor:
        logits = net(canaries.x)
        rest = logits.scatter(1, y, -math.inf).logsumexp(dim=1)
        margin: torch.Tensor = logits.gather(1, y)[:, 0] - rest
        return margin

    with torch.no_grad():
        wanted, usual = margins(teacher), teacher(others.x)
    weights = _matrices(model)
    cells = [_cell(weight.detach(), bits=bits) for weight in weights]
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.mse_loss(margins(model), wanted) + 0.1 * functional.mse_loss(model(others.x), usual)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for weight, (low, high) in zip(weights, cells, strict=True):
                weight.clamp_(low, high)
    return model


def _cell(weight: torch.Tensor, *, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Between what limits weights may move so that `quantized` gives the same; the largest sets the step and stays."""
    largest = weight.abs().amax(dim=1, keepdim=True)
    step = largest / _levels(bits)
    middle = (weight / step).round() * step
    fixed = weight.abs() == largest
    low, high = (middle - 0.49 * step).clamp(min=-largest), (middle + 0.49 * step).clamp(max=largest)
    return torch.where(fixed, weight, low), torch.where(fixed, weight, high)


__all__ = ["Known", "Lab", "selftest"]
