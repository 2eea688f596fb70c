"""The evidence of an audit: a few arrays per model on named points; every statement can be computed from them again."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scipy.special import expit

from unlearnkit.audits.worst_case.stress_evidence import StressEvidence
from unlearnkit.result import Flag, UsageError
from unlearnkit.treatments import COMPRESSED

FloatArray = NDArray[np.float64]
LEFT_OUT = "probe left out"  # name of the note about a probe that not every model answered
# What is asked besides plain looks and probes, as it is registered. UNTRAINED: also the name of its logits.
TREATED, UNTRAINED, SWAP = "treated weights", "untrained copy", "SWAP test"
_NAMED = ("margins", "scores", "correct", "logits", "answers", "readings", "legacy", "treated", "beside")  # by model
PROBED_MODELS = ("original", "audited", "oracles")  # the models of which readings are compared


def _none() -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


def _nobody() -> NDArray[np.uint8]:
    return np.empty(0, dtype=np.uint8)


class Group(enum.IntEnum):
    """What a point is to the audit."""

    REQUESTED = 0  # trained on, to be forgotten
    HEADS = 1  # canary, trained on, to be forgotten
    TWINS = 2  # held out, matched to the requested examples
    TAILS = 3  # canary, never used


@dataclass(frozen=True, eq=False)
class Evidence:
    """Margins and attack scores of every model on the audit's points, and correct answers on the large sets.

    Models are `original`, `audited`, `held_out` (an oracle that is never a reference) and `oracles`; the last two are
    absent where no model was retrained. Arrays end in the axis of points; those of `oracles` begin with the models'.
    """

    group: NDArray[np.uint8]  # [point]
    label: NDArray[np.int64]  # [point]
    margins: Mapping[str, FloatArray]  # model -> [point] or [oracle, point]
    scores: Mapping[str, FloatArray]  # model -> the same shape: the attack's score
    correct: Mapping[str, NDArray[np.int64]]  # "model/split" -> [] or [oracle]
    sizes: Mapping[str, int]  # split -> number of examples
    curves: Mapping[str, FloatArray]  # what the figures draw
    ids: tuple[str, ...] = ()  # of the requested points
    logits: Mapping[str, NDArray[np.float32]] = field(
        default_factory=dict
    )  # model -> [logit point, class], oracles first
    logit_points: NDArray[np.int64] = field(default_factory=_none)  # positions of these among the points
    answers: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)  # model -> right or wrong, [held-out point]
    answer_label: NDArray[np.int64] = field(default_factory=_none)  # [held-out point]
    answer_group: NDArray[np.int64] = field(default_factory=_none)  # [held-out point]; -1: none; empty: no groups
    group_names: tuple[str, ...] = ()  # of these numbers
    ensemble: FloatArray | None = None  # margins of many unlearned models, [model, point]
    readings: Mapping[str, FloatArray] = field(default_factory=dict)  # "probe/model" -> [1], or [oracle] of some
    legacy: Mapping[str, FloatArray] = field(default_factory=dict)  # "published number/model" -> likewise
    treated: Mapping[str, FloatArray] = field(default_factory=dict)  # "treatment/model" -> margins, [treated point]
    treated_points: NDArray[np.int64] = field(default_factory=_none)  # positions of these among the points
    beside: Mapping[str, NDArray[np.float32]] = field(
        default_factory=dict
    )  # model -> margins of points nobody asked to forget, oracles first
    beside_retained: NDArray[np.uint8] = field(default_factory=_nobody)  # of these: 1 retained, 0 held out
    swapped: FloatArray | None = None  # margins after trading places, [pair, 2, first of the requested points]
    swapped_forget: NDArray[np.uint8] | None = None  # what the first model of each pair forgot, [pair, point]
    notes: tuple[Flag, ...] = ()  # what a reader must know of the points
    stress: StressEvidence | None = None  # other sets than the requested one

    def __post_init__(self) -> None:
        points_shape = self.group.shape
        missing = [f"margins/{model}" for model in ("original", "audited") if model not in self.margins]
        if "oracles" in self.margins and "held_out" not in self.margins:
            missing.append("margins/held_out")
        if missing:
            raise UsageError(f"evidence: {missing[0]} is missing; an audit needs it")
        for name, array in (*self.margins.items(), *self.scores.items()):
            rows = 2 if name.rpartition("/")[2] == "oracles" else 1
            if array.ndim != rows or array.shape[-1:] != points_shape or not np.isfinite(array).all():
                raise UsageError(
                    f"evidence: {name} must be finite with {points_shape[0]} points, got shape {array.shape}"
                )
        self._check_part("logits", self.logits, self.logit_points.size)
        self._check_part("answers", self.answers, self.answer_label.size)
        grouped = self.answer_group
        if self.group_names or grouped.size:
            if grouped.shape != self.answer_label.shape:
                raise UsageError(
                    f"evidence: answer_group must have {self.answer_label.size} points, got shape {grouped.shape}"
                )
            if set(grouped[grouped >= 0].tolist()) != set(range(len(self.group_names))):
                raise UsageError(f"evidence: answer_group must hold every number of {len(self.group_names)} names")
        if self.ids and len(self.ids) != self.rows(Group.REQUESTED).size:
            raise UsageError(f"evidence: {len(self.ids)} ids name {self.rows(Group.REQUESTED).size} requested points")
        if self.ensemble is not None and self.ensemble.shape[1:] != points_shape:
            raise UsageError(f"evidence: ensemble must have {points_shape[0]} points, got shape {self.ensemble.shape}")
        self._check_part("treated", self.treated, self.treated_points.size)
        self._check_part("beside", self.beside, self.beside_retained.size)
        self._check_numbers("readings", self.readings, "a probe is put to")
        self._check_numbers("legacy", self.legacy, "a published number is computed for")
        self._check_treated()
        self._check_positions()
        unscored = {f"{name.partition('/')[0]}/{model}" for name in self.scores for model in self.margins}
        if absent := sorted(unscored - set(self.scores)):
            raise UsageError(f"evidence: scores/{absent[0]} is missing; every model must be attacked")

    def _check_numbers(self, what: str, numbers: Mapping[str, FloatArray], why: str) -> None:
        """One per model, of all three kinds of models."""
        for name, values in numbers.items():
            if values.ndim != 1 or not np.isfinite(values).all():
                raise UsageError(f"evidence: {what}/{name} must be finite, one per model, got shape {values.shape}")
        _check_both(what, numbers, PROBED_MODELS, why)

    def _check_treated(self) -> None:
        """All copies or none: with one of them gone, the others would be corrected for fewer."""
        expected = {f"{treatment}/{model}" for treatment in COMPRESSED for model in ("original", "audited")}
        if self.treated and (wrong := sorted(expected ^ set(self.treated))):
            fault = "missing" if wrong[0] in expected else "not known"
            raise UsageError(
                f"evidence: treated/{wrong[0]} is {fault}; original and audited are treated to {', '.join(COMPRESSED)}"
            )

    def _check_positions(self) -> None:
        """What is said of some of the points must be about points that are there."""
        if (
            self.treated_points.size
            and not 0 <= self.treated_points.min() <= self.treated_points.max() < self.group.size
        ):
            raise UsageError(f"evidence: treated_points must lie among {self.group.size} points")
        margins, forget = self.swapped, self.swapped_forget
        if margins is None and forget is None:
            return
        shapes = [[] if part is None else list(part.shape) for part in (margins, forget)]
        pairs, points = shapes[1] if len(shapes[1]) == 2 else (0, 0)
        fits = margins is not None and shapes[0] == [pairs, 2, points] and np.isfinite(margins).all()
        if not fits or not 0 < points <= self.rows(Group.REQUESTED).size:
            raise UsageError(
                "evidence: swapped must be finite margins [pair, 2, point] of requested points, with what was "
                f"forgotten [pair, point], got {' and '.join(map(str, shapes))}"
            )

    def _check_part(self, what: str, arrays: Mapping[str, NDArray[Any]], points: int) -> None:
        """[point, ...], or [oracle, point, ...], on a set of points of its own."""
        for model, array in arrays.items():
            start = (self.oracles, points) if model == "oracles" else (points,)
            if array.shape[: len(start)] != start or not np.isfinite(array).all():
                raise UsageError(f"evidence: {what}/{model} must be finite with {points} points, got {array.shape}")

    def rows(self, group: Group) -> NDArray[np.int64]:
        """Positions of a group's points."""
        return np.flatnonzero(self.group == group)

    @property
    def oracles(self) -> int:
        """How many retrained models the audited one is held against."""
        return len(self.margins["oracles"]) if "oracles" in self.margins else 0

    @cached_property
    def typical(self) -> tuple[FloatArray, FloatArray]:
        """Mean and variance (n - 1 in the denominator) of each point's margin over the oracles, [point]."""
        oracles = self.margins["oracles"]
        return oracles.mean(axis=0), oracles.var(axis=0, ddof=1)

    @cached_property
    def missed(self) -> FloatArray:
        """Mean over the oracles of one minus the probability of the true class, [point]."""
        return np.asarray(expit(-self.margins["oracles"]).mean(axis=0))

    def part(self, points: NDArray[np.int64], oracles: NDArray[np.int64] | None = None) -> Evidence:
        """Margins and scores of some points, and of some oracles, in the order given; nothing else that has points."""
        chosen = slice(None) if oracles is None else oracles

        def of(arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
            return {n: a[chosen][:, points] if n.endswith("oracles") else a[points] for n, a in arrays.items()}

        return replace(
            self,
            group=self.group[points],
            label=self.label[points],
            margins=of(self.margins),
            scores=of(self.scores),
            correct={n: a[chosen] if n.startswith("oracles/") else a for n, a in self.correct.items()},
            ids=(),
            logits={},
            logit_points=_none(),
            answers={},
            answer_label=_none(),
            answer_group=_none(),
            group_names=(),
            ensemble=None,
            treated={},
            treated_points=_none(),
            beside={},
            beside_retained=_nobody(),
            swapped=None,
            swapped_forget=None,
            stress=None,
        )

    def stack(self, arrays: Mapping[str, FloatArray], target: str) -> FloatArray:
        """[1 + oracle, point]: the target first, then every reference oracle."""
        return np.concatenate([arrays[target][None], arrays["oracles"]])

    def to_bytes(self) -> bytes:
        """The sidecar file: safetensors, same arrays in, same bytes out."""
        arrays: dict[str, NDArray[np.generic]] = {"points/group": self.group, "points/label": self.label}
        named: dict[str, Mapping[str, NDArray[Any]]] = {name: getattr(self, name) for name in _NAMED}
        for prefix, values in named.items():
            arrays |= {f"{prefix}/{name}": np.atleast_1d(value) for name, value in values.items()}
        arrays |= {f"sizes/{name}": np.array([size]) for name, size in self.sizes.items()}
        arrays |= dict(self.curves)
        if self.ids:
            arrays["ids"] = np.frombuffer(json.dumps(self.ids).encode(), dtype=np.uint8)
        if self.notes:
            arrays["notes"] = np.frombuffer(json.dumps([asdict(note) for note in self.notes]).encode(), dtype=np.uint8)
        if self.logits:
            arrays["logit_points"] = self.logit_points
        if self.answers:
            arrays["answer_label"] = self.answer_label
        if self.group_names:
            arrays["answer_group"] = self.answer_group
            arrays["group_names"] = np.frombuffer(json.dumps(self.group_names).encode(), dtype=np.uint8)
        if self.treated:
            arrays["treated_points"] = self.treated_points
        if self.beside:
            arrays["beside_retained"] = self.beside_retained
        for name in ("ensemble", "swapped", "swapped_forget"):
            if (part := getattr(self, name)) is not None:
                arrays[name] = part
        if self.stress is not None:
            arrays |= self.stress.to_arrays()
        return save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})

    @property
    def told(self) -> frozenset[str]:
        """What was asked of the models besides plain looks, by the names under which it is registered."""
        names = {name.rpartition("/")[0] for name in self.readings}
        names |= {TREATED} if self.treated else set()
        names |= {UNTRAINED} if UNTRAINED in self.logits else set()
        names |= {SWAP} if self.swapped is not None else set()
        return frozenset(names)

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str = "evidence") -> Evidence:
        """Read a sidecar back."""
        try:
            arrays = dict(sorted(load(data).items()))  # as read, their order is left to chance
            part = {
                prefix: {
                    name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")
                }
                for prefix in (*_NAMED, "sizes")
            }
            return cls(
                group=arrays["points/group"],
                label=arrays["points/label"],
                margins=part["margins"],
                scores=part["scores"],
                correct=part["correct"],
                sizes={name: int(size[0]) for name, size in part["sizes"].items()},
                curves={name: a for name, a in arrays.items() if name.startswith("roc/")},
                ids=tuple(json.loads(arrays["ids"].tobytes())) if "ids" in arrays else (),
                logits=part["logits"],
                logit_points=arrays.get("logit_points", _none()),
                answers=part["answers"],
                answer_label=arrays.get("answer_label", _none()),
                answer_group=arrays.get("answer_group", _none()),
                group_names=tuple(json.loads(arrays["group_names"].tobytes())) if "group_names" in arrays else (),
                ensemble=arrays.get("ensemble"),
                readings=part["readings"],
                legacy=part["legacy"],
                treated=part["treated"],
                treated_points=arrays.get("treated_points", _none()),
                beside=part["beside"],
                beside_retained=arrays.get("beside_retained", _nobody()),
                swapped=arrays.get("swapped"),
                swapped_forget=arrays.get("swapped_forget"),
                notes=tuple(Flag(**note) for note in json.loads(arrays["notes"].tobytes()))
                if "notes" in arrays
                else (),
                stress=StressEvidence.from_arrays(arrays),
            )
        except Exception as error:
            raise UsageError(f"{what}: not readable as the evidence of an audit ({error})") from error


def envelope(curves: Sequence[tuple[FloatArray, FloatArray]], grid: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest true positive rate of several staircases at each false positive rate of `grid`."""
    heights = np.stack([tpr[np.searchsorted(fpr, grid, side="right") - 1] for fpr, tpr in curves])
    return heights.min(axis=0), heights.max(axis=0)


def _check_both(what: str, arrays: Mapping[str, Any], models: Sequence[str], why: str) -> None:
    """Whatever there is of one model must be there of the others."""
    asked = {f"{name.rpartition('/')[0]}/{model}" for name in arrays for model in models}
    if absent := sorted(asked - set(arrays)):
        raise UsageError(f"evidence: {what}/{absent[0]} is missing; {why} {', '.join(models)}")
