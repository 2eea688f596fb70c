"""What an audit says: intervals, outcomes, controls, verdict and the versioned result file. Needs no torch."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import ConfigDict, TypeAdapter

SCHEMA = 3
T = TypeVar("T")

State = Literal["PASS", "LEAK_BELOW_TOLERANCE", "INCONCLUSIVE", "FAIL", "INVALID"]
Word = Literal["PASS", "CONSISTENT", "INCONCLUSIVE", "FAIL", "INVALID"]
Claim = Literal["approximate", "exact"]
Tier = Literal["seconds", "minutes", "hours"]
EXIT_CODES: dict[str, int] = {"PASS": 0, "CONSISTENT": 0, "FAIL": 1, "INCONCLUSIVE": 3, "INVALID": 4}


class UsageError(ValueError):
    """Wrong use, said in one sentence a user can act on. The command line prints it and exits with 2."""


class Changed(UsageError):
    """A file whose content does not match its own digest: somebody changed it."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, whatever its case, or nothing when none is near."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits; `None` stands for a limit that does not exist (unbounded)."""

    low: float | None
    value: float
    high: float | None
    confidence: float = 0.95


@dataclass(frozen=True)
class Quantity:
    """A further number of a test, named and with its unit; `value` None comes with the reason in `why`."""

    name: str
    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    why: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What one test says about the audited model.

    leak: distance from what retraining would give, in `unit`; 0 = indistinguishable, negative = below it.
    tolerance: the largest |leak| the controller accepts, fixed beforehand. mde: the smallest |leak| that this test by
    itself (by p, uncorrected) finds with power 0.8. p: no leak at all; p_tolerance: the leak is within tolerance;
    `*_adjusted`: corrected for the number of tests. original: the same leak measured on the untouched original, the
    trace there was to remove.
    """

    name: str
    kind: str  # "coin" or "rank"
    unit: str
    group: str  # which examples it looks at
    leak: Interval
    tolerance: float
    mde: float | None
    p: float
    p_adjusted: float
    p_tolerance: float
    p_tolerance_adjusted: float
    original: Interval | None
    original_p: float | None
    required: bool
    state: State
    sentence: str
    quantities: tuple[Quantity, ...] = ()


@dataclass(frozen=True)
class Control:
    """A check of the auditor itself, made within the audit."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Flag:
    """Something a reader must know before trusting a number."""

    name: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The overall word, one headline sentence and the reasons behind it."""

    word: Word
    headline: str
    why: tuple[str, ...]
    mde: tuple[str, ...]  # "would we have noticed?": one sentence per design


@dataclass(frozen=True)
class Accuracy:
    """Share of correct answers of one model on one set, with its exact 95 % interval (Clopper-Pearson)."""

    model: str  # "original", "audited", "oracles" (the mean over all of them)
    split: str  # "forget", "retain", "test", "canaries", "twins"
    correct: float  # for the oracles: the mean count
    n: int
    rate: Interval  # for the oracles: mean with the smallest and the largest oracle


@dataclass(frozen=True)
class Request:
    """What was asked."""

    id: str
    kind: Literal["class", "examples"]
    sentence: str  # "forget 144 of 1,437 training images"
    forget: int
    of: int
    forget_class: int | None
    class_name: str | None
    canaries: int  # how many of the forget examples are coin canaries
    fingerprint: str  # SHA-256 over the sorted ids to be forgotten


@dataclass(frozen=True)
class DataRecord:
    """What the models were trained on."""

    source: str
    fingerprint: str
    train: int
    test: int
    shape: tuple[int, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ModelRecord:
    """Which models were looked at; hashes are SHA-256 of the file handed in, or of the weights as safetensors."""

    architecture: str
    parameters: int
    original_sha256: str
    audited_sha256: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class MethodRecord:
    """What was done."""

    name: str
    sentence: str
    params: dict[str, Any]
    saw: tuple[str, ...] | None  # None: unknown
    seed: int | None
    seconds: float | None  # None when somebody else did it


@dataclass(frozen=True)
class OracleRecord:
    """What it was held against."""

    count: int
    seeds: tuple[int, ...]
    seconds: float | None  # mean time of one training
    held_out_seed: int | None
    missing: tuple[str, ...] = ()  # retrainings that were asked for and failed: name and reason


@dataclass(frozen=True)
class CanaryRecord:
    """The coin canaries: how many, of which kind, and the commitment to their coins."""

    kind: str
    heads: int
    tails: int
    commitment: str
    opened: bool  # sealed in a manifest before this audit and opened by it; False: drawn in this run, before training


@dataclass(frozen=True)
class Comparison:
    """A distance from the retrained models that describes and decides nothing, beside what they keep from each other.

    oracles: each retrained model held against the others: smallest, mean, largest. p: exact rank p-value of the
    audited model's value among theirs, not corrected for the number of rows; None where a single model has none.
    """

    name: str
    unit: str
    value: float
    oracles: Interval
    p: float | None
    original: float | None  # the untouched original's value
    sentence: str


@dataclass(frozen=True)
class Individual:
    """One forgotten example, and how far its margin lies from that of the retrained models."""

    id: str
    z: float  # in their standard deviations; above 0: above retraining
    direction: Literal["remembered", "over-forgotten", "equal"]  # stored words; reports say above or below retraining
    p_rank: float  # exact, never below 1 / (oracles + 1)
    p_adjusted: float  # against the farthest example of each oracle: all examples are counted (maxT, exact)


@dataclass(frozen=True)
class Individuals:
    """What a mean over the forgotten examples can hide.

    above: share of the requested examples farther than `limit` from the retrained models; floor: the largest share of
    a retrained model among its peers. p: exact rank p-value of that share. flagged: examples with p_adjusted <= the
    significance.
    """

    limit: float  # standard deviations between retrained models
    above: Interval
    floor: float
    p: float
    flagged: int
    worst: tuple[Individual, ...]
    assumes: str
    resolution: str


@dataclass(frozen=True)
class GroupGap:
    """Accuracy on one class or group of held-out examples, against the retrained models."""

    name: str
    n: int
    audited: float
    oracles: Interval  # smallest, mean, largest
    gap: Interval  # audited minus the mean of the oracles, with limits
    p_adjusted: float  # rank test, corrected over the groups (maxT)


@dataclass(frozen=True)
class Collateral:
    """What unlearning cost others: held-out accuracy by class or group, and the one that lost most."""

    groups: tuple[GroupGap, ...]
    worst: str
    drop: float  # of the worst group, against the mean of the oracles
    p: float  # exact, although the group was picked afterwards
    sentence: str


@dataclass(frozen=True)
class SetRecord:
    """One forget set: a found one, or a random one beside it."""

    name: str
    kind: str  # found, random
    against: str  # the method in whose way it was put; empty: none, or a random set
    size: int
    classes: tuple[int, ...]  # how many examples of each class
    fingerprint: str  # SHA-256 of the sorted ids, one a line
    forget_class: int | None
    retrained: dict[str, Interval]  # UA, RA, TA of its oracles, percent


@dataclass(frozen=True)
class Measure:
    """One number of a method on a set, beside that of the oracles of that very set."""

    name: str
    unit: str
    audited: Interval  # mean over unlearnings with different seeds
    oracles: Interval
    gap: Interval  # audited minus oracles
    p: float | None = None  # exact rank of the first unlearning among the oracles, where at least 19 are ranked


@dataclass(frozen=True)
class Cell:
    """One method on one set."""

    method: str
    set: str
    measures: tuple[Measure, ...]
    average_gap: Interval  # mean distance of UA, RA, TA (and MIA) from retraining, percentage points, over the seeds
    floor: float | None  # the same of one oracle held against the others; None for a single oracle


@dataclass(frozen=True)
class Hardness:
    """A found set among the random ones."""

    method: str  # empty: of the oracles themselves
    set: str
    measure: str
    found: float
    random: Interval
    ratio: float | None  # None where the random sets have none
    p: float  # exact; bounded below by 1 / (1 + random sets)


@dataclass(frozen=True)
class HardExample:
    """One of the hardest examples of a set; its image lies in the evidence, where the inputs are images."""

    id: str
    label: str  # name of its class
    score: float


@dataclass(frozen=True)
class StressSets:
    """Tier `hours`: the method asked to forget other sets than the requested one, each against its own oracles.

    Says what a request for harder examples would meet; no verdict hangs on it. No requested example is in a set.
    hardest: of the found set with the largest average gap, in the order of `unit`. floor: the average gap of one oracle
    against the others, the mean over sets.
    """

    method: str
    confidence: float
    oracles: int  # of each set
    unlearnings: int  # of each set
    pool: int  # models on random halves that the sets were found by
    sets: tuple[SetRecord, ...]
    cells: tuple[Cell, ...]
    hardness: tuple[Hardness, ...]
    floor: float | None
    hardest_set: str
    hardest: tuple[HardExample, ...]
    unit: str
    sentences: tuple[str, ...]
    left_out: tuple[str, ...]  # sets of this tier that could not be asked for, each with its reason


@dataclass(frozen=True)
class PrivacyRecord:
    """Differentially private training: what the accountant promises, and what this audit measured on the original."""

    epsilon: float
    delta: float
    noise_multiplier: float
    clip: float
    sample_rate: float
    steps: int
    accountant: str
    measured: float | None  # lower bound of ε from the canaries of the original, one run; None without enough canaries
    guesses: int
    correct: int
    confidence: float


@dataclass(frozen=True)
class Registration:
    """What was fixed before the audit computed a score: the document, and its hash under which the store keeps it."""

    sha256: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Environment:
    """Where and when; no two runs share this block, all other blocks are the same for the same command."""

    unlearnkit: str
    python: str
    torch: str
    numpy: str
    platform: str
    device: str
    started: str  # ISO 8601, UTC
    seconds: float


@dataclass(frozen=True)
class Evidence:
    """The sidecar with the arrays from which the verdict can be computed again."""

    file: str
    sha256: str


@dataclass(frozen=True)
class AuditResult:
    """Everything an audit found: the product. A report is a pure function of it and of its evidence."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    schema: int
    battery: str
    tier: Tier
    significance: float
    power: float
    seed: int
    organization: str
    command: str
    spec: dict[str, Any]  # the whole spec, defaults filled in: what the command read
    request: Request
    data: DataRecord
    model: ModelRecord
    method: MethodRecord
    oracles: OracleRecord | None
    canaries: CanaryRecord | None
    tolerances: dict[str, float]
    accuracy: tuple[Accuracy, ...]
    tests: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    flags: tuple[Flag, ...]
    verdict: Verdict
    captions: dict[str, str]  # what the figures show: "roc", "margins"
    evidence: Evidence
    environment: Environment
    claim: Claim = "approximate"
    nonstandard: tuple[str, ...] = ()  # what the user changed from the standard of the battery
    registration: Registration | None = None
    comparisons: tuple[Comparison, ...] = ()
    individuals: Individuals | None = None
    collateral: Collateral | None = None
    privacy: PrivacyRecord | None = None
    by_group: Collateral | None = None  # the same by the groups that the spec names, not by class
    stress: StressSets | None = None

    def to_json(self) -> str:
        """The file's text, with a digest over all of it; NaN and infinity are refused."""
        return sealed(self)

    @classmethod
    def from_json(cls, text: str | bytes, *, what: str = "audit.json") -> AuditResult:
        """Read and validate; refuses a newer schema, a file that is not a result, and one whose digest is wrong."""
        return opened(cls, text, what=what, kind="audit result", mark="battery", schema=SCHEMA, file="audit.json")


def sealed(result: Any) -> str:
    """A result as the text of a file, with a digest over all of it; NaN and infinity are refused."""
    body = dataclasses.asdict(result)
    return json.dumps({**body, "digest": _digest(body)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def opened(
    cls: type[T], text: str | bytes, *, what: str, kind: str, mark: str, schema: int, file: str = "JSON file"
) -> T:
    """Read and validate what `sealed` wrote; `Changed` where the digest is wrong, else `UsageError` in one sentence.

    mark: a field that no other kind of result has. file: what to name instead of a page.
    """
    if text[:5] in ("%PDF-", b"%PDF-"):
        raise UsageError(f"{what}: a PDF; name its {file}")
    try:
        body = json.loads(text, parse_constant=_refuse)
        json.dumps(body, allow_nan=False)  # 1e999 reads as infinity
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what}: not readable as JSON ({error})") from error
    if not isinstance(body, dict) or mark not in body or type(body.get("schema")) is not int:
        missing = repr(mark) if isinstance(body, dict) and mark not in body else "integer 'schema'"
        raise UsageError(f"{what}: not {_article(kind)} of unlearnkit (it has no {missing})")
    if body["schema"] != schema:
        raise UsageError(
            f"{what}: {kind} of schema {body['schema']}, this version reads schema {schema}; "
            "use the unlearnkit that wrote it or a newer one"
        )
    digest = body.pop("digest", None)
    try:
        result = TypeAdapter(cls).validate_json(json.dumps(body), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{what}: not a valid {kind}: {where}: {first['msg']}") from error
    if digest != _digest(body):
        raise Changed(f"{what}: the content does not match its own digest; the file was changed afterwards")
    return result


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number; a result holds null and the reason instead")


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def evidence_path(audit: Path, result: AuditResult) -> Path:
    """Where the sidecar of a result file lies: beside it, and nowhere else."""
    return beside(audit, result.evidence)


def beside(audit: Path, evidence: Evidence) -> Path:
    """`evidence_path` of a result of any kind."""
    name = evidence.file
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise UsageError(f"{audit}: the evidence must be a file beside the result, got {name!r}")
    return audit.parent / name
