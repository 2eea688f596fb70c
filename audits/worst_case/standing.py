"""Is a found set harder than random ones? What the evidence shows, method by method, in words.

Three answers: harder, easier, and neither shown. The search asked for a hard set; only the first answer says that it
found one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unlearnkit.audits.worst_case.gaps import AVERAGE_GAP, MARGIN, Standing
from unlearnkit.result import Flag

NO_WORST_CASE, HARDER = "no worst case", "harder"  # names of flags
_WORDS = {"harder": "harder", "easier": "easier", "open": "not shown to be harder"}


def standings(shown: Sequence[Standing], name: str, leak: str = "") -> list[Standing]:
    """Of one found set, a method each: by the average gap. Of an attack search by the leak that it looked for, the
    measure of that name; where that was not measured, by the margin shift."""
    rows = [one for one in shown if one.set == name]
    measure = AVERAGE_GAP
    if leak:
        measure = leak if leak in {one.measure for one in rows} else f"|{MARGIN}|"
    return [one for one in rows if one.measure == measure]


def leak_of(search: str, details: Mapping[str, Any]) -> str:
    """The row of hardness by which an attack search looked, of its details; of other searches none."""
    if search != "attack":
        return ""
    statistic = details.get("statistic", MARGIN)
    return f"|{statistic}|" if statistic == MARGIN else f"|{statistic} AUC|"


def headline(name: str, rows: Sequence[Standing], *, alone: bool, whole: bool) -> str:
    """What the evidence shows of one found set. alone: no other was found. whole: it is a class."""
    if not rows:
        return f"Nothing stands beside {name}, so nothing shows that it is hard; do not use it as a worst case."
    others = "other classes" if whole else "random ones"
    hard, rest = [one for one in rows if one.word == "harder"], [one for one in rows if one.word != "harder"]
    if not hard:
        who = "The search" if alone else f"As {name} the search"
        shown = "" if all(one.word == "easier" for one in rest) else "shown to be "
        return (
            f"{who} found no set that is {shown}harder than {others} for {_listed(rest, others, 'or')}; do not use it "
            "as a worst case."
        )
    said = f"{name} is harder than {others} for {_listed(hard, others, 'and')}."
    if rest:
        said += f" It is no worst case for {_listed(rest, others, 'or')}: do not use it as one there."
    return said


def standing_flags(name: str, rows: Sequence[Standing], *, file: str, whole: bool, confidence: float) -> list[Flag]:
    """That a set is no worst case, and what the words mean. file: where its ids lie; empty: nowhere but in the result.

    Of two and more methods each is asked on its own.
    """
    where = f"{file} holds {name}, which" if file else name
    others = "other classes" if whole else "random sets"
    if not rows:
        return [Flag(NO_WORST_CASE, f"{where} has too few {others} beside it to be shown hard: no worst case.")]
    flags = []
    if not any(one.word == "harder" for one in rows):
        methods = _joined([one.method for one in rows], "or")
        shown = "is easier" if all(one.word == "easier" for one in rows) else "is not shown to be harder"
        flags.append(Flag(NO_WORST_CASE, f"{where} {shown} than {others} for {methods}: no worst case."))
    n, level = rows[0].beside, f"{100 * confidence:g} %"
    each = "; each method is asked on its own" if rows[1:] else ""
    flags.append(
        Flag(
            HARDER,
            f"Harder: by {_plain(rows[0].measure)} {name} lies above all {n} {others} and above Student's one-sided "
            f"{level} prediction limit for one more of them; easier: below both likewise{each}.",
        )
    )
    return flags


def _listed(rows: Sequence[Standing], others: str, last: str) -> str:
    return _joined([f"{one.method} ({_numbers(one, others)})" for one in rows], last)


def _joined(names: Sequence[str], last: str) -> str:
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _numbers(one: Standing, others: str) -> str:
    unit, places = (" points", 2) if one.measure == AVERAGE_GAP else ("", 3)
    word = "" if one.word == "harder" else f"{_WORDS[one.word]}: "
    beside = "other classes" if others == "other classes" else "random sets"
    return f"{word}{_plain(one.measure)} {one.found:.{places}f}{unit} against {one.random:.{places}f} on {beside}"


def _plain(measure: str) -> str:
    return measure if measure == AVERAGE_GAP else f"gap in {measure.strip('|')}"


__all__ = ["HARDER", "NO_WORST_CASE", "headline", "leak_of", "standing_flags", "standings"]
