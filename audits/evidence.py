"""The evidence of an audit: a few arrays per model on named points; every statement can be computed from them again."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from unlearnkit.result import UsageError

FloatArray = NDArray[np.float64]


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

    def __post_init__(self) -> None:
        points = self.group.shape
        missing = [f"margins/{model}" for model in ("original", "audited") if model not in self.margins]
        if "oracles" in self.margins and "held_out" not in self.margins:
            missing.append("margins/held_out")
        if missing:
            raise UsageError(f"evidence: {missing[0]} is missing; an audit needs it")
        for name, array in (*self.margins.items(), *self.scores.items()):
            rows = 2 if name.rpartition("/")[2] == "oracles" else 1
            if array.ndim != rows or array.shape[-1:] != points or not np.isfinite(array).all():
                raise UsageError(f"evidence: {name} must be finite with {points[0]} points, got shape {array.shape}")
        unscored = {f"{name.partition('/')[0]}/{model}" for name in self.scores for model in self.margins}
        if absent := sorted(unscored - set(self.scores)):
            raise UsageError(f"evidence: scores/{absent[0]} is missing; every model must be attacked")

    def rows(self, group: Group) -> NDArray[np.int64]:
        """Positions of a group's points."""
        return np.flatnonzero(self.group == group)

    @property
    def oracles(self) -> int:
        """How many retrained models the audited one is held against."""
        return len(self.margins["oracles"]) if "oracles" in self.margins else 0

    def stack(self, arrays: Mapping[str, FloatArray], target: str) -> FloatArray:
        """[1 + oracle, point]: the target first, then every reference oracle."""
        return np.concatenate([arrays[target][None], arrays["oracles"]])

    def to_bytes(self) -> bytes:
        """The sidecar file: safetensors, same arrays in, same bytes out."""
        arrays: dict[str, NDArray[np.generic]] = {"points/group": self.group, "points/label": self.label}
        for prefix, part in (("margins", self.margins), ("scores", self.scores), ("correct", self.correct)):
            arrays |= {f"{prefix}/{name}": np.atleast_1d(value) for name, value in part.items()}
        arrays |= {f"sizes/{name}": np.array([size]) for name, size in self.sizes.items()}
        arrays |= dict(self.curves)
        return save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})

    @classmethod
    def from_bytes(cls, data: bytes, *, what: str = "evidence") -> Evidence:
        """Read a sidecar back."""
        try:
            arrays = load(data)
            part = {
                prefix: {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(prefix)}
                for prefix in ("margins", "scores", "correct", "sizes")
            }
            return cls(
                group=arrays["points/group"],
                label=arrays["points/label"],
                margins=part["margins"],
                scores=part["scores"],
                correct=part["correct"],
                sizes={name: int(size[0]) for name, size in part["sizes"].items()},
                curves={name: a for name, a in arrays.items() if name.startswith("roc/")},
            )
        except Exception as error:
            raise UsageError(f"{what}: not readable as the evidence of an audit ({error})") from error


def envelope(curves: Sequence[tuple[FloatArray, FloatArray]], grid: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest true positive rate of several staircases at each false positive rate of `grid`."""
    heights = np.stack([tpr[np.searchsorted(fpr, grid, side="right") - 1] for fpr, tpr in curves])
    return heights.min(axis=0), heights.max(axis=0)
