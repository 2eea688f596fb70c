"""check(): is everything that was once forgotten still forgotten by the model about to ship? Seconds, no retraining.

Every audited deletion of a ledger is asked again: right answers and margins on the forgotten examples (of a class, on
held-out ones too), as the model is, rounded to 8 and 4 bits, pruned, and after a few steps of relearning. Each number
is ranked among the numbers that the audit's oracles gave, two-sided, beyond the audit's tolerance; corrected within a
deletion for all its numbers (maxT) and over the ledger (Holm over families). Where the oracles are too few for ranks to
reject over so many deletions, Student's t decides instead, and says that it assumes a law. Canaries are held to their
coins.

A check is a tripwire, not an audit: it passes where nothing stands out, and says what would have. Its own control is
the model before the deletion, whose numbers the ledger holds: where that one would have passed too, the check is blind
and says INCONCLUSIVE. A model of another recipe may lie elsewhere for reasons of its own; audit it anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from unlearnkit.audits.canaries import Manifest, plant
from unlearnkit.audits.designs import MIN_CANARIES, Tolerances
from unlearnkit.audits.ledger.entries import (
    Deletion,
    Entry,
    Group,
    Ledger,
    Points,
    Reading,
    Reference,
    Source,
    Statistic,
    hashed,
    read_to_check,
    shown,
)
from unlearnkit.audits.ledger.rechecks import (
    RECHECKS,
    RELEARNED,
    SHIPPED,
    content,
    margins_of,
    reading_of,
    relearned,
    statistics,
)
from unlearnkit.audits.statistics.coin import coin_test
from unlearnkit.audits.statistics.multiplicity import holm_families
from unlearnkit.audits.statistics.rank import allowed_rank, margin_z, oracle_rank, oracles_needed
from unlearnkit.audits.words import number
from unlearnkit.data import Dataset, load
from unlearnkit.models import Architecture, Classifier, load_model, read_metadata
from unlearnkit.result import UsageError, nearest
from unlearnkit.types import Examples, Splits

State = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID", "NOT CHECKED"]
Word = Literal["PASS", "FAIL", "INCONCLUSIVE", "INVALID"]
WORST_FIRST: tuple[State, ...] = ("INVALID", "FAIL", "INCONCLUSIVE", "NOT CHECKED", "PASS")
CANARIES = "canaries"
NORMAL = "Student's t: assumes that the number is normal between retrainings"
EXACT = "exact ranks"
_SMALLEST = 1e-300  # a p-value is never 0

_SAID: dict[Statistic, str] = {
    "accuracy": "right answers",
    "margin": "mean margin",
    "upper": "margin of the most remembered tenth",
}
_GROUPS: dict[Group, str] = {"forgotten": "forgotten examples", "unseen": "held-out examples of the class"}
_TREATED = {SHIPPED: "", RELEARNED: " after a few steps of relearning"}


@dataclass(frozen=True)
class Row:
    """One number of one deletion among those of its oracles; None: there is none, and the sentence says why."""

    id: str
    treatment: str
    group: str
    statistic: str
    state: State
    sentence: str
    value: float | None = None
    oracles: tuple[float, float, float] | None = None  # smallest, mean, largest
    tolerance: float | None = None
    p: float | None = None  # exact, two-sided, of no difference at all; of canaries by permutation
    p_adjusted: float | None = None  # beyond tolerance, corrected for everything in the ledger: what decides
    mde: float | None = None  # smallest distance from the oracles' mean that is noticed four times in five
    decided_by: str = ""


@dataclass(frozen=True)
class Checked:
    """One deletion: its word, why, and every row, worst first."""

    id: str
    line: int  # of the ledger: the audit it rests on, or the last line
    state: State
    sentence: str
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Check:
    """The whole ledger held against one model; deletions worst first."""

    model: str
    word: Word
    sentence: str
    deletions: tuple[Checked, ...]


@dataclass(frozen=True)
class _Number:
    """What a model says to one statistic, beside the reading it belongs to."""

    reading: Reading
    statistic: Statistic
    value: float
    tolerance: float
    resolution: float  # differences below it are none

    @property
    def oracles(self) -> NDArray[np.float64]:
        return np.array(self.reading.oracles[self.statistic])


@dataclass(frozen=True)
class _Asked:
    """One deletion as the judge sees it."""

    id: str
    line: int
    significance: float
    exact: bool  # the audit's claim: no tolerance is granted
    others: bool = False  # another class was forgotten too, which may be why these examples lie low
    idle: str | None = None  # why there is nothing to hold a model against
    reopened: bool = False  # it was audited once: that it came back is known, and a pass would hide it


@dataclass(frozen=True)
class _Family:
    """All numbers of one deletion, with what is missing; the canaries of a deletion are a family of their own."""

    numbers: tuple[_Number, ...]
    rows: tuple[Row, ...]  # what could not be checked
    broken: str | None = None  # the data are not those of the audit


def check_files(
    path: Path,
    model: Path,
    *,
    data: str | None = None,
    canaries: Sequence[Path] = (),
    architecture: str | None = None,
    ids: Sequence[str] | None = None,
    head: str | None = None,
) -> Check:
    """`check` on files: a ledger, weights, canary manifests. ids: these deletions only; corrected for them alone.

    head: the hash of the ledger's last line that was kept elsewhere. Raises UsageError where no line has it, and for a
    ledger that holds no deletion.
    """
    ledger = read_to_check(path, head=head)
    for name in ids or ():
        if ledger.deletion(name) is None:
            raise UsageError(
                f"{path}: knows no deletion {shown(name)!r}{shown(nearest(name, [d.id for d in ledger.deletions()]))}"
            )
    if ids is not None:
        ledger = Ledger(tuple(entry for entry in ledger.entries if entry.id in set(ids)))
    opened = open_model(model, ledger, architecture=architecture)
    manifests = [Manifest.load(one) for one in canaries]
    return check(ledger, opened, Data(data, path.resolve().parent), manifests=manifests, name=str(model))


def open_model(path: Path, ledger: Ledger, *, architecture: str | None = None) -> Classifier | None:
    """The model about to ship, or None where the ledger holds no audit yet.

    Refuses a model of other classes or input shape than a deletion of the ledger was audited on, and one of another
    architecture: its margins lie elsewhere, whatever it remembers. architecture: for files that do not name theirs;
    left out, that of the ledger.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such weights file; name the model that is about to ship with --model")
    known = [(one.id, one.audited.reference) for one in ledger.deletions() if one.audited and one.audited.reference]
    if not known:
        return None
    first, said = known[0][1], read_metadata(path)
    classes = said.get("classes", "")
    own = Architecture(
        architecture or said.get("architecture", first.architecture),
        int(classes) if classes.isdecimal() else first.classes,
        _shape(said.get("shape"), first.shape),
        private=first.private,
    )
    for name, reference in known:
        if (own.classes, own.shape) != (reference.classes, reference.shape):
            raise UsageError(
                f"{path}: takes inputs of shape {own.shape} and tells {own.classes} classes apart, but {shown(name)!r} "
                f"was audited on inputs of shape {reference.shape} and {reference.classes} classes; name the "
                "model that this ledger belongs to"
            )
    opened = load_model(path, own)  # an unknown architecture shows here
    for name, reference in known:
        if own.name != reference.architecture:
            raise UsageError(
                f"{path}: is a {own.name!r}, but {shown(name)!r} was audited against retrained "
                f"{reference.architecture!r} models, whose numbers say nothing about another architecture; audit the "
                "deletion anew on the new one"
            )
    return opened


def _shape(said: str | None, instead: tuple[int, ...]) -> tuple[int, ...]:
    if said is None:
        return instead
    digits = said.strip("[]() ").split(",")
    return tuple(int(part) for part in digits) if all(part.strip().isdecimal() for part in digits) else instead


@dataclass(frozen=True)
class Data:
    """Where examples are looked up by salted hashes of their ids.

    given: a source (`npz:PATH` …) instead of those that the ledger names, whose paths are relative to `folder`.
    """

    given: str | None = None
    folder: Path = Path()

    @cached_property
    def _loaded(self) -> dict[Source, Dataset]:
        return {}

    def dataset(self, source: Source) -> Dataset:
        """The data of one entry, loaded once."""
        if source not in self._loaded:
            name, root = source.source, None if source.root is None else self.folder / source.root
            for prefix in ("npz:", "folder:"):
                if self.given is None and name.startswith(prefix):
                    name = prefix + str(self.folder / name.removeprefix(prefix))
            self._loaded[source] = load(
                self.given or name, seed=source.seed, root=root, test_fraction=source.test_fraction
            )
        return self._loaded[source]

    def find(self, source: Source, points: Points, salt: str) -> Examples | str:
        """The examples of a group in its order, or why they are not there."""
        dataset = self.dataset(source)
        found: dict[str, tuple[Examples, int]] = {}
        wanted = set(points.ids)
        for part in (dataset.train, dataset.test):
            for row, name in enumerate(hashed(salt, [str(one) for one in part.ids.tolist()])):
                if name in wanted:
                    found[name] = part, row
        lacking = len(wanted - found.keys())
        if lacking:
            return f"{lacking} of {len(wanted)} {_GROUPS[points.group]} are not in the data"
        if len({id(part) for part, _ in found.values()}) > 1:
            return f"the {_GROUPS[points.group]} lie partly among training and partly among test examples"
        part = found[points.ids[0]][0]
        return part.take(np.array([found[name][1] for name in points.ids]))


def check(
    ledger: Ledger, model: nn.Module | None, data: Data, *, manifests: Sequence[Manifest] = (), name: str = "model"
) -> Check:
    """Hold a model against every audited deletion of a ledger; None will do where none was audited.

    manifests: opened canary manifests, matched to deletions by their commitments. Raises UsageError for a manifest that
    belongs to no deletion, and for data that cannot be read.
    """
    sealed = {manifest.commitment: manifest for manifest in manifests}
    asked = [(one, one.audited) for one in ledger.deletions()]
    strangers = sealed.keys() - {entry.canaries.commitment for _, entry in asked if entry and entry.canaries}
    if strangers:
        raise UsageError(
            f"canaries: a manifest with commitment {min(strangers)[:12]}… was given, but no deletion of the ledger "
            "names it; name the manifest of the audited model"
        )
    families: list[_Family] = [_Family((), ())] * len(asked)
    coins: list[tuple[Row | None, float | None]] = [(None, None)] * len(asked)
    if model is not None:
        treated = _Treated(model)
        families = [_measured(one, entry, data, treated) for one, entry in asked]
        coins = [_canaries(one, entry, data, sealed, model) for one, entry in asked]
    classes = {one.id for one, entry in asked if entry is not None and one.what and one.what.kind == "class"}
    return _judged([_of_ledger(one, entry, classes - {one.id}) for one, entry in asked], families, coins, name)


def _of_ledger(one: Deletion, entry: Entry | None, classes: set[str]) -> _Asked:
    if entry is None or entry.audit is None or entry.reference is None:
        why = f"The ledger says {one.state!r}: there is no audit to hold the model against."
        reopened = any(line.state == "re-opened" for line in one.lines)
        if reopened:
            since = "" if one.state == "re-opened" else f" and is {one.state} since"
            why = f"It was re-opened{since}: add the audit of what was done about it."
        return _Asked(one.id, one.lines[-1].number, 0.05, False, idle=why, reopened=reopened)
    return _Asked(one.id, entry.number, entry.audit.significance, entry.audit.claim == "exact", bool(classes))


def compare(
    model: nn.Module,
    splits: Splits,
    oracles: Sequence[nn.Module],
    *,
    original: nn.Module | None = None,
    tolerances: Tolerances | None = None,
    significance: float = 0.05,
    treatments: Sequence[str] = tuple(RECHECKS),
    name: str = "forgotten",
) -> Checked:
    """Hold a model against models retrained without the forget set, without a ledger: for tests of one's own.

    original: the model before the deletion, to know whether the check would notice it. treatments: names from
    `rechecks.RECHECKS`. Raises UsageError for fewer than two oracles and for an unknown treatment.
    """
    if len(oracles) < 2:
        raise UsageError(f"assert_forgotten: needs at least 2 retrained models to compare with, got {len(oracles)}")
    unknown = [one for one in treatments if one not in RECHECKS]
    if unknown:
        hint = nearest(unknown[0], RECHECKS) or f"; there are {', '.join(RECHECKS)}"
        raise UsageError(f"assert_forgotten: unknown treatment {unknown[0]!r}{hint}")
    usual = tolerances or Tolerances()
    kind = "examples" if splits.forget_class is None else "class"
    groups: dict[Group, Examples] = {"forgotten": splits.forget}
    if kind == "class" and splits.twins is not None:
        groups["unseen"] = splits.twins
    numbers: list[_Number] = []
    for treatment in treatments:
        treat = RECHECKS[treatment]
        treated, others = treat(model), [treat(oracle) for oracle in oracles]
        for group, examples in groups.items():
            margins = np.stack([margins_of(one, examples) for one in others])
            before = None
            if original is not None and treatment == SHIPPED:
                before = statistics(margins_of(original, examples))
            numbers += _numbers(
                reading_of(treatment, group, margins, before),
                statistics(margins_of(treated, examples)),
                asdict(usual),
                kind,
                len(examples),
            )
    asked = _Asked(name, 0, significance, exact=False)
    return _judged([asked], [_Family(tuple(numbers), ())], [(None, None)], name).deletions[0]


class _Treated:
    """The model after each treatment, made once for all deletions."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._made: dict[str, nn.Module] = {}

    def value(self, reading: Reading, examples: Examples, reference: Reference) -> dict[Statistic, float]:
        if reading.treatment == RELEARNED:
            assert reference.relearning is not None
            return {"accuracy": relearned(self._model, examples, reference.relearning)}
        if reading.treatment not in self._made:
            self._made[reading.treatment] = RECHECKS[reading.treatment](self._model)
        return statistics(margins_of(self._made[reading.treatment], examples))


def _measured(one: Deletion, entry: Entry | None, data: Data, treated: _Treated) -> _Family:
    """Every number of a deletion that can be had."""
    if entry is None or entry.reference is None:
        return _Family((), ())
    reference = entry.reference
    what = one.what
    assert what is not None
    salt = entry.what.salt if entry.what else what.salt
    rows = [
        Row(one.id, treatment, "", "", "NOT CHECKED", f"Not checked, {shown(treatment)}: {shown(why)}.")
        for treatment, why in reference.missing.items()
    ]
    numbers: list[_Number] = []
    for points in reference.points:
        examples = data.find(reference.data, points, salt)
        if isinstance(examples, str):
            rows.append(Row(one.id, SHIPPED, _GROUPS[points.group], "", "NOT CHECKED", f"Not checked: {examples}."))
            continue
        if points.content is not None and content(salt, examples) != points.content:
            return _Family(
                (),
                (),
                f"The {_GROUPS[points.group]} found in the data are not the ones that were audited: inputs or labels "
                "differ under the same ids. Nothing can be said of this model.",
            )
        for reading in reference.readings:
            if reading.group != points.group:
                continue
            if reading.treatment not in (*RECHECKS, RELEARNED):
                rows.append(
                    Row(
                        one.id,
                        reading.treatment,
                        "",
                        "",
                        "NOT CHECKED",
                        f"Not checked: this version does not know {shown(reading.treatment)!r}.",
                    )
                )
                continue
            values = treated.value(reading, examples, reference)
            numbers += _numbers(reading, values, reference.tolerances, what.kind, len(examples))
    return _Family(tuple(numbers), tuple(rows))


def _numbers(
    reading: Reading, values: Mapping[Statistic, float], tolerances: Mapping[str, float], kind: str, examples: int
) -> Iterator[_Number]:
    """What a model says, with the audit's tolerances: of recognition for right answers, in σ for margins."""
    granted = {**asdict(Tolerances()), **tolerances}
    for statistic, value in values.items():
        if statistic == "accuracy":
            yield _Number(reading, statistic, value, granted["recognition"], 0.5 / examples)
        else:
            sigmas = granted["class_margin" if kind == "class" else "margin"]
            yield _Number(reading, statistic, value, sigmas * reading.sigma, 1e-6)


def _canaries(
    one: Deletion, entry: Entry | None, data: Data, sealed: Mapping[str, Manifest], model: nn.Module
) -> tuple[Row | None, float | None]:
    """The coin test on the canaries of one deletion: a row, and the p-value that counts."""
    if entry is None or entry.canaries is None or entry.reference is None or entry.audit is None:
        return None, None
    no = Row(one.id, CANARIES, CANARIES, "AUC", "NOT CHECKED", "")
    manifest = sealed.get(entry.canaries.commitment)
    if manifest is None:
        commitment = entry.canaries.commitment[:12]
        return replace(
            no, sentence=f"Not checked, canaries: sealed ({commitment}…); open their manifest with --canaries."
        ), None
    what = one.what
    assert what is not None
    labels, heads = np.array(manifest.labels), np.array(manifest.heads)
    own = np.ones(heads.size, dtype=bool) if what.forget_class is None else labels == what.forget_class
    fewest = min(int(np.count_nonzero(heads[own])), int(np.count_nonzero(~heads[own])))
    if fewest < MIN_CANARIES:
        return replace(no, sentence=f"Not checked, canaries: {fewest} on one side, {MIN_CANARIES} are needed."), None
    part = data.dataset(entry.reference.data).train
    rows = {str(known): row for row, known in enumerate(part.ids.tolist())}
    ids = [known for known, mine in zip(manifest.ids, own, strict=True) if mine]
    lacking = sum(known not in rows for known in ids)
    if lacking:
        return replace(no, sentence=f"Not checked, canaries: {lacking} of {len(ids)} are not in the data."), None
    if manifest.treatment is None:
        planted = part.take(np.array([rows[known] for known in ids]))
        planted = Examples(planted.x, torch.from_numpy(labels[own]), planted.ids)
    elif manifest.treatment.given or not rows.keys() >= set(manifest.ids):
        lost = "their inputs came from another set" if manifest.treatment.given else "some are not in the data"
        return replace(no, sentence=f"Not checked, canaries: of kind {shown(manifest.kind)}, and {lost}."), None
    else:
        planted = plant(part, manifest).train.take(np.array([rows[known] for known in ids]))
    tolerance = entry.reference.tolerances.get("auc", Tolerances().auc)
    coin = coin_test(
        margins_of(model, planted),
        heads[own],
        tolerance=tolerance,
        confidence=1 - entry.audit.significance,
        power=entry.audit.power,
        seed=entry.audit.seed,
    )
    row = replace(
        no,
        value=coin.auc.value,
        tolerance=tolerance,
        p=coin.p,
        mde=coin.mde,
        decided_by="exact permutation" if entry.audit.claim == "exact" else "DeLong",
    )
    return row, coin.p if entry.audit.claim == "exact" else coin.p_tolerance


def _ranked(numbers: Sequence[_Number], exact: bool) -> tuple[list[float], list[float]]:
    """By exact ranks: raw two-sided p of no difference; p of what decides, corrected within the family."""
    values = np.array([[number.value, *number.oracles] for number in numbers]).T
    results = oracle_rank(values, tolerances=np.array([number.tolerance for number in numbers]))
    return [result.p for result in results], [result.p_adjusted if exact else result.p_tolerance for result in results]


def _student(numbers: Sequence[_Number], exact: bool) -> list[float]:
    """By Student's t for one more retrained model, Bonferroni within the family: no smallest p, but a law."""
    found = []
    for one in numbers:
        n = one.oracles.size
        spread = max(float(one.oracles.std(ddof=1)), one.resolution) * math.sqrt(1 + 1 / n)
        distance = max(0.0, abs(one.value - float(one.oracles.mean())) - (0.0 if exact else one.tolerance))
        p = 2 * float(stats.t.sf(distance / spread, n - 1))
        found.append(min(1.0, max(_SMALLEST, p * len(numbers))))
    return found


@dataclass(frozen=True)
class _Law:
    """How a family is decided, given how many families there are."""

    ranks: bool
    exact: bool  # the audit's claim: no tolerance
    significance: float
    families: int

    @property
    def name(self) -> str:
        return EXACT if self.ranks else NORMAL

    def p(self, numbers: Sequence[_Number]) -> list[float]:
        """What decides, corrected within the family."""
        return _ranked(numbers, self.exact)[1] if self.ranks else _student(numbers, self.exact)

    def mde(self, one: _Number, numbers: Sequence[_Number]) -> float | None:
        """Smallest distance from the oracles' mean that is noticed four times in five."""
        n = one.oracles.size
        level = self.significance / self.families
        noise = math.sqrt(1 + 1 / n)
        if not self.ranks:
            threshold = float(stats.t.isf(level / len(numbers) / 2, n - 1)) * noise
        elif k := allowed_rank(n, level):
            # What maxT asks of each number of a family whose other numbers are quiet: the k-th most deviating oracle.
            quiet = np.array([[float(other.oracles.mean()), *other.oracles] for other in numbers]).T
            threshold = float(np.sort(np.abs(margin_z(quiet))[1:].max(axis=1))[n - k])
        else:
            return None
        spread = max(float(one.oracles.std(ddof=1)), one.resolution)
        factor = threshold + float(stats.norm.ppf(0.8)) * noise
        return float((0.0 if self.exact else one.tolerance) + factor * spread)


def _law(family: _Family, asked: _Asked, families: int) -> _Law:
    enough = oracles_needed(significance=asked.significance, families=families)
    ranks = bool(family.numbers) and family.numbers[0].oracles.size >= enough
    return _Law(ranks, asked.exact, asked.significance, families)


def _judged(
    asked: Sequence[_Asked],
    families: Sequence[_Family],
    coins: Sequence[tuple[Row | None, float | None]],
    name: str,
) -> Check:
    count = sum(bool(family.numbers) for family in families) + sum(p is not None for _, p in coins)
    laws = [_law(family, one, max(1, count)) for one, family in zip(asked, families, strict=True)]
    inside = [law.p(family.numbers) if family.numbers else [] for law, family in zip(laws, families, strict=True)]
    of_coins = [[] if p is None else [p] for _, p in coins]
    everything = [part for part in (*inside, *of_coins) if part]
    adjusted = iter(holm_families(everything) if everything else [])
    corrected = [next(adjusted) if part else [] for part in (*inside, *of_coins)]
    checked = []
    for i, (one, law, family) in enumerate(zip(asked, laws, families, strict=True)):
        if one.idle is not None:
            checked.append(Checked(one.id, one.line, "INCONCLUSIVE" if one.reopened else "NOT CHECKED", one.idle))
            continue
        if family.broken is not None:
            checked.append(Checked(one.id, one.line, "INVALID", family.broken))
            continue
        rows = list(family.rows)
        if family.numbers:
            raw = _ranked(family.numbers, law.exact)[0]
            rows += [
                _row(one, number, law, family.numbers, *ps)
                for number, *ps in zip(family.numbers, raw, inside[i], corrected[i], strict=True)
            ]
        coin = coins[i][0]
        if coin is not None:
            rows.append(_coin_row(coin, of_coins[i], corrected[len(asked) + i], law))
        rows.sort(key=lambda row: (WORST_FIRST.index(row.state), _beyond(row)))
        checked.append(_deletion(one.id, one.line, rows, blind=_blind(family, law)))
    checked.sort(key=lambda one: (WORST_FIRST.index(one.state), one.line))
    return _summed_up(name, checked)


def _row(
    asked: _Asked, one: _Number, law: _Law, numbers: Sequence[_Number], p: float, inside: float, across: float
) -> Row:
    oracles = one.oracles
    mean = float(oracles.mean())
    state: State = "PASS"
    if inside <= law.significance:
        explained = asked.others and one.value < mean
        state = "FAIL" if across <= law.significance and not explained else "INCONCLUSIVE"
    where = _GROUPS[one.reading.group]
    treated = _TREATED.get(one.reading.treatment, f" ({one.reading.treatment})")
    accuracy = one.statistic == "accuracy"

    def said(value: float) -> str:
        return f"{value * 100:.1f}\u00a0%" if accuracy else number(value)

    low, high = said(float(oracles.min())), said(float(oracles.max()))
    others = low if low == high else f"{low} to {high}"
    sentence = f"{_SAID[one.statistic].capitalize()} on {where}{treated}: {said(one.value)}, retrained models {others}."
    if state == "FAIL":
        sentence += (
            " The model remembers them again." if one.value > mean else " Retraining does not leave them that low."
        )
    elif state == "INCONCLUSIVE" and across <= law.significance:
        sentence += " Retraining did not leave them that low, but more was forgotten since; audit it anew."
    elif state == "INCONCLUSIVE":
        sentence += " It stands out by itself, but not when the whole ledger is counted; audit it anew."
    return Row(
        asked.id,
        one.reading.treatment,
        where,
        _SAID[one.statistic],
        state,
        sentence,
        value=one.value,
        oracles=(float(oracles.min()), mean, float(oracles.max())),
        tolerance=one.tolerance,
        p=p,
        p_adjusted=across,
        mde=law.mde(one, numbers),
        decided_by=law.name,
    )


def _coin_row(row: Row, inside: Sequence[float], across: Sequence[float], law: _Law) -> Row:
    if not inside or row.value is None:
        return row
    state: State = "PASS"
    if inside[0] <= law.significance:
        state = "FAIL" if across[0] <= law.significance else "INCONCLUSIVE"
    sentence = f"Deleted canaries are told from never-used ones with AUC {number(row.value)} (chance is 0.5)."
    if state == "FAIL":
        sentence += " The model remembers on which side their coins fell."
    return replace(row, state=state, sentence=sentence, p_adjusted=across[0])


def _beyond(row: Row) -> float:
    """The farther from the oracles in tolerances, the earlier."""
    if row.value is None or not row.tolerance:
        return 0.0
    return -abs(row.value - (0.5 if row.oracles is None else row.oracles[1])) / row.tolerance


def _blind(family: _Family, law: _Law) -> bool:
    """Whether the model before the deletion would have passed too, as far as its numbers are known.

    The others count as well: what has to be beaten is the most deviating oracle in all numbers of the family.
    """
    known = [one.reading.original is not None for one in family.numbers]
    before = [replace(one, value=_before(one)) for one in family.numbers]
    if not any(known):
        return False
    decides = zip(law.p(before), known, strict=True)
    return all(p * law.families > law.significance for p, there in decides if there)


def _before(one: _Number) -> float:
    original = one.reading.original
    return float(one.oracles.mean()) if original is None else original[one.statistic]


def _deletion(name: str, line: int, rows: Sequence[Row], *, blind: bool) -> Checked:
    states = {row.state for row in rows}
    skipped = sum(row.state == "NOT CHECKED" for row in rows)
    done = len(rows) - skipped
    also = f" {skipped} {'check was' if skipped == 1 else 'checks were'} not possible." if skipped else ""
    if "FAIL" in states or "INCONCLUSIVE" in states:
        worst = rows[0]
        return Checked(name, line, worst.state, worst.sentence + also, tuple(rows))
    if not done:
        return Checked(name, line, "INCONCLUSIVE", f"Nothing could be checked. {rows[0].sentence}", tuple(rows))
    if blind:
        sentence = "Nothing stands out, but neither would the model before the deletion have: this check is blind."
        return Checked(name, line, "INCONCLUSIVE", sentence + also, tuple(rows))
    return Checked(name, line, "PASS", f"Nothing stands out in {done} checks.{_noticed(rows)}{also}", tuple(rows))


def _noticed(rows: Sequence[Row]) -> str:
    """What a pass is worth: the smallest return of right answers that would have been noticed."""
    for row in rows:
        if (row.treatment, row.statistic) == (SHIPPED, _SAID["accuracy"]) and row.oracles and row.mde is not None:
            least = row.oracles[1] + row.mde
            if least <= 1:
                return f" It would have noticed {least * 100:.1f}\u00a0% right answers on {row.group}, as shipped."
    return ""


def _summed_up(name: str, checked: Sequence[Checked]) -> Check:
    """The word for the model: the worst of its deletions; requests that were never audited do not count."""
    counts = {state: sum(one.state == state for one in checked) for state in WORST_FIRST}
    total = sum(counts.values()) - counts["NOT CHECKED"]
    word: Word = "PASS"
    worse: tuple[Word, ...] = ("INVALID", "FAIL", "INCONCLUSIVE")
    word = next((state for state in worse if counts[state]), word)
    if not total:
        word = "INCONCLUSIVE"
    deletions = f"{total} deletion{'' if total == 1 else 's'}"
    sentence = {
        "INVALID": f"{counts['INVALID']} of {deletions} cannot be checked with these data.",
        "FAIL": f"{counts['FAIL']} of {deletions} {'fails' if counts['FAIL'] == 1 else 'fail'}.",
        "INCONCLUSIVE": f"The check does not decide {counts['INCONCLUSIVE']} of {deletions}.",
        "PASS": f"{deletions} checked: everything once forgotten is still forgotten, as far as this check can see.",
    }[word]
    if not total:
        sentence = "No deletion of the ledger was audited." if checked else "The ledger holds no deletion."
    if counts["NOT CHECKED"]:
        sentence += f" {counts['NOT CHECKED']} without an audit."
    return Check(name, word, sentence, tuple(checked))
