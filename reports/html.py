"""The report as one HTML file that asks nobody for anything: no script, no request, figures drawn in; phone to desktop.

It says what the PDF says, from the same strings; its first page is cut nowhere, since nothing must fit. Every string is
escaped where it is set; a Content-Security-Policy forbids all that the file does not need.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from unlearnkit.reports import figures
from unlearnkit.reports.letterhead import Letterhead, logo_kind
from unlearnkit.reports.pictures import png
from unlearnkit.reports.view import as_printed, belongs, bound, visible
from unlearnkit.result import AuditResult

DASH = "–"
_MIME = {"png": "image/png", "jpg": "image/jpeg", "svg": "image/svg+xml"}

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px 64px; max-width: 860px; color: #1d1d1d; background: #fff;
  font: 16px/1.45 "Libertinus Serif", Georgia, "Times New Roman", serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9em; line-height: 1.15; margin: 0.25em 0; }
h2 { font-size: 1.25em; margin: 2.2em 0 0.5em; }
h3 { font-size: 1.02em; margin: 1.5em 0 0.3em; }
.four h2 { font-size: 1.05em; margin: 0 0 0.3em; }
p, ul { margin: 0.4em 0; }
ul { padding-left: 1.2em; }
small, .soft, dt, th { color: #5c5c5c; }
small { font-size: 0.86em; }
code { font: 0.82em/1.5 "DejaVu Sans Mono", Consolas, monospace; }
pre { background: #f4f4f4; padding: 10px; white-space: pre-wrap; margin: 0.5em 0; }
header { border-bottom: 1px solid #b9b9b9; padding-bottom: 8px; display: flex; flex-wrap: wrap; gap: 4px 24px;
  justify-content: space-between; align-items: flex-end; }
header img { display: block; height: 36px; max-width: 220px; margin-bottom: 8px; }
.organization { text-transform: uppercase; letter-spacing: 0.05em; font-size: 0.85em; color: #5c5c5c; }
.verdict { border-left: 5px solid; padding: 12px 16px; margin: 1em 0 1.6em; }
.verdict strong { font-size: 1.6em; line-height: 1.1; margin-right: 0.4em; }
.verdict p, .verdict span { color: #1d1d1d; }
.three, .two, .four { display: grid; gap: 18px 28px; margin: 1.4em 0; }
.three { grid-template-columns: repeat(3, 1fr); }
.two, .four { grid-template-columns: 1fr 1fr; }
.label { text-transform: uppercase; letter-spacing: 0.05em; font-size: 0.82em; color: #5c5c5c; }
.dot { display: grid; grid-template-columns: minmax(0, 1fr) 287px minmax(0, 1fr); gap: 0 12px; align-items: center; }
.dot > :first-child { text-align: right; }
.dot svg { display: block; width: 287px; height: auto; }
.dot .said { font-size: 0.86em; line-height: 1.25; }
figure { margin: 0; min-width: 0; }
figure.wide { overflow-x: auto; margin: 1.6em 0; }
figure svg { display: block; max-width: 100%; height: auto; }
figure.wide svg { min-width: 540px; }
figcaption { font-size: 0.82em; color: #5c5c5c; }
table { border-collapse: collapse; width: 100%; font-size: 0.86em; margin: 0.6em 0; }
th { text-align: left; font-weight: normal; border-bottom: 1.5px solid #1d1d1d; }
th, td { padding: 4px 8px 4px 0; vertical-align: top; overflow-wrap: break-word; }
td { border-bottom: 1px solid #d5d5d5; }
td code { overflow-wrap: anywhere; }
.numbers td:nth-child(n+2) { font-variant-numeric: tabular-nums; }
.numbers td:nth-child(n+2), .numbers th:nth-child(n+2) { text-align: right; }
.second td:nth-child(2), .second th:nth-child(2), .third td:nth-child(3), .third th:nth-child(3) { text-align: left; }
.numbers td:nth-child(n+2), .numbers th:nth-child(n+2) { padding: 4px 0 4px 8px; }
.shades td:nth-child(n+2), .shades th:nth-child(n+2) { text-align: center; }
dl { display: grid; grid-template-columns: minmax(90px, 11em) minmax(0, 1fr); gap: 3px 12px; margin: 0.4em 0; }
dd { margin: 0; }
dl.words dt { color: #1d1d1d; font-weight: bold; }
.lines { display: grid; grid-template-columns: 1fr 1fr; gap: 48px 32px; margin-top: 48px; }
.lines div { border-top: 1px solid #1d1d1d; font-size: 0.86em; }
.shade { display: block; padding: 2px 4px; text-align: center; }
.ten { display: grid; grid-template-columns: repeat(5, 1fr); gap: 14px 10px; text-align: center; font-size: 0.82em; }
.ten img { height: 72px; max-width: 100%; object-fit: contain; image-rendering: pixelated; }
.state { font-weight: bold; font-size: 0.9em; }
.PASS { color: #1b7a3a; } .CONSISTENT { color: #1f5f86; } .FAIL { color: #b3261e; } .INCONCLUSIVE { color: #8f5b00; }
.LEAK_BELOW_TOLERANCE { color: #636b00; } .INVALID { color: #555; }
.verdict.PASS { background: #edf6ef; } .verdict.CONSISTENT { background: #ecf3f8; }
.verdict.FAIL { background: #fdf0ef; } .verdict.INCONCLUSIVE { background: #fbf3e4; }
.verdict.INVALID { background: #efefef; }
@media (max-width: 640px) {
  .three, .two, .four, .lines { grid-template-columns: 1fr; }
  .dot { grid-template-columns: 1fr; margin-bottom: 10px; }
  .dot > :first-child { text-align: left; }
  table, tbody, tr, td { display: block; }
  thead { position: absolute; clip-path: inset(50%); height: 1px; width: 1px; overflow: hidden; }
  tr { border-bottom: 1px solid #1d1d1d; padding: 6px 0; }
  td { position: relative; min-height: 1.5em; }
  td, .numbers td:nth-child(n+2) { border: 0; padding: 1px 0 1px 42%; text-align: left; }
  td::before { content: attr(data-label); position: absolute; left: 0; width: 40%; color: #5c5c5c; }
  td:first-child { font-weight: bold; padding-left: 0; }
  td:first-child::before { content: none; }
  .ten { grid-template-columns: repeat(2, 1fr); }
  dl.words { display: block; }
  dl.words dd { margin-bottom: 8px; }
}
@media print { h2, h3 { break-after: avoid; } tr, figure { break-inside: avoid; } }
"""


def render(result: AuditResult, evidence: bytes, letterhead: Letterhead | None = None) -> bytes:
    """The file: the same three in, the same bytes out. Raises UsageError when they do not belong together."""
    letterhead = letterhead or Letterhead()
    belongs(evidence, result, what="evidence")
    audit = result.to_json().encode()
    arrays = figures.read_arrays(evidence)
    view = as_printed(result, letterhead, hashlib.sha256(audit).hexdigest(), arrays)
    page = _Page(view)
    body = "\n".join(
        part
        for part in (
            page.head(letterhead.logo),
            page.dots(result),
            page.small_figures(arrays),
            page.four(),
            page.flags(),
            page.scope(),
            page.accuracy(),
            page.tests(),
            page.beside(),
            page.stress(arrays),
            page.controls(),
            page.large_figures(arrays),
            page.limits(),
            page.mapping(),
            page.record(),
            page.registration(),
            page.again(audit),
            page.signature(),
        )
        if part
    )
    words = page.words
    title = _text(f"{words['title']} {words['subject']} {view['meta']['id']}")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    language = words["lang"] + (f"-{words['region']}" if words["region"] else "")
    return (
        f'<!DOCTYPE html>\n<html lang="{_text(language)}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    ).encode()


def _text(text: Any) -> str:
    """A string as text: markup escaped, quotes too, invisible and steering characters shown, numbers kept whole."""
    return html.escape(bound(visible(str(text))), quote=True)


def _limits(span: dict[str, Any], words: dict[str, Any]) -> str:
    low, high = span["low"], span["high"]
    if low is None and high is None:
        return str(span["value"])
    ends = words["unlimited"]
    low, high = ends[0] if low is None else low, ends[1] if high is None else high
    return f"{span['value']} ({low} {words['to']} {high})"


def _inline(drawing: bytes, name: str, alt: str) -> str:
    """An SVG to stand within the page: no prolog, no metadata, ids of its own, described in words."""
    text = drawing.decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = text.replace(f"'{figures.FONT}'", f"'{figures.FONT}', Georgia, serif")
    return text.replace("<svg ", f'<svg role="img" aria-label="{_text(alt)}" ', 1)


class _Page:
    """The parts of the file in their order; each is text that is already escaped."""

    def __init__(self, view: dict[str, Any]) -> None:
        self.view = view
        self.words: dict[str, Any] = view["words"]

    # ---- Building blocks -------------------------------------------------------------------------------------------

    def word(self, name: str) -> str:
        return _text(self.words[name])

    def around(self, name: str, *between: str) -> str:
        """The texts of a sentence with what stands between them, which is markup."""
        pairs = zip_longest(map(_text, self.words[name]), between, fillvalue="")
        return " ".join(part for pair in pairs for part in pair if part)

    def computed(self, text: str) -> str:
        """A sentence of the judge, in the language in which it was computed unless the table of the page has it."""
        known = self.words["lang"] == "en" or text in self.view["translated"]
        return _text(text) if known else f'<span lang="en">{_text(text)}</span>'

    def state(self, state: str) -> str:
        return f'<span class="state {_text(state)}">{_text(self.words["states"][state])}</span>'

    def span(self, span: dict[str, Any], unit: str = "") -> str:
        return _text(f"{_limits(span, self.words)} {unit}".strip())

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
        """Rows of markup under heads of text; on a phone every cell stands under its head."""
        shown = "".join(f'<th scope="col">{_text(head)}</th>' for head in heads)
        body = "".join(
            "<tr>"
            + "".join(f'<td data-label="{_text(head)}">{cell}</td>' for head, cell in zip(heads, row, strict=True))
            + "</tr>\n"
            for row in rows
        )
        return f'<table class="{kind}"><thead><tr>{shown}</tr></thead>\n<tbody>{body}</tbody></table>'

    def pairs(self, rows: Iterable[Sequence[Any]], kind: str = "") -> str:
        """Names and values; both text."""
        shown = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in rows)
        return f'<dl class="{kind}">{shown}</dl>'

    def part(self, title: str, body: str) -> str:
        return f"<section><h3>{_text(title)}</h3>{body}</section>"

    def list(self, items: Iterable[str]) -> str:
        return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"

    # ---- In a hurry ------------------------------------------------------------------------------------------------

    def head(self, logo: bytes) -> str:
        view, words = self.view, self.words
        image = ""
        if logo:
            source = f"data:{_MIME[logo_kind(logo)]};base64,{base64.b64encode(logo).decode()}"
            image = f'<img src="{source}" alt="{_text(words["logo"] + " " + view["organization"])}">'
        contact = f"<small>{_text(view['contact'])}</small>" if view["contact"] else ""
        verdict = view["verdict"]
        word = verdict["word"]
        plain = "" if words["lang"] == "en" else f"<br><small>unlearnkit: {_text(word)}</small>"
        settings = f"{self.word('battery')} {_text(view['battery'])}, {self.word('tier')} {_text(view['tier'])}"
        if view["claim"] == "exact":
            settings += f'; <b class="CONSISTENT">{self.word("claim-exact")}</b>'
        if view["nonstandard"]:
            listed = "; ".join(map(self.computed, view["nonstandard"]))
            settings += f'; <b class="INCONCLUSIVE">{self.word("nonstandard")}</b>: {listed}'
            settings += f' (<a href="#flags">{self.word("flags")}</a>)'
        notes = [words["computed-note"], words["own-words-note"] if view["own-words"] else ""]
        settings += "".join(f"<br>{_text(note)}" for note in notes if note)
        why = f"<p>{self.computed(' '.join(verdict['why']))}</p>" if verdict["why"] else ""
        oracles, canaries, method = view["oracles"], view["canaries"], view["method"]
        against = self.word("no-oracles")
        if oracles:
            against = f"{_text(oracles['count'])} {self.word('oracle' if oracles['count'] == '1' else 'oracles')}"
        planted = self.word("no-canaries")
        if canaries:
            planted = f"{_text(canaries['heads'])} + {_text(canaries['tails'])} {self.word('coin-canaries')}"
        saw = f"{self.word('saw')} {_text(method['saw'])}" if method["saw"] else self.word("saw-unknown")
        columns = {
            "asked": self.computed(view["request"]["sentence"]),
            "done": f"{self.computed(method['sentence'])}<br>{saw}",
            "against": f"{against}<br>{planted}",
        }
        three = "".join(
            f'<div><div class="label">{_text(words["columns"][name])}</div>{text}</div>'
            for name, text in columns.items()
        )
        return (
            f'<header><div>{image}<div class="organization">{_text(view["organization"])}</div>{contact}'
            f"<h1>{self.word('title')}</h1></div>"
            f"<small>{self.word('request')} <b>{_text(view['request']['id'])}</b><br>"
            f"{self.word('audited-on')} {_text(view['started'])}</small></header>\n"
            f"<p><small>{settings}</small></p>\n"
            f'<div class="verdict {_text(word)}"><strong>{_text(words["verdicts"][word])}</strong>'
            f"<span>{self.computed(verdict['headline'])}</span>{plain}{why}</div>\n"
            f'<div class="three">{three}</div>'
        )

    def dots(self, result: AuditResult) -> str:
        view, words = self.view, self.words
        title = f"<h2>{self.word('tested')}</h2>"
        if not result.tests:
            return f"{title}<p>{self.word('no-tests')}</p>"
        shared: dict[str, Any] = {
            "width": 215.0,
            "row": 30.0,
            "exact": result.claim == "exact",
            "words": words["figure"],
            "beside": result.tests,
        }
        first, leak, tolerance = words["alt"]["dots"]
        rows = []
        for place, (test, row) in enumerate(zip(result.tests, view["tests"], strict=True)):
            limits = _limits(row["leak"], words)
            alt = f"{row['name']}: {words['states'][row['state']]}, {leak} {limits} {row['unit']}, {tolerance} "
            drawing = _inline(figures.dot_plot([test], axis=False, **shared), f"dot{place}", alt + row["tolerance"])
            additional = "" if row["required"] else f" <small>({self.word('additional')})</small>"
            rows.append(
                f'<div class="dot"><div>{self.computed(row["name"])}</div>{drawing}<div class="said">'
                f"{self.state(row['state'])}{additional}<br>{_text(limits)} {_text(row['unit'])}</div></div>"
            )
        axis = _inline(figures.dot_plot([], **shared), "axis", first)
        note = self.around("tested-note", _text(view["confidence"]))
        return (
            f'{title}<p><small>{note}</small></p>\n{"".join(rows)}\n<div class="dot"><div></div>{axis}<div></div></div>'
        )

    def small_figures(self, arrays: figures.Arrays) -> str:
        drawn = []
        for name, draw in (("margins", figures.margins), ("roc", figures.roc)):
            if self.view["figures"][name]:
                drawing = draw(arrays, width=268.0, height=150.0, words=self.words["figure"])
                caption = self.computed(self.view["captions"].get(name, ""))
                drawn.append(
                    f"<figure>{_inline(drawing, name, self.words['alt'][name])}"
                    f"<figcaption>{caption}</figcaption></figure>"
                )
        return f'<div class="two">{"".join(drawn)}</div>' if drawn else ""

    def four(self) -> str:
        view, words = self.view, self.words
        mde = view["verdict"]["mde"]
        controls = "".join(
            f"<div>{self.check(c['passed'])} {self.computed(c['name'])} {self.passed(c['passed'])}</div>"
            for c in sorted(view["controls"], key=lambda c: c["passed"])
        )
        if view["flags"]:
            names = self.computed(", ".join(flag["name"] for flag in view["flags"]))
            controls += f'<p><a href="#flags">{self.word("flags")}</a>: {names}.</p>'
        if view["privacy"] and view["privacy"]["follows"] == "broken":
            controls += f'<p><b class="FAIL">{_text(words["privacy-follows"]["broken"])}</b></p>'
        registration = view["registration"]
        hashes = {
            "audit": view["hashes"]["audit"],
            "model": view["model"]["audited"],
            "registration": registration["sha256"] if registration else words["unregistered"],
        }
        evidence = "<br>".join(f"{_text(words['hashes'][name])} <code>{_text(h)}</code>" for name, h in hashes.items())
        boxes = {
            "noticed": self.computed(" ".join(mde)) if mde else self.word("nothing-noticed"),
            "not-proven": self.word("not-proven-text"),
            "controls": controls or self.word("no-controls"),
            "evidence": f"<small>SHA-256<br>{evidence}</small>",
        }
        return f'<div class="four">{"".join(f"<div><h2>{self.word(n)}</h2>{b}</div>" for n, b in boxes.items())}</div>'

    def check(self, passed: bool) -> str:
        return '<b class="PASS">✓</b>' if passed else '<b class="FAIL">✗</b>'

    def passed(self, passed: bool) -> str:
        word = self.word("passed" if passed else "not-passed")
        return f"<small>{word}</small>" if passed else f'<b class="FAIL">{word}</b>'

    # ---- Behind it -------------------------------------------------------------------------------------------------

    def flags(self) -> str:
        view = self.view
        said = []
        if view["nonstandard"]:
            name, *rest = [_text(text) for text in self.words["nonstandard-full"]]
            listed = "; ".join(map(self.computed, view["nonstandard"]))
            said.append(f"<b>{name}</b> {rest[0]} {_text(view['battery'])}. {rest[1]} {listed}. {rest[2]}")
        if view["claim"] == "exact":
            name, text = self.words["exact-full"]
            said.append(f"<b>{_text(name)}</b> {_text(text)}")
        said += [f"<b>{self.computed(f['name'])}</b>: {self.computed(f['sentence'])}" for f in view["flags"]]
        return f'<h2 id="flags">{self.word("flags")}</h2>{"".join(f"<p>{text}</p>" for text in said)}' if said else ""

    def scope(self) -> str:
        view, words = self.view, self.words
        model, examples, tests, of = (_text(text) for text in words["scope-in-list"])
        request, method = view["request"], view["method"]
        names = self.computed(", ".join(test["name"] for test in view["tests"]))
        battery = f"{_text(view['battery'])}, {self.word('tier')} {_text(view['tier'])}"
        covered = (
            f"{model} <code>{_text(view['model']['audited'])}</code>",
            f"{examples} <b>{_text(request['id'])}</b>: {_text(request['forget'])} {of} {_text(request['of'])}",
            f"{tests} {battery}: {names}",
        )
        took = "" if method["seconds"] is None else f"; {words['fields']['seconds']}: {method['seconds']}"
        parties = [(words["party-method"], method["saw"] or words["saw-unknown"])]
        parties += [words[f"party-{who}"] for who in ("auditor", "attacker", "reader")]
        done = self.computed(method["sentence"]) + _text(took)
        return f"<h2>{self.word('scope')}</h2>" + "".join(
            (
                self.part(words["scope-in"], self.list(covered)),
                self.part(words["scope-out"], self.list(_text(item) for item in words["scope-out-list"])),
                self.part(words["asked-full"], self.computed(request["sentence"])),
                self.part(words["done-full"], done),
                self.part(
                    words["saw-full"],
                    self.table(words["parties-heads"], [[_text(who), _text(saw)] for who, saw in parties]),
                ),
            )
        )

    def accuracy(self) -> str:
        found, words = self.view["accuracy"], self.words
        if not found["rows"]:
            return ""
        heads = [words["which-set"], *(words["models"].get(model, model) for model in found["models"])]
        rows = [
            [
                _text(words["splits"].get(row["split"], row["split"])),
                *(
                    DASH
                    if cell is None
                    else f"{self.span(cell['rate'])}<br><small>{_text(cell['correct'])} / {_text(cell['n'])}</small>"
                    for cell in row["cells"]
                ),
            ]
            for row in found["rows"]
        ]
        note = self.around("accuracy-note", _text(self.view["confidence"]))
        return f"<h2>{self.word('accuracy')}</h2><p><small>{note}</small></p>{self.table(heads, rows, 'numbers')}"

    def tests(self) -> str:
        tests, words = self.view["tests"], self.words
        if not tests:
            return ""
        names = ("test", "state", "leak", "tolerance", "mde", "p", "adjusted", "beyond", "original")
        rows = [
            [
                f"{self.computed(t['name'])}<br><small>{_text(t['unit'])}</small>",
                self.state(t["state"]),
                self.span(t["leak"]),
                *(_text(t[name]) for name in ("tolerance", "mde", "p", "p_adjusted", "p_tolerance_adjusted")),
                self.span(t["original"]) if t["original"] else DASH,
            ]
            for t in tests
        ]
        each = []
        for t in tests:
            kind = f"{t['kind']}, {words['required'] if t['required'] else words['additional']}"
            facts = [
                (words["looks-at"], t["group"]),
                (words["test-kind"], kind),
                (words["p-tolerance"], t["p_tolerance"]),
                (words["original-p"], t["original_p"]),
            ]
            for q in t["quantities"]:
                value = words["no-value"] if q["value"] is None else f"{_limits(q, words)} {q['unit']}".strip()
                facts.append((q["name"], value + (f"; {q['why']}" if q["why"] else "")))
            each.append(
                f"<section><h3>{self.computed(t['name'])} {self.state(t['state'])}</h3>"
                f"<p>{self.computed(t['sentence'])}</p>{self.pairs(facts)}</section>"
            )
        table = self.table([words["heads"][name] for name in names], rows, "numbers second")
        return (
            f"<h2>{self.word('results')}</h2><p><small>{self.word('results-note')}</small></p>{table}\n"
            f"<h2>{self.word('each')}</h2>{''.join(each)}"
        )

    def beside(self) -> str:
        parts = [self.missing()]
        view = self.view
        cost = [self.what_it_cost(view["collateral"], "classes"), self.what_it_cost(view["by_group"], "by-group")]
        found = [self.comparisons(), self.individuals(), *cost, self.privacy()]
        if any(found):
            parts.append(f"<h2>{self.word('beside')}</h2><p>{self.word('beside-note')}</p>")
        return "\n".join(part for part in [*parts, *found] if part)

    def missing(self) -> str:
        oracles = self.view["oracles"]
        if not oracles or not oracles["missing"]:
            return ""
        items = [self.computed(fault) for fault in oracles["missing"]]
        items += [self.around("more", _text(oracles["more"]))] if oracles["more"] != "0" else []
        return f"<h2>{self.word('missing')}</h2><p>{self.word('missing-note')}</p>{self.list(items)}"

    def comparisons(self) -> str:
        rows = [
            [
                f"{self.computed(c['name'])} <small>{_text(c['unit'])}</small>"
                f"<br><small>{self.computed(c['sentence'])}</small>",
                _text(c["value"]),
                _text(c["original"]),
                self.span(c["oracles"]),
                _text(c["p"]),
            ]
            for c in self.view["comparisons"]
        ]
        heads = [*self.words["comparisons-heads"], self.words["heads"]["p"]]
        note = f"<p><small>{self.word('comparisons-note')}</small></p>"
        return self.part(self.words["comparisons"], note + self.table(heads, rows, "numbers")) if rows else ""

    def individuals(self) -> str:
        found, words = self.view["individuals"], self.words
        if not found:
            return ""
        share = self.around("individuals-share", f"{_text(found['limit'])}\u00a0σ", f"<b>{_text(found['floor'])}</b>.")
        rank = self.around("individuals-p", f"<i>{_text(words['heads']['p'])}</i>", f"{_text(found['p'])}.")
        flagged = self.around("individuals-flagged", f"<b>{_text(found['flagged'])}</b>.")
        fields = ("id", "z", "direction", "p_rank", "p_adjusted")
        shown = [{**one, "direction": words["directions"][one["direction"]]} for one in found["worst"]]
        rows = [[_text(one[name]) for name in fields] for one in shown]
        table = self.table(words["individuals-heads"], rows, "numbers third") if rows else ""
        assumed = self.computed(f"{found['assumes']}. {found['resolution']}")
        note = f"<p><small>{self.word('individuals-z')} {assumed}</small></p>"
        said = f"<p><b>{self.span(found['above'])}</b> {share} {rank} {flagged}</p>"
        return self.part(words["individuals"], said + table + note)

    def what_it_cost(self, found: dict[str, Any] | None, key: str) -> str:
        words = self.words
        if not found:
            return ""
        rows = [
            [
                _text(row["name"]) + (f" <small>({self.word('forgotten')})</small>" if row["forgotten"] else ""),
                _text(row["n"]),
                _text(row["audited"]),
                self.span(row["oracles"]),
                self.span(row["gap"]),
                _text(row["p"]),
            ]
            for row in found["rows"]
        ]
        more = f"{_text(words['more'][0])} {_text(found['more'])} {self.word(f'{key}-more')}"
        note = self.around(f"{key}-note", _text(found["confidence"]), f"{_text(found['p'])}.")
        return self.part(
            words[key],
            f"<p>{self.computed(found['sentence'])}</p><p><small>{note}</small></p>"
            f"{self.table(words[f'{key}-heads'], rows, 'numbers')}"
            + (f"<small>{more}</small>" if found["more"] != "0" else ""),
        )

    def privacy(self) -> str:
        p, words = self.view["privacy"], self.words
        if not p:
            return ""
        none = p["follows"] == "nothing"
        at = f"{self.word('privacy-at')} {_text(p['delta'])}"
        rows = words["privacy-rows"]
        measured = (
            self.word("privacy-none")
            if none
            else f"{self.word('privacy-least')} <b>ε = {_text(p['measured'])}</b> {at}, "
            f"{self.word('privacy-confidence')} {_text(p['confidence'])}"
        )
        accountant, limit = (_text(text) for text in words["privacy-accountant"])
        right, guesses = (_text(text) for text in words["privacy-guesses"])
        settings = ", ".join(f"{self.word(f'privacy-{name}')} {_text(p[name])}" for name in ("noise", "clip", "rate"))
        table = self.table(
            words["privacy-heads"],
            [
                [_text(rows["epsilon"]), f"<b>ε = {_text(p['epsilon'])}</b> {at}", measured],
                [
                    _text(rows["how"]),
                    f"{accountant} {_text(p['accountant'].upper())}, {limit}",
                    DASH if none else f"{_text(p['correct'])} {right} {_text(p['guesses'])} {guesses}",
                ],
                [
                    _text(rows["what"]),
                    f"{settings}, {_text(p['steps'])} {self.word('privacy-steps')}",
                    self.word("privacy-canaries"),
                ],
            ],
        )
        kind = ' class="FAIL"' if p["follows"] == "broken" else ""
        follows = f"<p{kind}><b>{_text(words['privacy-follows'][p['follows']])}</b></p>"
        return self.part(words["privacy"], f"<p>{self.word('privacy-note')}</p>{table}{follows}")

    def stress(self, arrays: figures.Arrays) -> str:
        found, words = self.view["stress"], self.words
        if not found:
            return ""
        parts = [f"<h2>{self.word('stress')}</h2><p>{self.word('stress-note')}</p>"]
        parts += [f"<p>{self.computed(sentence)}</p>" for sentence in found["sentences"]]
        if found["columns"]:
            named = ((_text(found["method"]), found["method-row"]), (self.word("stress-floor"), found["floor-row"]))
            heads = [words["stress-model"], *found["columns"]]
            rows = [[name, *(self.shade(cell) for cell in cells)] for name, cells in named]
            note = f"<p><small>{self.word('stress-matrix-note')}</small></p>"
            parts.append(self.part(words["stress-matrix"], note + self.table(heads, rows, "numbers shades")))
        if found["hardest"]:
            parts.append(self.hardest(found, arrays))
        if found["columns"]:
            rows = [
                [_text(one["name"]), _text(one["size"]), *(self.span(rate) for rate in one["rates"])]
                for one in found["sets"]
            ]
            note = f"<p><small>{self.around('stress-retrained-note', _text(found['confidence']))}</small></p>"
            table = self.table(words["stress-retrained-heads"], rows, "numbers")
            parts.append(self.part(words["stress-retrained"], note + table))
        if found["measures"]:
            rows = [
                [
                    *(_text(row[name]) for name in ("set", "name", "audited", "oracles")),
                    self.span(row["gap"]),
                    _text(row["p"]),
                ]
                for row in found["measures"]
            ]
            heads = [*words["stress-measures-heads"], words["heads"]["p"]]
            note = f"<p><small>{self.word('stress-measures-note')}</small></p>"
            parts.append(self.part(words["stress-measures"], note + self.table(heads, rows, "numbers second")))
        if found["left-out"]:
            parts.append(self.part(words["stress-left-out"], self.list(map(self.computed, found["left-out"]))))
        if found["more"] != "0":
            parts.append(f"<small>{_text(words['more'][0])} {_text(found['more'])} {self.word('stress-more')}</small>")
        return "\n".join(parts)

    def shade(self, cell: dict[str, str]) -> str:
        return f'<span class="shade" style="background:{_text(cell["fill"])}">{_text(cell["text"])}</span>'

    def hardest(self, found: dict[str, Any], arrays: figures.Arrays) -> str:
        images = () if arrays.images is None else arrays.images
        shown = []
        for one, image in zip_longest(found["hardest"], images[: len(found["hardest"])]):
            drawn = ""
            if image is not None:
                alt = _text(f"{one['id']}, {one['label']}")
                drawn = f'<img src="data:image/png;base64,{base64.b64encode(png(image)).decode()}" alt="{alt}"><br>'
            said = f"{_text(one['id'])}<br><small>{_text(one['label'])}, {_text(one['score'])}</small>"
            shown.append(f"<div>{drawn}{said}</div>")
        title, note = self.words["stress-hardest"]
        none = "" if len(images) else f"<p><small>{self.word('stress-no-images')}</small></p>"
        return self.part(
            f"{title} {found['hardest-set']}",
            f"<p><small>{_text(note)} {self.computed(found['unit'])}.</small></p>"
            f'<div class="ten">{"".join(shown)}</div>{none}',
        )

    def controls(self) -> str:
        said = [
            f"<p>{self.check(c['passed'])} <b>{self.computed(c['name'])}</b>, {self.passed(c['passed'])}. "
            f"{self.computed(c['sentence'])}</p>"
            for c in self.view["controls"]
        ]
        return f"<h2>{self.word('controls-full')}</h2>{''.join(said)}" if said else ""

    def large_figures(self, arrays: figures.Arrays) -> str:
        words, shown = self.words, self.view["figures"]
        drawn = []
        for name, draw, height in (
            ("margins", figures.margins, 155.0),
            ("roc", figures.roc, 185.0),
            ("canaries", figures.canaries, 150.0),
        ):
            if shown[name] and shown["margins"]:
                drawing = draw(arrays, width=483.0, height=height, words=words["figure"])
                own = self.view["captions"].get(name, "")
                note = words["notes"].get(name, "" if own else words["canary-caption"])
                caption = f"{f'<b>{self.computed(own)}</b> ' if own else ''}{_text(note)}"
                drawn.append(
                    f'<figure class="wide">{_inline(drawing, f"{name}-large", words["alt"][name])}'
                    f"<figcaption>{caption}</figcaption></figure>"
                )
        return f"<h2>{self.word('figures')}</h2>{''.join(drawn)}" if drawn else ""

    def limits(self) -> str:
        words = self.words
        said = "".join(f"<p><b>{_text(name)}</b> {_text(text)}</p>" for name, text in words["limits-list"])
        glossary = self.pairs(words["glossary-list"], "words")
        return f"<h2>{self.word('limits')}</h2>{said}\n<h2>{self.word('glossary')}</h2>{glossary}"

    def mapping(self) -> str:
        words = self.words
        rows = [
            [
                f"<b>{_text(row['source'])}</b>",
                _text(row["asks"]),
                f"{_text(row['answers'])}<br>{', '.join(f'<code>{_text(name)}</code>' for name in row['fields'])}",
                _text(row["own"]),
            ]
            for row in words["mapping-list"]
        ]
        read = "; ".join(row["source"] for row in words["mapping-list"] if row["checked"]) or DASH
        unchecked = any(not row["checked"] for row in words["mapping-list"])
        note = f"<p><small>{self.around('unchecked-note', f'{_text(read)}.')}</small></p>" if unchecked else ""
        return (
            f"<h2>{self.word('mapping')}</h2><p><small>{self.word('mapping-note')}</small></p>"
            f"{self.table(words['mapping-heads'], rows)}{note}"
        )

    def record(self) -> str:
        view, words = self.view, self.words
        f, groups = words["fields"], words["groups"]
        request, data, method, model = view["request"], view["data"], view["method"], view["model"]
        oracles, canaries, hashes = view["oracles"], view["canaries"], view["hashes"]
        known: dict[str, list[Sequence[Any]]] = {
            "request": [
                (f["id"], request["id"]),
                (f["sentence"], request["sentence"]),
                (f["kind"], request["kind"]),
                (f["count"], f"{request['forget']} {f['of']} {request['of']}"),
                *([(f["class"], request["class"])] if request["class"] is not None else []),
                (f["canaries"], request["canaries"]),
            ],
            "data": [(f[name], data[name]) for name in ("source", "train", "test", "shape", "classes")],
            "method": [
                (f["name"], method["name"]),
                (f["done"], method["sentence"]),
                (f["saw"], method["saw"] or words["saw-unknown"]),
                *method["params"],
                (f["seed"], DASH if method["seed"] is None else method["seed"]),
                (f["seconds"], words["by-others"] if method["seconds"] is None else method["seconds"]),
            ],
            "model": [(f[name], model[name]) for name in ("architecture", "parameters")] + model["recipe"],
            "oracles": [
                (f["number"], oracles["count"]),
                (f["held-out"], oracles["held_out"] or DASH),
                (f["mean-seconds"], oracles["seconds"]),
            ]
            if oracles
            else [],
            "canaries": [
                *((f[name], canaries[name]) for name in ("kind", "heads", "tails")),
                (f["opened"], words["opened"][0 if canaries["opened"] else 1]),
            ]
            if canaries
            else [],
            "rules": [
                *((f[name], view[name]) for name in ("battery", "tier")),
                (f["claim"], view["claim-said"]),
                *((f[name], view[name]) for name in ("significance", "power", "seed")),
                *((f"{f['tolerance']} {name}", value) for name, value in view["tolerances"]),
            ],
            "environment": [(f.get(name, name), value) for name, value in view["environment"]],
        }
        prints = [
            (f["audit"], hashes["audit"]),
            (f["evidence"], hashes["evidence"]),
            (f["original"], model["original"]),
            (f["audited"], model["audited"]),
            (f["forget-set"], request["fingerprint"]),
            (f["training-data"], data["fingerprint"]),
            *([(f["commitment"], canaries["commitment"])] if canaries else []),
            *([(f["seeds"], oracles["seeds"])] if oracles else []),
        ]
        parts = "".join(self.part(groups[name], self.pairs(rows)) for name, rows in known.items() if rows)
        return (
            f'<h2>{self.word("record")}</h2><div class="two">{parts}</div>'
            f"{self.part(groups['fingerprints'], self.pairs(prints))}"
        )

    def registration(self) -> str:
        found, words = self.view["registration"], self.words
        done, none, later = words["registration-note"]
        title = f"<h2>{self.word('registration')}</h2>"
        if not found:
            return f"{title}<p>{_text(none)}</p>"
        parts = "".join(
            self.part(words["registration-parts"].get(name, name), self.pairs(rows)) for name, rows in found["parts"]
        )
        done = f"{done} {later}" if found["later"] else done
        return f"{title}<p>{_text(done)}</p><p><code>{_text(found['sha256'])}</code></p>{parts}"

    def again(self, audit: bytes) -> str:
        link = f"data:application/json;base64,{base64.b64encode(audit).decode()}"
        return (
            f"<h2>{self.word('again')}</h2><pre><code>{_text(self.view['command'])}</code></pre>"
            f"<p><small>{self.word('again-note')}</small></p>\n"
            f"<h2>{self.word('result-file')}</h2><p>{self.word('result-file-note')} <code>unlearnkit verify</code>. "
            f'<a download="audit.json" href="{link}">{self.word("download")}</a></p>'
        )

    def signature(self) -> str:
        lines = "".join(f"<div>{_text(name)}</div>" for name in self.words["signature-lines"])
        said = self.word("signature-note" if self.view["released"] else "signature-withheld")
        return f'<h2>{self.word("signature")}</h2><p>{said}</p>\n<div class="lines">{lines}</div>'
