"""The PDF of an audit: typeset from its result, with result and evidence attached; and they are read back out of it.

A report is a pure function of result, evidence and letterhead. All data reach the template as strings of a JSON file,
never as markup; fonts are those that come with Typst. The file is PDF/A-3a (archival, attachments allowed) and PDF/UA-1
(accessible: tagged, figures described in words).
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import re
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typst
from pypdf import PdfReader
from pypdf.errors import PyPdfError

from unlearnkit.reports import figures
from unlearnkit.reports.letterhead import LETTERHEAD, Letterhead
from unlearnkit.reports.pictures import png
from unlearnkit.reports.view import (
    AUDIT,
    HARDEST,
    PAGE_ONE,
    as_printed,
    belongs,
    bound,
    read_audit,
    row_height,
    started,
    visible,
    walk,
)
from unlearnkit.result import AuditResult, UsageError
from unlearnkit.store import write_atomic

STANDARDS: list[typst.PDFStandard] = ["a-3a", "ua-1"]
TEMPLATE = Path(__file__).with_name("report.typ")

DAMAGE = (  # what pypdf raises on files that were cut, overwritten or forged
    PyPdfError,
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


def render(result: AuditResult, evidence: bytes, letterhead: Letterhead | None = None) -> bytes:
    """The report: the same three in, the same bytes out. Raises UsageError when they do not belong together."""
    letterhead = letterhead or Letterhead()
    belongs(evidence, result, what="evidence")
    name = result.evidence.file
    if Path(name).name != name or name in ("", AUDIT, LETTERHEAD):
        raise UsageError(f"evidence: the name must be that of a file beside {AUDIT}, got {name!r}")
    audit = result.to_json().encode()
    arrays = figures.read_arrays(evidence)
    view = _printable(as_printed(result, letterhead, hashlib.sha256(audit).hexdigest(), arrays))
    drawings = _drawings(result, arrays, view["figures"], view["words"]["figure"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if letterhead.logo:
            (root / view["logo"]).write_bytes(letterhead.logo)
            _check_logo(root, view["logo"])
        if view["letterhead"]:
            (root / LETTERHEAD).write_bytes(letterhead.to_json())
        (root / AUDIT).write_bytes(audit)
        (root / "evidence").write_bytes(evidence)
        (root / "view.json").write_text(json.dumps(view, ensure_ascii=False), encoding="utf-8")
        for file, drawing in drawings.items():
            (root / f"{file}.svg").write_bytes(drawing)
        for i, image in enumerate(() if arrays.images is None else arrays.images[:HARDEST]):
            (root / f"hard-{i}.png").write_bytes(png(image))
        return _typeset(TEMPLATE.read_bytes(), root, started(result))


def write_report(audit: Path, output: Path, letterhead: Letterhead | None = None) -> None:
    """Read a result file and the evidence beside it and write PDF, HTML or model card, as the name of `output` ends.

    An old report stays whole until the new one is finished.
    """
    from unlearnkit.reports import card, html

    makers = {".pdf": render, ".html": html.render, ".md": card.render}
    if output.suffix not in makers:
        raise UsageError(
            f"{output}: a report's name must end in {', '.join(makers)}, got {output.suffix or 'no ending'!r}"
        )
    result, evidence = read_audit(audit)
    made = makers[output.suffix](result, evidence, letterhead)
    write_atomic(output, made)


def attachments(pdf: bytes | Path) -> dict[str, bytes]:
    """The result (`audit.json`), its evidence and the letterhead if there is one, by name, as they were attached."""
    what = str(pdf) if isinstance(pdf, Path) else "report"
    found = attached(pdf)
    if AUDIT not in found:
        raise UsageError(f"{what}: a PDF without evidence; it has no {AUDIT} attached")
    name = AuditResult.from_json(found[AUDIT], what=f"{what}: {AUDIT}").evidence.file
    if name not in found:
        raise UsageError(f"{what}: a PDF without evidence; {AUDIT} is attached, {name!r} is not")
    return {part: found[part] for part in (AUDIT, name, LETTERHEAD) if part in found}


def attached(pdf: bytes | Path) -> dict[str, bytes]:
    """Everything that is attached to a PDF, by name."""
    what = str(pdf) if isinstance(pdf, Path) else "report"
    try:
        data = pdf.read_bytes() if isinstance(pdf, Path) else pdf
    except OSError as error:
        raise UsageError(f"{what}: cannot be read ({error.strerror})") from error
    if b"%PDF-" not in data[:1024]:
        raise UsageError(f"{what}: not a PDF")
    log = logging.getLogger("pypdf")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what it would tell of damage beside, our sentence tells
    try:
        reader = PdfReader(io.BytesIO(data))
        encrypted = reader.is_encrypted
        found = {} if encrypted else {name: parts[-1] for name, parts in reader.attachments.items()}
    except DAMAGE as error:
        raise UsageError(f"{what}: a damaged PDF ({type(error).__name__}: {error})") from error
    finally:
        log.setLevel(level)
    if encrypted:
        raise UsageError(f"{what}: an encrypted PDF; give the report as unlearnkit wrote it")
    return found


def _drawings(
    result: AuditResult, arrays: figures.Arrays, wanted: Mapping[str, bool], words: Mapping[str, str]
) -> dict[str, bytes]:
    """The figures by the name under which the template finds them."""
    made: dict[str, bytes] = {}
    if wanted["dots"]:
        tests, exact = result.tests[: PAGE_ONE["tests"]], result.claim == "exact"
        made["dots"] = figures.dot_plot(tests, width=215.0, row=row_height(len(tests)), exact=exact, words=words)
    if wanted["margins"]:
        made["margins"] = figures.margins(arrays, words=words)
        made["margins-large"] = figures.margins(arrays, width=483.0, height=155.0, words=words)
    if wanted["roc"]:
        made["roc"] = figures.roc(arrays, words=words)
        made["roc-large"] = figures.roc(arrays, width=483.0, height=185.0, words=words)
    if wanted["canaries"]:
        made["canaries"] = figures.canaries(arrays, words=words)
    return made


def _check_logo(root: Path, name: str) -> None:
    """Refuse a logo that cannot be drawn before the whole report fails on it."""
    try:
        _typeset(f'#image("{name}", alt: "logo")'.encode(), root, datetime(2000, 1, 1, tzinfo=UTC), standards=["a-3b"])
    except typst.TypstError as error:
        raise UsageError(f"logo: cannot be drawn ({' '.join(str(error).split())[:200]})") from error


def _printable(view: dict[str, Any]) -> dict[str, Any]:
    """Every string with only characters that the fonts have; others as ‹U+4E2D›, as are invisible and steering ones."""
    unusual: set[str] = set()

    def collect(text: str) -> str:
        unusual.update(c for c in text if c > "ÿ")
        return text

    walk(view, collect)
    missing = _missing(sorted(c for c in unusual if unicodedata.category(c)[0] != "C"))

    def clean(text: str) -> str:
        text = "".join(f"‹U+{ord(c):04X}›" if c in missing else c for c in visible(text))
        return bound(text)

    def show(text: str) -> str:
        if re.fullmatch(r"[0-9a-f]{64}", text):
            return text  # has its own line, and is to be copied
        return re.sub(r"\S{25,}", _breakable, clean(text))

    shown: dict[str, Any] = walk(view, show)
    if "evidence" in view:
        shown["evidence"] = view["evidence"]  # a file's name, not printed
    if "words" in view:
        shown["words"] = walk(view["words"], clean)  # written by us: long words stay whole
    shown["meta"] = {name: clean(text) for name, text in view["meta"].items()}  # not printed
    shown["command"] = re.sub(r"\S{80,}", _breakable, clean(view["command"]))  # to be copied: broken only if it must
    return shown


def _breakable(word: re.Match[str]) -> str:
    """A long word with places where a line may end: after punctuation, and at least every 16 letters."""
    return re.sub(r"([./_:=,;|-]+|[^\s./_:=,;|-]{16})(?=.)", "\\1\u200b", word.group())


def _missing(characters: Sequence[str]) -> set[str]:
    """Those that none of the fonts has, found by halving: PDF/A refuses a text that cannot be displayed."""
    if not characters:
        return set()
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "view.json").write_text(json.dumps(list(characters)), encoding="utf-8")
            lines = b'#set text(font: "Libertinus Serif")\n#json("view.json").join(parbreak())'
            _typeset(lines, Path(folder), datetime(2000, 1, 1, tzinfo=UTC), standards=["a-3b"])
    except typst.TypstError:
        half = len(characters) // 2
        return _missing(characters[:half]) | _missing(characters[half:]) if half else set(characters)
    return set()


@functools.cache
def _fonts() -> typst.Fonts:
    return typst.Fonts(include_system_fonts=False)


def _typeset(
    template: bytes, root: Path, timestamp: datetime, *, standards: Sequence[typst.PDFStandard] = tuple(STANDARDS)
) -> bytes:
    compiler = typst.Compiler(template, root=str(root), font_paths=_fonts(), ignore_system_fonts=True)
    pdf = compiler.compile(format="pdf", pdf_standards=list(standards), timestamp=timestamp)
    if not isinstance(pdf, bytes):
        raise TypeError(f"typst: the PDF must come as bytes, got {type(pdf).__name__}")
    return pdf
