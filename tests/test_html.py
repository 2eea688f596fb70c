"""The report for browsers and as a model card: the same content, self-contained, nothing in it is executed."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load
from sample_result import sample
from test_report import HOSTILE, RELEASED, WITHHELD, hostile, pages_of, pictured, written

from unlearnkit.reports import card, html
from unlearnkit.reports.letterhead import Letterhead, language
from unlearnkit.reports.pdf import write_report
from unlearnkit.reports.view import visible
from unlearnkit.result import UsageError

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)> ${x} {{y}} javascript:alert(4)"
MARKDOWN = "| --- [x](http://evil.example) ![y](z) <b>q</b> `c` *d* _e_ # f ~~g~~ www.evil.example a@evil.example"


class Reading(HTMLParser):
    """What a browser would see: text, elements with their attributes, and whether every element is closed."""

    VOID = ("meta", "br", "img", "link", "input", "hr", "!doctype")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@functools.cache
def page(variant: str = "fail") -> str:
    example = sample(variant)
    return html.render(example.result, example.evidence).decode()


@functools.cache
def read(variant: str = "fail") -> Reading:
    return Reading(page(variant))


def squeezed(text: str) -> str:
    return re.sub(r"[\s\u200b]", "", text.replace("\ufb01", "fi"))


@pytest.mark.parametrize("variant", ["fail", "privacy", "hours"])
def test_what_the_pdf_says_stands_in_the_html(variant: str) -> None:
    """Every sentence of the PDF, but for references to pages."""
    result, text = sample(variant).result, squeezed(read(variant).text)
    said = [result.verdict.headline, *result.verdict.why, *result.verdict.mde, result.request.sentence, result.command]
    said += [test.sentence for test in result.tests] + [control.sentence for control in result.controls]
    said += [flag.sentence for flag in result.flags] + [row.sentence for row in result.comparisons]
    said += [one.id for one in result.individuals.worst] if result.individuals else []
    said += [
        result.model.audited_sha256,
        result.evidence.sha256,
        result.registration.sha256 if result.registration else "",
    ]
    assert [sentence for sentence in said if squeezed(sentence) not in text] == []
    numbers = re.compile(r"(?<![\w.,])\d[\d,]*\.\d+(?![\w])")
    printed = set(numbers.findall(" ".join(pages_of(variant))))
    assert printed - set(numbers.findall(read(variant).text.replace("−", " "))) == set()
    words = language("en")
    for title in ("scope", "accuracy", "results", "each", "limits", "glossary", "mapping", "record", "registration"):
        assert words[title] in read(variant).text
    assert ("Private training" in read(variant).text) == (variant == "privacy")


@pytest.mark.parametrize("spoken", ["en", "de"])
def test_a_late_registration_is_not_said_to_be_early(spoken: str) -> None:
    example = sample("fail")
    registration = example.result.registration
    assert registration is not None
    later = dataclasses.replace(registration, document={**registration.document, "earlier": ["c" * 64]})
    done, _, late = language(spoken)["registration-note"]
    for given, said in ((registration, done), (later, f"{done} {late}")):
        result = dataclasses.replace(example.result, registration=given)
        text = html.render(result, example.evidence, Letterhead(language=spoken)).decode()
        assert f"<p>{said}</p>" in text
        assert ("cccccccccccc…" in text) == (given is later)


@pytest.mark.parametrize("variant", ["pass", "exact", "fail", "inconclusive", "invalid"])
def test_only_a_verdict_that_passed_releases_the_model(variant: str) -> None:
    passed = variant in ("pass", "exact")
    assert (RELEASED in read(variant).text, WITHHELD in read(variant).text) == (passed, not passed)
    example = sample(variant)
    german = Reading(html.render(example.result, example.evidence, Letterhead(language="de")).decode()).text
    released, withheld = (language("de")[key] for key in ("signature-note", "signature-withheld"))
    assert (released in german, withheld in german) == (passed, not passed)


def test_no_line_ends_within_a_number_and_numbers_stand_right() -> None:
    text = page("fail")
    assert "&lt;\xa00.001" in text
    assert "95\xa0% interval" in text
    assert (
        re.search(r"\d [%σ]|&[lg]t; \d", re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", text, flags=re.DOTALL)) is None
    )
    assert ".numbers td:nth-child(n+2), .numbers th:nth-child(n+2) { text-align: right; }" in text
    assert '<table class="numbers second">' in text


def test_the_hardest_examples_are_images_within_the_file() -> None:
    example = pictured()
    assert example.result.stress is not None
    found = Reading(html.render(example.result, example.evidence).decode())
    images = [attributes for tag, attributes in found.elements if tag == "img"]
    assert [image["alt"] for image in images] == [f"digits/{i:04d}, {i}" for i in range(10)]
    sources = [str(image["src"]).partition("data:image/png;base64,")[2] for image in images]
    truth = load(example.evidence)["stress/images"][:, 0]
    for source, image in zip(sources, truth, strict=True):
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))
        np.testing.assert_array_equal(drawn[::12, ::12], image)  # every pixel a square of 12 by 12
    for sentence in (*example.result.stress.sentences, *example.result.stress.left_out):
        assert squeezed(sentence) in squeezed(found.text)


def test_it_asks_nobody_for_anything() -> None:
    for tag, attributes in read().elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "form", "base", "foreignobject")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                assert str(value).startswith(("data:", "#")), (tag, name, value)
    assert "url(" not in page().replace("url(#", "")
    assert "@import" not in page()
    assert "default-src 'none'" in page()
    assert "http:" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page())
    assert "https:" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page())


def test_figures_are_described_and_ids_are_single() -> None:
    images = [attributes for tag, attributes in read().elements if tag == "svg"]
    assert len(images) == len(sample("fail").result.tests) + 1 + 5
    assert all(len(str(attributes["aria-label"])) > 40 for attributes in images)
    ids = [attributes["id"] for _, attributes in read().elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {str(a["xlink:href"])[1:] for _, a in read().elements if str(a.get("xlink:href", "")).startswith("#")}
    named |= set(re.findall(r"url\(#([^)]*)\)", page()))
    named |= {str(a["href"])[1:] for _, a in read().elements if str(a.get("href", "")).startswith("#")}
    assert named <= set(ids)


def test_the_result_comes_back_out_of_it() -> None:
    [link] = [a for tag, a in read().elements if tag == "a" and a.get("download") == "audit.json"]
    data = base64.b64decode(str(link["href"]).partition(",")[2])
    assert data.decode() == sample("fail").result.to_json()


@pytest.mark.parametrize("text", [SCRIPT, HOSTILE, "FAIL\u202eSSAP\x00\x1b[31m", "</style></title><b>"])
def test_hostile_strings_are_text(text: str) -> None:
    example = hostile(text)
    found = Reading(html.render(example.result, example.evidence, Letterhead(text, text)).decode())
    usual = {tag for variant in ("fail", "privacy", "invalid") for tag, _ in read(variant).elements}
    assert {tag for tag, _ in found.elements} <= usual
    assert all(not name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert squeezed(found.text).count(squeezed(visible(text))) > 40


def test_other_evidence_is_refused_and_the_ending_decides(tmp_path: Path) -> None:
    example = sample("fail")
    for render in (html.render, card.render):
        with pytest.raises(UsageError, match="evidence has SHA-256"):
            render(example.result, example.evidence + b" ")
    audit = written(tmp_path, example)
    for name, begins in (("r.html", b"<!DOCTYPE html>"), ("r.md", b"---\nmodel-index:")):
        write_report(audit, tmp_path / name)
        first = (tmp_path / name).read_bytes()
        assert first.startswith(begins)
        write_report(audit, tmp_path / name)
        assert (tmp_path / name).read_bytes() == first
    for name in ("r.txt", "r"):
        with pytest.raises(UsageError, match=rf"{name}: a report's name must end in \.pdf, \.html, \.md, got "):
            write_report(audit, tmp_path / name)
        assert not (tmp_path / name).exists()


def index(text: bytes) -> Any:
    yaml = pytest.importorskip("yaml", reason="comes with the extra 'sign'")
    _, block, rest = text.decode().split("---\n", 2)
    assert rest.startswith("\n## ")
    return yaml.safe_load(block)["model-index"]


def test_the_card_has_an_index_that_can_be_read() -> None:
    example = sample("fail")
    [model] = index(card.render(example.result, example.evidence))
    [found] = model["results"]
    assert model["name"] == "small-cnn"
    assert found["dataset"] == {"type": "digits", "name": "digits"}
    values = {metric["name"]: metric["value"] for metric in found["metrics"]}
    assert values["Accuracy (test)"] == 343 / 360
    for test in example.result.tests:
        assert values[f"{test.name} ({test.unit})"] == test.leak.value
    assert all(isinstance(value, float) for value in values.values())
    for value in (1e-05, 5e-324, 1e22, 0.0, -2.5e-7):
        yaml = pytest.importorskip("yaml")
        assert yaml.safe_load(card._yaml(value)) == value


@pytest.mark.parametrize("text", [SCRIPT, MARKDOWN, 'x"\n- y: z\\', "---\nfalse: : #"])
def test_hostile_strings_are_text_in_the_card(text: str) -> None:
    example = hostile(text)
    made = card.render(example.result, example.evidence, Letterhead(text))
    [model] = index(made)
    assert model["name"] == visible(text)
    body = made.decode().split("---\n", 2)[2]
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>]", body.replace("&lt;", "").replace("&gt;", ""))
    assert "](" not in body.replace("\\](", "").replace("\\]", "")
    assert not re.search(r"[^\\]://|www\.e|a@e", body)
    table = [line for line in body.splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


CHROMIUM = shutil.which("chromium")


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_a_word_on_the_console(tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(page(), encoding="utf-8")
    # A browser without a screen has a least width of its own; a frame has none.
    probe = (
        f'<iframe id="f" src="report.html" style="width:{width}px;height:900px;border:0"></iframe><script>'
        "f.onload = () => {const d = f.contentDocument.documentElement; document.title = "
        "JSON.stringify([d.scrollWidth, d.clientWidth])}</script>"
    )
    (tmp_path / "probe.html").write_text(probe, encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
    flags += f" --disable-sync --no-first-run --allow-file-access-from-files --user-data-dir={tmp_path}/profile"
    flags += " --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
    done = subprocess.run(
        [str(CHROMIUM), *flags.split(), f"file://{tmp_path}/probe.html"], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in done.stderr
    measured = re.search(r"<title>(\[.*?\])</title>", done.stdout)
    assert measured is not None
    scrolled, shown = json.loads(measured.group(1))
    assert scrolled == shown  # nothing stands beyond the edge
