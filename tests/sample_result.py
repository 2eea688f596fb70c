"""Invented but realistic audits for the tests of the report room: results and evidence that agree in shape."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save

from unlearnkit.result import (
    SCHEMA,
    Accuracy,
    AuditResult,
    CanaryRecord,
    Cell,
    Collateral,
    Comparison,
    Control,
    DataRecord,
    Environment,
    Evidence,
    Flag,
    GroupGap,
    HardExample,
    Hardness,
    Individual,
    Individuals,
    Interval,
    Measure,
    MethodRecord,
    ModelRecord,
    OracleRecord,
    Outcome,
    PrivacyRecord,
    Quantity,
    Registration,
    Request,
    SetRecord,
    State,
    StressSets,
    Verdict,
)

VARIANTS = ("fail", "pass", "inconclusive", "invalid", "class", "seconds", "exact", "privacy", "hours")


@dataclass(frozen=True)
class Sample:
    """A result with the bytes of its sidecar."""

    result: AuditResult
    evidence: bytes


def sample(variant: str = "fail", **changes: Any) -> Sample:
    """One of VARIANTS; `changes` replace fields of the result afterwards."""
    result, evidence = {
        "fail": _fail,
        "pass": _pass,
        "inconclusive": _inconclusive,
        "invalid": _invalid,
        "class": _class,
        "seconds": _seconds,
        "exact": _exact,
        "privacy": _privacy,
        "hours": _hours,
    }[variant]()
    record = Evidence("audit.evidence.safetensors", hashlib.sha256(evidence).hexdigest())
    return Sample(dataclasses.replace(result, evidence=record, **changes), evidence)


def outcome(
    name: str,
    state: State,
    leak: tuple[float | None, float, float | None],
    *,
    tolerance: float,
    unit: str = "AUC",
    kind: str = "rank",
    group: str = "requested",
    p: float = 0.21,
    required: bool = True,
    mde: float | None = None,
    sentence: str = "Within tolerance; a leak of that size would have been found four times in five.",
    quantities: tuple[Quantity, ...] = (),
) -> Outcome:
    """A test's outcome with plausible further numbers."""
    return Outcome(
        name=name,
        kind=kind,
        unit=unit,
        group=group,
        leak=Interval(*leak),
        tolerance=tolerance,
        mde=mde,
        p=p,
        p_adjusted=min(1.0, 6 * p),
        p_tolerance=0.0007 if state == "FAIL" else 0.83,
        p_tolerance_adjusted=0.0042 if state == "FAIL" else 1.0,
        original=Interval(4.1 * tolerance, 5.3417 * tolerance, 6.6 * tolerance),
        original_p=0.00012,
        required=required,
        state=state,
        sentence=sentence,
        quantities=quantities,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _evidence(*, canaries: int = 40, oracles: int = 19, shift: float = 0.1, requested: int = 104) -> bytes:
    rng = np.random.default_rng(17)
    group = np.repeat(np.array([0, 1, 2, 3], dtype=np.uint8), [requested, canaries, 104, canaries])
    points = len(group)
    trained = (group == 0) | (group == 1)
    hard = rng.normal(0, 1.2, points)
    unseen = 5 + hard
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "points/group": group,
        "points/label": rng.integers(0, 10, points),
        "margins/original": np.where(trained, 9 + 0.7 * hard, unseen) + rng.normal(0, 0.8, points),
        "margins/audited": unseen + np.where(trained, shift, 0) + rng.normal(0, 1.0, points),
    }
    fpr = np.arange(105) / 104
    arrays |= {f"roc/{name}/fpr": fpr for name in ("original", "audited")}
    arrays |= {
        "roc/original/tpr": np.clip(np.round(fpr**0.35 * 144) / 144, 0, 1) * (fpr > 0),
        "roc/audited/tpr": np.round(fpr ** (0.93 - shift / 4) * 144) / 144,
    }
    if oracles:
        arrays["margins/held_out"] = unseen + rng.normal(0, 1.0, points)
        arrays["margins/oracles"] = unseen + rng.normal(0, 0.25, (oracles, 1)) + rng.normal(0, 1.0, (oracles, points))
        arrays |= {
            "roc/oracles/fpr": fpr,
            "roc/oracles/tpr_low": np.round(fpr**1.12 * 144) / 144,
            "roc/oracles/tpr_high": np.round(fpr**0.88 * 144) / 144,
        }
    return save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})


def _tests() -> tuple[Outcome, ...]:
    return (
        outcome(
            "Canary coin test",
            "INCONCLUSIVE",
            (-0.02013, 0.03017, 0.08104),
            tolerance=0.05,
            kind="coin",
            group="canaries",
            p=0.2417,
            mde=0.0648,
            sentence=(
                "Deleted canaries are told from never-used ones with AUC 0.530 (95 % interval 0.480 to 0.581; chance "
                "is 0.5, tolerance 0.550). Undecided: about 620 canaries on each side would decide at this tolerance; "
                "there are 40."
            ),
            quantities=(
                Quantity("AUC", 0.53017, "", 0.47987, 0.58104),
                Quantity("right guesses of 40", 22.0),
                Quantity("ε of the joint deletion, lower bound", 0.0, "nats", why="for all canaries together"),
                Quantity("TPR at 1 % FPR", None, why="needs at least 100 non-members"),
                Quantity("TPR at 10 % FPR", 0.125, "", 0.0419, 0.268),
            ),
        ),
        outcome(
            "4-bit quantized, canary",
            "FAIL",
            (0.0604, 0.10043, 0.1407),
            tolerance=0.05,
            kind="coin",
            group="canaries",
            p=0.00031,
            mde=0.0612,
            sentence=(
                "Deleted canaries are told from never-used ones with AUC 0.600 (95 % interval 0.560 to 0.641; chance "
                "is 0.5, tolerance 0.550). The model still remembers them."
            ),
            quantities=(Quantity("AUC", 0.60043, "", 0.5604, 0.6407), Quantity("right guesses of 40", 29.0)),
        ),
        outcome(
            "Oracle rank, mean margin",
            "PASS",
            (-0.1402, 0.0841, 0.3107),
            tolerance=0.4,
            unit="σ",
            mde=0.3513,
            quantities=(
                Quantity("audited model", 5.1273, "σ"),
                Quantity("mean of the oracles", 5.0432, "σ"),
                Quantity("standard deviation between oracles", 0.1174, "σ"),
            ),
        ),
        outcome("RMIA, 8 references", "PASS", (-0.0129, 0.01203, 0.0372), tolerance=0.05, mde=0.0412),
        outcome(
            "Relearning area", "LEAK_BELOW_TOLERANCE", (0.0041, 0.0183, 0.0463), tolerance=0.05, mde=0.0391, p=0.004
        ),
        outcome("Worst individual", "PASS", (-0.0107, 0.0309, 0.0476), tolerance=0.05, mde=0.0444, required=False),
    )


def _accuracy(*, oracles: bool = True, canaries: bool = True) -> tuple[Accuracy, ...]:
    rows = []
    splits = {"forget": 144, "retain": 1293, "test": 360} | ({"canaries": 40} if canaries else {})
    for split, n in splits.items():
        for model, share in (("original", 1.0), ("audited", 0.953), ("oracles", 0.9462)):
            if model == "oracles" and not oracles:
                continue
            correct = n * share if model == "oracles" else float(round(n * share))
            rate = correct / n
            rows.append(
                Accuracy(model, split, correct, n, Interval(max(0.0, rate - 0.0371), rate, min(1.0, rate + 0.0259)))
            )
    return tuple(rows)


FAULT = "oracle 7: training diverged, the loss is not finite after epoch 3"

CONTROLS = (
    Control("held-out oracle accepted", True, "A further model retrained without the data fails no test."),
    Control("shuffled labels at chance", True, "With shuffled labels the AUC averages 0.501."),
    Control("planted canary leak found", True, "A planted leak of AUC 0.640 gives p = 0.0031 (must be at most 0.05)."),
    Control("untouched original caught", True, "The untouched original is told apart from retrained models."),
)


def _comparisons() -> tuple[Comparison, ...]:
    far = "From the oracles, on 104 requested examples; retrained models lie as far from one another as the range says."
    return (
        Comparison(
            "Jensen-Shannon divergence of the outputs",
            "nats",
            0.015315077,
            Interval(0.008292772, 0.010670898, 0.015527874, 0.9),
            0.1,
            0.019227941,
            far,
        ),
        Comparison(
            "Kernel distance (MMD) of the margins",
            "standard deviations of relabelings",
            4.33029056,
            Interval(-0.407717982, 0.248293399, 1.77311876, 0.9),
            0.05,
            4.35486375,
            "The pattern of all 104 margins at once, each model in turn called the audited one. With 19 oracles no "
            "value can exceed 4.36; the unlearned model and the original stand there, and may be farther out than the "
            "number tells.",
        ),
        Comparison(
            "Tug of war (ToW)",
            "ToW (1 = equal)",
            0.906054860,
            Interval(0.956300085, 0.963899158, 0.967770722, 0.9),
            0.05,
            0.263259621,
            far,
        ),
    )


def _ensemble() -> tuple[Comparison, ...]:
    models = "32 unlearned against 32 retrained models; beside it, retrained against retrained ones."
    return (
        Comparison("KLoM, 95th percentile", "nats", 3.01254, Interval(None, 1.98321, None), None, None, models),
        Comparison("NeurIPS 2023 forgetting score", "", 0.0721, Interval(None, 0.0893, None), None, None, models),
    )


def _individuals() -> Individuals:
    return Individuals(
        limit=3.0,
        above=Interval(0.00602, 0.0288, 0.0821),
        floor=0.0192,
        p=0.05,
        flagged=1,
        worst=tuple(
            Individual(f"digits/{number:04d}", z, "remembered" if z > 0 else "over-forgotten", p, adjusted)
            for number, z, p, adjusted in (
                (570, -11.9506, 0.05, 0.05),
                (21, 3.7131, 0.05, 0.35),
                (1101, 3.0117, 0.1, 0.8),
            )
        ),
        assumes="exact, whatever the law of the margins",
        resolution="An example stands out when it lies farther than 7.4 σ; of 19 oracles none has an example that far "
        "out.",
    )


def _collateral(classes: int = 10) -> Collateral:
    right = [round(0.9722 - 0.0131 * (label % 7), 4) for label in range(classes)]
    groups = tuple(
        GroupGap(
            name=str(label),
            n=36,
            audited=share,
            oracles=Interval(0.9167, 0.9531, 0.9861, 0.9),
            gap=Interval(round(share - 1.1, 4), round(share - 0.9531, 4), 0.1217),
            p_adjusted=0.35 if label == 6 else 1.0,
        )
        for label, share in enumerate(right)
    )
    return Collateral(
        groups=groups,
        worst="6",
        drop=0.0595,
        p=0.15,
        sentence="Class '6' lost most against retraining: 6.0\u00a0points of held-out accuracy. The worst class of a "
        "retrained model loses up to 5.1\u00a0points against the others.",
    )


def _by_group() -> Collateral:
    groups = tuple(
        GroupGap(name, n, audited, Interval(0.91, 0.94, 0.97, 0.9), Interval(-0.09, audited - 0.94, 0.04), p)
        for name, n, audited, p in (("site-a", 200, 0.945, 1.0), ("site-b", 160, 0.9, 0.05))
    )
    return Collateral(groups, "site-b", 0.04, 0.05, "Group 'site-b' lost most against retraining: 4.0\u00a0points.")


def _stress() -> StressSets:
    """A found set among five random ones."""
    names = ("highest out-of-sample loss", *(f"random {i + 1}" for i in range(5)))
    cells = tuple(
        Cell(
            "SalUn",
            name,
            (
                Measure("UA", "%", Interval(0.0, 6.9, 14.1), Interval(88.2, 92.4, 95.1), Interval(-92.1, -85.5, -78.8)),
                Measure(
                    "margin shift",
                    "σ",
                    Interval(1.0, 2.4, 3.8),
                    Interval(-1.0, 0.0, 1.0),
                    Interval(0.7, 2.4, 4.1),
                ),
            ),
            Interval(20.1, 22.4 - 3 * i, 24.6),
            0.31,
        )
        for i, name in enumerate(names)
    )
    rates = {"UA": Interval(88.2, 92.4, 95.1), "RA": Interval(99.9, 100.0, 100.0), "TA": Interval(96.1, 97.2, 98.4)}
    return StressSets(
        method="SalUn",
        confidence=0.95,
        oracles=5,
        unlearnings=3,
        pool=16,
        sets=tuple(
            SetRecord(name, "random" if i else "found", "", 144, (14,) * 9 + (18,), _hash(name), None, rates)
            for i, name in enumerate(names)
        ),
        cells=cells,
        hardness=(Hardness("SalUn", names[0], "average gap", 22.4, Interval(9.1, 13.4, 17.7), 1.7, 1 / 6),),
        floor=0.31,
        hardest_set=names[0],
        hardest=tuple(HardExample(f"digits/{i:04d}", str(i), 4.2 - 0.3 * i) for i in range(10)),
        unit="mean out-of-sample loss (the largest first)",
        sentences=("SalUn: average gap 22.4\u00a0points on the highest out-of-sample loss, 13.4 on random sets.",),
        left_out=("a whole class: the test is for examples",),
    )


def _registration() -> Registration:
    document = {
        "battery": "1",
        "plan": {"kind": "examples", "oracles": 19, "power": 0.8, "tolerances": {"auc": 0.05, "margin": 0.4}},
        "request": {"id": "DR-2026-017", "forget": 144, "class_name": None},
        "data": _hash("data"),
        "canaries": _hash("canaries"),
        "models": {
            "original": [_hash("original")],
            "audited": [_hash("audited")],
            "oracles": [_hash(f"oracle {number}") for number in range(20)],
            "ensemble": [],
        },
    }
    return Registration(_hash("registration"), document)


def _fail() -> tuple[AuditResult, bytes]:
    result = AuditResult(
        schema=SCHEMA,
        battery="1",
        tier="minutes",
        significance=0.05,
        power=0.8,
        seed=0,
        organization="Example Health AG · Model Governance",
        command="unlearnkit audit specs/dr-2026-017.toml --tier minutes --out audits/dr-2026-017",
        spec={"deletion": {"id": "DR-2026-017"}},
        request=Request(
            id="DR-2026-017",
            kind="examples",
            sentence="forget 144 of 1,437 training images (40 coin canaries among them)",
            forget=144,
            of=1437,
            forget_class=None,
            class_name=None,
            canaries=40,
            fingerprint=_hash("forget"),
        ),
        data=DataRecord(
            source="digits",
            fingerprint=_hash("data"),
            train=1437,
            test=360,
            shape=(1, 8, 8),
            classes=tuple("0123456789"),
        ),
        model=ModelRecord(
            architecture="small-cnn",
            parameters=38_186,
            original_sha256=_hash("original"),
            audited_sha256=_hash("audited"),
            recipe={
                "epochs": 20,
                "batch_size": 64,
                "optimizer": "sgd",
                "lr": 0.05,
                "momentum": 0.9,
                "weight_decay": 0.0005,
                "schedule": "cosine",
                "augment": False,
            },
        ),
        method=MethodRecord(
            name="SalUn",
            sentence="SalUn, 50 % of weights, 10 epochs",
            params={"lr": 0.013, "epochs": 10, "threshold": 0.5, "batch_size": 64},
            saw=("forget_inputs", "forget_labels", "retain_inputs", "retain_labels"),
            seed=7,
            seconds=3.4172,
        ),
        oracles=OracleRecord(count=19, seeds=tuple(range(100, 119)), seconds=2.1934, held_out_seed=119),
        canaries=CanaryRecord(kind="shuffled label", heads=40, tails=40, commitment=_hash("canaries"), opened=True),
        tolerances={"auc": 0.05, "shift": 0.4, "confidence": 0.05, "relearning_area": 0.05},
        accuracy=_accuracy(),
        tests=_tests(),
        controls=CONTROLS,
        flags=(
            Flag("twins assumed exchangeable", "Held-out examples stand in for the requested ones in the rank tests."),
        ),
        verdict=Verdict(
            word="FAIL",
            headline="The model passes in full precision, and remembers again when it is quantized to 4 bits.",
            why=(
                "Of 5 required tests 3 stay within tolerance.",
                "After 4-bit quantization, planted canaries that were deleted are told apart from never-used ones with "
                "AUC 0.600 (95 % interval 0.560 to 0.641; tolerance 0.550; Holm-adjusted p = 0.004).",
                "Do not release the 4-bit build.",
            ),
            mde=(
                "Canary coin test: an AUC of 0.565 or more, four times in five.",
                "Oracle rank, mean margin: a margin shift of 0.351 σ or more, four times in five.",
                "Smaller traces can remain unseen.",
            ),
        ),
        captions={
            "roc": "Deleted canaries against never-used ones: one threshold on the plain margin (the coin test "
            "standardizes it by the oracles).",
            "margins": "Margin φ of the requested examples, and of held-out twins under the audited model.",
        },
        evidence=Evidence("audit.evidence.safetensors", ""),
        environment=Environment(
            unlearnkit="0.1.0",
            python="3.11.7",
            torch="2.14.0",
            numpy="2.4.6",
            platform="Linux x86_64",
            device="cpu",
            started="2026-11-20T14:02:11Z",
            seconds=74.318,
        ),
        nonstandard=("oracles 19 instead of 39", "tolerance margin 0.4 instead of 1"),
        registration=_registration(),
        comparisons=_comparisons(),
        individuals=_individuals(),
        collateral=_collateral(),
    )
    return result, _evidence(shift=0.2)


def _pass() -> tuple[AuditResult, bytes]:
    result, evidence = _fail()
    tests = tuple(
        dataclasses.replace(t, state="PASS", leak=Interval(-0.2 * t.tolerance, 0.15 * t.tolerance, 0.61 * t.tolerance))
        for t in result.tests
    )
    verdict = Verdict(
        "PASS",
        "No trace above the tolerance was found.",
        ("Of 5 required tests 5 stay within tolerance.",),
        result.verdict.mde,
    )
    return dataclasses.replace(result, tests=tests, verdict=verdict, flags=(), nonstandard=()), evidence


def _exact() -> tuple[AuditResult, bytes]:
    result, evidence = _pass()
    verdict = Verdict(
        "CONSISTENT",
        "Consistent with exact unlearning: no trace was found, which does not prove that none is left.",
        ("Of 5 required tests 5 found no trace, and had the power to find one.",),
        result.verdict.mde,
    )
    return dataclasses.replace(result, claim="exact", verdict=verdict), evidence


def _privacy() -> tuple[AuditResult, bytes]:
    result, evidence = _pass()
    record = PrivacyRecord(
        epsilon=3.2071,
        delta=1e-5,
        noise_multiplier=1.1,
        clip=1.0,
        sample_rate=0.04787,
        steps=420,
        accountant="prv",
        measured=0.4132,
        guesses=80,
        correct=49,
        confidence=0.95,
    )
    return dataclasses.replace(result, privacy=record, by_group=_by_group()), evidence


def _hours() -> tuple[AuditResult, bytes]:
    result, evidence = _fail()
    return dataclasses.replace(
        result,
        tier="hours",
        comparisons=(*_comparisons(), *_ensemble()),
        by_group=_by_group(),
        stress=_stress(),
    ), evidence


def _inconclusive() -> tuple[AuditResult, bytes]:
    result, evidence = _fail()
    tests = tuple(
        dataclasses.replace(t, state="INCONCLUSIVE", leak=Interval(-0.9 * t.tolerance, 0.4 * t.tolerance, None))
        if t.name == "RMIA, 8 references"
        else t
        for t in result.tests
        if t.state != "FAIL"
    )
    verdict = Verdict(
        "INCONCLUSIVE",
        "The evidence does not decide whether the model forgot.",
        ("Of 4 required tests 2 stay within tolerance.", tests[0].sentence),
        result.verdict.mde,
    )
    return dataclasses.replace(result, tests=tests, verdict=verdict), evidence


def _invalid() -> tuple[AuditResult, bytes]:
    result, evidence = _fail()
    assert result.oracles is not None
    oracles = dataclasses.replace(result.oracles, count=18, seeds=tuple(range(100, 118)), missing=(FAULT,))
    broken = Control(
        "held-out oracle accepted",
        False,
        "A model retrained without the data was called a failure by: Canary coin test.",
    )
    tests = tuple(dataclasses.replace(t, state="INVALID") if t.kind == "coin" else t for t in result.tests)
    verdict = Verdict(
        "INVALID",
        "This audit cannot be relied on: one of its own controls failed.",
        (broken.sentence,),
        result.verdict.mde,
    )
    controls = (broken, *CONTROLS[1:])
    return dataclasses.replace(result, tests=tests, controls=controls, verdict=verdict, oracles=oracles), evidence


def _class() -> tuple[AuditResult, bytes]:
    result, _ = _fail()
    request = dataclasses.replace(
        result.request,
        kind="class",
        sentence="forget the class '3': all 146 of 1,437 training images",
        forget=146,
        forget_class=3,
        class_name="3",
        canaries=0,
    )
    tests = (
        outcome("Class recognition", "PASS", (-0.0201, 0.0013, 0.0312), tolerance=0.05, unit="confidence", mde=0.031),
        outcome(
            "Oracle rank, class margin",
            "FAIL",
            (-2.713, -2.1045, -1.533),
            tolerance=0.4,
            unit="σ",
            mde=0.372,
            p=0.0004,
            sentence="The margins of the forgotten class lie 2.10 σ below 19 retrained models (95 % interval −2.71 to "
            "−1.53; tolerance ±0.4). It was pushed further than retraining goes, and that gives the deleted "
            "examples away.",
        ),
    )
    verdict = Verdict(
        "FAIL",
        "The model was pushed beyond forgetting, and that shows.",
        ("Of 2 required tests 1 stays within tolerance.", tests[1].sentence),
        ("Class recognition: a confidence of 0.031 or more, four times in five.",),
    )
    changed = dataclasses.replace(
        result,
        request=request,
        collateral=_collateral(classes=20),
        tests=tests,
        verdict=verdict,
        canaries=None,
        accuracy=_accuracy(canaries=False),
        controls=(CONTROLS[0], CONTROLS[3]),
    )
    return changed, _evidence(canaries=0, shift=-2.4)


def _seconds() -> tuple[AuditResult, bytes]:
    result, _ = _fail()
    tests = tuple(
        dataclasses.replace(t, state="INCONCLUSIVE", original=None, original_p=None)
        for t in result.tests
        if t.kind == "coin"
    )[:1]
    verdict = Verdict(
        "INCONCLUSIVE",
        "The evidence does not decide whether the model forgot.",
        ("Without retrained models, or 500 canaries on each side, no PASS can be given.",),
        result.verdict.mde[:1],
    )
    changed = dataclasses.replace(
        result,
        tier="seconds",
        oracles=None,
        tests=tests,
        verdict=verdict,
        method=MethodRecord("external", "unlearned by somebody else, method unknown", {}, (), None, None),
        accuracy=_accuracy(oracles=False),
        controls=CONTROLS[1:3],
        flags=(Flag("no oracles", "No model was retrained without the data; this tier can FAIL but seldom PASS."),),
        captions={"margins": result.captions["margins"], "roc": result.captions["roc"]},
        nonstandard=(),
        registration=None,
        comparisons=(),
        individuals=None,
        collateral=None,
    )
    return changed, _evidence(oracles=0)
