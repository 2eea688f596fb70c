"""What a check found, for other programs: JUnit XML, SARIF 2.1.0, and Markdown for the summary of a CI step.

Every id, class name and path is somebody else's text: it is shown as text, and can neither end a cell nor begin a link,
a tag or a command. Needs no torch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from xml.etree import ElementTree

import unlearnkit
from unlearnkit.audits.ledger.entries import shown
from unlearnkit.audits.words import number

if TYPE_CHECKING:
    from unlearnkit.audits.ledger.check import Check, Checked, Row

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVEL = {"FAIL": "error", "INVALID": "error", "INCONCLUSIVE": "warning", "NOT CHECKED": "note"}
_RULES = {
    "FAIL": ("not-forgotten", "A deletion of the ledger is not as retraining would leave it."),
    "INVALID": ("wrong-data", "The examples at hand are not the ones that were audited."),
    "INCONCLUSIVE": ("undecided", "The check does not decide whether a deletion of the ledger still holds."),
    "NOT CHECKED": ("not-audited", "A deletion of the ledger has no audit to hold the model against."),
}
_SIGN = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "⚠️", "INVALID": "⛔", "NOT CHECKED": "➖"}
_MARKS = re.compile(r"([\\`*_\[\]{}<>|:@~$&#!])")


def junit(check: Check) -> str:
    """One test case per deletion: a failure, an error (inconclusive or invalid), skipped, or passed."""
    counts = {state: sum(one.state == state for one in check.deletions) for state in _SIGN}
    suite = ElementTree.Element(
        "testsuite",
        name="unlearnkit check",
        tests=str(len(check.deletions)),
        failures=str(counts["FAIL"]),
        errors=str(counts["INCONCLUSIVE"] + counts["INVALID"]),
        skipped=str(counts["NOT CHECKED"]),
    )
    for one in check.deletions:
        case = ElementTree.SubElement(suite, "testcase", classname="unlearnkit.ledger", name=shown(one.id))
        kind = {"FAIL": "failure", "INCONCLUSIVE": "error", "INVALID": "error", "NOT CHECKED": "skipped"}.get(one.state)
        if kind is not None:
            told = ElementTree.SubElement(case, kind, message=shown(one.sentence))
            if kind != "skipped":
                told.set("type", one.state)
                told.text = "\n".join(_line(row) for row in one.rows)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _line(row: Row) -> str:
    return f"{row.state}: {shown(row.sentence)}"


def sarif(check: Check, ledger: Path) -> str:
    """SARIF 2.1.0: one result per deletion that did not pass, at its line of the ledger."""
    states = [state for state in _RULES if any(one.state == state for one in check.deletions)]
    run = {
        "tool": {
            "driver": {
                "name": "unlearnkit",
                "version": unlearnkit.__version__,
                "rules": [
                    {
                        "id": _RULES[state][0],
                        "shortDescription": {"text": _RULES[state][1]},
                        "defaultConfiguration": {"level": _LEVEL[state]},
                    }
                    for state in states
                ],
            }
        },
        "results": [_result(one, states, ledger) for one in check.deletions if one.state != "PASS"],
        "columnKind": "unicodeCodePoints",
    }
    body = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def _result(one: Checked, states: list[str], ledger: Path) -> dict[str, object]:
    location = {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(ledger.as_posix())},
            "region": {"startLine": one.line},
        }
    }
    return {
        "ruleId": _RULES[one.state][0],
        "ruleIndex": states.index(one.state),
        "level": _LEVEL[one.state],
        # A message is plain text in which brackets make links; they are escaped as the standard says (3.11.6).
        "message": {"text": re.sub(r"([\\\[\]])", r"\\\1", f"{shown(one.id)}: {shown(one.sentence)}")},
        "locations": [location],
        "partialFingerprints": {"deletion/v1": shown(one.id)},
    }


def summary(check: Check) -> str:
    """Markdown: the word, a table of deletions, and under each that did not pass the rows that say why."""
    lines = [
        f"### {_SIGN[check.word]} unlearnkit check: {check.word}",
        "",
        text(check.sentence) + f" Model: {text(check.model)}.",
        "",
    ]
    if check.deletions:
        lines += ["| deletion | state | why |", "| --- | --- | --- |"]
        lines += [
            f"| {text(one.id)} | {_SIGN[one.state]} {one.state} | {text(one.sentence)} |" for one in check.deletions
        ]
    for one in check.deletions:
        rows = [row for row in one.rows if row.state != "PASS"]
        if one.state == "PASS" or not rows:
            continue
        lines += ["", f"#### {text(one.id)}", "", "| state | p | MDE | what it says |"]
        lines += ["| --- | ---: | ---: | --- |"]
        lines += [
            f"| {row.state} | {_number(row.p_adjusted)} | {_number(row.mde)} | {text(row.sentence)} |" for row in rows
        ]
    return "\n".join(lines) + "\n"


def text(words: str) -> str:
    """Words that Markdown shows as they are: no markup, no link, no tag, no cell's end, on one line."""
    return re.sub(r"(?i)\bwww\.", r"www\\.", _MARKS.sub(r"\\\1", shown(words)))


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)
