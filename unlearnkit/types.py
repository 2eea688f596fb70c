"""The words everyone speaks: Examples, Splits, Deletion, Access, Method, Unlearned, Observation, Attack, Scores."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearnkit.result import UsageError

if TYPE_CHECKING:
    from unlearnkit.train import Recipe

__all__ = [
    "Access",
    "Attack",
    "Deletion",
    "Examples",
    "Method",
    "Need",
    "Observation",
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

    margins: φ = z_y − logsumexp of the other logits, float64 [point, view] (audits.md A1); > 0 means correct.
    logits: float32 [point, view, class]; features: float32 [point, d] of the first view, on request.
    """

    ids: Shaped[np.ndarray, " n"]  # strings
    y: NDArray[np.int64]
    margins: Float[np.ndarray, "n v"]
    logits: Float[np.ndarray, "n v c"]
    features: Float[np.ndarray, "n d"] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Scores:
    """One finite score per point, in the order of the observation. HIGHER = MORE LIKE A TRAINED-ON EXAMPLE."""

    values: Float[np.ndarray, " n"]
    attack: str = field(default="")

    def __post_init__(self) -> None:
        bad = int(np.count_nonzero(~np.isfinite(self.values)))
        if bad:
            raise UsageError(
                f"{self.attack or 'scores'}: every score must be finite, got {bad} of {len(self.values)} that are not"
            )


@dataclass(frozen=True)
class Attack(ABC):
    """A membership attack: observations in, one score per point out. It never learns who is a member."""

    min_references: ClassVar[int] = 0

    @abstractmethod
    def score(self, target: Observation, references: Sequence[Observation] = ()) -> Scores:
        """Score every point of `target`; `references` are other models on the same points."""

    @property
    def name(self) -> str:
        """Class name and the fields that differ from their defaults, as a report prints it."""
        changed = [
            f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self) if getattr(self, f.name) != f.default
        ]
        return type(self).__name__ + (f"({', '.join(changed)})" if changed else "")
