"""Who issues a report and in which language: every table is whole, nothing claims erasure, mistakes are named."""

from __future__ import annotations

import dataclasses
import functools
import io
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_samples import class_evidence, evidence, plan
from pypdf import PdfReader
from sample_result import sample

from unlearnkit.audits.battery import judge
from unlearnkit.audits.records import captions
from unlearnkit.reports import card, html
from unlearnkit.reports.letterhead import LANGUAGES, LETTERHEAD, Letterhead, language, read_letterhead, speaking
from unlearnkit.reports.pdf import attachments, render
from unlearnkit.reports.view import Said
from unlearnkit.result import AuditResult, UsageError

ROOT = Path(__file__).parents[1]
# One red pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
ERASED = re.compile(
    r"\b(?:data|records?|examples?)\s+(?:(?:has|have|had|been|being|was|were|is|are|fully|now)\s+)*erased\b"
    r"|\berased\s+(?:the\s+)?(?:data|records?|examples?)\b"
    r"|\bDaten\s+(?:(?:sind|wurden|worden|waren|ist|wurde|vollständig|alle)\s+)*gelöscht\b|\bgelöschte[nr]?\s+Daten\b",
    re.IGNORECASE,
)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def shape(value: Any) -> Any:
    """Keys and kinds; lists of sentences and of rows may be longer in another language, parts of a sentence not."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return type(value).__name__


def pages(letterhead: Letterhead | None = None, variant: str = "fail") -> list[str]:
    example = sample(variant)
    return text_of(render(example.result, example.evidence, letterhead))


def text_of(pdf: bytes) -> list[str]:
    reader = PdfReader(io.BytesIO(pdf))
    return [
        " ".join(page.extract_text().replace("\ufb01", "fi").replace("\u200b", "").split()) for page in reader.pages
    ]


@functools.cache
def german() -> bytes:
    example = sample("fail")
    return render(example.result, example.evidence, Letterhead(language="de"))


def test_every_language_has_every_text() -> None:
    assert LANGUAGES == ("de", "en")
    for name in LANGUAGES:
        assert shape(language(name)) == shape(language("en"))
        assert language(name)["lang"] == name
    same = {key for key, value in language("en").items() if isinstance(value, str) and language("de")[key] == value}
    assert same <= {"own-words-note", "privacy-at"}, "a text that nobody translated"


def test_every_text_is_used_and_none_is_written_into_the_pages() -> None:
    template = (ROOT / "reports" / "report.typ").read_text(encoding="utf-8")
    page = (ROOT / "reports" / "html.py").read_text(encoding="utf-8")
    code = template + page + (ROOT / "reports" / "card.py").read_text(encoding="utf-8")
    for key in language("en"):
        assert re.search(rf"(words\.|[\"'(]|f'){re.escape(key)}\b|party-", code), key
    for value in re.findall(r"(?<=[\[(,]) ?\"([A-Z][a-z]+ [a-z ]+)\"", template):
        assert "of the audit" in value or "result" in value, value  # descriptions of the attachments only


@pytest.mark.parametrize("name", LANGUAGES)
def test_no_text_says_that_data_are_erased(name: str) -> None:
    assert ERASED.search("All data have been erased.")
    assert ERASED.search("Die Daten wurden vollständig gelöscht.")
    assert [text for text in texts(language(name)) if ERASED.search(text)] == []
    for part in ("audits", "reports"):
        for file in [*(ROOT / part).glob("*.py"), *(ROOT / part).glob("*.typ")]:
            assert not ERASED.search(file.read_text(encoding="utf-8")), file


def field_at(path: str) -> bool:
    """Whether an audit.json has a field of this name."""
    kind: Any = AuditResult
    for name in path.split("."):
        if name not in {f.name for f in dataclasses.fields(kind)}:
            return False
        hint = typing.get_type_hints(kind)[name]
        kinds = [hint, *(typing.get_args(hint) if isinstance(hint, types.UnionType) else ())]
        kind = next((k for k in kinds if dataclasses.is_dataclass(k)), None)
    return True


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_mapping_names_fields_that_are_there_and_what_it_has_not_read(name: str) -> None:
    rows = language(name)["mapping-list"]
    assert not field_at("request.date")
    for row in rows:
        assert all(field_at(field) for field in row["fields"]), row["source"]
        assert row["own"]
    assert [row["checked"] for row in rows] == [False, False, True] + [False] * 6  # the EDPB opinion was read
    assert [row["fields"] for row in rows] == [row["fields"] for row in language("en")["mapping-list"]]
    joined = " ".join(row["source"] for row in rows)
    for source in ("17", "5(2)", "28/2024", "2024/1689", "2.7", "2.10", "800-226", "27555", "27559"):
        assert source in joined


def test_pages_for_the_reader() -> None:
    example = sample("fail")
    pdf = render(example.result, example.evidence)
    assert LETTERHEAD not in attachments(pdf)
    found = " ".join(text_of(pdf))
    order = [
        "Did the model forget?", "Before trusting a number", "Scope, request and course", "What it does not cover",
        "What was asked", "What was done", "What each party saw", "Accuracy Share", "Results of the tests",
        "Each test in words", "Beside the verdict", "Single examples", "Other classes", "Controls in full",
        "How far this goes Deletion cannot be proven from weights alone.", "What the words mean",
        "What authorities ask for", "What was done and to what", "What was registered", "Signature I have",
    ]  # fmt: skip
    places = [found.index(title, 0 if index < 2 else 3000) for index, title in enumerate(order)]
    assert places == sorted(places)
    assert "The unlearning method forget inputs, forget labels, retain inputs, retain labels" in found
    assert "EU AI Act (2024/1689), Art. 12, and Art. 11 with Annex IV" in found
    assert "†" not in found
    assert (
        "The official texts were not at hand when this table was written, except: EDPB Opinion 28/2024. Each line is a "
        "summary to be checked against the official text."
    ) in found


def test_a_report_in_german() -> None:
    found = text_of(german())
    first, rest = found[0], " ".join(found[1:])
    result = sample("fail").result
    assert "Hat das Modell vergessen?" in first
    assert "NICHT BESTANDEN" in first
    assert "unlearnkit: FAIL" in first  # the word by which programs know it
    assert "Sätze und Namen, die der Prüfer berechnet hat, stehen wie in der Ergebnisdatei auf Englisch" in first
    assert result.verdict.headline in first
    assert "Aus Gewichten allein lässt sich eine Löschung nicht beweisen." in first
    assert "DSGVO, Art. 17" in rest
    assert language("de")["signature-withheld"] in rest
    assert language("de")["signature-note"] not in rest
    assert f"Seite {len(found)} / {len(found)}" in rest
    english = {text for text in texts(language("en")) if len(text) > 25} - set(texts(language("de")))
    assert [text for text in english if text in first + rest] == []
    example = sample("fail")
    assert PdfReader(io.BytesIO(german())).root_object["/Lang"] == "de-DE"
    page = html.render(example.result, example.evidence, Letterhead(language="de")).decode()
    assert '<html lang="de-DE">' in page
    assert f'<span lang="en">{result.verdict.headline}</span>' in page
    assert "**NICHT BESTANDEN**" in card.render(example.result, example.evidence, Letterhead(language="de")).decode()


def test_what_the_result_says_in_fixed_words_is_translated() -> None:
    first, rest = text_of(german())[0], " ".join(text_of(german())[1:])
    said = language("de")["said"]
    assert "Batterie 1, Stufe Minuten" in first
    assert said["Margin φ of the requested examples, and of held-out twins under the audited model."] in rest
    for text in (
        "geprüftes Modell 5.13 σ",
        "Mittel der Orakel 5.04 σ",
        "richtige Mutmaßungen von 40 22",
        "Rang, gefordert",
    ):
        assert text in rest
    for text in ("audited model", "mean of the oracles", "right guesses", "one threshold on", "Stufe minutes"):
        assert text not in first + rest
    example = sample("fail", nonstandard=("tolerance auc 0.1 instead of 0.05", "something else"))
    page = html.render(example.result, example.evidence, Letterhead(language="de")).decode()
    assert ': Toleranz auc 0.1 statt 0.05; <span lang="en">something else</span>' in page
    assert said["Margin φ of the requested examples, and of held-out twins under the audited model."] in page
    assert "audited model" not in page
    english = html.render(example.result, example.evidence).decode()
    assert ": tolerance auc 0.1 instead of 0.05; something else" in english
    assert all(key == text for key, text in language("en")["said"].items())


def test_the_table_has_every_caption_and_quantity_that_an_audit_writes() -> None:
    said = language("en")["said"]
    for made in (evidence(oracles=19), evidence(oracles=0), evidence(oracles=0, canaries=0), class_evidence(oracles=3)):
        assert set(captions(made).values()) <= set(said)
    judged = judge(evidence(oracles=19), plan())
    say = Said(language("de")["said"])
    names = {quantity.name for test in judged.tests for quantity in test.quantities}
    assert {name for name in names if say(name) == name} <= {
        "AUC",
        *(name for name in names if name.startswith("TPR at")),
    }
    assert {say(test.group) for test in judged.tests} == {"Kanarien", "verlangte"}
    assert {say(test.kind) for test in judged.tests} == {"Rang", "Münze"}


def test_a_language_before_that_of_the_organization() -> None:
    ours = Letterhead("Muster AG", "x@example.com", PNG, "de", {"title": "Vergessen?"})
    assert speaking(ours, "de") == ours
    assert speaking(ours, "en") == Letterhead("Muster AG", "x@example.com", PNG, "en", {})  # its own words were German
    with pytest.raises(UsageError, match=r"^--language: must be one of de, en, got 'dee'; did you mean 'de'\?$"):
        speaking(ours, "dee")


def written(folder: Path, text: str, **files: bytes) -> Path:
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    (folder / "ours.toml").write_text(text, encoding="utf-8")
    return folder / "ours.toml"


def test_letterhead_from_a_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        'organization = "Muster AG"\ncontact = "privacy@example.com"\nlogo = "logo.png"\n'
        '[words]\ntitle = "Forgotten?"\n[words.figure]\nchance = "luck"\n',
        logo_png=PNG,
    )
    letterhead = read_letterhead(path)
    assert letterhead.logo == PNG
    assert letterhead.table()["figure"] == {**language("en")["figure"], "chance": "luck"}
    assert language("en")["title"] == "Did the model forget?"
    assert Letterhead.from_json(letterhead.to_json()) == letterhead
    example = sample("fail")
    pdf = render(example.result, example.evidence, letterhead)
    assert attachments(pdf)[LETTERHEAD] == letterhead.to_json()
    assert Letterhead.from_json(attachments(pdf)[LETTERHEAD]) == letterhead  # so it can be typeset again
    reader = PdfReader(io.BytesIO(pdf))
    first = reader.pages[0].extract_text()
    assert "MUSTER AG" in first
    assert "privacy@example.com" in first
    assert "Forgotten?" in first
    assert "Printed with wording that the issuer changed" in " ".join(first.split())
    assert len(reader.pages[0].images) == 1
    assert reader.metadata is not None
    assert reader.metadata.author == "Muster AG"
    page = html.render(example.result, example.evidence, letterhead).decode()
    assert '<img src="data:image/png;base64,' in page
    assert "luck" in page


def test_a_language_of_ones_own(tmp_path: Path) -> None:
    table = (ROOT / "reports" / "languages" / "de.toml").read_text(encoding="utf-8")
    own = table.replace('lang = "de"', 'lang = "gsw"').replace('region = "DE"', 'region = ""')
    path = written(tmp_path, 'language = "gsw.toml"\n[words]\npage = "Siite"\n', gsw_toml=own.encode())
    letterhead = read_letterhead(path)
    assert letterhead.table() == {**language("de"), "lang": "gsw", "region": "", "page": "Siite"}
    assert "Siite 1" in pages(letterhead, "seconds")[0]
    written(tmp_path, 'language = "gsw.toml"', gsw_toml=own.replace('page = "Seite"\n', "").encode())
    with pytest.raises(UsageError, match=r"gsw\.toml: page is missing; a language has every key of en\.toml"):
        read_letterhead(path)
    written(tmp_path, 'language = "gsw.toml"', gsw_toml=own.replace('chance = "Zufall"\n', "").encode())
    with pytest.raises(UsageError, match=r"gsw\.toml: figure: chance is missing"):
        read_letterhead(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("organisation = 'x'", "organisation: unknown key; did you mean 'organization'?"),
        ("organization = 3", "organization: must be a text, got 3"),
        ("contact = ['x']", "contact: must be a text, got ['x']"),
        ("language = 'fr'", "language: must be one of de, en or name a .toml file, got 'fr'"),
        ("language = 'fr.toml'", "fr.toml: cannot be read (No such file or directory)"),
        ("logo = 'none.svg'", "none.svg: cannot be read (No such file or directory)"),
        ("logo = 7", "logo: must name a file, got 7"),
        ("logo = 'text.svg'", "logo: must be a PNG, JPEG or SVG file"),
        ("logo = 'huge.png'", "logo: has 1,000,008 bytes, at most 1,000,000 are accepted"),
        ("words = 'x'", "words: must be a section, got 'x'"),
        ("[words]\ntitel = 'x'", "words.titel: unknown key; did you mean 'title'?"),
        ("[words]\ntitle = 3", "words.title: must be a text, got 3"),
        ("[words]\nmore = ['one']", "words.more: must be a list of 2 texts, got 1"),
        ("[words]\nmore = 'one'", "words.more: must be a list, got 'one'"),
        ("[words]\nglossary-list = [['x']]", "words.glossary-list[0]: must be a list of 2 texts, got 1"),
        ("[words.states]\nPASS = true", "words.states.PASS: must be a text, got True"),
        ("[[words.mapping-list]]\nsource = 'x'", "words.mapping-list[0]: asks is missing"),
        ("organization = ", "not valid TOML"),
    ],
)
def test_mistakes_in_a_letterhead(tmp_path: Path, text: str, sentence: str) -> None:
    path = written(tmp_path, text, text_svg=b"hello", huge_png=PNG[:8] + b"0" * 1_000_000)
    with pytest.raises(UsageError, match=re.escape(sentence)):
        read_letterhead(path)


def test_a_logo_that_cannot_be_drawn_and_attachments_that_do_not_fit(tmp_path: Path) -> None:
    letterhead = read_letterhead(written(tmp_path, 'logo = "logo.png"', logo_png=PNG[:40]))
    example = sample("seconds")
    with pytest.raises(UsageError, match=r"logo: cannot be drawn \("):
        render(example.result, example.evidence, letterhead)
    for text, sentence in (
        (b"", "not readable as JSON"),
        (b"[]", "must hold organization, contact, logo, language, words"),
        (Letterhead().to_json().replace(b'"logo": ""', b'"logo": "?"'), "logo must be base64"),
        (Letterhead().to_json().replace(b'"words": {}', b'"words": {"titel": "x"}'), "words.titel: unknown key"),
    ):
        with pytest.raises(UsageError, match=re.escape(sentence)):
            Letterhead.from_json(text)
    (tmp_path / "latin.toml").write_bytes(b'organization = "\xe4"')
    with pytest.raises(UsageError, match=r"latin\.toml: is not text; it must be a TOML file in UTF-8"):
        read_letterhead(tmp_path / "latin.toml")
