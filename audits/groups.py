"""Groups of examples (sites, patients, sexes) by what their ids carry, or by a CSV file. Needs no torch."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped
from numpy.typing import NDArray

from unlearnkit.result import Flag, UsageError

MOST_GROUPS = 500  # more are hardly groups: each example would be one of its own
ID, GROUP = "id", "group"  # the columns of the file
_FILE = "audit.group_file"


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of the held-out examples that an audit looks at, and what a reader must know of them."""

    names: tuple[str, ...] = ()
    number: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # [point]; -1: none
    notes: tuple[Flag, ...] = ()


def group_pattern(pattern: str, key: str) -> re.Pattern[str]:
    """A regular expression whose first parenthesis is the group in an id; `key` is where the user wrote it.

    Raises `UsageError` for a pattern that is none, or has no parenthesis.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{key}: {pattern!r} is no regular expression ({error})") from error
    if not expression.groups:
        raise UsageError(f"{key}: {pattern!r} has no parenthesis around what names the group")
    return expression


def groups_in_ids(ids: Shaped[np.ndarray, " n"], pattern: str, key: str) -> Shaped[np.ndarray, " n"]:
    """The group that each id carries; "" where the pattern does not fit it.

    Raises `UsageError` for a pattern that is none, has no parenthesis, or fits no id.
    """
    expression = group_pattern(pattern, key)
    found = [expression.search(str(name)) for name in ids]
    names = np.array(["" if one is None else one.group(1) or "" for one in found], dtype=np.str_)
    if not (names != "").any():
        raise UsageError(f"{key}: {pattern!r} fits no id; ids look like {str(ids[0])!r}")
    return names


def held_out_groups(
    ids: Shaped[np.ndarray, " n"],
    others: Bool[np.ndarray, " n"],
    *,
    pattern: str | None = None,
    file: Path | None = None,
    known: Shaped[np.ndarray, " m"],
) -> Groups:
    """Divide held-out examples by `pattern` or by `file`; without either there are no groups.

    others: those that are not of the class to be forgotten; a group's accuracy is about what the deletion cost others.
    known: every id of the data, since a file may speak of training examples too. Raises `UsageError` for a pattern or a
    file that cannot be used, a group without examples, a single one, and more than `MOST_GROUPS`.
    """
    notes: list[Flag] = []
    if pattern is not None:
        key = "audit.group_pattern"
        each = groups_in_ids(ids, pattern, key)
        named = np.unique(each[others & (each != "")])
    elif file is not None:
        key = _FILE
        said = _read(file)
        there = set(known.tolist())
        unknown = [name for name in said if name not in there]
        if unknown:
            some = "1 id that is" if len(unknown) == 1 else f"{len(unknown):,} ids that are"
            notes.append(
                Flag("unknown ids of groups", f"{file.name} names {some} not in the data, the first is {unknown[0]!r}.")
            )
        each = np.array([said.get(str(name), "") for name in ids], dtype=np.str_)
        if not (each != "").any():
            raise UsageError(
                f"{key}: {file} gives no held-out example a group; ids look like {str(ids[0])!r}, the first in the "
                f"file is {next(iter(said))!r}"
            )
        named = np.unique([group for group in said.values() if group])
    else:
        return Groups()
    if named.size > MOST_GROUPS:
        raise UsageError(
            f"{key}: {named.size:,} groups of {ids.size:,} held-out examples, at most {MOST_GROUPS} are compared; a "
            "group is something that many examples share"
        )
    rest = "" if others.all() else " outside the forgotten class"
    empty = np.setdiff1d(named, each[others])
    if empty.size:
        raise UsageError(
            f"{key}: group {str(empty[0])!r} has no held-out example{rest} among those that the audit looks at; leave "
            "its lines out of the file, an empty group has no accuracy"
        )
    if named.size < 2:
        single = f"only one group, {str(named[0])!r}" if named.size else "no group"
        raise UsageError(
            f"{key}: the held-out examples{rest} are of {single}; a comparison takes two, and overall accuracy is in "
            "every report"
        )
    lost = ids[others & (each == "")]
    if lost.size:
        have = "1 held-out example has" if lost.size == 1 else f"{lost.size:,} of {ids.size:,} held-out examples have"
        notes.append(
            Flag(
                "examples without a group",
                f"{have} no group, the first is {str(lost[0])!r}; accuracy by group leaves them out.",
            )
        )
    number = np.searchsorted(named, each).astype(np.int64)
    return Groups(tuple(named.tolist()), np.where(others & (each != ""), number, -1), tuple(notes))


def _read(path: Path) -> dict[str, str]:
    """id -> group of a CSV file with these columns, in its order; "" where the cell is empty."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{_FILE}: {path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{_FILE}: {path} is not text in UTF-8; save it as CSV UTF-8") from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    said: dict[str, str] = {}
    try:
        head = [name.strip() for name in next(rows, [])]
        if head.count(ID) != 1 or head.count(GROUP) != 1:
            first = ",".join(head)
            raise UsageError(
                f"{_FILE}: {path} must begin with a line that names the columns {ID} and {GROUP}, each once and "
                f"separated by commas; it begins with {first[:80]!r}"
            )
        place = head.index(ID), head.index(GROUP)
        for row in rows:
            if not row:
                continue
            if len(row) != len(head):
                raise UsageError(
                    f"{_FILE}: {path}, line {rows.line_num}: {len(row)} cells under {len(head)} columns; put a cell "
                    "that holds a comma in double quotes"
                )
            name, group = (row[column].strip() for column in place)
            if said.setdefault(name, group) != group:
                raise UsageError(
                    f"{_FILE}: {path}, line {rows.line_num}: {name!r} is of group {group!r} here and of "
                    f"{said[name]!r} above; an example has one group"
                )
    except csv.Error as error:
        raise UsageError(f"{_FILE}: {path}, line {rows.line_num}: not valid CSV ({error})") from error
    if not said:
        raise UsageError(f"{_FILE}: {path} has no lines under its header")
    return said


__all__ = ["Groups", "group_pattern", "groups_in_ids", "held_out_groups"]
