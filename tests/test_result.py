"""The result file: what is written is read again, and every file that is not it is refused in one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from sample_result import VARIANTS, sample

from unlearnkit.result import SCHEMA, AuditResult, Interval, UsageError, evidence_path, nearest

GOLDEN = Path(__file__).parent / "golden" / "audit-schema-3.json"


def body(variant: str = "fail") -> dict[str, Any]:
    read: dict[str, Any] = json.loads(sample(variant).result.to_json())
    return read


def sealed(changed: dict[str, Any]) -> str:
    """The text of a changed body with a digest that fits: what a forger would write."""
    content = {name: value for name, value in changed.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "digest": digest})


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str) -> None:
    result = sample(variant).result
    text = result.to_json()
    assert AuditResult.from_json(text) == result
    assert AuditResult.from_json(text.encode()).to_json() == text
    assert AuditResult.from_json(sealed(body(variant))) == result  # the order of writing plays no part


def test_numbers_survive_to_the_last_bit() -> None:
    result = sample().result
    numbers = (0.1 + 0.2, 1e-300, 5e-324, 123456789.123456789, 2.0**-1074 * 3)
    for value in numbers:
        test = dataclasses.replace(result.tests[0], p=value, leak=Interval(None, -value, None))
        changed = dataclasses.replace(result, tests=(test,))
        assert AuditResult.from_json(changed.to_json()).tests[0] == test


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_never_written(bad: float) -> None:
    result = sample().result
    for changed in (
        dataclasses.replace(result, significance=bad),
        dataclasses.replace(result, tests=(dataclasses.replace(result.tests[0], mde=bad),)),
        dataclasses.replace(result, tolerances={"auc": bad}),
    ):
        with pytest.raises(ValueError, match="not JSON compliant"):
            changed.to_json()


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ['"p": 0.2417', '"lr": 0.05'])
def test_what_is_no_number_is_never_read(token: str, place: str) -> None:
    text = sample().result.to_json()
    assert place in text
    with pytest.raises(UsageError, match=r"audit\.json: not readable as JSON"):
        AuditResult.from_json(text.replace(place, place.split()[0] + " " + token, 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not readable as JSON"),
        (b"%PDF-1.7\xff", "a PDF; name its audit.json"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 200_000, "not readable as JSON"),
        (b"[]", "not an audit result of unlearnkit"),
        (b"3", "not an audit result of unlearnkit"),
        (b"{}", "it has no 'battery'"),
        (b'{"schema": 1, "searches": []}', "it has no 'battery'"),  # a worst-case result
        (b'{"battery": "1"}', "it has no integer 'schema'"),
        (b'{"battery": "1", "schema": "1"}', "it has no integer 'schema'"),
        (b'{"battery": "1", "schema": true}', "it has no integer 'schema'"),
        (b'{"battery": "1", "schema": 3}', "not a valid audit result: tier: Field required"),
        (
            b'{"battery": "1", "schema": 4}',
            "audit result of schema 4, this version reads schema 3; use the unlearnkit that wrote it",
        ),
        (b'{"battery": "1", "schema": 2}', "audit result of schema 2, this version reads schema 3"),
    ],
)
def test_other_files(text: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=f"^here.json: .*{re.escape(message)}"):
        AuditResult.from_json(text, what="here.json")


def changed(path: tuple[str | int, ...], value: Any) -> str:
    made = body()
    place: Any = made
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return sealed(made)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("surprise",), 1, "surprise: "),
        (("tests", 0, "surprise"), 1, r"tests\.0\.surprise: "),
        (("tests", 0, "p"), "0.05", r"tests\.0\.p: Input should be a valid number"),
        (("tests", 0, "p"), True, r"tests\.0\.p: Input should be a valid number"),
        (("tests", 0, "state"), "GREAT", r"tests\.0\.state: Input should be 'PASS'"),
        (("verdict", "word"), "pass", r"verdict\.word: Input should be 'PASS'"),
        (("seed",), 0.0, "seed: Input should be a valid integer"),
        (("tier",), "days", "tier: Input should be 'seconds', 'minutes' or 'hours'"),
        (("claim",), "certified", "claim: Input should be 'approximate' or 'exact'"),
        (("nonstandard",), [1], r"nonstandard\.0: Input should be a valid string"),
        (
            ("individuals", "worst", 0, "direction"),
            "lost",
            r"individuals\.worst\.0\.direction: Input should be 'remembered'",
        ),
        (("collateral", "groups", 0, "n"), 3.5, r"collateral\.groups\.0\.n: "),
        (("registration", "document"), [], r"registration\.document: Input should be an object"),
        (
            ("comparisons", 0, "oracles", "value"),
            None,
            r"comparisons\.0\.oracles\.value: Input should be a valid number",
        ),
        (("privacy",), {"epsilon": 1.0}, r"privacy\.delta: Field required"),
        (("verdict",), None, "verdict: "),
    ],
)
def test_a_wrong_field_is_named_even_under_a_fitting_digest(path: Any, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=rf"audit\.json: not a valid audit result: {message}"):
        AuditResult.from_json(changed(path, value))


@pytest.mark.parametrize(
    "path",
    [
        ("verdict", "word"),
        ("tests", 0, "p"),
        ("request", "id"),
        ("environment", "started"),
        ("nonstandard", 0),
        ("registration", "document", "plan", "power"),
        ("individuals", "worst", 0, "z"),
    ],
)
def test_a_changed_value_does_not_match_the_digest(path: tuple[str | int, ...]) -> None:
    made = body()
    place: Any = made
    for step in path[:-1]:
        place = place[step]
    old = place[path[-1]]
    place[path[-1]] = "PASS" if path[0] == "verdict" else (old + 0.1 if isinstance(old, float) else f"{old}0")
    with pytest.raises(UsageError, match="does not match its own digest; the file was changed afterwards"):
        AuditResult.from_json(json.dumps(made))
    del made["digest"]
    with pytest.raises(UsageError, match="does not match its own digest"):
        AuditResult.from_json(json.dumps(made))


def test_every_single_changed_digit_is_noticed() -> None:
    text = sample().result.to_json()
    spots = [i for i, letter in enumerate(text) if letter.isdigit()]
    for spot in spots[::29]:
        other = text[:spot] + str((int(text[spot]) + 1) % 10) + text[spot + 1 :]
        with pytest.raises(UsageError):
            AuditResult.from_json(other)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "x/", "a\0b"])
def test_evidence_lies_beside_the_result_and_nowhere_else(name: str, tmp_path: Path) -> None:
    result = sample().result
    elsewhere = dataclasses.replace(result, evidence=dataclasses.replace(result.evidence, file=name))
    with pytest.raises(UsageError, match="the evidence must be a file beside the result, got "):
        evidence_path(tmp_path / "audit.json", elsewhere)
    assert evidence_path(tmp_path / "audit.json", result) == tmp_path / "audit.evidence.safetensors"


def test_golden_file_of_schema_3() -> None:
    """Whoever changes what a file of this schema holds must raise its number, and write another golden file."""
    text = GOLDEN.read_text()
    result = AuditResult.from_json(text)
    assert result.schema == SCHEMA == 3
    assert result.verdict.word == "FAIL"
    assert result.request.id == "DR-2026-017"
    assert [test.name for test in result.tests][:2] == ["Canary coin test", "4-bit quantized, canary"]
    assert result.tests[0].leak == Interval(-0.02013, 0.03017, 0.08104)
    assert result.tier == "hours"
    assert result.nonstandard == ("oracles 19 instead of 39", "tolerance margin 0.4 instead of 1")
    parts = (result.registration, result.individuals, result.collateral, result.privacy, result.by_group, result.stress)
    assert None not in parts
    assert result.comparisons[-1].name == "NeurIPS 2023 forgetting score"
    assert result.comparisons[-1].p is None
    assert result.to_json() == text


def test_nearest() -> None:
    assert nearest("epoch", ["epochs", "lr"]) == "; did you mean 'epochs'?"
    assert nearest("zzz", ["epochs", "lr"]) == ""
