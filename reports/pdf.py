"""The PDF of an audit: typeset from its result, with result and evidence attached; and both read back out of it.

A report is a pure function of result and evidence. All data reach the template as strings of a JSON file, never as
markup; fonts are those that come with Typst. The file is PDF/A-3a (archival, attachments allowed) and PDF/UA-1
(accessible: tagged, figures described in words).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typst
from pypdf import PdfReader
from pypdf.errors import PyPdfError

from unlearnkit.reports import figures, numbers
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
    UsageError,
    evidence_path,
)
from unlearnkit.store import write_atomic

STANDARDS: list[typst.PDFStandard] = ["a-3a", "ua-1"]
TEMPLATE = Path(__file__).with_name("report.typ")
AUDIT = "audit.json"  # the name of the attached result

DAMAGE = (  # what pypdf raises on files that were cut, overwritten or forged
    PyPdfError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)
PAGE_ONE = {"tests": 10, "controls": 6}  # how many of them
CLASSES = 15  # rows of their table, and of the list of failed retrainings
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


def render(result: AuditResult, evidence: bytes) -> bytes:
    """The report: same result and evidence in, same bytes out. Raises UsageError when they do not belong together."""
    _belongs(evidence, result, what="evidence")
    if Path(result.evidence.file).name != result.evidence.file or result.evidence.file in ("", AUDIT):
        raise UsageError(f"evidence: the name must be that of a file beside {AUDIT}, got {result.evidence.file!r}")
    audit = result.to_json().encode()
    tests = result.tests
    drawings = _drawings(result, figures.read_arrays(evidence))
    view = _view(result, tests, hashlib.sha256(audit).hexdigest(), set(drawings))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / AUDIT).write_bytes(audit)
        (root / "evidence").write_bytes(evidence)
        (root / "view.json").write_text(json.dumps(_printable(view), ensure_ascii=False), encoding="utf-8")
        for name, drawing in drawings.items():
            (root / f"{name}.svg").write_bytes(drawing)
        return _typeset(TEMPLATE.read_bytes(), root, _started(result))


def write_report(audit: Path, output: Path) -> None:
    """Read a result file and the evidence beside it, and write the report; an old report stays whole until then."""

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
    _belongs(evidence, result, what=f"{sidecar}, the evidence of {audit},")
    write_atomic(output, render(result, evidence))


def attachments(pdf: bytes | Path) -> dict[str, bytes]:
    """The result (`audit.json`) and its evidence, by name, as they were attached to a report."""
    what = str(pdf) if isinstance(pdf, Path) else "report"
    try:
        data = pdf.read_bytes() if isinstance(pdf, Path) else pdf
    except OSError as error:
        raise UsageError(f"{what}: cannot be read ({error.strerror})") from error
    if b"%PDF-" not in data[:1024]:
        raise UsageError(f"{what}: not a PDF")
    try:
        reader = PdfReader(io.BytesIO(data))
        encrypted = reader.is_encrypted
        found = {} if encrypted else {name: parts[-1] for name, parts in reader.attachments.items()}
    except DAMAGE as error:
        raise UsageError(f"{what}: a damaged PDF ({type(error).__name__}: {error})") from error
    if encrypted:
        raise UsageError(f"{what}: an encrypted PDF; give the report as unlearnkit wrote it")
    if AUDIT not in found:
        raise UsageError(f"{what}: a PDF without evidence; it has no {AUDIT} attached")
    name = AuditResult.from_json(found[AUDIT], what=f"{what}: {AUDIT}").evidence.file
    if name not in found:
        raise UsageError(f"{what}: a PDF without evidence; {AUDIT} is attached, {name!r} is not")
    return {AUDIT: found[AUDIT], name: found[name]}


def _belongs(evidence: bytes, result: AuditResult, *, what: str) -> None:
    sha256 = hashlib.sha256(evidence).hexdigest()
    if sha256 != result.evidence.sha256:
        raise UsageError(f"{what} has SHA-256 {sha256}, and the result names {result.evidence.sha256 or 'none'}")


def _row(count: int) -> float:
    """Height of a row of the dot plot in points: many tests stand closer."""
    return min(23.0, max(14.5, 150 / max(count, 1)))


def _drawings(result: AuditResult, arrays: figures.Arrays) -> dict[str, bytes]:
    """The figures that this evidence allows, by the name under which the template finds them."""
    made: dict[str, bytes] = {}
    if tests := result.tests[: PAGE_ONE["tests"]]:
        made["dots"] = figures.dot_plot(tests, width=215.0, row=_row(len(tests)), exact=result.claim == "exact")
    if arrays.has(figures.FORGET) or arrays.has(figures.HEADS):
        made |= {
            "margins": figures.margins(arrays),
            "margins-large": figures.margins(arrays, width=483.0, height=155.0),
        }
    if arrays.roc:
        made |= {"roc": figures.roc(arrays), "roc-large": figures.roc(arrays, width=483.0, height=185.0)}
    if arrays.has(figures.HEADS) and arrays.has(figures.TAILS):
        made["canaries"] = figures.canaries(arrays)
    return made


def _view(result: AuditResult, tests: Sequence[Outcome], audit: str, drawings: set[str]) -> dict[str, Any]:
    """The result as the template prints it: every number already a string."""
    body = dataclasses.asdict(result)
    verdict, request, method, oracles, canaries = (
        result.verdict,
        result.request,
        result.method,
        result.oracles,
        result.canaries,
    )
    rows = [_test(test) for test in tests]
    saw = "" if method.saw is None else ", ".join(need.replace("_", " ") for need in method.saw) or "nothing"
    long = {"headline": verdict.headline, "why": " ".join(verdict.why), "mde": " ".join(verdict.mde)}
    short = {name: _shorten(text, LETTERS[name]) for name, text in long.items()}
    shown = rows[: PAGE_ONE["tests"]]
    controls = sorted(result.controls, key=lambda control: control.passed)  # failed ones are never left out
    return {
        **{
            name: body[name]
            for name in (
                "organization",
                "battery",
                "tier",
                "claim",
                "nonstandard",
                "flags",
                "controls",
                "captions",
                "verdict",
            )
        },
        "started": f"{_started(result):%Y-%m-%d, %H:%M} UTC",
        "significance": numbers.setting(result.significance),
        "power": numbers.setting(result.power),
        "seed": str(result.seed),
        "command": result.command,
        "evidence": result.evidence.file,
        "meta": {"id": request.id, "organization": result.organization, "headline": verdict.headline},
        "hashes": {"audit": audit, "evidence": result.evidence.sha256},
        "confidence": " / ".join(
            sorted({numbers.share(test.leak.confidence) for test in tests} or {numbers.share(0.95)})
        ),
        "row": _row(len(shown)),
        "figures": {name: name in drawings for name in ("dots", "margins", "roc", "canaries")},
        "tests": rows,
        "brief": {
            **short,
            **{name: _shorten(body[name], LETTERS[name]) for name in ("battery", "tier")},
            "shortened": short != long,
            "organization": _shorten(result.organization, LETTERS["organization"]),
            "asked": _shorten(request.sentence, LETTERS["asked"]),
            "done": _shorten(method.sentence, LETTERS["done"]),
            "saw": _shorten(saw, LETTERS["saw"]),
            "tests": [row | {name: _shorten(row[name], LETTERS[name]) for name in ("name", "unit")} for row in shown],
            "left-out": str(len(rows) - len(shown)),
            "controls": [
                {"name": _shorten(control.name, LETTERS["name"]), "passed": control.passed}
                for control in controls[: PAGE_ONE["controls"]]
            ],
            "captions": {name: _shorten(text, LETTERS["caption"]) for name, text in result.captions.items()},
            "flags": _shorten(", ".join(flag.name for flag in result.flags), LETTERS["flags"]),
            "nonstandard": _shorten("; ".join(result.nonstandard), LETTERS["nonstandard"]),
            "hashes": {
                "audit": _abbreviated(audit),
                "model": _abbreviated(result.model.audited_sha256),
                "registration": result.registration and _abbreviated(result.registration.sha256),
            },
        },
        "accuracy": _accuracy(result.accuracy),
        "comparisons": [_comparison(comparison) for comparison in result.comparisons],
        "individuals": result.individuals and _individuals(result.individuals),
        "collateral": result.collateral and _collateral(result.collateral, forgotten=request.class_name),
        "privacy": result.privacy and _privacy(result.privacy),
        "registration": result.registration and _registration(result.registration),
        "request": {
            "id": request.id,
            "brief": _shorten(request.id, LETTERS["id"]),
            "kind": request.kind,
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
            "classes": _shorten(f"{len(result.data.classes)}: {', '.join(result.data.classes)}", LETTERS["value"]),
        },
        "oracles": oracles
        and {
            "count": numbers.number(oracles.count),
            "seeds": _runs(oracles.seeds),
            "held_out": None if oracles.held_out_seed is None else str(oracles.held_out_seed),
            "seconds": numbers.seconds(oracles.seconds),
            "missing": [_shorten(fault, LETTERS["fault"]) for fault in oracles.missing[:CLASSES]],
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
    }


def _test(test: Outcome) -> dict[str, Any]:
    return {
        **{name: getattr(test, name) for name in ("name", "kind", "unit", "group", "required", "state", "sentence")},
        "label": _shorten(test.name, LETTERS["label"]),
        "unit-label": _shorten(test.unit, LETTERS["label"]),
        "leak": numbers.limits(test.leak),
        "tolerance": numbers.setting(test.tolerance),
        "mde": numbers.number(test.mde) if test.mde is not None else numbers.DASH,
        **{
            name: numbers.p_value(getattr(test, name))
            for name in ("p", "p_adjusted", "p_tolerance", "p_tolerance_adjusted", "original_p")
        },
        "original": test.original and numbers.limits(test.original),
        "quantities": [_quantity(quantity) for quantity in test.quantities],
    }


def _quantity(quantity: Quantity) -> dict[str, Any]:
    row = {"name": quantity.name, "unit": quantity.unit, "why": quantity.why, **numbers.limits(quantity)}
    if quantity.value is None:
        row["value"] = None
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
                "id": _shorten(one.id, LETTERS["label"]),
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
    """The class that lost most first."""
    groups = sorted(found.groups, key=lambda group: group.gap.value)
    return {
        "sentence": found.sentence,
        "p": numbers.p_value(found.p),
        "confidence": numbers.share(groups[0].gap.confidence) if groups else "",
        "rows": [
            {
                "name": _shorten(group.name, LETTERS["label"]),
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


def _registration(found: Registration) -> dict[str, Any]:
    """The document part by part, the longest first; hashes in it by their beginning."""
    parts = {name: value for name, value in found.document.items() if isinstance(value, dict)}
    rest = {name: value for name, value in found.document.items() if name not in parts}
    printed = [[name, _fixed(value)] for name, value in (("", rest), *parts.items())]
    return {"sha256": found.sha256, "parts": sorted(printed, key=lambda part: -len(part[1]))}


def _fixed(values: dict[str, Any]) -> list[list[str]]:
    pairs: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += [[f"{name}.{key}", text] for key, text in _fixed(value)]
        else:
            several = value if isinstance(value, list) else [value] if value is not None else []
            text = ", ".join(numbers.literal(one) for one in several) or numbers.DASH
            pairs.append([name, _shorten(re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", "\\1…", text), LETTERS["value"])])
    return pairs


def _pairs(values: dict[str, Any]) -> list[list[str]]:
    """Names and values as they are printed; a method inside the method is its name, then its settings one by one."""
    pairs: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, dict) and "name" in value:
            settings = {f"{name}.{key}": setting for key, setting in value.items() if key != "name"}
            pairs += _pairs({name: value["name"], **settings})
        else:
            pairs.append([name, _shorten(numbers.literal(value), LETTERS["value"])])
    return pairs


def _runs(seeds: Sequence[int]) -> str:
    """`100 to 118` for consecutive seeds, else all of them."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return _shorten(", ".join(str(seed) for seed in seeds), LETTERS["value"])


def _abbreviated(sha256: str) -> str:
    return f"{sha256[:8]}…{sha256[-8:]}" if len(sha256) > 20 else sha256


def _shorten(text: str, letters: int) -> str:
    """The beginning of a long text, ended at a word with an ellipsis."""
    if len(text) <= letters:
        return text
    cut = text[: letters - 1]
    return f"{cut.rsplit(' ', 1)[0] if ' ' in cut[letters // 2 :] else cut} …"


def _started(result: AuditResult) -> datetime:
    try:
        started = datetime.fromisoformat(result.environment.started)
    except ValueError as error:
        raise UsageError(
            f"environment.started: must be a date and time in ISO 8601, got {result.environment.started!r}"
        ) from error
    return started.astimezone(UTC) if started.tzinfo else started.replace(tzinfo=UTC)


def _printable(view: dict[str, Any]) -> dict[str, Any]:
    """Every string with only characters that the fonts have; others as ‹U+4E2D›, as are invisible and steering ones."""
    unusual: set[str] = set()

    def collect(text: str) -> str:
        unusual.update(c for c in text if c > "ÿ")
        return text

    _walk(view, collect)
    missing = _missing(sorted(c for c in unusual if unicodedata.category(c)[0] != "C"))

    def clean(text: str) -> str:
        text = re.sub(r"(?<=\d) (?=[%σ])|(?<=\bp) (?=[=<>≤] \d)|(?<=\bp [=<>≤]) (?=\d)", "\xa0", " ".join(text.split()))
        return "".join(f"‹U+{ord(c):04X}›" if unicodedata.category(c)[0] == "C" or c in missing else c for c in text)

    def show(text: str) -> str:
        if re.fullmatch(r"[0-9a-f]{64}", text):
            return text  # has its own line, and is to be copied
        return re.sub(r"\S{25,}", _breakable, clean(text))

    shown: dict[str, Any] = _walk(view, show)
    shown["evidence"] = view["evidence"]  # a file's name, not printed
    shown["meta"] = {name: clean(text) for name, text in view["meta"].items()}  # not printed
    shown["command"] = re.sub(r"\S{80,}", _breakable, clean(view["command"]))  # to be copied: broken only if it must
    return shown


def _breakable(word: re.Match[str]) -> str:
    """A long word with places where a line may end: after punctuation, and at least every 16 letters."""
    return re.sub(r"([./_:=,;|-]+|[^\s./_:=,;|-]{16})(?=.)", "\\1\u200b", word.group())


def _walk(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _walk(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(part, change) for part in value]
    return value


def _missing(characters: Sequence[str]) -> set[str]:
    """Those that none of the fonts has, found by halving: PDF/A refuses a text that cannot be displayed."""
    if not characters:
        return set()
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "view.json").write_text(json.dumps(list(characters)), encoding="utf-8")
            lines = b'#set text(font: "Libertinus Serif")\n#json("view.json").join(parbreak())'
            _typeset(lines, Path(folder), datetime(2000, 1, 1, tzinfo=UTC), standards=["a-3b"])
    except typst.TypstError:
        half = len(characters) // 2
        return _missing(characters[:half]) | _missing(characters[half:]) if half else set(characters)
    return set()


@functools.cache
def _fonts() -> typst.Fonts:
    return typst.Fonts(include_system_fonts=False)


def _typeset(
    template: bytes, root: Path, timestamp: datetime, *, standards: Sequence[typst.PDFStandard] = tuple(STANDARDS)
) -> bytes:
    compiler = typst.Compiler(template, root=str(root), font_paths=_fonts(), ignore_system_fonts=True)
    pdf = compiler.compile(format="pdf", pdf_standards=list(standards), timestamp=timestamp)
    if not isinstance(pdf, bytes):
        raise TypeError(f"typst: the PDF must come as bytes, got {type(pdf).__name__}")
    return pdf
