"""The deletion ledger: an append-only file of JSON lines, each carrying the hash of the line before. Needs no torch.

A line is one step of one deletion: received, unlearned, audited, released, re-opened. It holds hashes and statistics,
never data: examples are named by salted hashes of their ids, which say nothing to who does not hold a list of ids to
try. A changed, dropped or reordered line breaks the chain and is named. What a chain by itself cannot show is that its
last lines were cut off, or that all of it was written anew: keep the hash of the last line elsewhere (a release note, a
signed tag) and hand it to `verify` as the head.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import pydantic
from pydantic import ConfigDict, TypeAdapter

from unlearnkit.result import Claim, Tier, UsageError, Word
from unlearnkit.store import canonical, write_atomic

SCHEMA = 1
START = "0" * 64  # what the first line carries as the hash before it
LONGEST_ID = 200  # characters

Step = Literal["received", "unlearned", "audited", "released", "re-opened"]
Group = Literal["forgotten", "unseen"]
# accuracy: share of right answers (while relearning: its mean over the steps). margin: mean margin. upper: the 90 %
# quantile of the margins, where a part that is remembered shows.
Statistic = Literal["accuracy", "margin", "upper"]
STEPS: tuple[Step, ...] = get_args(Step)
# What may follow. A ledger may begin late, with a deletion that is carried out or audited already.
NEXT: dict[Step | None, tuple[Step, ...]] = {
    None: ("received", "unlearned", "audited"),
    "received": ("unlearned", "audited"),
    "unlearned": ("audited", "re-opened"),
    "audited": ("audited", "released", "re-opened"),
    "released": ("audited", "released", "re-opened"),
    "re-opened": ("unlearned", "audited"),
}
RELEASABLE = ("PASS", "CONSISTENT")
EMPTY = (
    "is empty: it holds no deletion, so there is nothing to hold a model against; restore the ledger from your version "
    "control, or add a deletion with 'unlearnkit ledger add'"
)
LOST = "no line has the hash kept as --head: lines were cut off, or all was written anew"

_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
_CONFLICT = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")
_HASH = re.compile(r"[0-9a-f]{64}")
_SALT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class What:
    """What is to be forgotten: a class, or examples as salted hashes of their ids."""

    __pydantic_config__ = _CLOSED

    kind: Literal["class", "examples"]
    forget_class: int | None
    class_name: str | None
    count: int | None  # examples; None: not known when the request came in
    salt: str  # of this entry's hashes
    ids: tuple[str, ...]  # empty for a class


@dataclass(frozen=True)
class Done:
    """What was done, in a word, and the hash of the audit's whole record of it."""

    __pydantic_config__ = _CLOSED

    name: str
    sha256: str


@dataclass(frozen=True)
class AuditRef:
    """The audit an entry rests on: hashes of its files, and what it said."""

    __pydantic_config__ = _CLOSED

    sha256: str  # of audit.json
    evidence_sha256: str
    verdict: Word
    battery: str
    tier: Tier
    claim: Claim
    significance: float
    power: float
    seed: int


@dataclass(frozen=True)
class Points:
    """The examples on which the re-check looks at a model, as salted hashes of their ids, in this order."""

    __pydantic_config__ = _CLOSED

    group: Group  # the forgotten examples themselves, or held-out ones of the forgotten class
    ids: tuple[str, ...]
    content: str | None  # salted hash over inputs and labels; None: the data were not at hand


@dataclass(frozen=True)
class Reading:
    """Statistics of every oracle on one group of points, after one treatment of its weights."""

    __pydantic_config__ = _CLOSED

    treatment: str
    group: Group
    sigma: float  # typical standard deviation of one example's margin between oracles, the unit of both margins
    oracles: dict[Statistic, tuple[float, ...]]  # [oracle] each
    original: dict[Statistic, float] | None  # the same of the model before the deletion, where it is known


@dataclass(frozen=True)
class Relearning:
    """How models were taught the forgotten again: on the first `shown` points of a group; the others are looked at."""

    __pydantic_config__ = _CLOSED

    group: Group
    shown: int
    steps: int
    lr: float
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Source:
    """Where the examples come from, as in the audit's spec."""

    __pydantic_config__ = _CLOSED

    source: str
    root: str | None
    test_fraction: float
    seed: int


@dataclass(frozen=True)
class Reference:
    """Everything that a re-check needs besides the model and the data."""

    __pydantic_config__ = _CLOSED

    architecture: str
    private: bool
    classes: int
    shape: tuple[int, ...]
    data: Source
    tolerances: dict[str, float]  # audit.tolerances of the spec
    points: tuple[Points, ...]
    readings: tuple[Reading, ...]
    relearning: Relearning | None
    missing: dict[str, str]  # treatment -> why no oracle's statistics are recorded


@dataclass(frozen=True)
class Coins:
    """The canaries of an audited deletion; whose coin fell how is in the manifest that the commitment seals."""

    __pydantic_config__ = _CLOSED

    heads: int
    tails: int
    commitment: str


@dataclass(frozen=True)
class Entry:
    """One line. `number`, `previous` and `hash` are filled in when it is appended."""

    __pydantic_config__ = _CLOSED

    id: str
    state: Step
    date: str  # ISO 8601, of the step
    what: What | None = None  # None: as in the line of this deletion before
    method: Done | None = None
    audit: AuditRef | None = None
    reference: Reference | None = None
    canaries: Coins | None = None
    model_sha256: str | None = None  # of the model that was unlearned, audited or released
    note: str = ""
    schema: int = SCHEMA
    number: int = 0
    previous: str = START
    hash: str = ""

    def sealed(self, number: int, previous: str) -> Entry:
        """The same at its place in the chain."""
        placed = dataclasses.replace(self, number=number, previous=previous, hash="")
        return dataclasses.replace(placed, hash=placed.digest())

    def digest(self) -> str:
        """SHA-256 over everything but the hash itself."""
        body = dataclasses.asdict(self)
        del body["hash"]
        return hashlib.sha256(canonical(body).encode()).hexdigest()

    def line(self) -> str:
        """The entry as it stands in the file: one spelling only, ASCII, without the line's end."""
        return canonical(dataclasses.asdict(self))


_ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


@dataclass(frozen=True)
class Fault:
    """Something wrong with a line, and with which deletion."""

    line: int  # from 1
    id: str | None  # None where the line does not tell
    sentence: str


@dataclass(frozen=True)
class Deletion:
    """One deletion as the ledger tells it: its lines from the first to the last."""

    id: str
    lines: tuple[Entry, ...]

    @property
    def state(self) -> Step:
        return self.lines[-1].state

    @property
    def what(self) -> What | None:
        """What is to be forgotten: the last line that says so."""
        return next((entry.what for entry in reversed(self.lines) if entry.what is not None), None)

    @property
    def audited(self) -> Entry | None:
        """The line of the last audit, unless the deletion was re-opened or carried out again since."""
        for entry in reversed(self.lines):
            if entry.state == "audited":
                return entry
            if entry.state in ("re-opened", "unlearned"):
                return None
        return None


@dataclass(frozen=True)
class Ledger:
    """Every line of a ledger that is whole, in order."""

    entries: tuple[Entry, ...] = ()

    @property
    def head(self) -> str:
        """The hash of the last line: what to keep elsewhere."""
        return self.entries[-1].hash if self.entries else START

    def deletions(self) -> tuple[Deletion, ...]:
        """By deletion, in the order in which they came in."""
        lines: dict[str, list[Entry]] = {}
        for entry in self.entries:
            lines.setdefault(entry.id, []).append(entry)
        return tuple(Deletion(name, tuple(own)) for name, own in lines.items())

    def deletion(self, name: str) -> Deletion | None:
        """One deletion, or None where the ledger does not know it."""
        return next((one for one in self.deletions() if one.id == name), None)


def parse(data: bytes) -> tuple[tuple[Entry, ...], tuple[Fault, ...]]:
    """The lines that can be read, and everything that is wrong, line by line; no fault: the chain is whole."""
    entries: list[tuple[int, Entry]] = []
    faults: list[Fault] = []
    pieces = data.split(b"\n")
    cut = pieces.pop()  # what stands after the last line's end: nothing, in a whole file
    for line, piece in enumerate(pieces, 1):
        found = _parse_line(line, piece)
        if isinstance(found, Fault):
            faults.append(found)
        else:
            entries.append((line, found))
    if cut:
        faults.append(_cut_off(len(pieces) + 1, cut))
    if not faults:  # a chain with unreadable links breaks everywhere; the links are what must be told
        faults += _chain(entries)
    return tuple(entry for _, entry in entries), tuple(faults)


def _parse_line(line: int, piece: bytes) -> Entry | Fault:
    """One line by itself: a whole entry of a schema that is known, in its one spelling, with its own hash."""
    if piece.startswith(tuple(mark.encode() for mark in _CONFLICT)):
        return Fault(
            line,
            None,
            "a merge conflict is left here; take one side whole, then add the entries of the other side again with "
            "'unlearnkit ledger add', since each line carries the hash of the one before",
        )
    try:
        text = piece.decode("ascii")
        body = json.loads(text)
    except (ValueError, RecursionError):  # not ASCII, not JSON
        return Fault(line, None, "not readable as JSON; restore the line from your version control")
    name = body.get("id") if isinstance(body, dict) and isinstance(body.get("id"), str) else None
    if not isinstance(body, dict) or type(body.get("schema")) is not int:
        return Fault(line, name, "not an entry of a ledger (it has no integer 'schema')")
    if body["schema"] != SCHEMA:
        return Fault(
            line,
            name,
            f"an entry of schema {body['schema']}, this version reads schema {SCHEMA}; use the unlearnkit that wrote "
            "it or a newer one",
        )
    try:
        entry = _ENTRY.validate_json(text, strict=True)
        _check(entry)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Fault(line, name, f"not a valid entry: {where or 'line'}: {first['msg'].lower()}")
    except UsageError as error:
        return Fault(line, name, f"not a valid entry: {error}")
    if entry.hash != entry.digest() or entry.line() != text:
        return Fault(line, entry.id, "was changed after it was written: its content is not what its hash says")
    return entry


def _cut_off(line: int, piece: bytes) -> Fault:
    whole = _parse_line(line, piece)
    if isinstance(whole, Entry):
        return Fault(line, whole.id, "its end of line is missing; add an empty line's end to the file")
    if piece.startswith(tuple(mark.encode() for mark in _CONFLICT)):
        return whole
    return Fault(
        line, whole.id, "the last line is cut off; restore it from your version control, or delete what is left of it"
    )


def _chain(entries: Sequence[tuple[int, Entry]]) -> Iterator[Fault]:
    """Whether the lines follow one another, and the states do."""
    numbers = [entry.number for _, entry in entries]
    shuffled = sorted(numbers) == list(range(1, len(numbers) + 1))
    before, number = START, 0
    states: dict[str, Step] = {}
    verdicts: dict[str, Word | None] = {}
    for line, entry in entries:
        name = shown(entry.id)
        if entry.number != number + 1:
            if shuffled:
                told = f"entry {entry.number} stands where entry {line} belongs; the lines were reordered"
            elif entry.number <= number:
                told = f"entry {entry.number} stands after entry {number}; it was repeated or moved"
            else:
                gap = f"entry {number + 1}" if entry.number == number + 2 else f"entries {number + 1} to"
                gap += "" if entry.number == number + 2 else f" {entry.number - 1}"
                told = f"{gap} before {name!r} {'was' if entry.number == number + 2 else 'were'} dropped"
            yield Fault(line, entry.id, told)
        elif entry.previous != before:
            told = "does not carry the hash of the line before; that line was exchanged"
            yield Fault(line, entry.id, told)
        else:
            try:
                check_step(entry, states.get(entry.id), verdicts.get(entry.id))
            except UsageError as error:
                yield Fault(line, entry.id, str(error))
        before, number = entry.hash, entry.number
        states[entry.id] = entry.state
        if entry.state == "audited":
            verdicts[entry.id] = entry.audit.verdict if entry.audit else None


def check_step(entry: Entry, state: Step | None, verdict: Word | None) -> None:
    """Refuse a step that may not follow: one sentence."""
    name = shown(entry.id)
    if entry.state not in NEXT[state]:
        after = "as the first line of a deletion" if state is None else f"after {state!r}"
        raise UsageError(
            f"{name}: {entry.state!r} may not stand {after}; {' or '.join(repr(step) for step in NEXT[state])} may"
        )
    if state is None and entry.what is None:
        raise UsageError(f"{name}: the first line of a deletion must say what is to be forgotten")
    if entry.state == "audited" and entry.audit is None:
        raise UsageError(f"{name}: 'audited' must name an audit; add its audit.json")
    if entry.state == "released" and verdict not in RELEASABLE:
        raise UsageError(
            f"{name}: its last audit says {verdict}; only what passed is released, add 're-opened' and unlearn again"
        )


def _check(entry: Entry) -> None:
    """What types cannot say of an entry."""
    if not entry.id.strip() or len(entry.id) > LONGEST_ID:
        raise UsageError(f"id: must have 1 to {LONGEST_ID} characters, got {len(entry.id)}")
    try:
        canonical(dataclasses.asdict(entry)).encode()
        for text in (entry.id, entry.note):
            text.encode()
    except UnicodeEncodeError as error:
        raise UsageError("id: must be text that can be written as UTF-8") from error
    try:
        day = date.fromisoformat(entry.date)
    except ValueError as error:
        raise UsageError(f"date: must be a day such as 2026-11-21, got {shown(entry.date)!r}") from error
    if day.isoformat() != entry.date:
        raise UsageError(f"date: must be written as {day.isoformat()}, got {shown(entry.date)!r}")
    if entry.model_sha256 is not None and not _HASH.fullmatch(entry.model_sha256):
        raise UsageError("model_sha256: must be 64 hexadecimal digits")
    if entry.what is not None and not _SALT.fullmatch(entry.what.salt):
        raise UsageError("what.salt: must be 32 hexadecimal digits")
    if entry.what is not None and (entry.what.kind == "class") != (entry.what.forget_class is not None):
        raise UsageError("what: a class deletion names its class, and no other does")
    if entry.reference is not None:
        _check_reference(entry.reference)


def _check_reference(reference: Reference) -> None:
    counts = {len(values) for reading in reference.readings for values in reading.oracles.values()}
    if len(counts) > 1 or min(counts, default=2) < 2:
        raise UsageError("reference: all readings must be of the same oracles, at least 2")
    for reading in reference.readings:
        if not reading.oracles or (reading.original is not None and reading.original.keys() != reading.oracles.keys()):
            raise UsageError("reference: a reading needs statistics, and the same ones of the original")
        if not reading.sigma > 0:
            raise UsageError(f"reference: sigma must be above 0, got {reading.sigma:g}")
    groups = [points.group for points in reference.points]
    if len(set(groups)) < len(groups) or not {reading.group for reading in reference.readings} <= set(groups):
        raise UsageError("reference: every group of points must be named once, and every reading must be on one")
    if any(not points.ids for points in reference.points):
        raise UsageError("reference: every group needs a point")
    told = [(reading.treatment, reading.group) for reading in reference.readings]
    if len(set(told)) < len(told):
        raise UsageError("reference: every treatment is read once on a group")
    if any(not 0 < value < 1000 for value in reference.tolerances.values()):
        raise UsageError("reference: tolerances must lie between 0 and 1000")
    if reference.relearning is not None:
        sizes = {points.group: len(points.ids) for points in reference.points}
        again = reference.relearning
        if not (0 < again.shown < sizes.get(again.group, 0) and 0 < again.steps <= 1000 and again.batch_size > 0):
            raise UsageError("reference: relearning must show some points of its group, and keep some")
        if not 0 < again.lr < 1000 or again.seed < 0:
            raise UsageError("reference: relearning needs a learning rate above 0 and a seed of at least 0")


def refuse(path: Path, faults: Sequence[Fault]) -> None:
    """Raise the first fault as one sentence; the others are counted."""
    if not faults:
        return
    more = f" ({len(faults) - 1} further faults; 'unlearnkit ledger verify' names them)" if faults[1:] else ""
    raise UsageError(f"{path}: {in_words(faults[0])}{more}")


def in_words(fault: Fault) -> str:
    """`line 3 ('DR-1'): what is wrong`."""
    whom = "" if fault.id is None else f" ({shown(fault.id[:LONGEST_ID])!r})"
    return f"line {fault.line}{whom}: {shown(fault.sentence)}"


def read_bytes(path: Path) -> bytes:
    """The file's bytes; what keeps it from being read is told in one sentence."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such ledger; 'unlearnkit ledger add' begins one") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a folder; name the ledger in it") from error


def read(path: Path) -> Ledger:
    """A whole ledger; the first fault is refused in one sentence that names line and deletion."""
    entries, faults = parse(read_bytes(path))
    refuse(path, faults)
    return Ledger(entries)


def read_to_check(path: Path, *, head: str | None = None) -> Ledger:
    """A whole ledger to hold a model against: one that holds no deletion is refused, and so is one without `head`.

    head: the hash of the last line that was kept elsewhere. Nobody asks whether nothing is still forgotten: a ledger
    that is empty was emptied, or is the wrong file.
    """
    ledger = read(path)
    if head is not None and since(ledger.entries, head) is None:
        raise UsageError(f"{path}: {LOST}")
    if not ledger.entries:
        raise UsageError(f"{path}: {EMPTY}")
    return ledger


def since(entries: Sequence[Entry], head: str) -> int | None:
    """How many lines follow the one with this hash; None where no line has it. Refuses what is no hash of a line."""
    if not _HASH.fullmatch(head):
        raise UsageError(f"head: must be the 64 hexadecimal digits that 'ledger add' prints as head, got {head!r}")
    return {START: len(entries), **{entry.hash: len(entries) - entry.number for entry in entries}}.get(head)


def append(path: Path, entry: Entry) -> Entry:
    """Add one line, and return it as it stands in the file. Illegal steps are refused, the file stays as it was.

    An audit that the deletion rests on already, and a release that is its last line already, are not added again: that
    line is returned, and the file stays as it was.

    Writers take turns, and read what the others wrote before they write. The new file takes the old one's place whole:
    whatever happens in between, also a kill, the ledger has the whole line or none of it.
    """
    _check(entry)
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn(path.parent):
        data = read_bytes(path) if path.exists() else b""
        entries, faults = parse(data)
        refuse(path, faults)
        ledger = Ledger(entries)
        known = ledger.deletion(entry.id)
        again = None if known is None else _again(entry, known)
        if again is not None:
            return again
        verdict = None if known is None or known.audited is None or known.audited.audit is None else known.audited.audit
        check_step(entry, known.state if known else None, verdict.verdict if verdict else None)
        placed = entry.sealed(len(entries) + 1, ledger.head)
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
        write_atomic(path, data + placed.line().encode() + b"\n")
        if mode is not None:
            path.chmod(mode)
        return placed


def _again(entry: Entry, known: Deletion) -> Entry | None:
    """The line that says all that `entry` does of this audit, where the deletion rests on it, or of this release, where
    nothing came after it; so scripts may run twice.

    Refuses an audit from before the deletion was opened again: it says nothing about what was done since.
    """
    if entry.audit is None:
        last = known.lines[-1]
        same = entry.state == "released" and entry.what is None
        same = same and (last.state, last.model_sha256, last.note) == (entry.state, entry.model_sha256, entry.note)
        return last if same else None
    told = [line for line in known.lines if line.audit is not None and line.audit.sha256 == entry.audit.sha256]
    reopened = max((line.number for line in known.lines if line.state == "re-opened"), default=0)
    if told and told[-1].number < reopened:
        raise UsageError(
            f"{shown(entry.id)}: this audit is line {told[-1].number} already, and line {reopened} opened the deletion "
            "again; add the audit of what was done since"
        )
    now = known.audited
    return now if now is not None and now in told and _recorded(entry) <= _recorded(now) else None


def _recorded(entry: Entry) -> set[tuple[str, Group]]:
    """What a line holds for a re-check: without data or store it is less, and the rest may be added later."""
    if entry.reference is None:
        return set()
    known = {("content", points.group) for points in entry.reference.points if points.content is not None}
    return known | {(reading.treatment, reading.group) for reading in entry.reference.readings}


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One writer at a time in this folder; the lock is the folder's own and leaves no file behind."""
    import fcntl

    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def hashed(salt: str, names: Sequence[str]) -> tuple[str, ...]:
    """Salted hashes of ids: 128 bits each."""
    start = hashlib.sha256(bytes.fromhex(salt))
    found = []
    for name in names:
        digest = start.copy()
        digest.update(name.encode("utf-8", "surrogatepass"))
        found.append(digest.hexdigest()[:32])
    return tuple(found)


def today() -> str:
    """The day in UTC."""
    return datetime.now(UTC).date().isoformat()


def shown(text: str) -> str:
    """Text of somebody else's for a terminal, a log, XML: what is not printable is spelled out, on one line."""
    return "".join(
        c if c.isprintable() or c == "\u00a0" else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def plain(entry: Entry) -> dict[str, Any]:
    """The entry as JSON values, for `show`."""
    body: dict[str, Any] = json.loads(entry.line())
    return body
