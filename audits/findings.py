"""What stands beside the verdict: distances from the oracles, single examples, other classes, groups, and epsilon.

Pure functions of the evidence and the plan, so that `unlearnkit verify` computes them again. None of them makes a
FAIL; a row that is far out is there to be read, and single examples that stand out withhold a PASS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from unlearnkit.audits.designs import Plan, against_oracles, coin_design
from unlearnkit.audits.evidence import PROBED_MODELS, UNTRAINED, Evidence, FloatArray, Group
from unlearnkit.audits.statistics import distances
from unlearnkit.audits.statistics.coin import CoinResult
from unlearnkit.audits.statistics.collateral import collateral
from unlearnkit.audits.statistics.ensembles import examples_apart, single_epsilons
from unlearnkit.audits.statistics.epsilon import Split, one_run_epsilon
from unlearnkit.audits.statistics.individuals import individuals
from unlearnkit.audits.statistics.kernel import kernel_rank, kernel_two_sample
from unlearnkit.audits.statistics.rank import margin_z, oracle_rank
from unlearnkit.audits.statistics.resurrection import resurrection
from unlearnkit.audits.statistics.roc import auc
from unlearnkit.audits.statistics.sampling import evenly
from unlearnkit.audits.statistics.swap import swap_test
from unlearnkit.audits.words import number
from unlearnkit.result import Collateral, Comparison, GroupGap, Individual, Individuals, Interval

LIMIT = 3.0  # standard deviations between oracles beyond which an example is counted
NAMED = 10  # worst-off examples that are named
SPLITS = 10  # of the oracles, for the floors of ensemble scores
MOST_BOUNDED = 200  # examples whose own ε is bounded
AT_CEILING = 0.99  # share of the largest possible value from which a model is said to stand at it
LEAST_MODELS = 6  # of a kind, for scores of many models: a half of them must still show a spread


def comparisons(evidence: Evidence, plan: Plan) -> tuple[Comparison, ...]:
    """Distances of the audited model from the oracles, each beside the oracles' distances from one another."""
    if evidence.oracles < 2:
        return ()
    rows = evidence.rows(Group.REQUESTED)
    found: list[Comparison] = []
    if evidence.logits:
        outputs = {target: _probabilities(evidence, target) for target in ("audited", "original")}
        about = f"on {len(evidence.logit_points):,} requested examples"
        for name, measure in (
            ("Jensen-Shannon divergence of the outputs", distances.js_divergence),
            ("Activation distance", distances.activation_distance),
        ):
            audited, original = (measure(outputs[target]) for target in ("audited", "original"))
            found.append(_row(name, audited, original, about))
    margins = {t: kernel_rank(margin_z(evidence.stack(evidence.margins, t)[:, rows])) for t in ("audited", "original")}
    kernel = margins["audited"]
    found.append(
        Comparison(
            name="Kernel distance (MMD) of the margins",
            unit="standard deviations of relabelings",
            value=kernel.statistic,
            oracles=spread(kernel.floor),
            p=kernel.p,
            original=margins["original"].statistic,
            sentence=f"The pattern of all {rows.size:,} margins at once, each model in turn called the audited one. "
            + _ceiling({t: found.statistic for t, found in margins.items()}, evidence.oracles),
        )
    )
    shares = {target: _accuracies(evidence, target) for target in ("audited", "original")}
    about = f"over accuracy on {', '.join(shares['audited'])}"
    for name, gap in (("Tug of war (ToW)", distances.tow), ("Average gap", distances.average_gap)):
        found.append(_row(name, gap(shares["audited"]), gap(shares["original"]), about))
    found += [*_retained(evidence, plan), *_published(evidence, plan), *_probed(evidence, plan), *_swap(evidence, plan)]
    return tuple(rounded(row) for row in (*found, *_ensemble(evidence, plan)))


def _ceiling(statistics: Mapping[str, float], oracles: int) -> str:
    """The largest value that one model among `oracles` + 1 can have, and which models stand there.

    The largest of n + 1 numbers lies at most sqrt(n) of their standard deviations above their mean, which it does where
    all others are equal (Samuelson 1968).
    """
    largest = math.sqrt(oracles)
    names = {"audited": "the unlearned model", "original": "the original"}
    there = [names[target] for target, value in statistics.items() if value >= AT_CEILING * largest]
    said = f"With {oracles} oracles no value can exceed {number(largest)}"
    if there:
        verb = "stand" if len(there) > 1 else "stands"
        said += f"; {' and '.join(there)} {verb} there, and may be farther out than the number tells"
    return f"{said}."


def _ranked(name: str, unit: str, values: FloatArray, original: float, sentence: str, plan: Plan) -> Comparison:
    """A number of the audited model, first of `values`, ranked two-sided among the oracles'."""
    [rank] = oracle_rank(values[:, None], tolerances=np.ones(1), confidence=plan.confidence)
    return Comparison(name, unit, float(values[0]), spread(values[1:]), rank.p, original, sentence)


def _retained(evidence: Evidence, plan: Plan) -> tuple[Comparison, ...]:
    """Does the deletion expose those who stay? The oracles were trained on the same retained examples."""
    retained = evidence.beside_retained == 1
    if not evidence.beside or not 0 < np.count_nonzero(retained) < retained.size:
        return ()

    def area(row: FloatArray) -> float:
        return auc(row[retained], row[~retained])

    margins = {model: evidence.beside[model].astype(np.float64) for model in PROBED_MODELS}
    areas = np.array([area(row) for row in evidence.stack(margins, "audited")])
    others = "held-out examples" + " of the other classes" * (plan.kind == "class")
    sentence = (
        f"Whether the deletion exposes those who stay: how well one threshold on the margin tells "
        f"{np.count_nonzero(retained):,} retained from {np.count_nonzero(~retained):,} {others}. "
        "The oracles were trained on the same retained examples."
    )
    return (_ranked("Retained against held-out examples", "AUC", areas, area(margins["original"]), sentence, plan),)


MIA_EFFICACY = "MIA efficacy (SVC)"  # its name in the evidence and in the table
_WEAK = "Publications report it; it is weak and decides nothing here: only its distance from the oracles has a meaning."


def _published(evidence: Evidence, plan: Plan) -> tuple[Comparison, ...]:
    """Numbers of published tables, for comparison with these."""
    rows = []
    if f"{MIA_EFFICACY}/audited" in evidence.legacy:
        original, audited, oracles = (
            evidence.legacy[f"{MIA_EFFICACY}/{model}"] for model in ("original", "audited", "oracles")
        )
        question = "Share of the requested examples that a machine taught on confidences calls unseen"
        about = f"{question}; {oracles.size} oracles were read likewise. {_WEAK}"
        values = np.concatenate([audited, oracles])
        rows.append(_ranked(MIA_EFFICACY, "share", values, float(original[0]), about, plan))
    if UNTRAINED in evidence.logits:
        untrained = softmax(evidence.logits[UNTRAINED].astype(np.float64), axis=-1)
        audited, original = (
            1 - distances.js(_probabilities(evidence, target), untrained).mean(axis=-1)
            for target in ("audited", "original")
        )
        about = (
            f"One minus the mean Jensen-Shannon divergence from an untrained copy of the network on "
            f"{len(evidence.logit_points):,} requested examples. {_WEAK}"
        )
        rows.append(_ranked("Zero retrain forgetting (ZRF)", "1 − nats", audited, float(original[0]), about, plan))
    return tuple(rows)


def _swap(evidence: Evidence, plan: Plan) -> tuple[Comparison, ...]:
    """Tier `hours`: two halves of the requested examples trade places (Tu, Hu & Ma 2024)."""
    if evidence.swapped is None or evidence.swapped_forget is None:
        return ()
    rows = evidence.rows(Group.REQUESTED)[: evidence.swapped.shape[2]]
    # The oracles saw neither half: how hard an example is no longer hides which one was forgotten.
    scores = against_oracles(evidence.swapped, evidence, rows)
    found = swap_test(scores, evidence.swapped_forget == 1, confidence=plan.confidence, seed=plan.seed)
    interval = found.advantage
    limits = "without limits: all pairs agree"
    if interval.low is not None and interval.high is not None:
        limits = f"at {plan.confidence * 100:g}\u00a0% confidence {number(interval.low)} to {number(interval.high)}"
    sentence = (
        f"{found.pairs} pairs of models; of each, one was trained on one half of {rows.size:,} requested examples and "
        f"forgot it, the other on the other half. How well the margins tell the forgotten half, −1 to 1: {limits}. "
        "Beside it, retraining, which tells nothing; p by dealing the halves anew."
    )
    value = Interval(None, 0.0, None)
    return (Comparison("SWAP test", "advantage", interval.value, value, found.p, None, sentence),)


# What a probe of the battery reads, by its full name: title, unit, and the question that it asks.
TITLES = {
    "Quantization": ("Rounding to 8 and 4 bits", "φ", "How far the margins rise when the weights are rounded"),
    "Pruning": ("Pruning the smallest weights", "φ", "How far the margins rise when 10 to 50\u00a0% of the weights go"),
    "RetainRelearning(steps=40)": (
        "Relearning on retained data",
        "accuracy",
        "Mean accuracy on the requested examples while the model is trained further on retained ones",
    ),
    "RandomNeighbors": (
        "Recognized neighbors",
        "share",
        "Share of slightly changed requested examples still recognized",
    ),
    "TwinProbe": ("Probe of the features", "AUC", "A linear head tells requested examples from held-out twins"),
    "LinearProbe": (
        "Probe of the features",
        "accuracy",
        "Accuracy on the forgotten class of a new head, taught on few images of every class",
    ),
    "ClassSeparability": ("Separability of the class", "AUC", "A linear head tells the class from all others"),
}


def _probed(evidence: Evidence, plan: Plan) -> tuple[Comparison, ...]:
    """What probes of the open models read: is more left, or does more come back, than in retrained models?"""
    names = sorted({name.rpartition("/")[0] for name in evidence.readings})
    if not names:
        return ()
    audited, original = (
        np.array([evidence.readings[f"{name}/{target}"][0] for name in names]) for target in ("audited", "original")
    )
    oracles = np.stack([evidence.readings[f"{name}/oracles"] for name in names], axis=1)
    ranks = resurrection(audited, original, oracles, confidence=plan.confidence)
    rows = []
    for i, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        title, unit, question = TITLES.get(name, (name, "", "The reading of this probe"))
        sentence = f"{question}; {len(oracles)} retrained models were asked the same."
        rows.append(Comparison(title, unit, rank.audited, spread(oracles[:, i]), rank.p, rank.original, sentence))
    return tuple(rows)


def rounded(row: Comparison) -> Comparison:
    """To nine digits: the order in which models and points are summed changes the last ones."""

    def digits(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.9g}")

    beside = row.oracles
    return replace(
        row,
        value=float(f"{row.value:.9g}"),
        oracles=replace(beside, low=digits(beside.low), value=float(f"{beside.value:.9g}"), high=digits(beside.high)),
        original=digits(row.original),
    )


def _probabilities(evidence: Evidence, target: str) -> FloatArray:
    logits = np.concatenate([evidence.logits[target][None], evidence.logits["oracles"]])
    return np.asarray(softmax(logits.astype(np.float64), axis=-1))


def _accuracies(evidence: Evidence, target: str) -> Mapping[str, FloatArray]:
    """Share of right answers, [1 + oracle], by set."""
    return {
        split: np.concatenate([evidence.correct[f"{target}/{split}"], evidence.correct[f"oracles/{split}"]]) / size
        for split, size in sorted(evidence.sizes.items())
        if f"oracles/{split}" in evidence.correct
    }


def _row(name: str, audited: distances.Distance, original: distances.Distance, about: str) -> Comparison:
    return Comparison(
        name=name,
        unit=audited.unit,
        value=audited.audited,
        oracles=spread(audited.oracles),
        p=audited.p,
        original=original.audited,
        sentence=f"From the oracles, {about}; retrained models lie as far from one another as the range says.",
    )


def spread(values: FloatArray) -> Interval:
    """Smallest, mean and largest of the oracles; the confidence is the share of oracles that a further one joins."""
    return Interval(float(values.min()), float(values.mean()), float(values.max()), 1.0 - 2.0 / (values.size + 1))


def _ensemble(evidence: Evidence, plan: Plan) -> tuple[Comparison, ...]:
    """What needs many unlearned models: per-example laws, each score beside its oracle-against-oracle floor."""
    if evidence.ensemble is None or min(len(evidence.ensemble), evidence.oracles) < LEAST_MODELS:
        return ()
    rows = evidence.rows(Group.REQUESTED)
    unlearned, oracles = evidence.ensemble[:, rows], evidence.margins["oracles"][:, rows]
    m, n = len(unlearned), len(oracles)
    klom = distances.klom(unlearned, oracles, seed=plan.seed, splits=SPLITS)
    score = distances.neurips_score(unlearned, oracles, seed=plan.seed, splits=SPLITS)
    z = margin_z(np.concatenate([unlearned, oracles]))
    kernel = kernel_two_sample(z[:m], z[m:], seed=plan.seed)

    def floor(value: float) -> Interval:
        return Interval(None, value, None)

    half = np.random.default_rng([plan.seed, 0x4A1F]).permutation(n)
    one, other = oracles[half[: n // 2]], oracles[half[n // 2 :]]
    apart, usual = (
        examples_apart(*pair, significance=plan.significance) for pair in ((unlearned, oracles), (one, other))
    )
    few = evenly(np.arange(rows.size), MOST_BOUNDED)
    epsilons = single_epsilons(unlearned[:, few], oracles[:, few], confidence=plan.confidence, seed=plan.seed)
    floors = single_epsilons(one[:, few], other[:, few], confidence=plan.confidence, seed=plan.seed)

    models = f"{klom.size} unlearned against {klom.size} retrained models; beside it, retrained against retrained ones."
    return (
        Comparison("KLoM, 95th percentile", "nats", klom.matched_p95, floor(klom.floor_p95), None, None, models),
        Comparison("NeurIPS 2023 forgetting score", "", score.matched_f, floor(score.floor_f), None, None, models),
        Comparison(
            "Kernel distance (MMD) of the ensembles",
            "standard deviations of relabelings",
            kernel.statistic,
            spread(kernel.floor),
            kernel.p,
            None,
            f"All {m} unlearned against all {n} retrained models.",
        ),
        Comparison(
            "Examples told apart",
            "share",
            apart.share,
            floor(usual.share),
            None,
            None,
            f"Mann-Whitney test of each example over {m} and {n} models, at a false discovery rate of "
            f"{plan.significance:g}; beside it, over two halves of the retrained models.",
        ),
        Comparison(
            "ε of single examples, 95th percentile",
            "nats, lower bounds",
            epsilons.p95,
            floor(floors.p95),
            None,
            None,
            f"Of {len(epsilons.epsilon)} examples {epsilons.above:.1%} have a bound above 0; by chance alone at most "
            f"{1 - plan.confidence:.1%} are to be expected. So many models cannot show more than "
            f"{epsilons.ceiling:.2g}.".replace("%", "\u00a0%"),
        ),
    )


def single_examples(evidence: Evidence, plan: Plan) -> Individuals | None:
    """The worst-off of the requested examples, and how many are far from what retraining gives."""
    rows = evidence.rows(Group.REQUESTED)
    if evidence.oracles < 2 or not evidence.ids:
        return None
    stack = evidence.stack(evidence.margins, "audited")[:, rows]
    found = individuals(
        stack,
        evidence.ids,
        tolerance=LIMIT,
        worst=NAMED,
        significance=plan.significance,
        confidence=plan.confidence,
    )
    return Individuals(
        limit=LIMIT,
        above=found.above,
        floor=float(found.floor.max()),
        p=found.p_above,
        flagged=len(found.flagged),
        worst=tuple(Individual(one.id, one.z, one.direction, one.p_rank, one.p_adjusted) for one in found.worst),
        assumes="exact, whatever the law of the margins",
        resolution=found.resolution,
    )


def low_before(evidence: Evidence, plan: Plan) -> tuple[int, int]:
    """Requested examples that stand out below retraining, and how many of them do so in the untouched original too:
    what the model had before the deletion is no overdone forgetting."""
    rows = evidence.rows(Group.REQUESTED)

    def low(target: str) -> set[str]:
        stack = evidence.stack(evidence.margins, target)[:, rows]
        found = individuals(stack, evidence.ids, tolerance=LIMIT, worst=0, significance=plan.significance)
        below = {name for name, z in zip(evidence.ids, found.z, strict=True) if z < 0}
        return below.intersection(found.flagged)

    audited = low("audited")
    return len(audited), len(audited & low("original"))


def other_classes(evidence: Evidence, plan: Plan) -> Collateral | None:
    """Held-out accuracy by class against the oracles: what the deletion cost others."""
    return _what_it_cost(evidence, plan, evidence.answer_label, plan.classes, kind="class", of="held-out accuracy")


def by_group(evidence: Evidence, plan: Plan) -> Collateral | None:
    """The same by the groups of the spec. Where a class is forgotten its own examples are in no group (-1)."""
    of = "held-out accuracy" + (" on the other classes" if plan.kind == "class" else "")
    return _what_it_cost(evidence, plan, evidence.answer_group, plan.groups, kind="group", of=of)


def _what_it_cost(
    evidence: Evidence, plan: Plan, number: NDArray[np.int64], names: Sequence[str], *, kind: str, of: str
) -> Collateral | None:
    """Right answers on held-out points by `number` [point]; a name without points is left out, so is a point without
    a name."""
    if evidence.oracles < 2 or not evidence.answers or not names or not number.size:
        return None
    present = np.array([i for i in range(len(names)) if np.any(number == i)])
    kept = np.isin(number, present)
    right = np.concatenate([evidence.answers["audited"][None], evidence.answers["oracles"]]).astype(bool)[:, kept]
    found = collateral(
        right,
        np.searchsorted(present, number[kept]).astype(np.int64),
        [names[i] for i in present],
        confidence=plan.confidence,
        power=plan.power,
    )
    groups = tuple(
        GroupGap(
            name=one.name,
            n=one.points,
            audited=one.accuracy.value,
            oracles=Interval(one.oracle_low, one.rank.oracle_mean, one.oracle_high, 1 - 2 / (evidence.oracles + 1)),
            gap=one.gap,
            p_adjusted=one.rank.p_adjusted,
        )
        for one in found.groups
    )
    drop = found.worst_drop * 100
    usual = max(0.0, float(found.floor.max()) * 100)
    lost = f"{kind.capitalize()} {found.worst!r} lost most against retraining: {drop:.1f}\u00a0points of {of}."
    if drop <= 0:
        lost = f"No {kind} lost {of} against retraining."
    return Collateral(
        groups=groups,
        worst=found.worst,
        drop=found.worst_drop,
        p=found.p_worst,
        sentence=(
            f"{lost} The worst {kind} of a retrained model loses up to {usual:.1f}\u00a0points against the others."
        ),
    )


def measured_epsilon(evidence: Evidence, plan: Plan, *, delta: float) -> tuple[float, int, int] | None:
    """Lower bound of the original's ε per canary from one run (Steinke et al. 2023), with right and all guesses.

    None where no coins were tossed. The canaries' scores may be read against the oracles: those never saw a coin.
    """
    design = coin_design(evidence)
    if design is None or not design.exact:
        return None
    coin = design.test(design.scores(evidence, "original", plan), evidence, plan)
    return record_epsilon(coin, plan, delta=delta), coin.correct, coin.guesses


def record_epsilon(coin: CoinResult, plan: Plan, *, delta: float) -> float:
    """Lower bound of ε of one canary from coins that were really tossed: a split of fixed size, every one guessed."""
    return one_run_epsilon(
        coin.correct,
        coin.guesses,
        canaries=coin.guesses,
        confidence=plan.confidence,
        delta=delta,
        split=Split(coin.heads, coin.called),
    )
