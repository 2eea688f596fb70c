"""The section for a model card: a `model-index` block as Hugging Face reads it, and a page of Markdown.

The block is YAML written as JSON strings and numbers; the Markdown escapes whatever could be markup. Numbers in the
block stand as in the result, unrounded.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from unlearnkit.reports import figures
from unlearnkit.reports.letterhead import Letterhead
from unlearnkit.reports.view import as_printed, belongs, visible
from unlearnkit.result import AuditResult


def render(result: AuditResult, evidence: bytes, letterhead: Letterhead | None = None) -> bytes:
    """The section: the same three in, the same bytes out. Raises UsageError when they do not belong together."""
    belongs(evidence, result, what="evidence")
    audit = hashlib.sha256(result.to_json().encode()).hexdigest()
    view = as_printed(result, letterhead or Letterhead(), audit, figures.read_arrays(evidence))
    return f"---\n{_index(result)}---\n\n{_section(view)}".encode()


def _index(result: AuditResult) -> str:
    """One result with the accuracies of the audited model and the leak that each test measured."""
    metrics: list[dict[str, Any]] = [
        {"type": "accuracy", "name": f"Accuracy ({a.split})", "value": a.rate.value}
        for a in result.accuracy
        if a.model == "audited"
    ]
    metrics += [
        {"type": "unlearning-leak", "name": f"{test.name} ({test.unit or 'leak'})", "value": test.leak.value}
        for test in result.tests
    ]
    lines = [
        "model-index:",
        f"- name: {_yaml(result.model.architecture)}",
        "  results:",
        "  - task:",
        '      type: "image-classification"',
        f"      name: {_yaml(f'Unlearning audit {result.request.id}: {result.verdict.word}')}",
        "    dataset:",
        f"      type: {_yaml(result.data.source)}",
        f"      name: {_yaml(result.data.source)}",
        "    metrics:" if metrics else "    metrics: []",
    ]
    for metric in metrics:
        lines += [
            f"    - type: {_yaml(metric['type'])}",
            f"      name: {_yaml(metric['name'])}",
            f"      value: {_yaml(metric['value'])}",
        ]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    """A scalar that every YAML reader takes for what it is: a quoted string, or a number with a decimal point."""
    if isinstance(value, str):
        return json.dumps(visible(value), ensure_ascii=False)
    text = json.dumps(value)
    return text if "e" not in text or "." in text else text.replace("e", ".0e")  # YAML 1.1 reads 1e-05 as a string


def _md(text: Any) -> str:
    """Text as text: no Markdown, no HTML, no address that turns into a link, one line."""
    escaped = visible(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"[\\`*_{}\[\]#|~$!@]|:(?=//)|(?<=www)\.", r"\\\g<0>", escaped, flags=re.IGNORECASE)
    return re.sub(r"^(\d*)([-+.)=])", r"\1\\\2", escaped)  # what would begin a list or underline a heading


def _section(view: dict[str, Any]) -> str:
    words, verdict, request = view["words"], view["verdict"], view["request"]
    states = words["states"]
    heads = [words["heads"][name] for name in ("test", "state", "leak", "tolerance", "mde")]
    rows = []
    for test in view["tests"]:
        leak, (low, high) = test["leak"], words["unlimited"]
        limits = f" ({leak['low'] or low} {words['to']} {leak['high'] or high})" if leak["low"] or leak["high"] else ""
        cells = [test["name"], states[test["state"]], f"{leak['value']}{limits} {test['unit']}"]
        rows.append([*cells, test["tolerance"], test["mde"]])
    table = [heads, *rows]
    lines = [
        f"## {_md(words['subject'])}",
        "",
        f"**{_md(words['verdicts'][verdict['word']])}** {_md(verdict['headline'])}",
        "",
        _md(" ".join(verdict["why"])),
        "",
        f"- {_md(words['request'])}: {_md(request['id'])}",
        f"- {_md(words['columns']['asked'])}: {_md(request['sentence'])}",
        f"- {_md(words['columns']['done'])}: {_md(view['method']['sentence'])}",
        f"- {_md(words['audited-on'])}: {_md(view['started'])}",
        *([f"- {_md(words['nonstandard'])}: {_md('; '.join(view['nonstandard']))}"] if view["nonstandard"] else []),
        *([f"- {_md(view['organization'])} {_md(view['contact'])}".rstrip()] if view["organization"] else []),
        *(f"- {_md(name)}: `{sha}`" for name, sha in _prints(view)),
        "",
    ]
    if rows:
        lines += [_row(table[0]), "| --- | --- | --- | --- | --- |", *(_row(row) for row in rows), ""]
    mde = " ".join(verdict["mde"]) or words["nothing-noticed"]
    for title, text in ((words["noticed"], mde), (words["not-proven"], words["not-proven-text"])):
        lines += [f"### {_md(title)}", "", _md(text), ""]
    lines += [_md(words["computed-note"]), ""] if words["computed-note"] else []
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(_md(cell) for cell in cells)} |"


def _prints(view: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and hashes; only what can stand in a code span does."""
    hashes = view["words"]["hashes"]
    named = ((hashes["model"], view["model"]["audited"]), (hashes["audit"], view["hashes"]["audit"]))
    return [(f"{name} sha256", re.sub(r"[^0-9A-Za-z]", "", sha)) for name, sha in named]
