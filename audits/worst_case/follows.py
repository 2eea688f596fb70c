"""What of a worst-case result follows from its own other parts: fingerprints, hardness among random sets, and words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from unlearnkit.audits.worst_case.gaps import RA, TA, UA, Standing, hardness_of
from unlearnkit.audits.worst_case.standing import HARDER, NO_WORST_CASE, headline, leak_of, standing_flags, standings
from unlearnkit.hardest import FOUND, IDS, WorstCase, beside
from unlearnkit.result import Flag


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
    told += [(f"sets.{one.name}.retrained", sorted(one.retrained), sorted((UA, RA, TA))) for one in result.sets]
    if any(stated != given for _, stated, given in told):
        return told  # of what is not there nothing follows
    measures = {(cell.method, cell.set): [(one.name, one.unit) for one in cell.measures] for cell in result.cells}
    first = next(iter(sets))
    told += [(f"cells.{m}.{name}.measures", named, measures[m, first]) for (m, name), named in measures.items()]
    if any(stated != given for _, stated, given in told):
        return told
    like = {name: [one.name for one in beside(name, result.sets)] for name in found}
    rows, shown = hardness_of(result.sets, result.cells, like, confidence=result.confidence)
    keys = [[(row.set, row.method, row.measure) for row in several] for several in (result.hardness, rows)]
    told.append(("hardness", keys[0], keys[1]))
    told += [
        (f"hardness.{row.set}.{row.method}.{row.measure}", stated, row)
        for stated, row in zip(result.hardness, rows, strict=False)
    ]
    return told + _words(result, shown)


def _words(result: WorstCase, shown: Sequence[Standing]) -> list[tuple[str, Any, Any]]:
    """What the page says first of every found set, and the flags that say whether it is a worst case at all."""
    told: list[tuple[str, Any, Any]] = []
    flags: list[Flag] = []
    for one in result.searches:
        chosen = standings(shown, one.set, leak_of(one.search, one.settings))
        whole = next(each for each in result.sets if each.name == one.set).forget_class is not None
        said = headline(one.set, chosen, alone=len(result.searches) == 1, whole=whole)
        told.append((f"sentences, of {one.set}", [said] if said in result.sentences else [], [said]))
        file = IDS if one is result.searches[0] else ""
        flags += standing_flags(one.set, chosen, file=file, whole=whole, confidence=result.confidence)
    stated = [flag for flag in result.flags if flag.name in (NO_WORST_CASE, HARDER)]
    return [*told, ("flags, of worst cases", stated, flags)]


__all__ = ["follows"]
