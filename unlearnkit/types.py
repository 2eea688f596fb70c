"""The words everyone speaks: Examples, Splits, Deletion, Method, Unlearned, Observation, Attack, Scores, Probe."""

from __future__ import annotations

import copy
import dataclasses
import enum
import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearnkit.masks import Stage, State
from unlearnkit.result import Flag, UsageError

if TYPE_CHECKING:
    from unlearnkit.train import Recipe

__all__ = [
    "Access",
    "Attack",
    "Deletion",
    "Examples",
    "Holds",
    "Known",
    "Method",
    "Need",
    "Observation",
    "Probe",
    "Reading",
    "References",
    "Scores",
    "Splits",
    "Unlearned",
    "UsageError",
]

_HASH_CHUNK = 1 << 24  # bytes read at once when a memory-mapped data set is hashed


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples with stable ids. `x` may be memory-mapped: `take` copies only what it takes.

    x: uint8 [n, c, h, w] in 0..255 or float [n, ...]; uint8 images are scaled by the model's own first layer.
    y: int64 class labels [n], float targets, or None where a method may not see labels.
    ids: n distinct strings that name the examples for ever (a file name, "train/17").
    """

    x: UInt8[Tensor, "n ..."] | Float[Tensor, "n ..."]
    y: Int[Tensor, " n"] | Float[Tensor, " n"] | None
    ids: Shaped[np.ndarray, " n"]  # strings

    def __post_init__(self) -> None:
        if len(self.x) != len(self.ids) or (self.y is not None and len(self.y) != len(self.x)):
            labels = "no" if self.y is None else str(len(self.y))
            raise UsageError(
                f"examples: inputs, labels and ids must have one length, got {len(self.x)} inputs, {labels} labels, "
                f"{len(self.ids)} ids"
            )

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Examples:
        """The named rows (indices or a mask of length n), copied."""
        if rows.dtype == bool and rows.shape != (len(self),):
            raise UsageError(
                f"examples: a mask must have one entry per example, got {rows.size} for {len(self)} examples"
            )
        index = torch.from_numpy(np.flatnonzero(rows) if rows.dtype == bool else np.array(rows, dtype=np.int64))
        y = None if self.y is None else self.y[index]
        return Examples(self.x[index], y, self.ids[index.numpy()])

    def without_labels(self) -> Examples:
        """The same inputs with `y=None`."""
        return Examples(self.x, None, self.ids)

    def labels(self) -> Int[Tensor, " n"]:
        """The class labels; refuses examples that carry none."""
        if self.y is None:
            raise UsageError("examples: labels are needed here, but these examples were handed over without labels")
        if self.y.is_floating_point():
            raise UsageError(f"examples: class labels are needed here, but these examples carry {self.y.dtype} targets")
        return self.y.long()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shapes, types, ids and every byte of inputs and labels."""
        digest = hashlib.sha256()
        for array in (self.x, self.y):
            if array is None:
                digest.update(b"none")
                continue
            digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
            rows = max(1, _HASH_CHUNK // max(1, array[:1].numel() * array.element_size()))
            for start in range(0, len(array), rows):
                digest.update(np.ascontiguousarray(array[start : start + rows].numpy()).data)
        digest.update(json.dumps(self.ids.tolist()).encode())  # an id may hold a line break
        return digest.hexdigest()


def join(*parts: Examples) -> Examples:
    """One set after the other; all with labels or all without."""
    if len({part.y is None for part in parts}) > 1:
        raise UsageError("join: either all parts carry labels or none does")
    y = None if parts[0].y is None else torch.cat([part.y for part in parts if part.y is not None])
    return Examples(torch.cat([part.x for part in parts]), y, np.concatenate([part.ids for part in parts]))


@dataclass(frozen=True, eq=False)
class Splits:
    """The three sets of a deletion, and the twins: held-out examples matched to the forget examples.

    forget and retain together are what the original model was trained on; test and twins were never trained on.
    """

    forget: Examples
    retain: Examples
    test: Examples
    forget_class: int | None = None  # set when the request is to forget one whole class
    twins: Examples | None = None

    def __post_init__(self) -> None:
        for name in ("forget", "retain", "test"):
            if len(getattr(self, name)) == 0:
                remedy = {
                    "forget": "name at least one training example",
                    "retain": "keep at least one training example",
                    "test": "hold some examples out",
                }[name]
                raise UsageError(f"splits: the {name} set is empty; {remedy}")
        parts = {"forget": self.forget, "retain": self.retain, "test": self.test}
        if self.twins is not None:
            parts["twins"] = self.twins
        for first, second in itertools.combinations(parts, 2):
            if (first, second) == ("test", "twins"):  # twins may be taken from the test set
                continue
            both = np.intersect1d(parts[first].ids, parts[second].ids)
            if both.size:
                raise UsageError(
                    f"splits: {both.size} examples are in {first} and in {second}, the first is {str(both[0])!r}"
                )
        kinds = {f"{part.x.dtype} {list(part.x.shape[1:])}".removeprefix("torch.") for part in parts.values()}
        if len(kinds) > 1:
            raise UsageError(
                f"splits: {', '.join(parts)} must have one input type and shape, got {' and '.join(sorted(kinds))}"
            )


@dataclass(frozen=True)
class Deletion:
    """A request: an id, and exactly one way to say which training examples are to be forgotten."""

    id: str
    forget_class: int | None = None
    forget_ids: tuple[str, ...] | None = None
    forget_fraction: float | None = None  # share of the training examples, drawn by `seed`
    seed: int = 0

    def __post_init__(self) -> None:
        ways = [w for w in ("forget_class", "forget_ids", "forget_fraction") if getattr(self, w) is not None]
        if len(ways) != 1:
            given = "none of them" if not ways else " and ".join(ways)
            raise UsageError(
                f"deletion {self.id!r}: give exactly one of forget_class, forget_ids, forget_fraction; got {given}"
            )
        if self.forget_ids is not None and not self.forget_ids:
            raise UsageError(f"deletion {self.id!r}: forget_ids is empty; name at least one training example")
        if self.forget_fraction is not None and not 0 < self.forget_fraction < 1:
            raise UsageError(
                f"deletion {self.id!r}: forget_fraction must lie between 0 and 1 (0.1 is a tenth), "
                f"got {self.forget_fraction}"
            )

    def rows(self, ids: Shaped[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> NDArray[np.int64]:
        """The sorted positions that the request names among the training examples' ids and labels."""
        if self.forget_class is not None:
            rows = np.flatnonzero(labels == self.forget_class)
            if not rows.size:
                raise UsageError(
                    f"deletion {self.id!r}: class {self.forget_class} does not occur in the training data; "
                    f"classes are {labels.min()} to {labels.max()}"
                )
        elif self.forget_ids is not None:
            wanted = np.unique(np.array(self.forget_ids))
            missing = np.setdiff1d(wanted, ids)
            rows = np.flatnonzero(np.isin(ids, wanted))
            if missing.size:
                raise UsageError(
                    f"deletion {self.id!r}: {missing.size} of {wanted.size} forget ids are not in the training data, "
                    f"the first is {str(missing[0])!r}; ids look like {str(ids[0])!r}"
                )
        else:
            assert self.forget_fraction is not None  # one of three, checked on construction
            count = round(self.forget_fraction * len(ids))
            if not count:
                raise UsageError(
                    f"deletion {self.id!r}: forget_fraction {self.forget_fraction} of {len(ids)} examples is none; "
                    f"ask for at least {1 / len(ids):.2g}"
                )
            rows = np.sort(np.random.default_rng(self.seed).permutation(len(ids))[:count])
        if rows.size == len(ids):
            raise UsageError(f"deletion {self.id!r}: all {len(ids)} training examples would be forgotten; keep some")
        return rows


class Need(enum.Flag):
    """What a method must see. `Access` hands over exactly what is declared, and the report prints it."""

    FORGET_INPUTS = enum.auto()
    FORGET_LABELS = enum.auto()
    RETAIN_INPUTS = enum.auto()
    RETAIN_LABELS = enum.auto()
    UNSEEN = enum.auto()  # held-out examples with labels
    PRETRAINED = enum.auto()  # the model before it was trained on the data
    RECIPE = enum.auto()  # how the original was trained
    CLASS_WISE = enum.auto()  # works only when one whole class is to be forgotten

    FORGET = FORGET_INPUTS | FORGET_LABELS
    RETAIN = RETAIN_INPUTS | RETAIN_LABELS

    def names(self) -> tuple[str, ...]:
        """Lower-case names of the single needs, in the order of declaration."""
        return tuple(need.name.lower() for need in Need if need in self and need.name)


@dataclass(frozen=True, eq=False)
class Access:
    """Exactly what a method declared in `needs`; anything else raises the sentence that says how to declare it."""

    granted: Need
    method: str
    _forget: Examples
    _retain: Examples
    _forget_class: int | None = None
    _unseen: Examples | None = None
    _pretrained: nn.Module | None = None
    _recipe: Recipe | None = None

    def _examples(self, part: str, examples: Examples) -> Examples:
        inputs, labels = Need[f"{part.upper()}_INPUTS"], Need[f"{part.upper()}_LABELS"]
        self._require(inputs)
        return examples if labels in self.granted else examples.without_labels()

    def _require(self, need: Need) -> None:
        if need not in self.granted:
            raise UsageError(
                f"{self.method} asked for {need.names()[0]} without declaring it; add Need.{need.name} to its `needs`"
            )

    @property
    def forget(self) -> Examples:
        """The examples to forget; `y` is None unless FORGET_LABELS is declared."""
        return self._examples("forget", self._forget)

    @property
    def retain(self) -> Examples:
        """The examples to keep; `y` is None unless RETAIN_LABELS is declared."""
        return self._examples("retain", self._retain)

    @property
    def forget_class(self) -> int:
        """The class to forget (class-wise methods only)."""
        self._require(Need.CLASS_WISE)
        assert self._forget_class is not None  # checked by unlearn() before the method runs
        return self._forget_class

    @property
    def unseen(self) -> Examples:
        """Held-out examples with labels."""
        self._require(Need.UNSEEN)
        assert self._unseen is not None
        return self._unseen

    @property
    def pretrained(self) -> nn.Module:
        """The model before it was trained on the data."""
        self._require(Need.PRETRAINED)
        assert self._pretrained is not None
        return self._pretrained

    @property
    def recipe(self) -> Recipe:
        """How the original was trained."""
        self._require(Need.RECIPE)
        assert self._recipe is not None
        return self._recipe


@dataclass(frozen=True)
class Method(ABC):
    """An unlearning method. Fields are the hyperparameters, with the paper's defaults; `run` is the only code.

    Users never call `run`: `unlearn()` copies the model, grants access, seeds, runs, verifies and times.
    """

    forgets_most: ClassVar[bool] = False  # whether the forget set may be larger than the retain set

    @property
    @abstractmethod
    def needs(self) -> Need:
        """What the method must see: a class variable, or a property where a hyperparameter decides it."""

    @abstractmethod
    def run(self, model: nn.Module, access: Access, rng: torch.Generator) -> nn.Module:
        """Edit `model` (a private copy in eval mode) and return it; draw every random number from `rng`."""

    @property
    def name(self) -> str:
        """The name users write in a spec: the class name."""
        return type(self).__name__

    @property
    def params(self) -> dict[str, Any]:
        """The hyperparameters as plain values, ready for JSON; a field that holds a method is spelled out."""
        return {
            f.name: {"name": value.name, **value.params} if isinstance(value, Method) else value
            for f in dataclasses.fields(self)
            for value in [getattr(self, f.name)]
        }


@dataclass(frozen=True, eq=False)
class Unlearned:
    """A model after unlearning, with the record of how it came about."""

    model: nn.Module
    method: str
    params: dict[str, Any]
    saw: tuple[str, ...]  # names of the granted needs
    seed: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Observation:
    """What one model says about named points: computed once, shared by every attack.

    margins: φ = z_y − logsumexp of the other logits, float64 [point, view] (audits.md A1); > 0: p_y above one half.
    logits: float32 [point, view, class], None where only margins were kept (the pools of a fleet).
    features: float32 [point, d] of the first view, on request.
    """

    ids: Shaped[np.ndarray, " n"]  # strings
    y: NDArray[np.int64]
    margins: Float[np.ndarray, "n v"]
    logits: Float[np.ndarray, "n v c"] | None = None
    features: Float[np.ndarray, "n d"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def outputs(self) -> Float[np.ndarray, "n v c"]:
        """The logits; refuses an observation that kept margins only."""
        if self.logits is None:
            raise UsageError("observation: logits are needed here, but only margins were kept; observe with logits")
        return self.logits

    def right(self) -> NDArray[np.bool_]:
        """Whether the largest logit of the first view is the label's, [point]. A margin below 0 can be right, too."""
        return np.asarray(self.outputs()[:, 0].argmax(axis=-1) == self.y)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Observation:
        """The named points (indices or a mask)."""
        return Observation(
            self.ids[rows],
            self.y[rows],
            self.margins[rows],
            None if self.logits is None else self.logits[rows],
            None if self.features is None else self.features[rows],
        )


@dataclass(frozen=True, eq=False)
class References:
    """What other models of the same recipe say about the same points, and what each point was to each of them.

    margins: float32 or float64 [model, point, view]. state: `masks.State` [model, point] – OUT: the model never saw the
    point; IN: it was trained on it; FORGOTTEN: trained on it, then unlearned.
    """

    margins: Float[np.ndarray, "m n v"]
    state: UInt8[np.ndarray, "m n"]

    def __post_init__(self) -> None:
        if self.state.shape != self.margins.shape[:2]:
            raise UsageError(
                "references: the mask must have one entry per model and point, got "
                f"{list(self.state.shape)} for margins {list(self.margins.shape)}"
            )
        if self.state.size and self.state.max() > max(State):
            raise UsageError(f"references: the mask holds 0 (out), 1 (in) or 2 (forgotten), got {self.state.max()}")
        bad = int(np.count_nonzero(~np.isfinite(self.margins)))
        if bad:
            raise UsageError(f"references: every margin must be finite, got {bad} that are not")

    def __len__(self) -> int:
        return len(self.margins)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> References:
        """All models on the named points (indices or a mask)."""
        return References(self.margins[:, rows], self.state[:, rows])

    def without(self, model: int) -> References:
        """All models but one: what is left when that one plays the target."""
        rest = np.arange(len(self)) != model
        return References(self.margins[rest], self.state[rest])

    @staticmethod
    def unseen(observations: Sequence[Observation]) -> References:
        """Models that were trained on none of the points: oracles, or shadows on a population."""
        margins = np.stack([one.margins for one in observations])
        return References(margins, np.full(margins.shape[:2], State.OUT, dtype=np.uint8))

    @staticmethod
    def from_pool(
        margins: Float[np.ndarray, "m s n v"], state: UInt8[np.ndarray, "m n"], *, out_stage: Stage
    ) -> References:
        """For each model of a pool and each point, what it says at the stage that matters.

        margins [model, stage, point, view], stages in the order of `masks.Stage`. A FORGOTTEN point is read off the
        unlearned model. The others are read at `out_stage`: UNLEARNED, so that the reference is a model which unlearned
        without this point (did the point leave a trace?), or TRAINED, so that it is a model retrained without it (does
        the unlearned model look retrained?; then any global change that unlearning makes counts as a trace).
        """
        if margins.ndim != 4 or margins.shape[1] != len(Stage):
            raise UsageError(
                "references: a pool must hold margins [model, stage, point, view] of two stages, trained and "
                f"unlearned, got {list(margins.shape)}"
            )
        if state.shape != (margins.shape[0], margins.shape[2]):
            raise UsageError(
                "references: the mask must have one entry per model and point, got "
                f"{list(state.shape)} for a pool {list(margins.shape)}"
            )
        if out_stage is Stage.UNLEARNED:
            return References(margins[:, Stage.UNLEARNED], state)
        forgotten = (state == State.FORGOTTEN)[..., None]
        return References(np.where(forgotten, margins[:, Stage.UNLEARNED], margins[:, out_stage]), state)


class Holds(enum.Flag):
    """What an attacker must hold besides the target's margins on the points in question. Each attack declares it."""

    OUT = enum.auto()  # for every point, reference models that never saw it
    IN = enum.auto()  # for every point, reference models trained on it
    FORGOTTEN = enum.auto()  # for every point, reference models that were trained on it and unlearned it
    POPULATION = enum.auto()  # the target on further points that no model was trained on
    POPULATION_REFERENCES = enum.auto()  # the reference models on those points
    MEMBERS = enum.auto()  # the target on further points that it was trained on and kept
    ORIGINAL = enum.auto()  # the model before the deletion, on the same points
    LOGITS = enum.auto()  # whole outputs, not margins only
    FEATURES = enum.auto()

    def names(self) -> tuple[str, ...]:
        """Lower-case names, in the order of declaration."""
        return tuple(one.name.lower() for one in Holds if one in self and one.name)


@dataclass(frozen=True, eq=False)
class Known:
    """What an attacker holds besides the target's answers. Attacks get it whole and declare in `holds` what they use.

    population and members are the *target's* answers on points with known state; population_references are the
    reference models on the population, in the order of `references`; original is the model before the deletion.
    """

    references: References | None = None
    population: Observation | None = None
    population_references: References | None = None
    members: Observation | None = None
    original: Observation | None = None

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Known:
        """The same, on some of the points in question."""
        return dataclasses.replace(
            self,
            references=None if self.references is None else self.references.take(rows),
            original=None if self.original is None else self.original.take(rows),
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """One finite score per point that can be scored. HIGHER = MORE LIKE A TRAINED-ON EXAMPLE.

    rows: positions of the scored points among those in question; None: all of them, in order. flags: what a reader must
    know of these scores (points left out, scores that do not differ).
    """

    values: Float[np.ndarray, " k"]
    attack: str = field(default="")
    rows: NDArray[np.int64] | None = None
    flags: tuple[Flag, ...] = ()

    def __post_init__(self) -> None:
        bad = int(np.count_nonzero(~np.isfinite(self.values)))
        if bad:
            raise UsageError(
                f"{self.attack or 'scores'}: every score must be finite, got {bad} of {len(self.values)} that are not"
            )


@dataclass(frozen=True)
class Attack(ABC):
    """A membership attack: one score per point. It never learns who is a member among the points in question.

    Authors write `run`; users call `score`, which checks what the attacker holds, sets aside points that no reference
    covers, and flags scores that say nothing.
    """

    holds: ClassVar[Holds] = Holds(0)
    weight: ClassVar[bool] = True  # False: kept for comparison with published numbers, and never part of a verdict

    @abstractmethod
    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        """One finite score per point of `target`, higher = more like trained on. Every point is covered by `holds`."""

    @final
    def score(self, target: Observation, known: Known | None = None) -> Scores:
        """Score the points of `target`. Points that lack a reference of a needed state are left out, and flagged."""
        known = known or Known()
        self._check(target, known)
        rows: NDArray[np.int64] | None = None
        flags: tuple[Flag, ...] = ()
        if known.references is not None:
            state = known.references.state
            rows, flags = self.left_out(target.ids, {one: (state == one).any(axis=0) for one in self.states()})
        if rows is not None:
            target, known = target.take(rows), known.take(rows)
        values = np.asarray(self.run(target, known), dtype=np.float64)
        return self.sealed(values, rows, flags + self.doubts(target, known))

    def doubts(self, target: Observation, known: Known) -> tuple[Flag, ...]:
        """What a reader must know of scores made from this evidence; attacks add theirs."""
        del target, known
        return ()

    @final
    def states(self) -> tuple[State, ...]:
        """The states in which every scored point must have a reference."""
        return tuple(state for held, state in _STATES.items() if held in self.holds)

    @final
    def sealed(
        self, values: NDArray[np.float64], rows: NDArray[np.int64] | None, flags: tuple[Flag, ...] = ()
    ) -> Scores:
        """The scores with this attack's name, flagged where they do not differ."""
        if values.size > 1 and np.ptp(values) == 0:
            flags += (Flag("constant scores", f"{self.name}: every point has the same score; it tells nobody apart."),)
        return Scores(values, self.name, rows, flags)

    def _check(self, target: Observation, known: Known) -> None:
        if not len(target):
            raise UsageError(f"{self.name}: there is no point to score")
        for owner, seen in (
            ("the target's", target),
            ("the population's", known.population),
            ("the members'", known.members),
            ("the original's", known.original),
        ):
            for what in ("margins", "logits", "features"):
                bad = _not_finite(getattr(seen, what, None))
                if bad:
                    raise UsageError(f"{self.name}: {owner} {what} must be finite, got {bad} that are not")
        for held in self.holds & ~_OF_REFERENCES:
            part = {
                Holds.POPULATION: known.population,
                Holds.POPULATION_REFERENCES: known.population_references,
                Holds.MEMBERS: known.members,
                Holds.ORIGINAL: known.original,
                Holds.LOGITS: target.logits,
                Holds.FEATURES: target.features,
            }[held]
            if part is None or not len(part):
                raise UsageError(f"{self.name}: needs {_IN_WORDS[held]}")
        if self.holds & _OF_REFERENCES and (known.references is None or not len(known.references)):
            states = " and ".join(_IN_WORDS[held] for held in self.holds & _OF_REFERENCES)
            raise UsageError(f"{self.name}: needs {states}; hand them over as known.references")
        for name, other in (("references", known.references), ("original", known.original)):
            if other is not None:
                shape = other.margins.shape[-2:]
                if shape != target.margins.shape:
                    raise UsageError(
                        f"{self.name}: the {name} must be seen on the target's points and views, "
                        f"{list(target.margins.shape)}, got {list(shape)}"
                    )

    @final
    def left_out(
        self, ids: Shaped[np.ndarray, " n"], has: Mapping[State, NDArray[np.bool_]]
    ) -> tuple[NDArray[np.int64] | None, tuple[Flag, ...]]:
        """Rows of the points that have a reference of every needed state (None: all), and flags that name the rest.

        has: for each of `states()`, [point]: is there such a reference?
        """
        covered = np.ones(len(ids), dtype=bool)
        flags = []
        words = {state: _IN_WORDS[held] for held, state in _STATES.items() if held in self.holds}
        for state, in_words in words.items():
            lacking = ~has[state]
            if lacking.any():
                first = str(ids[np.flatnonzero(lacking)[0]])
                flags.append(
                    Flag(
                        "points without references",
                        f"{self.name}: {np.count_nonzero(lacking)} of {len(ids)} points are left out, the first is "
                        f"{first!r}: no reference is among {in_words} for them.",
                    )
                )
            covered &= ~lacking
        if not covered.any():
            raise UsageError(f"{self.name}: no point has {' and '.join(words.values())}")
        return (None if covered.all() else np.flatnonzero(covered)), tuple(flags)

    @property
    def name(self) -> str:
        """Class name and the fields that differ from their defaults, as a report prints it."""
        return _with_changes(self)


def _not_finite(array: Float[np.ndarray, "*shape"] | None) -> int:
    """How many are NaN or infinite."""
    return 0 if array is None else int(np.count_nonzero(~np.isfinite(array)))


def _with_changes(instance: Attack | Probe) -> str:
    changed = [
        f"{f.name}={getattr(instance, f.name)}"
        for f in dataclasses.fields(instance)
        if f.repr and getattr(instance, f.name) != f.default
    ]
    return type(instance).__name__ + (f"({', '.join(changed)})" if changed else "")


_STATES = {Holds.OUT: State.OUT, Holds.IN: State.IN, Holds.FORGOTTEN: State.FORGOTTEN}
_OF_REFERENCES = Holds.OUT | Holds.IN | Holds.FORGOTTEN
_IN_WORDS = {
    Holds.OUT: "reference models that never saw the points",
    Holds.IN: "reference models that were trained on the points",
    Holds.FORGOTTEN: "reference models that were trained on the points and unlearned them",
    Holds.POPULATION: "a population: the target's answers on further points that no model was trained on",
    Holds.POPULATION_REFERENCES: "the reference models' answers on the population (known.population_references)",
    Holds.MEMBERS: "members: the target's answers on further points that it was trained on and kept",
    Holds.ORIGINAL: "the original: what the model before the deletion says about the same points",
    Holds.LOGITS: "the target's logits; observe with logits",
    Holds.FEATURES: "the target's features; observe with features=True",
}


@dataclass(frozen=True, eq=False)
class Reading:
    """What a probe reads off one model: one number and the curve it sums up. HIGHER = MORE IS LEFT OF THE FORGET SET.

    at: what the curve runs over (steps of relearning, bits, share of weights removed …), in the probe's `unit`.
    """

    value: float
    at: Float[np.ndarray, " k"]
    curve: Float[np.ndarray, " k"]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.value) and np.isfinite(self.at).all() and np.isfinite(self.curve).all()):
            raise UsageError("reading: a probe must read finite numbers off a model")


@dataclass(frozen=True)
class Probe(ABC):
    """A question to an open model that is answered by editing it or looking inside: what comes back, how fast?

    A reading means nothing by itself: retrained models relearn, too. Audits rank it among readings of oracles, made
    with the same seed. Authors write `run`; users call `read`.
    """

    unit: ClassVar[str] = ""  # of Reading.at
    class_wise: ClassVar[bool] = False  # asks about a whole forgotten class

    @abstractmethod
    def run(self, model: nn.Module, splits: Splits, rng: torch.Generator) -> Reading:
        """Ask `model`, a private copy in eval mode that may be edited; draw every random number from `rng`."""

    @final
    def read(self, model: nn.Module, splits: Splits, *, seed: int = 0) -> Reading:
        """Ask a copy of the model; the model stays as it was, bit for bit."""
        if self.class_wise and splits.forget_class is None:
            raise UsageError(f"{self.name}: asks about a forgotten class; this deletion names single examples")
        asked = copy.deepcopy(model).eval()
        return self.run(asked, splits, torch.Generator().manual_seed(seed))

    @property
    def name(self) -> str:
        """Class name and the fields that differ from their defaults, as a report prints it."""
        return _with_changes(self)
