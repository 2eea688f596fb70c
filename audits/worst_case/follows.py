"""What of a worst-case result follows from its own other parts: fingerprints, hardness among random sets, and cells."""

from __future__ import annotations

import hashlib
from typing import Any

from unlearnkit.audits.statistics.hardness import among_random
from unlearnkit.audits.worst_case.gaps import AVERAGE_GAP, RETRAINED_UA, UA
from unlearnkit.hardest import FOUND, RANDOM, WorstCase
from unlearnkit.result import Hardness


def follows(result: WorstCase) -> list[tuple[str, Any, Any]]:
    """Name, what the file states, and what its other parts give, of everything that can be computed again.

    Accuracies and margins of the models are not in the file: cells and rates of retrained models are taken as stated.
    """
    sets = {one.name: one for one in result.sets}
    found = [one.name for one in result.sets if one.kind == FOUND]
    cells = [(cell.method, cell.set) for cell in result.cells]
    told: list[tuple[str, Any, Any]] = [("searches", [one.set for one in result.searches], found)]
    for one in result.searches:
        record, ids = sets.get(one.set), sorted(one.ids)
        if record is not None:
            told += [
                (f"sets.{one.set}.size", record.size, len(set(ids))),
                (
                    f"sets.{one.set}.fingerprint",
                    record.fingerprint,
                    hashlib.sha256("\n".join(ids).encode()).hexdigest(),
                ),
                (f"searches.{one.set}.scores", len(one.scores), len(ids)),
            ]
    told.append(("cells", cells, [(method, name) for method in result.methods for name in sets]))
    told += [(f"sets.{one.name}.classes", sum(one.classes), one.size) for one in result.sets]
    if any(stated != given for _, stated, given in told):
        return told  # of what is not there nothing follows
    rows = {(row.set, row.method, row.measure): row for row in result.hardness}
    asked = [key for name in found for key in _asked(result, name)]
    told.append(("hardness", sorted(rows), sorted(asked)))
    told.append(("hardness, each once", len(result.hardness), len(rows)))
    told += [(f"hardness.{'.'.join(key)}", rows[key], _row(result, *key)) for key in asked if key in rows]
    return told


def _beside(result: WorstCase, name: str) -> list[str]:
    """The random sets, or other classes, that a found set is held against."""
    return [one.name for one in result.sets if one.kind == RANDOM and one.name.endswith(f" beside {name}")]


def _asked(result: WorstCase, name: str) -> list[tuple[str, str, str]]:
    """Set, method and measure of every row that a found set has; none where it is held against fewer than two."""
    if len(_beside(result, name)) < 2:
        return []
    keys = [(name, "", RETRAINED_UA)]
    for method in result.methods:
        further = [f"|{one.name}|" for one in result.cell(method, name).measures if one.unit != "%"]
        keys += [(name, method, measure) for measure in (AVERAGE_GAP, *further)]
    return keys


def _row(result: WorstCase, name: str, method: str, measure: str) -> Hardness | None:
    values = [_value(result, one, method, measure) for one in (name, *_beside(result, name))]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    among = among_random(numbers[0], numbers[1:], confidence=result.confidence)
    return Hardness(method, name, measure, among.found, among.random, among.ratio, among.p)


def _value(result: WorstCase, name: str, method: str, measure: str) -> float | None:
    """What a set is ranked by; None where its record lacks it."""
    if measure == RETRAINED_UA:
        record = next(one for one in result.sets if one.name == name)
        return record.retrained[UA].value if UA in record.retrained else None
    cell = result.cell(method, name)
    if measure == AVERAGE_GAP:
        return cell.average_gap.value
    return next((abs(one.gap.value) for one in cell.measures if f"|{one.name}|" == measure), None)


__all__ = ["follows"]
