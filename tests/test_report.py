"""The report room: what stands on the pages stands in the result, the file is archival, and it carries its evidence."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typst
from pypdf import PdfReader, PdfWriter
from safetensors.numpy import load, save
from sample_result import FAULT, VARIANTS, Sample, outcome, sample

from unlearnkit.reports import card, figures, numbers
from unlearnkit.reports.letterhead import Letterhead, language
from unlearnkit.reports.pdf import attachments, render, write_report
from unlearnkit.reports.pictures import shaded
from unlearnkit.reports.view import as_printed, clauses
from unlearnkit.result import (
    Collateral,
    Evidence,
    Flag,
    Individuals,
    Interval,
    Quantity,
    Registration,
    UsageError,
)

HOSTILE = (
    '#eval("1+1") $x^2$ *bold* _it_ <label> @ref \\ // c /* d */ `raw` <b>html</b> & "q" [x] {y} ~ --- #pagebreak()'
)


HEADINGS = tuple(
    language("en")[name]
    for name in (
        *("flags", "scope", "accuracy", "results", "results-note", "each", "beside", "beside-note", "comparisons"),
        *("individuals", "classes", "controls-full", "figures", "limits", "glossary", "mapping", "mapping-note"),
        *("record", "registration", "again"),
    )
)
RELEASED = "I have read this report, and I release the model whose hash it names."
WITHHELD = "I have read this report. The model whose hash it names is not released on its ground."
SHOWN = {"CONSISTENT": "CONSISTENT WITH EXACT"}  # words that are printed as others


@functools.cache
def rendered(variant: str) -> bytes:
    example = sample(variant)
    return render(example.result, example.evidence)


def reader(pdf: bytes) -> Any:
    return PdfReader(io.BytesIO(pdf))


def plain(text: str) -> str:
    return " ".join(text.replace("\u200b", "").replace("\ufb01", "fi").split())


def pages(pdf: bytes) -> list[str]:
    return [plain(page.extract_text()) for page in reader(pdf).pages]


@functools.cache
def pages_of(variant: str) -> list[str]:
    return pages(rendered(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_pages(variant: str) -> None:
    example = sample(variant)
    found = pages_of(variant)
    assert 5 <= len(found) <= 9
    first, rest = found[0], " ".join(found[1:])
    assert SHOWN.get(example.result.verdict.word, example.result.verdict.word) in first
    assert f"battery 1, tier {example.result.tier}" in first
    assert example.result.verdict.headline in first
    for title in ("Would we have noticed?", "What this does not prove", "The auditor checked itself", "Evidence"):
        assert title in first
    for title in ("Results of the tests", "Figures", "How far this goes", "What the words mean", "Signature"):
        assert title in rest
        assert title not in first
    for number, page in enumerate(found, start=1):
        assert f"Unlearning audit {example.result.request.id}" in page
        assert f"page {number} / {len(found)}" in page
        body = page.rsplit(f"Unlearning audit {example.result.request.id}", 1)[0].strip()
        assert not body.endswith(HEADINGS), "a heading stands alone at the end of a page"
    assert example.result.command in rest
    released = example.result.verdict.word in ("PASS", "CONSISTENT")
    assert (RELEASED in rest, WITHHELD in rest) == (released, not released)
    for control in example.result.controls:
        assert f"{control.name} {'passed' if control.passed else 'FAILED'}" in first
        assert plain(control.sentence) in rest
    for test in example.result.tests:
        assert plain(test.sentence) in rest


@pytest.mark.parametrize("variant", VARIANTS)
def test_archival_and_accessible(variant: str) -> None:
    pdf = rendered(variant)
    assert pdf.startswith(b"%PDF-1.7")
    for marker in (b"<pdfaid:part>3<", b"<pdfaid:conformance>A<", b"<pdfuaid:part>1<"):
        assert marker in pdf
    root = reader(pdf).trailer["/Root"]
    assert root["/Lang"] == "en-US"
    assert root["/MarkInfo"]["/Marked"]
    example = sample(variant)
    metadata = reader(pdf).metadata
    assert example.result.request.id in metadata.title
    assert metadata.author == example.result.organization
    assert metadata["/CreationDate"] == "D:20261120140211Z"
    assert hashlib.sha256(example.result.to_json().encode()).hexdigest() in metadata["/Keywords"]


def elements(node: Any) -> Iterator[Any]:
    node = node.get_object() if hasattr(node, "get_object") else node
    if isinstance(node, list):
        for child in node:
            yield from elements(child)
    elif isinstance(node, dict):
        yield node
        if "/K" in node:
            yield from elements(node["/K"])


def test_figures_are_described_in_words() -> None:
    example = sample("fail")
    tree = reader(rendered("fail")).trailer["/Root"]["/StructTreeRoot"]
    alts = [str(element["/Alt"]) for element in elements(tree["/K"]) if element.get("/S") == "/Figure"]
    assert len(alts) == 6
    assert all(len(alt) > 60 for alt in alts)
    for test in example.result.tests:
        assert f"{test.name}: {test.state.replace('_', ' ')}, leak" in plain(alts[0])


@pytest.mark.parametrize("variant", ["hours", "privacy"])
def test_tables_have_headers(variant: str) -> None:
    tree = reader(rendered(variant)).trailer["/Root"]["/StructTreeRoot"]
    tables = [element for element in elements(tree["/K"]) if element.get("/S") == "/Table"]
    assert len(tables) == {"hours": 11, "privacy": 9}[variant]
    for table in tables:
        kinds = [element.get("/S") for element in elements(table["/K"])]
        assert kinds.count("/TH") >= 2
        assert kinds.count("/TD") > kinds.count("/TH")


def test_fonts_are_embedded_and_come_with_typst() -> None:
    names = set()
    for page in reader(rendered("fail")).pages:
        for font in page["/Resources"].get("/Font", {}).values():
            descendant = font.get_object()["/DescendantFonts"][0].get_object()
            descriptor = descendant["/FontDescriptor"].get_object()
            assert any(key in descriptor for key in ("/FontFile2", "/FontFile3"))
            names.add(str(font.get_object()["/BaseFont"]).split("+")[1].split("-")[0])
    assert {"LibertinusSerif", "DejaVuSansMono"} <= names <= {"LibertinusSerif", "DejaVuSansMono", "NewCMMath"}


@pytest.mark.skipif(not shutil.which("qpdf"), reason="qpdf is not installed")
def test_qpdf_finds_no_error(tmp_path: Path) -> None:
    for variant in VARIANTS:
        path = tmp_path / f"{variant}.pdf"
        path.write_bytes(rendered(variant))
        done = subprocess.run(["qpdf", "--check", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_evidence_comes_back_byte_for_byte(variant: str) -> None:
    example = sample(variant)
    found = attachments(rendered(variant))
    assert found == {
        "audit.json": example.result.to_json().encode(),
        example.result.evidence.file: example.evidence,
    }
    described = [entry.get_object() for entry in reader(rendered(variant)).trailer["/Root"]["/AF"]]
    assert {entry["/AFRelationship"] for entry in described} == {"/Data", "/Source"}
    assert all(entry["/Desc"] for entry in described)


SCRIPT = """
import hashlib, sys
sys.path[:0] = sys.argv[1:]
from sample_result import sample
from unlearnkit.reports.pdf import attachments, render
example = sample("fail")
pdf = render(example.result, example.evidence)
attachments(pdf)
print(hashlib.sha256(pdf).hexdigest(), "torch" in sys.modules)
"""


def test_same_bytes_in_every_process_and_no_torch(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsvg.fonttype: path\nlines.linewidth: 9\n")
    here = Path(__file__).parent
    told = []
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "TZ": zone,
            "MATPLOTLIBRC": str(tmp_path) if seed == "2" else "",
        }
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(here), str(here.parent)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=tmp_path if seed == "2" else here,
        )
        told.append(run.stdout.split())
    assert told[0] == told[1] == [hashlib.sha256(rendered("fail")).hexdigest(), "False"]


def roundings(value: float) -> set[str]:
    """Every way to round a number, by an arithmetic of its own."""
    found = set()
    for scale in (1, 100):
        exact = Decimal(value) * scale
        for places in range(7):
            text = f"{abs(exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)):,f}"
            found |= {text, text.rstrip("0").rstrip(".") if "." in text else text}
    return found


def walk(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)
    else:
        yield value


NUMBER = re.compile(r"(?<![\w.,])\d(?:[\d,]*\d)?(?:\.\d+)?(?![\w])")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_printed_number_stands_in_the_result(variant: str) -> None:
    example = sample(variant)
    body = json.loads(example.result.to_json())
    allowed: set[str] = set()
    for value in walk(body):
        if isinstance(value, str):
            allowed |= set(NUMBER.findall(value.replace("−", " ")))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            allowed |= roundings(value) | {str(value)}
    allowed |= set(NUMBER.findall(" ".join(str(text) for text in walk(language("en")))))
    allowed |= {"0.001", "0.999"}  # the ends of the scale of p
    arrays = figures.read_arrays(example.evidence)
    drawn = [figures.margins(arrays), figures.roc(arrays), figures.dot_plot(example.result.tests)]
    drawn += [figures.margins(arrays, width=483.0, height=155.0), figures.roc(arrays, width=483.0, height=185.0)]
    drawn += [figures.canaries(arrays)] if arrays.has(figures.HEADS) else []
    for drawing in drawn:  # ticks of the axes
        allowed |= set(NUMBER.findall(" ".join(re.findall(r"<text[^>]*>([^<]*)", drawing.decode())).replace("−", " ")))
    found = pages_of(variant)
    allowed |= {str(number) for number in range(1, len(found) + 1)}  # page numbers
    allowed |= {str(len(body["data"]["classes"])), "2026", "11", "20", "14", "02"}  # a count of names; the date
    for page in found:
        for number in NUMBER.findall(re.sub(r"\b[0-9a-f…]{8,}\b", " ", page).replace("−", " ")):
            assert number in allowed, f"{number} stands on a page and not in the result: {page}"


def test_table_of_tests() -> None:
    found = " ".join(pages_of("fail")[1:])
    assert (
        "Canary coin test AUC INCONCLUSIVE 0.0302 (−0.0201 to 0.0810) 0.05 0.0648 0.242 1 1 0.267 (0.205 to 0.330)"
    ) in found
    assert ("Oracle rank, mean margin σ PASS 0.084 (−0.140 to 0.311) 0.4 0.351 0.210 1 1 2.14 (1.64 to 2.64)") in found
    assert "to be forgotten 100.0 % (96.3 % to 100.0 %) 144 / 144 95.1 % (91.4 % to 97.7 %) 137 / 144" in found
    assert "retained 100.0 % (96.3 % to 100.0 %) 1,293 / 1,293" in found
    assert "right guesses of 40 22" in found
    assert "TPR at 1 % FPR no value; needs at least 100 non-members" in found


def test_the_order_of_the_result_is_the_order_on_the_page() -> None:
    first = pages_of("fail")[0]
    names = [test.name for test in sample("fail").result.tests]
    places = [first.index(name, first.index("What was tested")) for name in names]
    assert places == sorted(places)


def test_page_one_says_what_is_not_standard_and_where_all_of_it_stands() -> None:
    first, second = pages_of("fail")[:2]
    assert (
        "battery 1, tier minutes; NON-STANDARD: oracles 19 instead of 39; tolerance margin 0.4 instead of 1 "
        "(in full on page 2)"
    ) in first
    full = "It was run with oracles 19 instead of 39; tolerance margin 0.4 instead of 1."
    assert f"Non-standard: This audit does not follow the standard of battery 1. {full}" in second
    assert "NON-STANDARD" not in pages_of("pass")[0]
    example = sample("fail")
    many = tuple(f"tolerance number {i} {i} instead of 99" for i in range(20))
    why = (example.result.verdict.why[1],) * 60
    verdict = dataclasses.replace(example.result.verdict, why=why)  # the verdict in full takes a page of its own
    found = pages(render(dataclasses.replace(example.result, nonstandard=many, verdict=verdict), example.evidence))
    assert re.search(r"NON-STANDARD: tolerance number 0 .* … \(in full on page 3\)", found[0])
    assert "; ".join(many) in found[2]
    assert "read the flags on page 3: twins assumed exchangeable" in found[0]


def test_an_exact_claim_is_said_to_be_one() -> None:
    first, *rest = pages_of("exact")
    assert "claim: exact, no tolerance granted" in first
    assert "CONSISTENT WITH EXACT" in first
    assert "must be seen" in first  # what is called tolerance elsewhere
    assert "tolerance" not in first.replace("no tolerance granted", "")
    assert "any significant leak is a FAIL" in " ".join(rest)
    assert "claim:" not in pages_of("fail")[0]


def test_registration_is_cut_on_page_one_and_whole_behind_it() -> None:
    result = sample("fail").result
    assert result.registration is not None
    sha256 = result.registration.sha256
    first, *rest = (page.replace(" ", "") for page in pages_of("fail"))
    assert f"registrationsha256{sha256[:8]}…{sha256[-8:]}" in first
    assert sha256 not in first
    assert sha256 in "".join(rest)
    after = pages_of("fail")[-2] + pages_of("fail")[-1]
    for said in ("tolerances.auc 0.05", "oracles 19", "id DR-2026-017", "Models, by content key", "ensemble –"):
        assert said in after
    for key in result.registration.document["models"]["oracles"]:
        assert f"{key[:12]}…" in after
        assert key not in after
    assert "registration none" in pages_of("seconds")[0]
    assert "No document was registered beforehand." in " ".join(pages_of("seconds"))


def test_comparisons_stand_beside_their_floor() -> None:
    found = " ".join(pages_of("hours"))
    assert (
        "Jensen-Shannon divergence of the outputs, nats From the oracles, on 104 requested examples; retrained models "
        "lie as far from one another as the range says. 0.0153 0.0192 0.0107 (0.0083 to 0.0155) 0.100"
    ) in found
    assert "farther out than the number tells. 4.33 4.35 0.25 (−0.41 to 1.77) 0.050" in found
    assert "KLoM, 95th percentile, nats 32 unlearned against 32 retrained models;" in found
    assert "retrained against retrained ones. 3.01 – 1.98 –" in found


@functools.cache
def pictured() -> Sample:
    """The audit of tier `hours` with the images of its ten hardest examples."""
    example = sample("hours")
    images = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8)).astype(np.uint8)
    evidence = save({**load(example.evidence), "stress/images": images})
    named = dataclasses.replace(example.result.evidence, sha256=hashlib.sha256(evidence).hexdigest())
    return Sample(dataclasses.replace(example.result, evidence=named), evidence)


def test_other_sets_have_a_page_with_picture_and_images() -> None:
    example = pictured()
    stress = example.result.stress
    assert stress is not None
    pdf = render(example.result, example.evidence)
    found = pages(pdf)
    [at] = [i for i, page in enumerate(found) if language("en")["stress-note"] in page]
    said = " ".join(found[at : at + 3])
    for sentence in (*stress.sentences, *stress.left_out):
        assert plain(sentence) in said
    assert "Retrained once more 0.3 0.3 0.3 0.3 0.3 0.3" in said
    assert "SalUn 22.4 19.4 16.4 13.4 10.4 7.4" in said
    assert "digits/0009 9, 1.50" in said
    assert "highest out-of-sample loss margin shift, σ 2.40 0.00 2.40 (0.70 to 4.10) –" in said
    tree = reader(pdf).trailer["/Root"]["/StructTreeRoot"]
    alts = [str(element["/Alt"]) for element in elements(tree["/K"]) if element.get("/S") == "/Figure"]
    assert [alt for alt in alts if alt.startswith("digits/")] == [f"digits/{i:04d}, {i}" for i in range(10)]
    assert language("en")["stress-no-images"] not in said
    assert language("en")["stress-no-images"] in " ".join(pages_of("hours"))  # without images names and scores are left
    assert "digits/0009" in " ".join(pages_of("hours"))
    assert pdf == render(example.result, example.evidence)
    german = " ".join(pages(render(example.result, example.evidence, Letterhead(language="de"))))
    assert "Andere Mengen zu vergessender Beispiele" in german


def test_a_shaded_cell_is_white_for_nothing_and_red_for_the_largest() -> None:
    assert shaded(0.0, 2.0, places=1) == {"text": "0.0", "fill": "#ffffff"}
    assert shaded(2.0, 2.0, places=1) == {"text": "2.0", "fill": "#d6543e"}
    assert shaded(None, 2.0, places=1) == {"text": "–", "fill": "#ffffff"}
    assert shaded(0.0, 0.0, places=0)["fill"] == "#ffffff"


def test_single_examples_come_with_what_their_p_counts() -> None:
    found = " ".join(pages_of("fail"))
    assert (
        "2.9 % (0.6 % to 8.2 %) of the requested examples lie more than 3 σ from retrained models; of a retrained "
        "model held against the others it is at most 1.9 %. Exact rank p of that share: 0.050. "
        "Examples that stand out even when all are counted: 1."
    ) in found
    assert "digits/0570 −11.95 below retraining 0.050 0.050 digits/0021 3.71 above retraining 0.050 0.35" in found
    individuals = sample("fail").result.individuals
    assert individuals is not None
    assert individuals.assumes in found
    assert individuals.resolution in found


def test_classes_begin_with_the_largest_loss_and_end_in_a_count() -> None:
    result = sample("class").result
    assert result.collateral is not None
    found = " ".join(pages_of("class"))
    table = found[found.index("Class Examples Unlearned Oracles Gap") : found.index("further classes")]
    rows = re.findall(r"(\d+)(?: \(forgotten\))? 36 ([\d.]+) %", table)
    assert len(rows) == 15
    shares = [float(share) for _, share in rows]
    assert shares == sorted(shares)
    assert rows[0] == ("6", "89.4")
    assert "3 (forgotten) 36" in table
    assert table.endswith("and 5 ")
    assert "(forgotten)" not in " ".join(pages_of("fail"))
    assert "further classes" not in " ".join(pages_of("fail"))


def test_groups_stand_behind_the_classes_in_the_same_clothes() -> None:
    found = " ".join(pages_of("privacy"))
    table = found[found.index("Groups Group 'site-b' lost most") : found.index("Private training The original was")]
    assert found.index("Other classes") < found.index("Groups Group")
    assert "corrected for all groups. Exact p of the worst loss, although it was picked afterwards: 0.050." in table
    rows = table[table.index("Group Examples Unlearned Oracles Gap p adjusted") :]
    assert "site-b 160 90.0 % 94.0 % (91.0 % to 97.0 %) −4.0 % (−9.0 % to 4.0 %) 0.050 site-a 200 94.5 %" in rows
    assert "corrected for all groups" not in " ".join(pages_of("fail"))


@pytest.mark.parametrize(
    ("measured", "said", "not_said"),
    [
        (0.4132, "at least ε = 0.41 at δ = 0.00001, with confidence 95 %", "WARNING"),
        (3.2071, "The measurement does not contradict the promise.", "WARNING"),
        (3.3, "WARNING: more was measured than was promised.", "does not contradict"),
        (None, "The promise was not put to the test", "guesses whether"),
    ],
)
def test_private_training_is_held_against_what_was_measured(measured: float | None, said: str, not_said: str) -> None:
    example = sample("privacy")
    assert example.result.privacy is not None
    privacy = dataclasses.replace(example.result.privacy, measured=measured)
    every = pages(render(dataclasses.replace(example.result, privacy=privacy), example.evidence))
    place = next(number for number, page in enumerate(every, 1) if "Private training The original was" in page)
    alarm = f"Private training promised less than was measured: page {place}."
    assert (alarm in every[0]) == (said.startswith("WARNING"))
    found = " ".join(every)
    assert "ε = 3.21 at δ = 0.00001" in found
    assert "accountant PRV" in found
    assert "noise multiplier 1.1, clipping norm 1, sampling rate 0.0479, 420 steps" in found
    assert ("49 right of 80 guesses whether a canary was trained on" in found) == (measured is not None)
    assert said in found
    assert not_said not in found
    assert "Private training" not in " ".join(pages_of("fail"))


def test_failed_retrainings_are_listed() -> None:
    example = sample("invalid")
    assert example.result.oracles is not None
    assert f"Retrainings that failed They were asked for and are not among the oracles. • {FAULT}" in " ".join(
        pages_of("invalid")
    )
    assert "Retrainings that failed" not in " ".join(pages_of("fail"))
    oracles = dataclasses.replace(
        example.result.oracles, missing=tuple(f"oracle {i}: " + "x " * 900 for i in range(40))
    )
    found = " ".join(pages(render(dataclasses.replace(example.result, oracles=oracles), example.evidence)))
    assert "oracle 14: x" in found
    assert "oracle 15" not in found
    assert "and 25 more" in found


def hostile(text: str) -> Sample:
    """Every free text of a result replaced."""
    example = sample("fail")
    result = example.result
    change = dataclasses.replace
    individuals, collateral, oracles = result.individuals, result.collateral, result.oracles
    privacy = sample("privacy").result.privacy
    assert individuals is not None
    assert collateral is not None
    assert oracles is not None
    assert privacy is not None
    tests = tuple(
        change(
            t,
            name=f"{i} {text}",
            sentence=text,
            group=text,
            unit=text,
            quantities=(Quantity(text, 1.0, text, why=text),),
        )
        for i, t in enumerate(result.tests)
    )
    changed = change(
        result,
        organization=text,
        command=text,
        battery=text,
        tolerances={text: 0.05},
        captions={"roc": text, "margins": text, "canaries": text},
        request=change(result.request, id=text, sentence=text, class_name=text, forget_class=1),
        data=change(result.data, source=text, classes=(text, text)),
        model=change(result.model, architecture=text, recipe={text: text}, original_sha256=text),
        method=change(result.method, name=text, sentence=text, params={text: [text]}, saw=(text,)),
        tests=tests,
        controls=tuple(change(c, name=text, sentence=text) for c in result.controls),
        flags=(Flag(text, text),),
        verdict=change(result.verdict, headline=text, why=(text,), mde=(text,)),
        environment=change(result.environment, platform=text, device=text),
        nonstandard=(text,),
        registration=Registration(text, {text: text, "plan": {text: [text]}, "models": {text: {text: None}}}),
        comparisons=tuple(change(c, name=text, unit=text, sentence=text) for c in result.comparisons),
        individuals=change(
            individuals,
            worst=tuple(change(one, id=text) for one in individuals.worst),
            assumes=text,
            resolution=text,
        ),
        collateral=change(
            collateral, groups=tuple(change(group, name=text) for group in collateral.groups), sentence=text
        ),
        by_group=change(collateral, groups=tuple(change(g, name=text) for g in collateral.groups), sentence=text),
        privacy=change(privacy, accountant=text),
        oracles=change(oracles, missing=(text,)),
    )
    return Sample(changed, example.evidence)


def test_hostile_strings_are_text() -> None:
    example = hostile(HOSTILE)
    pdf = render(example.result, example.evidence)
    found = pages(pdf)
    assert len(found) < 18
    squeezed = "".join(found).replace(" ", "")  # lines may end anywhere in it
    assert HOSTILE.replace(" ", "") in found[0].replace(" ", "")
    assert squeezed.count(HOSTILE.replace(" ", "")) > 40
    assert attachments(pdf)["audit.json"] == example.result.to_json().encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("שלום", "שלום"),
        ("Ελλάδα Łódź Київ", "Ελλάδα Łódź Київ"),
        ("中文 😀", "‹U+4E2D›‹U+6587› ‹U+1F600›"),  # no font that comes with Typst has these
        ("FAIL\u202eSSAP\u202c", "FAIL‹U+202E›SSAP‹U+202C›"),  # would be read backwards
        ("bell\x07 zero\u200bwidth", "bell‹U+0007› zero‹U+200B›width"),
        ("two\nlines\tand  more", "two lines and more"),
        ("", ""),
    ],
)
def test_unusual_letters(text: str, shown: str) -> None:
    example = sample("seconds")
    verdict = dataclasses.replace(example.result.verdict, headline=text)
    pdf = render(dataclasses.replace(example.result, verdict=verdict), example.evidence)
    first = plain(reader(pdf).pages[0].extract_text())
    assert shown in first or shown[::-1] in first  # extraction may turn letters that run from right to left


def test_a_long_text_on_page_one_ends_with_a_whole_part_and_names_the_page_that_has_all() -> None:
    example = sample("pass")
    parts = [f"a margin shift of 0.{i}00 σ (Oracle rank, number {i})" for i in range(1, 9)]
    mde = (f"Each test by itself finds, four times in five, {'; '.join(parts)}.", "Smaller traces can remain unseen.")
    verdict = dataclasses.replace(example.result.verdict, mde=mde)
    found = pages(render(dataclasses.replace(example.result, verdict=verdict), example.evidence))
    assert re.search(r"\(Oracle rank, number [56]\) … \(in full on page 2\)", found[0])
    assert "The verdict in full" in found[1]
    assert " ".join(mde) in found[1]
    assert "in full on page" not in pages_of("pass")[0]
    assert clauses("One sentence. Another; and a third.", 30) == "One sentence. Another …"
    assert clauses("A sentence without any such end", 20) == "A sentence without …"
    assert clauses("Short.", 6) == "Short."


def test_page_one_is_one_page() -> None:
    example = sample("fail")
    result = example.result
    long = "This sentence goes on and on, because somebody described in it everything that was done to the model. "
    changed = dataclasses.replace(
        result,
        organization=long * 3,
        request=dataclasses.replace(result.request, sentence=long * 4, id="DR-" + "9" * 90),
        method=dataclasses.replace(result.method, sentence=long * 4, saw=tuple(f"need {i}" for i in range(40))),
        tests=tuple(
            dataclasses.replace(t, name=f"{i} {t.name} {long}", sentence=long * 5)
            for i, t in enumerate(result.tests * 2)
        ),
        controls=tuple(dataclasses.replace(c, name=f"{c.name} {long}") for c in result.controls * 3),
        verdict=dataclasses.replace(result.verdict, headline=long * 3, why=(long,) * 9, mde=(long,) * 9),
        data=dataclasses.replace(result.data, classes=tuple(f"class number {i}" for i in range(1000))),
        claim="exact",
        nonstandard=(long,) * 5,
    )
    found = pages(render(changed, example.evidence))
    assert "Evidence" in found[0]
    assert "audited model sha256" in found[0]
    assert "2 further tests on the next pages" in found[0]
    assert found[1].startswith("The verdict in full")
    assert plain(long * 3) in found[1]


def test_a_result_with_next_to_nothing() -> None:
    example = sample("seconds")
    arrays = {name: array for name, array in load(example.evidence).items() if not name.startswith("roc/")}
    evidence = save(arrays)
    changed = dataclasses.replace(
        example.result,
        organization="",
        tests=(),
        controls=(),
        flags=(),
        accuracy=(),
        captions={},
        tolerances={},
        canaries=None,
        registration=Registration("", {}),
        individuals=Individuals(3.0, Interval(None, 0.0, None), 0.0, 1.0, 0, (), "assumes nothing", "None."),
        collateral=Collateral((), "none", 0.0, 1.0, "No class."),
        method=dataclasses.replace(example.result.method, saw=None),
        verdict=dataclasses.replace(example.result.verdict, why=(), mde=()),
        evidence=Evidence("e.safetensors", hashlib.sha256(evidence).hexdigest()),
    )
    first = pages(render(changed, evidence))[0]
    for said in ("No test was run.", "No control was run.", "no oracle was retrained", "no canaries were planted"):
        assert said in first
    assert "what it saw is not recorded" in first


def written(folder: Path, example: Sample) -> Path:
    audit = folder / "audit.json"
    audit.write_text(example.result.to_json(), encoding="utf-8")
    (folder / example.result.evidence.file).write_bytes(example.evidence)
    return audit


def test_write_report(tmp_path: Path) -> None:
    audit = written(tmp_path, sample("fail"))
    output = tmp_path / "out" / "report.pdf"
    write_report(audit, output)
    assert output.read_bytes() == rendered("fail")
    assert attachments(output)["audit.json"] == audit.read_bytes()
    assert [path.name for path in output.parent.iterdir()] == ["report.pdf"]


def test_write_report_refuses_other_evidence(tmp_path: Path) -> None:
    example = sample("fail")
    audit = written(tmp_path, example)
    output = tmp_path / "report.pdf"
    output.write_bytes(b"the old one")
    sidecar = tmp_path / example.result.evidence.file
    altered = bytearray(example.evidence)
    altered[-1] ^= 1
    sidecar.write_bytes(altered)
    with pytest.raises(UsageError) as refused:
        write_report(audit, output)
    said = str(refused.value)
    for part in (str(sidecar), str(audit), example.result.evidence.sha256, hashlib.sha256(altered).hexdigest()):
        assert part in said
    sidecar.unlink()
    with pytest.raises(UsageError, match=r"cannot be read .*it must lie beside the result") as refused:
        write_report(audit, output)
    assert str(sidecar) in str(refused.value)
    assert str(audit) in str(refused.value)
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        write_report(tmp_path / "none.json", output)
    assert output.read_bytes() == b"the old one"


def test_render_refuses() -> None:
    example = sample("fail")
    with pytest.raises(UsageError, match="evidence has SHA-256"):
        render(example.result, example.evidence + b" ")
    environment = dataclasses.replace(example.result.environment, started="yesterday")
    with pytest.raises(UsageError, match=r"environment\.started: must be a date and time in ISO 8601, got 'yesterday'"):
        render(dataclasses.replace(example.result, environment=environment), example.evidence)
    sha256 = hashlib.sha256(example.evidence).hexdigest()
    for name in ("../evidence", "", "audit.json", "a/b"):
        with pytest.raises(UsageError, match="the name must be that of a file beside"):
            render(dataclasses.replace(example.result, evidence=Evidence(name, sha256)), example.evidence)


def test_pdf_without_evidence(tmp_path: Path) -> None:
    bare = typst.compile(b"nothing attached", format="pdf")
    assert isinstance(bare, bytes)
    with pytest.raises(UsageError, match=r"a PDF without evidence; it has no audit\.json attached"):
        attachments(bare)
    example = sample("fail")
    half = PdfWriter(clone_from=io.BytesIO(bare))
    half.add_attachment("audit.json", example.result.to_json().encode())
    buffer = io.BytesIO()
    half.write(buffer)
    with pytest.raises(UsageError, match=r"a PDF without evidence; audit\.json is attached, 'audit"):
        attachments(buffer.getvalue())
    path = tmp_path / "bare.pdf"
    path.write_bytes(bare)
    with pytest.raises(UsageError, match=r"bare\.pdf: a PDF without evidence"):
        attachments(path)
    with pytest.raises(UsageError, match=r"none\.pdf: cannot be read"):
        attachments(tmp_path / "none.pdf")


def test_unreadable_pdf() -> None:
    whole = rendered("fail")
    for data, said in ((b"", "not a PDF"), (b"hello", "not a PDF"), (b"%PDF-1.7\n%%EOF", "a damaged PDF")):
        with pytest.raises(UsageError, match=said):
            attachments(data)
    with pytest.raises(UsageError, match="damaged"):
        attachments(whole[: len(whole) // 2])
    locked = PdfWriter(clone_from=io.BytesIO(whole))
    locked.encrypt("secret", algorithm="RC4-128")
    buffer = io.BytesIO()
    locked.write(buffer)
    with pytest.raises(UsageError, match="an encrypted PDF"):
        attachments(buffer.getvalue())


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.05, "0.0500"),
        (1437, "1,437"),
        (1234567.0, "1,234,567"),
        (-0.12345, "−0.123"),
        (0.0, "0.00"),
        (12.345, "12.3"),
        (1.5e-9, "1.50 × 10⁻⁹"),
        (-2.25e-12, "−2.25 × 10⁻¹²"),
        (None, "–"),
    ],
)
def test_number(value: int | float | None, text: str) -> None:
    assert numbers.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (0.0456, "0.046"), (0.9999, "> 0.999"), (1.0, "1")],
)
def test_p_value(value: float, text: str) -> None:
    assert numbers.p_value(value) == text


def test_limits_share_their_decimals() -> None:
    assert numbers.alike(0.0153, None, -1.5, 0) == ["0.02", "–", "−1.50", "0.00"]
    assert numbers.limits(Interval(-0.0004, 0.1234, 1.25)) == {"value": "0.12", "low": "0.00", "high": "1.25"}
    assert numbers.limits(Interval(None, 0.0, None)) == {"value": "0.00", "low": None, "high": None}
    assert [numbers.setting(v) for v in (0.05, 0.4, 1.0, 100.0, 0.0)] == ["0.05", "0.4", "1", "100", "0"]
    assert [numbers.percent(v) for v in (0.9995, 1.0, None)] == ["100.0 %", "100.0 %", "–"]


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_a_leak_below_the_third_decimal_is_said_to_lie_below_it() -> None:
    tiny = Interval(-1.3e-7, 2.7e-7, 4.9e-7)
    assert numbers.leak(tiny) == {"value": "< 0.001", "low": None, "high": None}
    assert numbers.leak(dataclasses.replace(tiny, value=-1e-8))["value"] == "> −0.001"
    for interval in (Interval(-0.02, 2.7e-7, 0.03), Interval(None, 2.7e-7, 4e-7), Interval(0.0, 0.0, 0.0)):
        assert numbers.leak(interval) == numbers.limits(interval)
    example = sample("class")
    audited = Quantity("audited model", 3.1e-7, "confidence")
    recognition = dataclasses.replace(example.result.tests[0], leak=tiny, quantities=(audited,))
    changed = dataclasses.replace(example.result, tests=(recognition, *example.result.tests[1:]))
    first, *rest = pages(render(changed, example.evidence))
    assert "< 0.001 confidence" in first
    assert "audited model < 0.001 confidence" in " ".join(rest)
    assert "| < 0.001 confidence |".replace("<", "&lt;") in card.render(changed, example.evidence).decode()


def test_scores_under_the_pictures_share_their_decimals() -> None:
    example = pictured()
    assert example.result.stress is not None
    hardest = tuple(
        dataclasses.replace(one, score=score)
        for one, score in zip(example.result.stress.hardest, np.linspace(7.72e-6, 1.08e-5, 10).tolist(), strict=True)
    )
    stress = dataclasses.replace(example.result.stress, hardest=hardest)
    arrays = figures.read_arrays(example.evidence)
    view = as_printed(dataclasses.replace(example.result, stress=stress), Letterhead(), "", arrays)
    scores = [one["score"] for one in view["stress"]["hardest"]]
    assert (scores[0], scores[-1]) == ("0.0000077", "0.0000108")
    assert {len(score) for score in scores} == {9}


def drawn_words(drawing: bytes) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)", drawing.decode())


def test_dot_plot_is_two_sided() -> None:
    within = outcome("a", "PASS", (-0.01, 0.0, 0.01), tolerance=0.05)
    beyond = outcome("b", "FAIL", (-0.9, -0.8, -0.7), tolerance=0.05)
    open_ended = outcome("c", "INCONCLUSIVE", (None, 0.0, None), tolerance=0.05)
    exact = outcome("d", "FAIL", (0.01, 0.02, 0.03), tolerance=0.0)
    assert drawn_words(figures.dot_plot([within], exact=True)) == ["oracle level", "must be seen"]
    assert b"#f1f3f1" in figures.dot_plot([within])  # the band within tolerance
    assert b"#f1f3f1" not in figures.dot_plot([within], exact=True)
    wide = outcome("e", "FAIL", (-0.08, 0.08, 0.12), tolerance=0.05)
    assert "−tolerance" in drawn_words(figures.dot_plot([wide]))
    assert "tolerance" not in " ".join(drawn_words(figures.dot_plot([wide], exact=True)))
    assert drawn_words(figures.dot_plot([within])) == ["oracle level", "tolerance"]
    assert "−1 ×" in drawn_words(figures.dot_plot([within, beyond]))
    for tests in ([within, beyond], [open_ended], [exact], [within, beyond, open_ended, exact]):
        drawing = figures.dot_plot(tests)
        assert drawing == figures.dot_plot(tests)
        assert b"nan" not in drawing.lower()


def test_figures_hold_no_text_of_the_audit_and_no_date() -> None:
    arrays = figures.read_arrays(sample("fail").evidence)
    for drawing in (figures.margins(arrays), figures.roc(arrays), figures.canaries(arrays)):
        assert b"<dc:date>" not in drawing
        assert b"DejaVu Serif" not in drawing
        assert b"Libertinus Serif" in drawing
        words = {word for word in drawn_words(drawing) if not re.match(r"−?\d+(\.\d+)?( %)?$", word)}
        assert words <= {*figures.WORDS.values(), "19 oracles"}


def test_figures_of_degenerate_arrays() -> None:
    same = np.full(6, 2.0)
    group = np.array([0, 0, 1, 1, 3, 3], dtype=np.uint8)
    rates = {"fpr": np.array([0.0, 1.0]), "tpr": np.array([0.0, 1.0])}
    evidence = save(
        {"points/group": group, "margins/original": same, "margins/audited": same + 1, "margins/oracles": same[None]}
        | {f"roc/audited/{name}": rate for name, rate in rates.items()}
    )
    arrays = figures.read_arrays(evidence)
    for drawing in (figures.margins(arrays), figures.roc(arrays), figures.canaries(arrays)):
        assert b"nan" not in drawing.lower()
    assert "1 oracle" in drawn_words(figures.margins(arrays))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"points/group": None}, "'points/group' must be a row of uint8"),
        ({"points/group": np.zeros(3)}, "'points/group' must be a row of uint8"),
        ({"margins/audited": None}, "'margins/original' and 'margins/audited' must be there"),
        ({"margins/original": np.zeros(2)}, "'margins/original' must be finite and end in shape"),
        ({"margins/original": np.full(3, np.nan)}, "'margins/original' must be finite"),
        ({"roc/audited/fpr": np.zeros(3)}, "the ROC curve of the audited is incomplete"),
    ],
)
def test_arrays_that_cannot_be_drawn(change: dict[str, Any], said: str) -> None:
    arrays: dict[str, Any] = {
        "points/group": np.zeros(3, dtype=np.uint8),
        "margins/original": np.zeros(3),
        "margins/audited": np.zeros(3),
    }
    whole = {name: array for name, array in (arrays | change).items() if array is not None}
    with pytest.raises(UsageError, match=said):
        figures.read_arrays(save(whole), what="evidence")


def test_evidence_that_is_no_safetensors() -> None:
    with pytest.raises(UsageError, match="evidence: not readable as safetensors"):
        figures.read_arrays(b"no such thing")
