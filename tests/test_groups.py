"""Groups of held-out examples: out of ids, out of a file, and a sentence for every mistake in either."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearnkit.audits.groups import MOST_GROUPS, Groups, held_out_groups
from unlearnkit.result import UsageError

IDS = np.array(["north/1", "south/1", "north/2", "lost", "west/1"])
TRAIN = np.array(["north/7", "south/7", "east/7"])
NORTH_SOUTH = "^(north|south)/"
EVERYBODY = "id,group\nnorth/1,n\nnorth/2,n\nsouth/1,s\nwest/1,s\nlost,s\n"


def grouped(*, others: Any = None, **where: Any) -> Groups:
    here = np.full(IDS.size, True) if others is None else np.array(others)
    return held_out_groups(IDS, here, known=np.concatenate([TRAIN, IDS]), **where)


def file(folder: Path, text: str | bytes) -> Path:
    path = folder / "groups.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_without_either_key_there_are_no_groups() -> None:
    assert (grouped().names, grouped().number.size, grouped().notes) == ((), 0, ())


def test_ids_carry_their_group_and_those_that_carry_none_are_told() -> None:
    found = grouped(pattern=NORTH_SOUTH)
    assert found.names == ("north", "south")
    assert found.number.tolist() == [0, 1, 0, -1, -1]
    [note] = found.notes
    assert note.name == "examples without a group"
    assert note.sentence == (
        "2 of 5 held-out examples have no group, the first is 'lost'; accuracy by group leaves them out."
    )


@pytest.mark.parametrize(
    "text",
    [
        EVERYBODY,
        "\ufeff" + EVERYBODY.replace("\n", "\r\n"),  # as Excel writes it
        'age,group,note,id\n3,n,"a, b",north/1\n4,n,,north/2\n3, s ,,south/1\n\n3,s,x,west/1\n3,s,x, lost\n',
        EVERYBODY + "south/1,s\nnorth/7,n\n",  # twice the same, and a training example
    ],
)
def test_a_file_says_the_group_of_each_id(tmp_path: Path, text: str) -> None:
    found = grouped(file=file(tmp_path, text))
    assert (found.names, found.number.tolist(), found.notes) == (("n", "s"), [0, 1, 0, 1, 1], ())


def test_unknown_ids_are_counted_and_empty_cells_are_no_group(tmp_path: Path) -> None:
    text = EVERYBODY.replace("lost,s", "lost,") + "moon/1,n\nmoon/2,s\n"
    found = grouped(file=file(tmp_path, text))
    assert found.number.tolist() == [0, 1, 0, -1, 1]
    assert [note.sentence for note in found.notes] == [
        "groups.csv names 2 ids that are not in the data, the first is 'moon/1'.",
        "1 held-out example has no group, the first is 'lost'; accuracy by group leaves them out.",
    ]


def test_examples_of_the_forgotten_class_are_in_no_group_and_are_not_missed() -> None:
    found = grouped(pattern=NORTH_SOUTH, others=[True, True, False, False, True])
    assert found.number.tolist() == [0, 1, -1, -1, -1]
    assert found.notes[0].sentence.startswith("1 held-out example has no group, the first is 'west/1'")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "audit.group_pattern: '(' is no regular expression (missing )"),
        ("^[a-z]+/", "audit.group_pattern: '^[a-z]+/' has no parenthesis around what names the group"),
        ("^([A-Z]+)/", "audit.group_pattern: '^([A-Z]+)/' fits no id; ids look like 'north/1'"),
        ("^(north)", "the held-out examples are of only one group, 'north'; a comparison takes two"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        grouped(pattern=pattern)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must begin with a line that names the columns id and group, each once and separated by commas; it begins "
            "with ''"),
        ("id;group\nnorth/1;n\n", "separated by commas; it begins with 'id;group'"),
        ("id,site\nnorth/1,n\n", "it begins with 'id,site'"),
        ("id,group,group\nnorth/1,n,n\n", "it begins with 'id,group,group'"),
        ("id,group\n", "has no lines under its header"),
        (b"id,group\nM\xfcnchen,n\n", "is not text in UTF-8; save it as CSV UTF-8"),
        ("id,group\nnorth/1\n", "line 2: 1 cells under 2 columns; put a cell that holds a comma in double quotes"),
        ("id,group\nnorth,1,n\n", "line 2: 3 cells under 2 columns"),
        ('id,group\n"north/1,n\n', "line 2: not valid CSV (unexpected end of data)"),
        (EVERYBODY + "south/1,n\n", "line 7: 'south/1' is of group 'n' here and of 's' above; an example has one"),
        ("id,group\n1,n\n2,s\n", "gives no held-out example a group; ids look like 'north/1', the first in the file is "
            "'1'"),
        (EVERYBODY + "east/7,e\n", "group 'e' has no held-out example among those that the audit looks at; leave its "
            "lines out of the file, an empty group has no accuracy"),
        (EVERYBODY.replace(",s", ",n"), "the held-out examples are of only one group, 'n'; a comparison takes two, and "
            "overall accuracy is in every report"),
        (EVERYBODY + "".join(f"p/{i},{i}\n" for i in range(MOST_GROUPS - 1)), "501 groups of 5 held-out examples, at "
            "most 500 are compared; a group is something that many examples share"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        grouped(file=file(tmp_path, text))
    assert str(caught.value).startswith("audit.group_file: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.csv", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=re.escape(f"audit.group_file: {path} cannot be read ({why})")):
            grouped(file=path)


def test_where_a_class_is_forgotten_a_group_needs_other_classes() -> None:
    alone = [False, True, False, True, True]  # every example of the north is of the forgotten class
    with pytest.raises(UsageError, match="the held-out examples outside the forgotten class are of only one group, 's"):
        grouped(pattern=NORTH_SOUTH, others=alone)
    with pytest.raises(UsageError, match="the held-out examples outside the forgotten class are of no group"):
        grouped(pattern="^(north)/", others=alone)


def test_in_a_file_a_group_of_the_forgotten_class_alone_is_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="group 'n' has no held-out example outside the forgotten class among those"):
        grouped(file=file(tmp_path, EVERYBODY), others=[False, True, False, True, True])
