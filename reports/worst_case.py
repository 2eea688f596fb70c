"""The page on a worst-case forget set: transfer matrix as a picture, the ten hardest examples, and the certificate.

A pure function of worst_case.json and its images, typeset like the report; both are attached to it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from unlearnkit.hardest import FOUND, RANDOM, WorstCase, beside, drawable
from unlearnkit.reports import numbers
from unlearnkit.reports.pdf import _printable, _typeset
from unlearnkit.reports.pictures import png, shaded
from unlearnkit.result import Cell, Interval, UsageError
from unlearnkit.store import write_atomic

TEMPLATE = Path(__file__).with_name("worst_case.typ")
JSON = "worst_case.json"
STEPS = 6  # rows of the trace


def render(result: WorstCase, evidence: bytes) -> bytes:
    """The page: same result and evidence in, same bytes out. Raises `UsageError` when they do not belong together."""
    sha256 = hashlib.sha256(evidence).hexdigest()
    if sha256 != result.evidence.sha256:
        raise UsageError(f"evidence: has SHA-256 {sha256}, and the result names {result.evidence.sha256}")
    pictures, labels = _pictures(evidence)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / JSON).write_bytes(result.to_json().encode())
        (root / "evidence").write_bytes(evidence)
        view = _printable(_view(result, labels))
        (root / "view.json").write_text(json.dumps(view, ensure_ascii=False), encoding="utf-8")
        for i, picture in enumerate(pictures):
            (root / f"hard-{i}.png").write_bytes(picture)
        started = datetime.fromisoformat(result.environment.started).astimezone(UTC)
        return _typeset(TEMPLATE.read_bytes(), root, started)


def write_page(path: Path, output: Path) -> None:
    """Read worst_case.json and the images beside it, and write the page."""
    try:
        result = WorstCase.from_json(path.read_bytes(), what=str(path))
        evidence = (path.parent / Path(result.evidence.file).name).read_bytes()
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read ({error.strerror})") from error
    write_atomic(output, render(result, evidence))


def _pictures(evidence: bytes) -> tuple[list[bytes], list[int]]:
    """PNG files of the hardest examples, enlarged in whole pixels, and their labels; none where they are no images."""
    try:
        arrays = load(evidence)
        images, labels = arrays["images"], arrays["labels"]
    except (SafetensorError, KeyError) as error:
        raise UsageError(f"evidence: holds no images ({error})") from error
    return ([png(image) for image in images], labels.tolist()) if drawable(images) else ([], [])


def _view(result: WorstCase, labels: Sequence[int]) -> dict[str, Any]:
    """The result as the template prints it: every number already a string."""
    found = [one for one in result.sets if one.kind == FOUND]
    others = [one.name for one in result.sets if one.kind == RANDOM]
    gaps = {
        (method, one.name): result.cell(method, one.name).average_gap.value
        for method in result.methods
        for one in result.sets
    }
    usual = {m: float(np.mean([gaps[m, name] for name in others])) if others else None for m in result.methods}
    most = max(value for value in (*gaps.values(), 0.0))
    first = result.searches[0]
    scores = numbers.alike(*first.scores[: len(labels)])
    return {
        "evidence": result.evidence.file,
        "command": result.command,
        "meta": {"id": result.id, "organization": result.organization, "headline": result.sentences[0]},
        "sentences": list(result.sentences),
        "flags": [flag.sentence for flag in result.flags],
        "counted": _joined([m.name for m in result.cells[0].measures if m.unit == "%"]),
        "confidence": numbers.share(result.confidence),
        "columns": [*(one.name for one in found), f"{len(others)} random sets"],
        "matrix": [
            {
                "method": method,
                "cells": [
                    *(shaded(gaps[method, one.name], most, places=2) for one in found),
                    shaded(usual[method], most, places=2),
                ],
            }
            for method in result.methods
        ],
        "hardest": [
            {
                "file": f"hard-{i}.png",
                "id": first.ids[i],
                "label": result.data.classes[label],
                "score": scores[i],
            }
            for i, label in enumerate(labels)
        ],
        "unit": first.unit,
        "set": first.set,
        "measures": [
            {
                "method": cell.method,
                "set": cell.set,
                "rows": [
                    {
                        "name": f"{m.name}{f', {m.unit}' if m.unit else ''}",
                        "audited": numbers.number(m.audited.value),
                        "oracles": numbers.number(m.oracles.value),
                        "gap": _limits(m.gap),
                        "p": numbers.DASH if m.p is None else numbers.p_value(m.p),
                        "random": _on_random(result, cell, i),
                    }
                    for i, m in enumerate(cell.measures)
                ],
            }
            for cell in result.cells
            if cell.set in {one.name for one in found}
        ],
        "sets": [
            {
                "name": one.name,
                "size": numbers.number(one.size),
                "rates": [_limits(one.retrained[name]) for name in ("UA", "RA", "TA")],
            }
            for one in result.sets
        ],
        "trace": [
            [str(i + 1), numbers.number(step.objective), numbers.percent(step.replaced), numbers.percent(step.overlap)]
            for i, step in _some(list(enumerate(first.trace)))
        ],
        "cost": first.cost,
        "fingerprint": next(one.fingerprint for one in found if one.name == first.set),
        "numbers": {"oracles": str(result.oracles), "unlearnings": str(result.unlearnings), "seed": str(result.seed)},
    }


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])


def _on_random(result: WorstCase, cell: Cell, measure: int) -> list[str]:
    """The same measure on the random sets beside this one, their mean: of unlearned models, and of oracles."""
    like = [result.cell(cell.method, one.name).measures[measure] for one in beside(cell.set, result.sets)]
    if not like:
        return [numbers.DASH, numbers.DASH]
    means = (np.mean([m.audited.value for m in like]), np.mean([m.oracles.value for m in like]))
    return [numbers.number(float(mean)) for mean in means]


def _limits(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return numbers.number(interval.value)
    value, low, high = numbers.alike(interval.value, interval.low, interval.high)
    return f"{value} ({low} to {high})"


def _some(rows: list[Any]) -> list[Any]:
    """At most `STEPS` of them, the first and the last among these."""
    if len(rows) <= STEPS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (STEPS - 1))] for i in range(STEPS)]


__all__ = ["render", "write_page"]
