"""Whatever a file holds, reading it ends in a valid value or in one sentence; and nothing is half written."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sample_result import sample
from test_result import sealed

from unlearnkit.audits.spec import _SECTIONS, MethodSpec, Spec, parse_spec, read_spec
from unlearnkit.reports.letterhead import Letterhead, read_letterhead
from unlearnkit.reports.pdf import attachments, write_report
from unlearnkit.result import AuditResult, UsageError

FEW = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SECTIONS = {"method": MethodSpec, **_SECTIONS}
KEYS = st.sampled_from([f.name for kind in SECTIONS.values() for f in dataclasses.fields(kind)]) | st.text(max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
TOML = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("text", ["a = " + "[" * 9_000, "a" + ".a" * 9_000 + " = 1", "[data]\nseed = " + "9" * 9_000])
def test_files_that_are_too_deep_or_too_long(text: str, tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text(text)
    for read in (read_spec, read_letterhead):
        with pytest.raises(UsageError, match=r"deep\.toml: "):
            read(tmp_path / "deep.toml")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("section", ["recipe", "method"])
def test_what_is_no_number_is_no_setting(section: str, value: float) -> None:
    """A result could not hold it: better said before the training than after."""
    with pytest.raises(UsageError, match=rf"spec: {section}\.lr: must be a finite number, got {value}"):
        parse_spec({section: {"lr": value, **({"name": "SalUn"} if section == "method" else {})}}, folder=Path())


def one_sentence(error: UsageError) -> None:
    said = str(error)
    assert said
    assert "Traceback" not in said


@FEW
@given(
    body=st.dictionaries(st.sampled_from([*SECTIONS, "x"]), st.dictionaries(KEYS, TOML, max_size=2) | TOML, max_size=4)
)
def test_any_table_is_a_spec_or_a_sentence(body: dict[str, Any]) -> None:
    try:
        spec = parse_spec(body, folder=Path("here"))
    except UsageError as error:
        one_sentence(error)
    else:
        assert isinstance(spec, Spec)
        assert spec.folder == Path("here")
        json.dumps(spec.plain(), allow_nan=False)  # it is to stand in a result


@FEW
@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_is_a_spec_or_a_sentence(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(data)
    try:
        read_spec(path)
    except UsageError as error:
        one_sentence(error)
    else:
        tomllib.loads(data.decode("utf-8-sig"))


@FEW
@given(data=st.binary(max_size=200) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_any_file_is_a_result_or_a_sentence(data: bytes) -> None:
    for read in (AuditResult.from_json, Letterhead.from_json):
        with pytest.raises(UsageError) as refused:  # too small to be one
            read(data)
        one_sentence(refused.value)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, part in inner for place in places(part, (*path, name)))]


BODY = {name: part for name, part in json.loads(sample("hours").result.to_json()).items() if name != "digest"}
PLACES = [place for place in places(BODY) if place]


@FEW
@given(place=st.sampled_from(PLACES), value=TREES, drop=st.booleans())
def test_any_change_of_a_result_is_a_result_or_a_sentence(place: tuple[Any, ...], value: Any, drop: bool) -> None:
    """Under a digest that fits: what a forger, or another version, would write."""
    body = json.loads(json.dumps(BODY))
    holder = body
    for step in place[:-1]:
        holder = holder[step]
    if drop:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    assume(body != BODY)
    try:
        result = AuditResult.from_json(sealed(body))
    except UsageError as error:
        one_sentence(error)
    else:
        assert AuditResult.from_json(result.to_json()) == result


@settings(FEW, max_examples=20)
@given(place=st.sampled_from(PLACES), value=TREES)
def test_a_refused_result_leaves_the_old_report_whole(place: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    body = json.loads(json.dumps(BODY))
    holder = body
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = value
    assume(body != BODY)
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    (folder / "report.pdf").write_bytes(b"the old one")
    (tmp_path / "audit.json").write_text(json.dumps(body), encoding="utf-8")  # its digest is missing, so it is refused
    with pytest.raises(UsageError):
        write_report(tmp_path / "audit.json", folder / "report.pdf")
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("report.pdf", b"the old one")]


@FEW
@given(data=st.binary(max_size=300), begin=st.sampled_from([b"", b"%PDF-1.7\n", b"%PDF-2.0\n1 0 obj\n<<"]))
def test_any_file_is_a_report_or_a_sentence(data: bytes, begin: bytes) -> None:
    with pytest.raises(UsageError) as refused:
        attachments(begin + data)
    one_sentence(refused.value)
