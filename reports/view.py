"""The result as pages print it: every number already a string, long texts cut for page one. Typography, no finding."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from unlearnkit.hardest import FOUND
from unlearnkit.reports import figures, numbers
from unlearnkit.reports.letterhead import Letterhead, logo_kind
from unlearnkit.reports.pictures import shaded
from unlearnkit.result import (
    Accuracy,
    AuditResult,
    Collateral,
    Comparison,
    Individuals,
    Interval,
    Outcome,
    PrivacyRecord,
    Quantity,
    Registration,
    StressSets,
    UsageError,
    evidence_path,
)

AUDIT = "audit.json"  # the name of the attached result
PAGE_ONE = {"tests": 10, "controls": 6}  # how many of them
CLASSES = 15  # rows of their table, and of the list of failed retrainings
SETS = 10  # columns of the picture of other sets
HARDEST = 10  # examples of one of them
RELEASED = ("PASS", "CONSISTENT")  # verdicts on whose ground the signer may release the model
RATES = ("UA", "RA", "TA")
LETTERS = {  # on page one; the pages behind it have the full text
    "organization": 90,
    "id": 40,
    "headline": 170,
    "why": 520,
    "asked": 170,
    "done": 140,
    "saw": 120,
    "mde": 330,
    "caption": 130,
    "flags": 110,
    "nonstandard": 150,
    "fault": 240,  # of a failed retraining
    "battery": 24,
    "tier": 24,
    "name": 48,
    "label": 80,
    "value": 400,  # of a parameter
    "unit": 14,
}


def row_height(count: int) -> float:
    """Height of a row of the dot plot in points: many tests stand closer."""
    return min(23.0, max(14.5, 150 / max(count, 1)))


def read_audit(audit: Path) -> tuple[AuditResult, bytes]:
    """A result file and the evidence beside it; refuses evidence that is not the one that the result names."""
    try:
        result = AuditResult.from_json(audit.read_bytes(), what=str(audit))
    except OSError as error:
        raise UsageError(f"{audit}: cannot be read ({error.strerror})") from error
    sidecar = evidence_path(audit, result)
    try:
        evidence = sidecar.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{sidecar}: the evidence of {audit} cannot be read ({error.strerror}); it must lie beside the result"
        ) from error
    belongs(evidence, result, what=f"{sidecar}, the evidence of {audit},")
    return result, evidence


def belongs(evidence: bytes, result: AuditResult, *, what: str) -> None:
    """Refuse evidence that is not the one that the result names."""
    sha256 = hashlib.sha256(evidence).hexdigest()
    if sha256 != result.evidence.sha256:
        raise UsageError(f"{what} has SHA-256 {sha256}, and the result names {result.evidence.sha256 or 'none'}")


def as_printed(result: AuditResult, letterhead: Letterhead, audit: str, arrays: figures.Arrays) -> dict[str, Any]:
    """The result and every fixed text as the pages print them. `audit`: SHA-256 of the result file."""
    tests, words = result.tests, letterhead.table()
    organization = letterhead.organization or result.organization
    body = dataclasses.asdict(result)
    verdict, request, method, oracles, canaries = (
        result.verdict,
        result.request,
        result.method,
        result.oracles,
        result.canaries,
    )
    say = Said(words["said"])
    rows = [_test(test, say) for test in tests]
    needs = words["needs"]
    saw = "" if method.saw is None else ", ".join(needs.get(need, need.replace("_", " ")) for need in method.saw)
    saw = words["nothing"] if method.saw == () else saw
    long = {"headline": verdict.headline, "why": " ".join(verdict.why), "mde": " ".join(verdict.mde)}
    short = {name: clauses(text, LETTERS[name]) for name, text in long.items()}
    shown = rows[: PAGE_ONE["tests"]]
    controls = sorted(result.controls, key=lambda control: control.passed)  # failed ones are never left out
    return {
        **{
            name: body[name]
            for name in (
                "battery",
                "claim",
                "flags",
                "controls",
                "verdict",
            )
        },
        "words": words,
        "tier": say(result.tier),
        "claim-said": say(result.claim),
        "nonstandard": [say(text) for text in result.nonstandard],
        "captions": {name: say(text) for name, text in result.captions.items()},
        "released": verdict.word in RELEASED,
        "organization": organization,
        "contact": letterhead.contact,
        "logo": f"logo.{logo_kind(letterhead.logo)}" if letterhead.logo else "",
        "letterhead": letterhead != Letterhead(),
        "own-words": bool(letterhead.words),
        "started": f"{started(result):%Y-%m-%d, %H:%M} UTC",
        "significance": numbers.setting(result.significance),
        "power": numbers.setting(result.power),
        "seed": str(result.seed),
        "command": result.command,
        "evidence": result.evidence.file,
        "meta": {"id": request.id, "organization": organization, "headline": verdict.headline},
        "hashes": {"audit": audit, "evidence": result.evidence.sha256},
        "confidence": " / ".join(
            sorted({numbers.share(test.leak.confidence) for test in tests} or {numbers.share(0.95)})
        ),
        "row": row_height(len(shown)),
        "figures": {  # those that this evidence allows
            "dots": bool(tests),
            "margins": arrays.has(figures.FORGET) or arrays.has(figures.HEADS),
            "roc": bool(arrays.roc),
            "canaries": arrays.has(figures.HEADS) and arrays.has(figures.TAILS),
        },
        "tests": rows,
        "brief": {
            **short,
            "battery": shorten(result.battery, LETTERS["battery"]),
            "tier": shorten(say(result.tier), LETTERS["tier"]),
            "shortened": short != long,
            "cut": {name: short[name] != text for name, text in long.items()},
            "organization": shorten(organization, LETTERS["organization"]),
            "contact": shorten(letterhead.contact, LETTERS["organization"]),
            "asked": shorten(request.sentence, LETTERS["asked"]),
            "done": shorten(method.sentence, LETTERS["done"]),
            "saw": shorten(saw, LETTERS["saw"]),
            "tests": [row | {name: shorten(row[name], LETTERS[name]) for name in ("name", "unit")} for row in shown],
            "left-out": str(len(rows) - len(shown)),
            "controls": [
                {"name": shorten(control.name, LETTERS["name"]), "passed": control.passed}
                for control in controls[: PAGE_ONE["controls"]]
            ],
            "captions": {name: shorten(say(text), LETTERS["caption"]) for name, text in result.captions.items()},
            "flags": shorten(", ".join(flag.name for flag in result.flags), LETTERS["flags"]),
            "nonstandard": shorten("; ".join(map(say, result.nonstandard)), LETTERS["nonstandard"]),
            "hashes": {
                "audit": abbreviated(audit),
                "model": abbreviated(result.model.audited_sha256),
                "registration": result.registration and abbreviated(result.registration.sha256),
            },
        },
        "accuracy": _accuracy(result.accuracy),
        "comparisons": [_comparison(comparison) for comparison in result.comparisons],
        "individuals": result.individuals and _individuals(result.individuals),
        "collateral": result.collateral and _collateral(result.collateral, forgotten=request.class_name),
        "by_group": result.by_group and _collateral(result.by_group, forgotten=None),
        "privacy": result.privacy and _privacy(result.privacy),
        "stress": result.stress and _stress(result.stress, 0 if arrays.images is None else len(arrays.images)),
        "registration": result.registration and _registration(result.registration),
        "request": {
            "id": request.id,
            "brief": shorten(request.id, LETTERS["id"]),
            "kind": say(request.kind),
            "sentence": request.sentence,
            "forget": numbers.number(request.forget),
            "of": numbers.number(request.of),
            "class": None if request.forget_class is None else request.class_name or str(request.forget_class),
            "canaries": numbers.number(request.canaries),
            "fingerprint": request.fingerprint,
        },
        "method": {
            "name": method.name,
            "sentence": method.sentence,
            "saw": saw,
            "params": _pairs(method.params),
            "seed": None if method.seed is None else str(method.seed),
            "seconds": None if method.seconds is None else numbers.seconds(method.seconds),
        },
        "model": {
            "architecture": result.model.architecture,
            "parameters": numbers.number(result.model.parameters),
            "original": result.model.original_sha256,
            "audited": result.model.audited_sha256,
            "recipe": _pairs(result.model.recipe),
        },
        "data": {
            "source": result.data.source,
            "fingerprint": result.data.fingerprint,
            "train": numbers.number(result.data.train),
            "test": numbers.number(result.data.test),
            "shape": " × ".join(str(size) for size in result.data.shape),
            "classes": shorten(f"{len(result.data.classes)}: {', '.join(result.data.classes)}", LETTERS["value"]),
        },
        "oracles": oracles
        and {
            "count": numbers.number(oracles.count),
            "seeds": _runs(oracles.seeds),
            "held_out": None if oracles.held_out_seed is None else str(oracles.held_out_seed),
            "seconds": numbers.seconds(oracles.seconds),
            "missing": [shorten(fault, LETTERS["fault"]) for fault in oracles.missing[:CLASSES]],
            "more": str(max(0, len(oracles.missing) - CLASSES)),
        },
        "canaries": canaries
        and {
            "kind": canaries.kind,
            "heads": numbers.number(canaries.heads),
            "tails": numbers.number(canaries.tails),
            "commitment": canaries.commitment,
            "opened": canaries.opened,
        },
        "tolerances": [[name, numbers.setting(value)] for name, value in result.tolerances.items()],
        "environment": [
            *([name, value] for name, value in body["environment"].items() if name != "seconds"),
            ["duration", numbers.seconds(result.environment.seconds)],
        ],
        "translated": sorted(say.translated),
    }


class Said:
    """Short texts of the result in the language of the pages, by its table; what is not in it stays as it is.

    `{}` in the table stands for any characters; a language keeps their order.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        self.plain = {key: text for key, text in table.items() if "{}" not in key}
        self.patterns = [(re.escape(key).replace(r"\{\}", "(.+)"), text) for key, text in table.items() if "{}" in key]
        self.translated: set[str] = set()  # what it gave that is another text than it got

    def __call__(self, text: str) -> str:
        found = self.plain.get(text, text)
        for pattern, into in self.patterns:
            if text not in self.plain and (match := re.fullmatch(pattern, text)):
                pairs = zip_longest(into.split("{}"), match.groups(), fillvalue="")
                found = "".join(part for pair in pairs for part in pair)
                break
        if found != text:
            self.translated.add(found)
        return found


def _test(test: Outcome, say: Said) -> dict[str, Any]:
    return {
        **{name: getattr(test, name) for name in ("name", "required", "state", "sentence")},
        **{name: say(getattr(test, name)) for name in ("kind", "unit", "group")},
        "label": shorten(test.name, LETTERS["label"]),
        "unit-label": shorten(say(test.unit), LETTERS["label"]),
        "leak": numbers.leak(test.leak),
        "tolerance": numbers.setting(test.tolerance),
        "mde": numbers.number(test.mde) if test.mde is not None else numbers.DASH,
        **{
            name: numbers.p_value(getattr(test, name))
            for name in ("p", "p_adjusted", "p_tolerance", "p_tolerance_adjusted", "original_p")
        },
        "original": test.original and numbers.leak(test.original),
        "quantities": [_quantity(quantity, say) for quantity in test.quantities],
    }


def _quantity(quantity: Quantity, say: Said) -> dict[str, Any]:
    row = {"name": say(quantity.name), "unit": say(quantity.unit), "why": quantity.why, **numbers.limits(quantity)}
    if quantity.value is None:
        row["value"] = None
    elif quantity.unit == "confidence" and 0 < quantity.value < numbers.SMALL and (quantity.high or 0) < numbers.SMALL:
        row |= {"value": f"< {numbers.SMALL}", "low": None, "high": None}
    elif quantity.low is None and quantity.high is None:
        if quantity.name == "p" or quantity.name.startswith("p "):
            row["value"] = numbers.p_value(quantity.value)
        elif quantity.value.is_integer():  # a count
            row["value"] = numbers.number(int(quantity.value))
    return row


def _accuracy(found: Sequence[Accuracy]) -> dict[str, Any]:
    """Sets down, models across; None where a model was not asked."""
    models, splits = list(dict.fromkeys(a.model for a in found)), list(dict.fromkeys(a.split for a in found))
    at = {(a.model, a.split): a for a in found}

    def cell(accuracy: Accuracy | None) -> dict[str, Any] | None:
        if accuracy is None:
            return None
        correct = accuracy.correct
        return {
            "rate": _percents(accuracy.rate),
            "correct": numbers.fixed(correct, 0 if float(correct).is_integer() else 1),
            "n": numbers.number(accuracy.n),
        }

    rows = [{"split": split, "cells": [cell(at.get((model, split))) for model in models]} for split in splits]
    return {"models": models, "rows": rows}


def _percents(share: Interval) -> dict[str, Any]:
    return {
        name: None if value is None else numbers.percent(value)
        for name, value in (("value", share.value), ("low", share.low), ("high", share.high))
    }


def _comparison(row: Comparison) -> dict[str, Any]:
    floor = row.oracles
    value, original, mean, low, high = numbers.alike(row.value, row.original, floor.value, floor.low, floor.high)
    return {
        "name": row.name,
        "unit": row.unit,
        "sentence": row.sentence,
        "value": value,
        "original": original,
        "oracles": {
            "value": mean,
            "low": None if floor.low is None else low,
            "high": None if floor.high is None else high,
        },
        "p": numbers.p_value(row.p),
    }


def _individuals(found: Individuals) -> dict[str, Any]:
    return {
        "limit": numbers.setting(found.limit),
        "above": _percents(found.above),
        "confidence": numbers.share(found.above.confidence),
        "floor": numbers.percent(found.floor),
        "p": numbers.p_value(found.p),
        "flagged": numbers.number(found.flagged),
        "worst": [
            {
                "id": shorten(one.id, LETTERS["label"]),
                "z": numbers.fixed(one.z, 2),
                "direction": one.direction,
                "p_rank": numbers.p_value(one.p_rank),
                "p_adjusted": numbers.p_value(one.p_adjusted),
            }
            for one in found.worst
        ],
        "assumes": found.assumes,
        "resolution": found.resolution,
    }


def _collateral(found: Collateral, *, forgotten: str | None) -> dict[str, Any]:
    """The class or group that lost most first."""
    groups = sorted(found.groups, key=lambda group: group.gap.value)
    return {
        "sentence": found.sentence,
        "p": numbers.p_value(found.p),
        "confidence": numbers.share(groups[0].gap.confidence) if groups else "",
        "rows": [
            {
                "name": shorten(group.name, LETTERS["label"]),
                "forgotten": group.name == forgotten,
                "n": numbers.number(group.n),
                "audited": numbers.percent(group.audited),
                "oracles": _percents(group.oracles),
                "gap": _percents(group.gap),
                "p": numbers.p_value(group.p_adjusted),
            }
            for group in groups[:CLASSES]
        ],
        "more": str(max(0, len(groups) - CLASSES)),
    }


def _privacy(record: PrivacyRecord) -> dict[str, Any]:
    follows = "nothing"
    if record.measured is not None:
        follows = "broken" if record.measured > record.epsilon else "kept"
    epsilon, measured = numbers.alike(record.epsilon, record.measured)
    return {
        "epsilon": epsilon,
        "delta": numbers.setting(record.delta),
        "noise": numbers.setting(record.noise_multiplier),
        "clip": numbers.setting(record.clip),
        "rate": numbers.number(record.sample_rate),
        "steps": numbers.number(record.steps),
        "accountant": record.accountant,
        "measured": measured,
        "guesses": numbers.number(record.guesses),
        "correct": numbers.number(record.correct),
        "confidence": numbers.share(record.confidence),
        "follows": follows,
    }


def _points(rate: Interval) -> dict[str, Any]:
    """A percentage with one decimal: 99.6 is not 100."""
    return {
        name: None if value is None else numbers.fixed(value, 1)
        for name, value in (("value", rate.value), ("low", rate.low), ("high", rate.high))
    }


def _stress(found: StressSets, images: int) -> dict[str, Any]:
    """Sets across, the found ones first; measures of the found ones. images: of so many hardest examples."""
    sets = sorted(found.sets, key=lambda one: one.kind != FOUND)[:SETS]
    shown = {one.name for one in sets if one.kind == FOUND}
    cells = {cell.set: cell for cell in found.cells}
    rows = {
        "method": [cells[one.name].average_gap.value if one.name in cells else None for one in sets],
        "floor": [cells[one.name].floor if one.name in cells else None for one in sets],
    }
    pictured = found.hardest[:HARDEST]
    most = max((value for values in rows.values() for value in values if value is not None), default=0.0)
    return {
        "method": found.method,
        "sentences": list(found.sentences),
        "confidence": numbers.share(found.confidence),
        "columns": [shorten(one.name, LETTERS["name"]) for one in sets],
        **{f"{name}-row": [shaded(value, most, places=1) for value in values] for name, values in rows.items()},
        "sets": [
            {
                "name": shorten(one.name, LETTERS["name"]),
                "size": numbers.number(one.size),
                "rates": [_points(one.retrained[name]) for name in RATES if name in one.retrained],
            }
            for one in sets
        ],
        "measures": [
            {
                "set": shorten(cell.set, LETTERS["name"]),
                "name": f"{measure.name}{f', {measure.unit}' if measure.unit else ''}",
                "audited": numbers.number(measure.audited.value),
                "oracles": numbers.number(measure.oracles.value),
                "gap": numbers.limits(measure.gap),
                "p": numbers.DASH if measure.p is None else numbers.p_value(measure.p),
            }
            for cell in found.cells
            if cell.set in shown
            for measure in cell.measures
        ],
        "hardest-set": found.hardest_set,
        "unit": found.unit,
        "hardest": [
            {
                "file": f"hard-{i}.png" if i < images else "",
                "id": shorten(one.id, LETTERS["name"]),
                "label": shorten(one.label, LETTERS["name"]),
                "score": score,
            }
            for i, (one, score) in enumerate(
                zip(pictured, numbers.alike(*(one.score for one in pictured)), strict=True)
            )
        ],
        "left-out": [shorten(why, LETTERS["fault"]) for why in found.left_out[:SETS]],
        "more": str(max(0, len(found.sets) - SETS) + max(0, len(found.left_out) - SETS)),
    }


def _registration(found: Registration) -> dict[str, Any]:
    """The document part by part, the longest first; hashes in it by their beginning."""
    parts = {name: value for name, value in found.document.items() if isinstance(value, dict)}
    rest = {name: value for name, value in found.document.items() if name not in parts}
    printed = [[name, _fixed(value)] for name, value in (("", rest), *parts.items())]
    later = bool(found.document.get("earlier"))
    return {"sha256": found.sha256, "later": later, "parts": sorted(printed, key=lambda part: -len(part[1]))}


def _fixed(values: dict[str, Any]) -> list[list[str]]:
    pairs: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += [[f"{name}.{key}", text] for key, text in _fixed(value)]
        else:
            several = value if isinstance(value, list) else [value] if value is not None else []
            text = ", ".join(numbers.literal(one) for one in several) or numbers.DASH
            pairs.append([name, shorten(re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", "\\1…", text), LETTERS["value"])])
    return pairs


def _pairs(values: dict[str, Any]) -> list[list[str]]:
    """Names and values as they are printed; a method inside the method is its name, then its settings one by one."""
    pairs: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, dict) and "name" in value:
            settings = {f"{name}.{key}": setting for key, setting in value.items() if key != "name"}
            pairs += _pairs({name: value["name"], **settings})
        else:
            pairs.append([name, shorten(numbers.literal(value), LETTERS["value"])])
    return pairs


def _runs(seeds: Sequence[int]) -> str:
    """`100 to 118` for consecutive seeds, else all of them."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return shorten(", ".join(str(seed) for seed in seeds), LETTERS["value"])


def abbreviated(sha256: str) -> str:
    """Both ends of a hash."""
    return f"{sha256[:8]}…{sha256[-8:]}" if len(sha256) > 20 else sha256


def shorten(text: str, letters: int) -> str:
    """The beginning of a long text, ended at a word with an ellipsis."""
    if len(text) <= letters:
        return text
    cut = text[: letters - 1]
    return f"{cut.rsplit(' ', 1)[0] if ' ' in cut[letters // 2 :] else cut} …"


def clauses(text: str, letters: int) -> str:
    """The beginning of a long text, ended behind a sentence or a part of a list; where it has none so early, a word."""
    if len(text) <= letters:
        return text
    ends = [found.start() for found in re.finditer(r"(?<=[.;])\s", text[: letters - 1])]
    return f"{text[: ends[-1]].rstrip(';')} …" if ends and ends[-1] > letters // 3 else shorten(text, letters)


def started(result: AuditResult) -> datetime:
    """When the audit began, in UTC."""
    try:
        began = datetime.fromisoformat(result.environment.started)
    except ValueError as error:
        raise UsageError(
            f"environment.started: must be a date and time in ISO 8601, got {result.environment.started!r}"
        ) from error
    return began.astimezone(UTC) if began.tzinfo else began.replace(tzinfo=UTC)


def visible(text: str) -> str:
    """A text whose invisible and steering characters show as ‹U+202E›, and whose white space is single spaces."""
    return "".join(f"‹U+{ord(c):04X}›" if unicodedata.category(c)[0] == "C" else c for c in " ".join(text.split()))


def bound(text: str) -> str:
    """The same text whose lines end neither between a number and its % or σ nor behind a sign of comparison."""
    return re.sub(r"(?<=\d) (?=[%σ])|(?<=\bp) (?=[=<>≤] )|(?<=[=<>≤]) (?=[−\d])", "\xa0", text)


def walk(value: Any, change: Callable[[str], str]) -> Any:
    """The same nested value with every string changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: walk(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [walk(part, change) for part in value]
    return value
