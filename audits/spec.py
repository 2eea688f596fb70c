"""One TOML file, mapped 1:1 onto dataclasses; an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import TypeAdapter

from unlearnkit.audits.canaries import Kind, check_amount
from unlearnkit.audits.designs import Tolerances
from unlearnkit.audits.groups import group_pattern
from unlearnkit.methods.hyperparameters import unquoted
from unlearnkit.result import Claim, Tier, UsageError, nearest
from unlearnkit.train import Augmentation, OptimizerName, Privacy, Schedule

T = TypeVar("T")

SearchName = Literal[
    "bilevel",
    "pool-loss",
    "pool-memorization",
    "pool-neighbors",
    "mislabeled",
    "attack",
    "near",
    "far",
    "group",
    "duplicates",
    "class",
]
Over = Literal["examples", "classes"]
StepRule = Literal["scale-free", "constant", "average"]


@dataclass(frozen=True)
class DataSpec:
    """[data]"""

    source: str = "digits"  # digits, npz:PATH, folder:PATH, torchvision:NAME, module:function
    root: str | None = None  # where torchvision data lie
    download: bool = False  # torchvision only, and only when asked
    test_fraction: float = 0.2  # for sources without a test set
    seed: int = 0  # of that split

    def __post_init__(self) -> None:
        _check_seed("data", self.seed)


@dataclass(frozen=True)
class ModelSpec:
    """[model]"""

    architecture: str = "small-cnn"
    weights: str | None = None  # the original; left out: trained by the recipe


@dataclass(frozen=True)
class RecipeSpec:
    """[recipe]: the fields of `Recipe`."""

    epochs: int = 20
    batch_size: int = 64
    optimizer: OptimizerName = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "one-cycle"
    augment: Augmentation = "none"
    label_smoothing: float = 0.0
    trainer: str | None = None
    compiled: bool = False
    privacy: Privacy | None = None  # [recipe.privacy]


@dataclass(frozen=True)
class CanarySpec:
    """[canaries]: planted when the original is trained; half of them, by coin, are trained on and later deleted."""

    count: int = 0  # candidates, both sides together; 0: none
    kind: Kind = "mislabeled"
    amount: float | None = None  # patch: side in pixels; gaussian: standard deviation as a share of the inputs' range
    seed: int | None = None  # left out: secret coins, sealed in OUT/canaries.json; given: coins that can be repeated
    manifest: str | None = None  # opens the canaries of a model that was trained before

    def __post_init__(self) -> None:
        _check_seed("canaries", self.seed)
        check_amount(self.kind, self.amount)
        if self.kind == "memorized":
            raise UsageError(
                "canaries.kind: memorized canaries are chosen by scores that a spec cannot hold; plant them with "
                "plant_canaries() in Python, and name their manifest in canaries.manifest"
            )


@dataclass(frozen=True)
class DeletionSpec:
    """[deletion]: exactly one of the three ways to say what."""

    id: str = "deletion"
    forget_class: int | None = None
    forget_ids: str | None = None  # a text file, one id a line
    forget_fraction: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_seed("deletion", self.seed)


@dataclass(frozen=True)
class AuditSpec:
    """[audit]"""

    tier: Tier = "minutes"
    seed: int = 0
    oracles: int | None = None  # models retrained without the data; left out: the standard of the tier
    claim: Claim = "approximate"  # exact: grant no tolerance
    significance: float = 0.05
    power: float = 0.8
    unlearned: str | None = None  # weights that somebody else unlearned; takes the place of [method]
    device: str = "cpu"
    group_pattern: str | None = None  # for accuracy by group: its first parenthesis is the group in an id
    group_file: str | None = None  # or a CSV file with the columns id and group
    tolerances: Tolerances = field(default_factory=Tolerances)

    def __post_init__(self) -> None:
        _check_seed("audit", self.seed)
        if self.group_pattern is not None and self.group_file is not None:
            raise UsageError(
                "audit.group_file: audit.group_pattern already says how held-out examples are grouped; give one of them"
            )
        if self.group_pattern is not None:
            group_pattern(self.group_pattern, "audit.group_pattern")
        for name in ("significance", "power"):
            value = getattr(self, name)
            if not 0 < value < 1:
                hint = f"; write {value:g} percent as {value / 100:g}" if 1 <= value < 100 else ""
                raise UsageError(f"audit.{name}: must lie between 0 and 1, got {value:g}{hint}")
        if self.power < 0.5:
            raise UsageError(
                f"audit.power: must be at least 0.5, got {self.power:g}; with less, a PASS would rest on a leak that "
                "the audit misses more often than it finds it"
            )


@dataclass(frozen=True)
class ReportSpec:
    """[report]"""

    organization: str = ""
    letterhead: str | None = None  # a TOML file: organization, contact, logo, language, words


@dataclass(frozen=True)
class MethodSpec:
    """[method]: a name, and the hyperparameters of that method."""

    name: str = "Retrain"
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorstCaseSpec:
    """[worst_case]: which forget set to search, and how to prove that it is hard."""

    search: SearchName = "bilevel"
    size: int | float = 0.1  # examples (or classes); below 1: a share of the training examples
    id: str | None = None  # left out: that of [deletion], if it has one, else the name of the search
    seed: int = 0
    methods: list[str | dict[str, Any]] = field(default_factory=list)  # audited; empty: that of [method]
    against: list[str | dict[str, Any]] = field(default_factory=list)  # searched against; empty: the search's default
    # bilevel
    over: Over = "examples"
    upper: int = 20
    lower: int = 10
    lr: float = 1e-3
    gamma: float = 0.0
    batch_size: int = 256
    step: StepRule = "scale-free"
    pace: float = 1.0
    rate: float = 0.01
    budget: int | None = None  # bilevel: passes over the training data; attack: unlearnings
    # pool-loss, pool-memorization, pool-neighbors, mislabeled, attack
    pool: int = 16  # models on random halves
    partial: bool = False  # leave out points that no model of the pool has not seen, instead of refusing
    # attack
    attack: str | None = None  # left out: the margin shift
    repeats: int = 2
    exchange: float = 0.3
    # group, class
    pattern: str | None = None  # a regular expression; its first parenthesis is the group in an id
    group: str | None = None  # left out: the largest
    forget_class: int | None = None
    # the certificate
    random: int = 5  # random sets beside each found one
    oracles: int = 5  # retrained without each set
    unlearnings: int = 3  # by each method of each set

    def __post_init__(self) -> None:
        _check_seed("worst_case", self.seed)


@dataclass(frozen=True)
class Spec:
    """A whole file. Paths in it are relative to `folder`, the folder of the file."""

    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    recipe: RecipeSpec = field(default_factory=RecipeSpec)
    canaries: CanarySpec = field(default_factory=CanarySpec)
    deletion: DeletionSpec | None = None
    method: MethodSpec | None = None
    audit: AuditSpec = field(default_factory=AuditSpec)
    report: ReportSpec = field(default_factory=ReportSpec)
    worst_case: WorstCaseSpec | None = None
    folder: Path = field(default_factory=Path)
    file: str = field(default="", compare=False)  # as the user named it, for errors; empty: no file

    def path(self, name: str) -> Path:
        """A path of the file, seen from the file's folder."""
        return self.folder / name

    def plain(self) -> dict[str, Any]:
        """The sections with their defaults filled in, ready for JSON; where the file lies is the user's own affair."""
        sections = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("folder", "file")}
        plain = {name: dataclasses.asdict(section) for name, section in sections.items() if section is not None}
        if self.method is not None:
            plain["method"] = {"name": self.method.name, **self.method.params}
        return plain


_SECTIONS: dict[str, type] = {
    "data": DataSpec,
    "model": ModelSpec,
    "recipe": RecipeSpec,
    "canaries": CanarySpec,
    "deletion": DeletionSpec,
    "audit": AuditSpec,
    "report": ReportSpec,
    "worst_case": WorstCaseSpec,
}


def read_spec(path: Path) -> Spec:
    """Read a spec; every mistake becomes one sentence that names the key."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such spec file") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a folder; name the TOML file in it") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not text; a spec is a TOML file in UTF-8") from error
    try:
        body = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beside mistakes: thousands of brackets, or of digits
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    return dataclasses.replace(parse_spec(body, folder=path.parent, what=str(path)), file=str(path))


def parse_spec(body: Mapping[str, Any], *, folder: Path, what: str = "spec") -> Spec:
    """A parsed TOML document -> Spec."""
    sections: dict[str, Any] = {}
    for name, values in body.items():
        if name not in _SECTIONS and name != "method":
            known = [*_SECTIONS, "method"]
            hint = nearest(name, known) or f"; there are {', '.join(known)}"
            raise UsageError(f"{what}: unknown section [{name}]{hint}")
        if not isinstance(values, Mapping):
            raise UsageError(f"{what}: {name} must be a section ([{name}] on a line of its own), got {values!r}")
        if name == "method":
            sections[name] = _method(values, what)
        else:
            with naming(what):
                sections[name] = _section(_SECTIONS[name], values, f"{what}: {name}")
        _check_finite(values, f"{what}: {name}")
    return Spec(**sections, folder=folder)


@contextlib.contextmanager
def naming(file: str) -> Iterator[None]:
    """Errors about what a spec says begin with the name of its file, if it has one."""
    try:
        yield
    except UsageError as error:
        said = str(error).removeprefix("spec: ")
        if not file or said.startswith(f"{file}: "):
            raise
        raise UsageError(f"{file}: {said}") from error


def _check_finite(value: Any, where: str) -> None:
    """Refuse what TOML calls nan and inf: no setting can be that, and no result can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: must be a finite number, got {value!r}")
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        _check_finite(part, f"{where}.{key}")


def _method(values: Mapping[str, Any], what: str) -> MethodSpec:
    params = dict(values)
    name = params.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"{what}: method.name must name a method ('unlearnkit methods' lists them), got {name!r}")
    return MethodSpec(name, params)


def _section(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    known = [f.name for f in fields]
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in known:
            hint = nearest(key, known) or f"; known are {', '.join(known)}"
            raise UsageError(f"{where}.{key}: unknown key{hint}")
        inner = _inner(hints[key])
        if inner is not None and value is not None and not isinstance(value, inner):
            if not isinstance(value, Mapping):
                table = f"{where.rpartition(' ')[2]}.{key}"
                raise UsageError(f"{where}.{key}: must be a section ([{table}]), got {value!r}")
            values = {**values, key: _section(inner, value, f"{where}.{key}")}
    for f in fields:
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values:
            raise UsageError(f"{where}.{f.name}: is missing and has no default; say what it is to be")
    read: dict[str, Any] = {}
    for key, value in values.items():
        try:
            read[key] = TypeAdapter(hints[key]).validate_python(value, strict=True)  # TOML has types: "20" is no number
        except pydantic.ValidationError as error:
            said = error.errors()[0]["msg"].lower()
            raise UsageError(f"{where}.{key}: {said}, got {value!r}{unquoted(value, said)}") from error
    return kind(**read)


def _inner(hint: Any) -> type | None:
    """The dataclass that a field holds: a section within its section."""
    kinds = (hint, *typing.get_args(hint))
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def _check_seed(section: str, seed: int | None) -> None:
    if seed is not None and seed < 0:
        raise UsageError(f"{section}.seed: must be at least 0, got {seed}")


def parse_overrides(spec: Spec, *, tier: str | None, device: str | None) -> Spec:
    """The spec with what the command line says instead; checked like the file."""
    given = {name: value for name, value in (("tier", tier), ("device", device)) if value is not None}
    if not given:
        return spec
    fields = {f.name: getattr(spec.audit, f.name) for f in dataclasses.fields(spec.audit)} | given
    return dataclasses.replace(spec, audit=_section(AuditSpec, fields, "audit"))
