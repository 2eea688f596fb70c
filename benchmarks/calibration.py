"""Do p-values and MDEs keep their promise? Simulated audits; written to benchmarks/calibration.md.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py               # 18 kinds of audits, 400 each: some twenty minutes

Null: the audited model is drawn like the retrained ones. A test at 5 % may then reject in 5 % of all audits, less where
its statistic takes few values. Power: a leak of the size of each audit's MDE is planted in its audited model.
Controls: a sound audit should not be called invalid.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

from unlearnkit.audits.battery import judge
from unlearnkit.audits.designs import Plan, RankTest, Tolerances, coin_design, rank_tests, smallest_leak
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.audits.findings import single_examples
from unlearnkit.audits.selftest import coin_result, p_values, rank_results
from unlearnkit.audits.simulate import Law, simulate, simulate_class, standard_plan
from unlearnkit.audits.statistics.coin import coin_test
from unlearnkit.audits.statistics.kernel import kernel_two_sample
from unlearnkit.audits.statistics.multiplicity import holm_families
from unlearnkit.audits.statistics.rank import margin_z, mde_factor, oracle_rank
from unlearnkit.audits.statistics.roc import auc, auc_mde

HERE = Path(__file__).parent
LEVEL, LIMITS = 0.05, 0.99
LAWS: tuple[Law, ...] = ("normal", "t3", "skewed")
KINDS = ("canaries", "examples", "class")
# Next to nothing is tolerated: what lies beyond tolerance is then what is there at all.
STRICT = Tolerances(auc=1e-6, margin=1e-6, class_margin=1e-6, recognition=1e-6, worst=1e-6)
SMALL = {"requested": 60, "twins": 60}


@dataclass
class Tally:
    """Rejections of one test, by kind of audit."""

    rejected: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    audits: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, cell: str, rejected: bool) -> None:
        self.rejected[cell] += rejected
        self.audits[cell] += 1


def limits(runs: int, share: float, *, checks: int = 1) -> tuple[int, int]:
    """Between what counts chance leaves a test of this level, 99 % of times for all checks together."""
    tail = (1 - LIMITS) / 2 / checks
    return int(stats.binom.ppf(tail, runs, share)), int(stats.binom.isf(tail, runs, share))


def audit_of(kind: str, seed: int, **settings: Any) -> tuple[Evidence, Plan]:
    """Exchangeable evidence of a kind, and its plan."""
    digits = tuple("0123456789")
    if kind == "class":
        plan = standard_plan(kind="class", tolerances=STRICT, classes=digits)
        return simulate_class(seed, outputs=True, **settings), plan
    canaries = 60 if kind == "canaries" else 0
    plan = standard_plan(tolerances=STRICT, classes=digits)
    return simulate(seed, canaries=canaries, outputs=True, **SMALL, **settings), plan


def rejections(evidence: Evidence, plan: Plan) -> Iterator[tuple[str, bool]]:
    """Name and decision of everything in the audit that has a level."""
    for name, p in p_values(evidence, plan).items():
        yield name, p <= LEVEL
    ranks = rank_results(evidence, plan).values()
    families = [[rank.p_adjusted for rank in ranks]]
    beyond = [[rank.p_tolerance for rank in ranks]]
    exact = coin_design(evidence) is not None
    if exact:
        coin = coin_result(evidence, plan)
        families.append([coin.p])
        beyond.append([coin.p_tolerance])
    yield "**Any test of the audit (Holm over families)**", min(map(min, holm_families(families))) <= LEVEL
    yield "**Any FAIL at a tolerance of next to nothing**", min(map(min, holm_families(beyond))) <= LEVEL
    singles = single_examples(evidence, plan)
    yield "Any single example flagged", singles is not None and singles.flagged > 0


def ensembles_differ(law: Law, oracles: int, seed: int) -> bool:
    """The kernel test of tier `hours`: 20 unlearned models, drawn like the retrained ones."""
    made = simulate(seed, canaries=0, law=law, oracles=oracles, unlearned=20, **SMALL)
    assert made.ensemble is not None
    rows = made.rows(Group.REQUESTED)
    z = margin_z(np.concatenate([made.ensemble[:, rows], made.margins["oracles"][:, rows]]))
    return kernel_two_sample(z[:20], z[20:], seed=seed, permutations=199).p <= LEVEL


def calibrate(runs: int, numbers: Sequence[int]) -> dict[str, Tally]:
    """All kinds of audits under the null."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for law in LAWS:
        for oracles in numbers:
            for kind in KINDS:
                start = time.perf_counter()
                cell = f"{law}, {oracles} oracles, {kind}"
                for seed in range(runs):
                    evidence, plan = audit_of(kind, seed, law=law, oracles=oracles)
                    for name, rejected in rejections(evidence, dataclasses.replace(plan, seed=seed)):
                        tallies[name].add(cell, rejected)
                    if kind == "examples":
                        differ = ensembles_differ(law, oracles, seed)
                        tallies["Kernel distance (MMD) of the ensembles"].add(cell, differ)
                print(f"{cell}: {time.perf_counter() - start:.0f} s", flush=True)
    return tallies


def null_table(tallies: dict[str, Tally]) -> list[str]:
    """A line per test: over all audits, and where it rejects most."""
    cells = sum(len(tally.audits) for tally in tallies.values())
    lines = [
        "| test | audits | rejected at 5 % | 99 % limits | most: kind of audit | rejected | limit | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, tally in sorted(tallies.items(), key=lambda item: item[0].strip("*")):
        total, rejected = sum(tally.audits.values()), sum(tally.rejected.values())
        low, high = limits(total, LEVEL)
        cell = max(tally.audits, key=lambda c: tally.rejected[c] / tally.audits[c])
        n, worst = tally.audits[cell], tally.rejected[cell]
        top = limits(n, LEVEL, checks=cells)[1]
        word = "ABOVE" if rejected > high or worst > top else "below" if rejected < low else "within"
        lines.append(
            f"| {name} | {total:,} | {rejected / total:.2%} | {low / total:.2%} to {high / total:.2%} | {cell} | "
            f"{worst / n:.1%} | ≤ {top / n:.1%} | {word} |"
        )
    return lines


# -- controls ------------------------------------------------------------------------------------------------------


def controls_table(runs: int, numbers: Sequence[int]) -> list[str]:
    """A line per law: sound audits at the standard tolerances in which a control fails."""
    lines = ["| law | audits | INVALID | which control |", "| --- | --- | --- | --- |"]
    for law in LAWS:
        failed: Counter[str] = Counter()
        invalid = audits = 0
        for oracles in numbers:
            for kind in KINDS:
                for seed in range(runs):
                    evidence, plan = audit_of(kind, 20_000 + seed, law=law, oracles=oracles)
                    judged = judge(evidence, dataclasses.replace(plan, tolerances=Tolerances(), seed=seed))
                    failed.update(control.name for control in judged.controls if not control.passed)
                    invalid += judged.verdict.word == "INVALID"
                    audits += 1
        named = ", ".join(f"{name} {count}" for name, count in sorted(failed.items())) or "none"
        lines.append(f"| {law} | {audits:,} | {invalid / audits:.2%} | {named} |")
        print(f"controls, {law}", flush=True)
    return lines


# -- power ---------------------------------------------------------------------------------------------------------


def raised(test: RankTest, evidence: Evidence, by: float) -> np.ndarray:
    """The statistic of all models after the audited model's member points were raised."""
    stack = test.read(evidence, "audited")
    stack[0, test.points(evidence)] += by
    return test.values(stack, evidence)


def found(test: RankTest, evidence: Evidence, size: float) -> bool:
    """Whether the rank test sees a leak that raises the audited model's statistic by `size`."""
    start = raised(test, evidence, 0.0)[0]
    high = 0.1
    while raised(test, evidence, high)[0] - start < size:
        high *= 2
        if high > 1e3:
            raise RuntimeError(f"{test.name}: no leak of {size:.3g} fits into its range")
    by = optimize.brentq(lambda b: raised(test, evidence, b)[0] - start - size, 0.0, high, xtol=1e-6)
    values = raised(test, evidence, by)
    return oracle_rank(values[:, None], tolerances=np.array([1.0]))[0].p <= LEVEL


def coin_power(law: Law, runs: int) -> tuple[float, float]:
    """Size, and power against the leak whose AUC is beyond chance by the MDE in the mean of all audits."""
    made = [audit_of("canaries", seed, law=law, oracles=39) for seed in range(runs)]
    drawn = []
    for evidence, plan in made:
        design = coin_design(evidence)
        assert design is not None
        # A leak in margins counts in the scores by the standard deviation of each point.
        weight = 1 / np.sqrt(evidence.typical[1][design.rows(evidence)])
        drawn.append((design.scores(evidence, "audited", plan), design.heads(evidence), weight))
    size = auc_mde(60, 60, significance=LEVEL, power=0.8)

    def area(leak: float) -> float:
        leaked = [(scores + leak * weight * heads, heads) for scores, heads, weight in drawn]
        return float(np.mean([auc(scores[heads], scores[~heads]) for scores, heads in leaked]))

    leak = optimize.brentq(lambda by: area(by) - 0.5 - size, 0.0, 5.0, xtol=1e-4)
    seen = [
        coin_test(scores + leak * weight * heads, heads, tolerance=0.05, permutations=999, seed=seed).p <= LEVEL
        for seed, (scores, heads, weight) in enumerate(drawn)
    ]
    return size, float(np.mean(seen))


def power_table(runs: int) -> list[str]:
    """A line per test and law: power at the MDE."""
    lines = [
        "| test | law | MDE, mean | found at the MDE | MDE of theory alone | found there |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    factor = mde_factor(39, significance=LEVEL, power=0.8)
    assert factor is not None
    for law in LAWS:
        for kind in ("canaries", "class"):
            made = [audit_of(kind, 10_000 + seed, law=law, oracles=39) for seed in range(runs)]
            for i, test in enumerate(rank_tests(*made[0])):
                sizes, theory, seen, by_theory = [], [], 0, 0
                for evidence, plan in made:
                    this = rank_tests(evidence, plan)[i]
                    size = smallest_leak(this, evidence, plan)
                    assert size is not None
                    sizes.append(size)
                    theory.append(factor * float(raised(this, evidence, 0.0)[1:].std(ddof=1)))
                    seen += found(this, evidence, size)
                    by_theory += found(this, evidence, theory[-1])
                lines.append(
                    f"| {test.name} ({kind}) | {law} | {np.mean(sizes):.3g} {test.unit} | {seen / runs:.1%} | "
                    f"{np.mean(theory):.3g} | {by_theory / runs:.1%} |"
                )
        size, share = coin_power(law, runs)
        lines.append(f"| Canary coin test | {law} | {size:.3g} AUC − 0.5 | {share:.1%} | {size:.3g} | {share:.1%} |")
        print(f"power, {law}", flush=True)
    return lines


def main() -> None:
    """Write benchmarks/calibration.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=400, help="audits of each kind under the null")
    parser.add_argument("--oracles", type=int, nargs="+", default=[19, 39], help="retrained models of an audit")
    parser.add_argument("--leaks", type=int, default=200, help="planted leaks for each test")
    parser.add_argument("--sound", type=int, default=100, help="audits of each kind judged whole, for their controls")
    parser.add_argument("--out", type=Path, default=HERE / "calibration.md")
    given = parser.parse_args()
    power = power_table(given.leaks)
    sound = controls_table(given.sound, given.oracles)
    tallies = calibrate(given.runs, given.oracles)
    command = f"python benchmarks/calibration.py --runs {given.runs} --leaks {given.leaks} --sound {given.sound}"
    text = [
        "# Calibration",
        "",
        f"Recorded by `OMP_NUM_THREADS=1 {command}`: simulated audits, seeds 0 to {given.runs - 1} of each kind.",
        "",
        "## Without a leak",
        "",
        f"The audited model is drawn like the retrained ones. {len(LAWS) * len(given.oracles) * len(KINDS)} kinds: "
        "margins normal, Student t with 3 degrees of freedom, or exponential; "
        f"{' or '.join(map(str, given.oracles))} oracles; "
        "a request for examples with and without canaries, or for a class. The limits are those of chance at exactly "
        "5 %: `within` means that all audits together lie between them, `below` that the test is conservative. The "
        "limit of the kind with most rejections holds for all kinds and tests at once.",
        "",
        *null_table(tallies),
        "",
        "## With a leak of the size of the MDE",
        "",
        "39 oracles. The leak raises the member points of the audited model until its statistic has risen by the MDE "
        "of that very audit, measured by planting in its retrained models. Beside it what normal theory gives.",
        "",
        *power,
        "",
        "## Controls of sound audits",
        "",
        "The same kinds, judged whole at the standard tolerances: each control may fail once in a thousand, which "
        "would make the audit INVALID. That of the held-out oracle takes models to be normal where only their rank is "
        "known.",
        "",
        *sound,
        "",
    ]
    given.out.write_text("\n".join(text))


if __name__ == "__main__":
    main()
