"""What an audit asks its models, and the evidence that their answers give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearnkit.audits.battery import ATTACKS, PROBED, PROBES, legacy
from unlearnkit.audits.case import Case, Demand, method_of
from unlearnkit.audits.designs import coin_design, coin_design_of
from unlearnkit.audits.evidence import SWAP, TREATED, UNTRAINED, Evidence, FloatArray, Group, envelope
from unlearnkit.audits.groups import Groups, held_out_groups
from unlearnkit.audits.statistics.resurrection import LEAST_ORACLES
from unlearnkit.audits.statistics.roc import roc
from unlearnkit.audits.statistics.sampling import evenly, in_groups
from unlearnkit.audits.subjects import Models
from unlearnkit.audits.swapping import swap_jobs
from unlearnkit.fleet import Fleet
from unlearnkit.jobs import Job, Made, ModelJob, ObserveJob, Points, ProbeJob
from unlearnkit.observing import margin
from unlearnkit.result import Flag, UsageError
from unlearnkit.store import Store
from unlearnkit.treatments import COMPRESSED, DRAWN_ANEW
from unlearnkit.types import Observation, Probe

MOST_OUTPUTS = 200  # requested examples whose whole output is kept as evidence
MOST_BESIDE = 500  # retained, and held-out, examples whose margins are
SWAP_PAIRS, LEAST_SWAPPED = 3, 20  # pairs of models that trade places, and examples that must be there to be dealt
_NOBODY: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Looks:
    """What every model is asked: the audit's points, then the large sets on which accuracy is measured."""

    jobs: dict[str, list[ObserveJob]]  # original, audited, oracles (the last one is held out), ensemble
    probes: dict[str, list[ProbeJob]]  # "probe/model": original, audited, oracles
    further: dict[str, list[ObserveJob]]  # "what/model": treated weights, an untrained copy, pairs that traded places
    y: NDArray[np.int64]
    ids: tuple[str, ...]  # of the requested examples
    part: dict[str, NDArray[np.int64]]  # name -> positions among the points of the jobs
    groups: Groups  # of the held-out examples whose answers are kept, part "answered"
    swap_forget: NDArray[np.bool_] | None  # what the first model of each pair forgets, [pair, requested point]
    notes: tuple[Flag, ...]  # what is not asked, and why

    @property
    def asked(self) -> dict[str, Sequence[Job]]:
        """Every job, by the name under which it is registered."""
        return {**self.jobs, **self.probes, **self.further}


def looks(case: Case, wanted: Demand, models: Models) -> Looks:
    """One observation per model over all points, so that the fleet makes model and observation in one go."""
    groups, test, beside = _groups(case, wanted)
    rows = {
        "requested": wanted.requested,
        "heads": wanted.heads,
        "tails": wanted.tails,
        "retain": evenly(wanted.retain),
        "twins": wanted.twins,
        "test": test,
        "of small groups": beside,
    }
    trained = ("requested", "heads", "tails", "retain")
    points = Points(np.concatenate([rows[name] for name in trained]), np.concatenate([rows["twins"], test, beside]))
    ends = np.cumsum([part.size for part in rows.values()])
    part = {name: np.arange(end - rows[name].size, end) for name, end in zip(rows, ends, strict=True)}
    part["answered"] = np.concatenate([part["test"], part["of small groups"]])
    y = np.concatenate([case.train.labels().numpy()[points.train], case.dataset.test.labels().numpy()[points.test]])
    jobs = {
        name: [
            ObserveJob(f"look at {job.name}", (job,), points, logits=True, keep_weights=name != "ensemble")
            for job in group
        ]
        for name, group in (
            ("original", [models.original]),
            ("audited", [models.audited]),
            ("oracles", models.oracles),
            ("ensemble", models.ensemble),
        )
    }
    label = wanted.deletion.forget_class
    unasked = part["test"] if label is None else part["test"][y[part["test"]] != label]
    part |= {"beside retained": evenly(part["retain"], MOST_BESIDE), "beside held out": evenly(unasked, MOST_BESIDE)}
    further = _treated(wanted, models)
    if models.oracles:
        asked = wanted.requested[evenly(np.arange(wanted.requested.size), MOST_OUTPUTS)]
        name = f"look at an untrained copy of {models.original.name}"
        copy = ObserveJob(name, (models.original,), Points(asked, _NOBODY), logits=True, treatments=(DRAWN_ANEW,))
        further[f"{UNTRAINED}/original"] = [copy]
    pairs, swap_forget, notes = _swapped(case, wanted)
    if pairs:
        further[f"{SWAP}/pairs"] = pairs
    ids = tuple(case.train.ids[wanted.requested].tolist())
    return Looks(jobs, _probes(case, wanted, models), further, y, ids, part, groups, swap_forget, notes)


def _groups(case: Case, wanted: Demand) -> tuple[Groups, NDArray[np.int64], NDArray[np.int64]]:
    """The groups that the spec names, with the held-out rows that are looked at: a sample of all, and beside it more of
    groups that are small in it. Examples of the class to be forgotten are in no group.
    """
    settings, ids = case.spec.audit, case.dataset.test.ids
    labels = case.dataset.test.labels().numpy()[wanted.held_out]
    groups = held_out_groups(
        ids[wanted.held_out],
        labels != (-1 if wanted.deletion.forget_class is None else wanted.deletion.forget_class),
        pattern=settings.group_pattern,
        file=None if settings.group_file is None else case.spec.path(settings.group_file),
        known=np.concatenate([case.train.ids, ids]),
    )
    if not groups.names:
        return groups, evenly(wanted.held_out), _NOBODY
    shares, beside = in_groups(groups.number)
    number = groups.number[np.concatenate([shares, beside])]
    return replace(groups, number=number), wanted.held_out[shares], wanted.held_out[beside]


def _treated(wanted: Demand, models: Models) -> dict[str, list[ObserveJob]]:
    """The points that the coin test compares, members first, under compressed copies of original and audited model."""
    design = coin_design_of(wanted.heads.size, wanted.tails.size, oracles=len(models.oracles))
    if design is None:
        return {}
    points = Points(np.concatenate([wanted.heads, wanted.tails]), _NOBODY)
    if not design.exact:
        points = Points(wanted.requested, wanted.twins)
    return {
        f"{TREATED}/{name}": [ObserveJob(f"look at compressed {job.name}", (job,), points, treatments=COMPRESSED)]
        for name, job in (("original", models.original), ("audited", models.audited))
    }


def _swapped(case: Case, wanted: Demand) -> tuple[list[ObserveJob], NDArray[np.bool_] | None, tuple[Flag, ...]]:
    """Tier `hours`: the requested examples dealt into two halves that trade places, what the first model of each pair
    forgets, or why there is no such test. Of an odd number of examples the last one is in neither half.
    """
    size, method = wanted.requested.size, method_of(case, required=False)
    if case.spec.audit.tier != "hours" or method is None:  # tier `hours` refuses to start without a method
        return [], None, ()
    why = ""
    if wanted.kind == "class":
        why = "It deals single examples into two halves that trade places; this request is for a whole class."
    elif size < LEAST_SWAPPED:
        why = f"It needs {LEAST_SWAPPED} requested examples that are no canaries, and here are {size}."
    if why:
        return [], None, (Flag(f"{SWAP} left out", why),)
    jobs, forget = swap_jobs(
        case.recipe,
        method,
        retain=wanted.retain,
        pool=wanted.requested[: size // 2 * 2],
        pairs=SWAP_PAIRS,
        seed=case.seeds("swap", 1)[0],
        unseen=wanted.unseen,
        keep_weights=False,
    )
    return jobs, forget, ()


def _probes(case: Case, wanted: Demand, models: Models) -> dict[str, list[ProbeJob]]:
    """The same questions, with the same seed, to the original, the audited model and some oracles."""
    oracles = models.oracles[:-1][:PROBED]
    if len(oracles) < LEAST_ORACLES:
        return {}
    [seed] = case.seeds("probe", 1)
    retain, held_out = evenly(wanted.retain), evenly(wanted.held_out)
    held_out = np.setdiff1d(held_out, wanted.twins) if wanted.twins.size < held_out.size else held_out
    label = wanted.deletion.forget_class

    def ask(probe: Probe, model: ModelJob) -> ProbeJob:
        name = f"{probe.name} of {model.name}"
        return ProbeJob(name, model, probe, seed, evenly(wanted.requested), retain, held_out, wanted.twins, label)

    groups: dict[str, Sequence[ModelJob]] = {
        "original": [models.original],
        "audited": [models.audited],
        "oracles": oracles,
    }
    return {
        f"{probe.name}/{name}": [ask(probe, model) for model in group]
        for probe in PROBES[wanted.kind]
        for name, group in groups.items()
    }


def make(fleet: Fleet, looked: Looks) -> dict[str, list[Made]]:
    """Everything in one fleet: original and audited model must be there, an oracle or a probe may be missing."""
    groups = looked.asked
    results = iter(fleet.attempt([job for group in groups.values() for job in group], step="this request"))
    made = {name: [next(results) for _ in group] for name, group in groups.items()}
    for name, looks in looked.jobs.items():  # a look that rests on a training which failed says why that one did
        made[name] = [_own(one, job.stages[0]) for one, job in zip(made[name], looks, strict=True)]
    for name in ("original", "audited"):
        if (fault := made[name][0].fault) is not None:
            raise UsageError(f"{looked.jobs[name][0].stages[0].name}: {fault}")
    faults = [one.fault for one in made["ensemble"] if one.fault is not None]
    if faults:
        raise UsageError(
            f"ensemble: {len(faults)} of {len(made['ensemble'])} unlearnings failed, the first: {faults[0]}"
        )
    oracles = made["oracles"]
    faults = [one.fault for one in oracles if one.fault is not None]
    if oracles and len(faults) > len(oracles) - 2:  # no oracle and no held-out one are left
        raise UsageError(f"oracles: {len(faults)} of {len(oracles)} retrainings failed, the first: {faults[0]}")
    return made


def _own(made: Made, model: ModelJob) -> Made:
    return made if made.fault is None else replace(made, fault=made.fault.removeprefix(f"rests on {model.name}: "))


def answered(made: Mapping[str, list[Made]], looked: Looks) -> tuple[dict[str, list[str]], list[Flag]]:
    """The readings of probes that every model answered, what was looked at further, and a flag for each question that
    was not answered: nothing is absent silently.

    An oracle that could not be trained cannot be asked; that is said where the oracles are counted.
    """
    trained = [one.fault is None for one in made["oracles"]]
    keys: dict[str, list[str]] = {}
    flags: dict[str, Flag] = {}
    for name in (*looked.probes, *looked.further):
        probe, _, model = name.rpartition("/")
        asked = (
            [one for one, there in zip(made[name], trained, strict=False) if there]
            if model == "oracles"
            else made[name]
        )
        fault = next((one.fault for one in asked if one.fault is not None), None)
        if fault is None and model == "oracles" and len(asked) < LEAST_ORACLES:
            fault = f"only {len(asked)} oracles are left to be asked"
        if fault is not None:
            flags.setdefault(probe, Flag("probe left out", f"{probe}: {fault}"))
        keys[name] = [one.key for one in asked]
    return {name: part for name, part in keys.items() if name.rpartition("/")[0] not in flags}, list(flags.values())


@dataclass(frozen=True, eq=False)
class _Heard:
    """What several models said, each array with one row per model."""

    margins: FloatArray  # of the audit's points
    scores: dict[str, FloatArray]  # by attack, of the same
    correct: dict[str, NDArray[np.int64]]  # right answers by split
    outputs: NDArray[np.float32]  # logits of some requested examples
    beside: NDArray[np.float32]  # margins of retained and held-out examples
    answers: NDArray[np.uint8]  # 1 where a held-out example is answered right


def gather(
    looked: Looks,
    notes: tuple[Flag, ...],
    store: Store,
    keys: Mapping[str, Sequence[str]],
    probes: Mapping[str, Sequence[str]] | None = None,
) -> Evidence:
    """The evidence from the observations of every model; one of them is in memory at a time.

    probes: keys by "probe/model", and of what was looked at further by "what/model".
    """
    part = looked.part
    groups = {"requested": Group.REQUESTED, "heads": Group.HEADS, "twins": Group.TWINS, "tails": Group.TAILS}
    chosen = np.concatenate([part[name] for name in groups])
    group = np.repeat(np.array(list(groups.values()), dtype=np.uint8), [part[name].size for name in groups])
    y = looked.y[chosen]
    splits = {"forget": part["requested"], "canaries": part["heads"], "retain": part["retain"], "test": part["test"]}
    splits = {name: rows for name, rows in splits.items() if rows.size or name in ("retain", "test")}
    aside = np.concatenate([part["beside retained"], part["beside held out"]])
    spoken = evenly(np.arange(part["requested"].size), MOST_OUTPUTS)

    def hear(key: str) -> _Heard:
        arrays = store.map(key)
        logits = np.asarray(arrays["logits"][0])[chosen]
        seen = Observation(chosen.astype(str), y, margin(logits, y), logits)
        right = np.asarray(arrays["logits"][0, :, 0].argmax(axis=-1) == looked.y)
        return _Heard(
            seen.margins[:, 0],
            {attack.name: attack.score(seen).values for attack in ATTACKS},
            {split: np.array(np.count_nonzero(right[rows])) for split, rows in splits.items()},
            logits[spoken, 0],
            margin(np.asarray(arrays["logits"][0, aside, 0]), looked.y[aside]).astype(np.float32),
            right[part["answered"]].astype(np.uint8),
        )

    heard = {"original": _together(map(hear, keys["original"])), "audited": _together(map(hear, keys["audited"]))}
    if keys["oracles"]:
        heard["held_out"] = _together(map(hear, keys["oracles"][-1:]))
        heard["oracles"] = _together(map(hear, keys["oracles"][:-1]))

    def of(models: str, array: NDArray[Any]) -> NDArray[Any]:
        """Only the oracles are several."""
        return array if models == "oracles" else array[0]

    design = coin_design_of(part["heads"].size, part["tails"].size, oracles=len(keys["oracles"]))
    compared = () if design is None else (design.members, design.others)
    ensemble = [store.map(key)["margins"][0, chosen, 0].astype(np.float64) for key in keys["ensemble"]]
    asked = probes or {}
    further = {name: [store.map(key) for key in asked[name]] for name in looked.further if name in asked}
    treated = {
        f"{treatment}/{model}": seen[i, :, 0].astype(np.float64)
        for model in ("original", "audited")
        for arrays in further.get(f"{TREATED}/{model}", ())
        for seen in (arrays["margins"],)
        for i, treatment in enumerate(COMPRESSED)
    }
    outputs = {name: of(name, one.outputs) for name, one in heard.items()}
    for arrays in further.get(f"{UNTRAINED}/original", ()):
        outputs[UNTRAINED] = np.asarray(arrays["logits"][0, :, 0])
    swapped = [arrays["margins"][0, :, 0].astype(np.float64) for arrays in further.get(f"{SWAP}/pairs", ())]
    evidence = Evidence(
        group,
        y,
        {name: of(name, one.margins) for name, one in heard.items()},
        {f"{attack}/{name}": of(name, rows) for name, one in heard.items() for attack, rows in one.scores.items()},
        {f"{name}/{split}": counts for name, one in heard.items() for split, counts in one.correct.items()},
        {name: rows.size for name, rows in splits.items()},
        {},
        ids=looked.ids,
        logits=outputs,
        logit_points=chosen[spoken],
        answers={name: of(name, one.answers) for name, one in heard.items()},
        answer_label=looked.y[part["answered"]],
        answer_group=looked.groups.number,
        group_names=looked.groups.names,
        ensemble=np.stack(ensemble) if ensemble else None,
        readings={
            name: np.concatenate([store.read(key)["value"].numpy() for key in asked[name]])
            for name in asked
            if name in looked.probes
        },
        treated=treated,
        treated_points=np.concatenate([_NOBODY, *(np.flatnonzero(group == side) for side in compared if treated)]),
        beside={name: of(name, one.beside) for name, one in heard.items()},
        beside_retained=np.repeat(
            np.array([1, 0], dtype=np.uint8), [part[f"beside {name}"].size for name in ("retained", "held out")]
        ),
        swapped=np.stack(swapped).reshape(-1, 2, swapped[0].size) if swapped else None,
        swapped_forget=None if not swapped or looked.swap_forget is None else looked.swap_forget.astype(np.uint8),
        notes=notes,
    )
    return replace(evidence, curves=curves(evidence), legacy=legacy(evidence))


def _together(heard: Iterable[_Heard]) -> _Heard:
    several = list(heard)
    return _Heard(
        np.stack([one.margins for one in several]),
        {attack: np.stack([one.scores[attack] for one in several]) for attack in several[0].scores},
        {split: np.stack([one.correct[split] for one in several]) for split in several[0].correct},
        np.stack([one.outputs for one in several]),
        np.stack([one.beside for one in several]),
        np.stack([one.answers for one in several]),
    )


def curves(evidence: Evidence) -> dict[str, FloatArray]:
    """ROC staircases of the attack for the figure: on canaries where there are enough, else requested and held-out."""
    design = coin_design(evidence)
    pair = (design.members, design.others) if design is not None else (Group.REQUESTED, Group.TWINS)
    members, others = (evidence.rows(group) for group in pair)

    def staircase(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
        curve = roc(scores[members], scores[others])
        return curve.fpr, curve.tpr

    curves: dict[str, FloatArray] = {}
    for target in ("original", "audited"):
        fpr, tpr = staircase(evidence.scores[f"{ATTACKS[0].name}/{target}"])
        curves |= {f"roc/{target}/fpr": fpr, f"roc/{target}/tpr": tpr}
    if evidence.oracles:
        grid = np.arange(others.size + 1) / others.size
        low, high = envelope([staircase(row) for row in evidence.scores[f"{ATTACKS[0].name}/oracles"]], grid)
        curves |= {"roc/oracles/fpr": grid, "roc/oracles/tpr_low": low, "roc/oracles/tpr_high": high}
    return curves
