"""verify: does this report say what its evidence says? Hashes, the verdict again, the pages, and who signed them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from unlearnkit.audits.battery import ATTACKS, BATTERY, ORACLES, PROBED, judge
from unlearnkit.audits.case import seeds_of
from unlearnkit.audits.designs import Plan, Tolerances
from unlearnkit.audits.evidence import LEFT_OUT, PROBED_MODELS, SWAP, UNTRAINED, Evidence, Group
from unlearnkit.audits.findings import MIA_EFFICACY, measured_epsilon
from unlearnkit.audits.records import captions, method_stated
from unlearnkit.audits.registration import grouped, json_plain, late
from unlearnkit.audits.signing import check_pdf, check_statement, is_signed
from unlearnkit.audits.signing import statement as statement_of
from unlearnkit.audits.spec import Spec, parse_spec
from unlearnkit.audits.worst_case.follows import follows
from unlearnkit.hardest import IDS, WorstCase
from unlearnkit.reports.letterhead import LETTERHEAD, Letterhead
from unlearnkit.reports.pdf import attached, attachments, render
from unlearnkit.reports.view import AUDIT
from unlearnkit.reports.worst_case import JSON as WORST_CASE
from unlearnkit.reports.worst_case import render as render_worst_case
from unlearnkit.result import AuditResult, OracleRecord, Tier, UsageError, beside, evidence_path
from unlearnkit.result import Evidence as EvidenceRecord
from unlearnkit.store import content_key

JUDGED = (
    "tests",
    "controls",
    "flags",
    "accuracy",
    "verdict",
    "nonstandard",
    "comparisons",
    "individuals",
    "collateral",
    "by_group",
    "stress",
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Verified:
    """All checks of one file; `result` is what the file says."""

    result: AuditResult
    checks: tuple[Check, ...]
    signed: bool = False

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def verify_file(path: Path, *, trust: Path | None = None, statement: Path | None = None) -> Verified:
    """Check a report.pdf, or an audit.json with its sidecar. Raises UsageError where there is nothing to check.

    Raises `Changed`, a UsageError, for a result that does not match its own digest: of such a file nothing is believed.

    trust: certificates to which a signature must lead. statement: of the same signer; left out, the file that
    `unlearnkit sign --statement` writes beside a report, if it is there.
    """
    is_pdf = _is_pdf(path, trust, statement)
    if is_worst_case(path):
        raise UsageError(f"{path}: a worst-case result and not an audit; it says what is hard to forget, not what was")
    if is_pdf:
        parts = attachments(path)
        text = parts["audit.json"]
        result = _read(text, path)
        sidecar = parts.get(result.evidence.file)
        if sidecar is None:
            raise UsageError(f"{path}: a PDF without evidence: {result.evidence.file!r} is not attached")
    elif path.suffix.lower() == ".pdf":
        raise UsageError(f"{path}: is no PDF, whatever its name says; give the report as unlearnkit wrote it")
    elif path.suffix.lower() in (".html", ".md"):
        raise UsageError(f"{path}: a page without its evidence; verify the PDF, or the audit.json it was made from")
    else:
        text = path.read_bytes()
        result = _read(text, path)
        try:
            sidecar = evidence_path(path, result).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UsageError(f"{path}: its evidence {result.evidence.file!r} does not lie beside it") from error
    if statement is not None and not is_pdf:
        raise UsageError(f"{statement}: a statement is about a signed report; name the PDF, not {path}")
    checks = [_hash(result.evidence, sidecar)]
    if checks[0].passed:
        checks.append(_verdict(result, sidecar, path))
    if all(check.passed for check in checks):  # else what follows from the first fault would hide it
        checks += _stated(result)
    if not is_pdf:
        return Verified(result, tuple(checks))
    pdf, typeset = path.read_bytes(), None
    signed = is_signed(pdf)
    if all(check.passed for check in checks):
        head = parts.get(LETTERHEAD)
        letterhead = None if head is None else Letterhead.from_json(head, what=f"{path}: {LETTERHEAD}")
        typeset = render(result, sidecar, letterhead)
        checks.append(_pages(pdf, typeset, signed=signed, worded=letterhead is not None))
    if signed:
        found = check_pdf(pdf, typeset=typeset, trust=trust)
        checks.append(Check("signature", found.passed, found.sentence))
    signed_beside = path.with_suffix(".intoto.json")
    if statement is not None or signed_beside.is_file():
        checks.append(_statement(statement or signed_beside, result, text, pdf, trust))
    return Verified(result, tuple(checks), signed)


def _is_pdf(*named: Path | None) -> bool:
    """Whether the first of the named files is a PDF. Raises UsageError for what is no file."""
    for one in named:
        if one is not None and one.is_dir():
            inside = next((name for name in ("report.pdf", "audit.json", WORST_CASE) if (one / name).is_file()), None)
            hint = "a report.pdf, or an audit.json with its evidence beside it" if inside is None else one / inside
            raise UsageError(f"{one}: is a folder; name a file, {hint}")
        if one is not None and not one.is_file():
            raise UsageError(f"{one}: no such file")
    assert named[0] is not None
    with named[0].open("rb") as file:
        return file.read(5) == b"%PDF-"


def is_worst_case(path: Path) -> bool:
    """Whether the file is what `unlearnkit worst-case` wrote: its page, or worst_case.json."""
    if _is_pdf(path):
        parts = attached(path)
        return WORST_CASE in parts and AUDIT not in parts
    try:
        body = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and "searches" in body and "battery" not in body


def verify_worst_case(path: Path) -> tuple[Check, ...]:
    """Check the page of a worst-case search, or worst_case.json with its images beside it.

    Digest and schema, the hash of the images, the ids in a forget.txt that lies beside it, what of the certificate
    follows from its own cells, and of a page every byte. Raises UsageError where there is nothing to check, and
    `Changed` for a result that does not match its own digest.
    """
    pdf = path.read_bytes() if _is_pdf(path) else None
    parts = {} if pdf is None else attached(path)
    text = path.read_bytes() if pdf is None else parts[WORST_CASE]
    result = WorstCase.from_json(text, what=str(path) if pdf is None else f"{path}: {WORST_CASE}")
    if pdf is None:
        try:
            images = beside(path, result.evidence).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise UsageError(f"{path}: its evidence {result.evidence.file!r} does not lie beside it") from error
    elif result.evidence.file in parts:
        images = parts[result.evidence.file]
    else:
        raise UsageError(f"{path}: a PDF without evidence: {result.evidence.file!r} is not attached")
    checks = [_hash(result.evidence, images)]
    found = (_difference(_plain(stated), _plain(given), name) for name, stated, given in follows(result))
    where = next((one for one in found if one is not None), None)
    sentence = f"{len(result.sets)} sets and {len(result.hardness)} rows of hardness follow from its ids and cells"
    if where is not None:
        sentence = f"{where[0]} is {where[1]!r} in the file, its ids and cells give {where[2]!r}"
    checks.append(Check("certificate", where is None, sentence))
    ids = path.with_name(IDS)
    if ids.is_file():
        same = tuple(ids.read_text(encoding="utf-8", errors="replace").split("\n")) == (*result.searches[0].ids, "")
        sentence = "holds the ids of the first set" if same else f"holds other ids than {result.searches[0].set!r} has"
        checks.append(Check(IDS, same, sentence))
    if pdf is not None and all(check.passed for check in checks):
        checks.append(_pages(pdf, render_worst_case(result, images), signed=False, worded=False))
    return tuple(checks)


def _statement(file: Path, result: AuditResult, audit: bytes, pdf: bytes, trust: Path | None) -> Check:
    """The signed statement about this report."""
    expected = statement_of(result, audit=audit, pdf=pdf)
    found = check_statement(file.read_bytes(), expected, now=datetime.now(UTC), trust=trust)
    return Check("statement", found.passed, f"{file.name}: {found.sentence}")


def _read(text: bytes, path: Path) -> AuditResult:
    return AuditResult.from_json(text, what=str(path))


def _hash(evidence: EvidenceRecord, sidecar: bytes) -> Check:
    digest = hashlib.sha256(sidecar).hexdigest()
    same = digest == evidence.sha256
    return Check(
        "evidence",
        same,
        f"sha256 {digest[:12]}… is the one in the result"
        if same
        else f"sha256 is {digest[:12]}…, the result names {evidence.sha256[:12]}…",
    )


def _verdict(result: AuditResult, sidecar: bytes, path: Path) -> Check:
    """Judge the evidence again under the plan that the result states."""
    if result.battery != BATTERY:
        raise UsageError(
            f"{path}: made with battery {result.battery}, this version computes battery {BATTERY}; "
            "verify it with the unlearnkit that wrote it"
        )
    evidence = Evidence.from_bytes(sidecar, what=str(path))
    plan = Plan(
        result.request.kind,
        result.tier,
        _tolerances(result, path),
        result.significance,
        result.power,
        result.seed,
        ATTACKS[0].name,
        0 if result.oracles is None else result.oracles.count + len(result.oracles.missing),
        result.claim,
        result.data.classes,
        evidence.group_names,
    )
    again = judge(evidence, plan)
    again = dataclasses.replace(again, flags=(*late(result.registration), *again.flags))
    pairs = _counts(result, evidence)  # first: whatever else differs follows from these
    pairs += [(name, _plain(getattr(result, name)), _plain(getattr(again, name))) for name in JUDGED]
    pairs.append(("captions", result.captions, captions(evidence)))
    for name in ("tier", "claim", "significance", "power", "seed", "tolerances"):
        stated = getattr(result, name)
        pairs.append((name, stated, _settings(result).get(name, stated)))
    pairs += _registered(result, plan, evidence)
    if evidence.stress is not None:
        pairs.append(("stress.sets", evidence.stress.planned, evidence.stress.done))
    if result.privacy is not None:
        measured = measured_epsilon(evidence, plan, delta=result.privacy.delta) or (None, 0, 0)
        stated = (result.privacy.measured, result.privacy.correct, result.privacy.guesses)
        pairs.append(("privacy.measured", list(stated), list(measured)))
    for name, stated, computed in pairs:
        where = _difference(stated, computed, name)
        if where is not None:
            return Check("verdict", False, f"{where[0]} is {where[1]!r} in the file, the evidence gives {where[2]!r}")
    return Check("verdict", True, f"{len(again.tests)} tests, {len(again.controls)} controls and the word follow again")


def _stated(result: AuditResult) -> list[Check]:
    """Faults of what was fixed before any model was looked at: no registration, or words that the spec contradicts."""
    faults = []
    if result.registration is None:
        sentence = "there is none; an audit writes down what it will look at, and how it judges, before any score"
        faults.append(Check("registration", False, sentence))
    try:
        pairs = _by_spec(result, parse_spec(result.spec, folder=Path()))
    except UsageError as error:
        return [*faults, Check("spec", False, f"the spec in the file is none ({error})")]
    found = (_difference(stated, given, name) for name, stated, given in pairs)
    where = next((one for one in found if one is not None), None)
    if where is not None:
        faults.append(Check("spec", False, f"{where[0]} is {where[1]!r} in the file, its spec gives {where[2]!r}"))
    return faults


def _by_spec(result: AuditResult, spec: Spec) -> list[tuple[str, Any, Any]]:
    """What the file says of data, model, method, canaries and seeds, and what its spec, defaults filled in, makes of
    it. Nothing that the spec names is imported or opened."""
    method = dataclasses.replace(method_stated(spec), seconds=result.method.seconds)
    pairs = {
        "request.id": (result.request.id, None if spec.deletion is None else spec.deletion.id),
        "data.source": (result.data.source, spec.data.source),
        "model.architecture": (result.model.architecture, spec.model.architecture),
        "model.recipe": (json_plain(result.model.recipe), json_plain(dataclasses.asdict(spec.recipe))),
        "method": (json_plain(dataclasses.asdict(result.method)), json_plain(dataclasses.asdict(method))),
    }
    if result.canaries is not None:
        opened = spec.canaries.manifest is not None
        pairs["canaries.opened"] = (result.canaries.opened, opened)
        if not opened:
            pairs["canaries.kind"] = (result.canaries.kind, spec.canaries.kind)
    oracles = result.oracles
    if oracles is not None and _asked(result) == oracles.count + len(oracles.missing):  # otherwise told already
        seeds = seeds_of(spec, "oracle", _asked(result) + 1)
        missing = {one.partition(":")[0] for one in oracles.missing}
        there = [seed for i, seed in enumerate(seeds) if f"oracle {i + 1}" not in missing]
        pairs["oracles.seeds"] = (list(oracles.seeds), there[:-1])
        pairs["oracles.held_out_seed"] = (oracles.held_out_seed, there[-1] if there else None)
    return [(name, *pair) for name, pair in pairs.items()]


def _tolerances(result: AuditResult, path: Path) -> Tolerances:
    known = [f.name for f in dataclasses.fields(Tolerances)]
    if sorted(result.tolerances) != sorted(known):
        raise UsageError(
            f"{path}: tolerances must name {', '.join(known)}, got {', '.join(result.tolerances) or 'none'}"
        )
    return Tolerances(**result.tolerances)


def _counts(result: AuditResult, evidence: Evidence) -> list[tuple[str, Any, Any]]:
    """How many models and points the file speaks of, and how many the evidence holds."""
    heads, tails = evidence.rows(Group.HEADS).size, evidence.rows(Group.TAILS).size
    canaries, oracles = result.canaries, result.oracles
    stated = {
        "tier": (result.tier, _tier(evidence)),
        "request.forget": (result.request.forget, evidence.rows(Group.REQUESTED).size + heads),
        "request.canaries": (result.request.canaries, heads),
        "canaries.heads": (canaries.heads if canaries else 0, heads),
        "canaries.tails": (canaries.tails if canaries else 0, tails),
        "oracles.count": (oracles.count if oracles else 0, evidence.oracles),
        "oracles.seeds": (len(oracles.seeds) if oracles else 0, evidence.oracles),
        # One training counted twice, or held out and a reference as well, is no fair sample.
        "oracles.seeds, each once": (_apart(oracles), evidence.oracles),
        "oracles.missing": (len(oracles.missing) if oracles else 0, _asked(result) - evidence.oracles),
    }
    return [(name, *pair) for name, pair in stated.items()]


def _apart(oracles: OracleRecord | None) -> int:
    """How many references are trainings of their own."""
    return 0 if oracles is None else len(set(oracles.seeds) - {oracles.held_out_seed})


def _tier(evidence: Evidence) -> Tier:
    if evidence.ensemble is not None:
        return "hours"
    return "minutes" if evidence.oracles else "seconds"


def _registered(result: AuditResult, plan: Plan, evidence: Evidence) -> list[tuple[str, Any, Any]]:
    """What was written down beforehand, against what was done."""
    registration = result.registration
    if registration is None:
        return []
    document = registration.document
    # Of what was to be asked of the models nothing may be left out in silence, and nothing come in that was not.
    models = document.get("models")
    names = models if isinstance(models, dict) else {}
    asked = sorted({name.rpartition("/")[0] for name in names if "/" in name})
    told = [note.sentence for note in evidence.notes if note.name == LEFT_OUT]
    there = sorted(evidence.told | {name for name in asked if any(s.startswith(f"{name}: ") for s in told)})
    return [
        ("registration.sha256", registration.sha256, content_key(document)),
        ("registration.plan", document.get("plan"), json_plain(dataclasses.asdict(plan))),
        ("registration.request", document.get("request"), json_plain(dataclasses.asdict(result.request))),
        ("registration.data", document.get("data"), result.data.fingerprint),
        ("registration.models", asked, there),
        *_models(result, names, evidence),
        *_whole(result, evidence),
        ("registration.stress", document.get("stress"), evidence.stress and json_plain(dict(evidence.stress.document))),
        ("registration.canaries", document.get("canaries"), result.canaries and result.canaries.commitment),
        ("registration.groups", document.get("groups"), grouped(evidence.answer_group)),
    ]


def _models(result: AuditResult, names: dict[str, Any], evidence: Evidence) -> list[tuple[str, Any, Any]]:
    """How many models of each group were registered, against those that the file and the evidence speak of.

    Of retrained models one more was asked for than oracles are counted: the last one is held out as a control.
    """
    oracles, ensemble = result.oracles, evidence.ensemble
    expected = {
        "original": 1,
        "audited": 1,
        "oracles": 0 if oracles is None else oracles.count + len(oracles.missing) + 1,
        "ensemble": 0 if ensemble is None else len(ensemble),
    }
    if evidence.swapped is not None:
        expected[f"{SWAP}/pairs"] = 2 * len(evidence.swapped)
    counted = {name: len(keys) for name, keys in names.items() if isinstance(keys, list)}
    for name, values in evidence.readings.items():  # of an oracle that failed there is none
        lost = counted.get(name, 0) - values.size
        most = len(oracles.missing) if oracles is not None and name.endswith("/oracles") else 0
        expected[name] = counted.get(name, 0) if 0 <= lost <= most else values.size
    return [(f"registration.models.{name}", counted.get(name, 0), there) for name, there in expected.items()]


def _whole(result: AuditResult, evidence: Evidence) -> list[tuple[str, Any, Any]]:
    """What every registered look brings with it, so that no row of a report can vanish with what it is read off.

    Published numbers must be there but are not computed again: of a machine that was taught, the last bit decides.
    """
    models, label = sorted(evidence.margins), result.request.forget_class
    others = evidence.answer_label if label is None else evidence.answer_label[evidence.answer_label != label]
    kinds = [0, 1] if others.size else [1]
    looks = {"answers": evidence.answers, "beside": evidence.beside, "logits": evidence.logits}
    numbers = {}
    if evidence.oracles >= 2 and others.size:
        read = min(PROBED, evidence.oracles)
        numbers = {f"{MIA_EFFICACY}/{model}": read if model == "oracles" else 1 for model in PROBED_MODELS}
    return [
        *((f"evidence.{name}", models, sorted({*arrays} - {UNTRAINED})) for name, arrays in looks.items()),
        ("evidence.beside_retained", kinds, np.unique(evidence.beside_retained).tolist()),
        ("evidence.legacy", numbers, {name: values.size for name, values in evidence.legacy.items()}),
    ]


def _asked(result: AuditResult) -> int:
    """How many oracles the spec asked for."""
    asked = _settings(result).get("oracles")
    return 0 if result.oracles is None else asked if isinstance(asked, int) and asked else ORACLES[result.tier]


def _settings(result: AuditResult) -> dict[str, Any]:
    """[audit] of the spec as the file has it; empty where it is no section."""
    found = result.spec.get("audit")
    return found if isinstance(found, dict) else {}


def _pages(pdf: bytes, typeset: bytes, *, signed: bool, worded: bool) -> Check:
    """Typeset the report again: same result, same bytes; a signature stands behind them."""
    same = pdf.startswith(typeset) if signed else pdf == typeset
    worded_by = "; their fixed texts are those of the attached letterhead" if worded else ""
    return Check(
        "pages",
        same,
        f"typeset again from the attached result, they are the same bytes{worded_by}"
        if same
        else "typeset again from the attached result, they differ: the pages were changed, or another version of "
        "unlearnkit, Typst, Matplotlib or Pillow wrote them",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return (
        _plain(dataclasses.asdict(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else ({k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value)
    )


def _difference(stated: Any, computed: Any, where: str) -> tuple[str, Any, Any] | None:
    """The first place where two nested values differ; numbers agree to nine digits (libraries may round the rest)."""
    if isinstance(stated, dict) and isinstance(computed, dict) and stated.keys() == computed.keys():
        found = (_difference(stated[k], computed[k], f"{where}.{k}") for k in stated)
        return next((f for f in found if f is not None), None)
    if isinstance(stated, list) and isinstance(computed, list) and len(stated) == len(computed):
        found = (_difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(stated, computed, strict=True)))
        return next((f for f in found if f is not None), None)
    if isinstance(stated, float) and isinstance(computed, float | int) and not isinstance(computed, bool):
        return None if math.isclose(stated, computed, rel_tol=1e-9, abs_tol=1e-12) else (where, stated, computed)
    return None if stated == computed else (where, stated, computed)
