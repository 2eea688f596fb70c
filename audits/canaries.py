"""Coin canaries: examples planted by a coin that is committed before training and opened in the audit.

Of 2m candidates a random half (heads) is trained on and later deleted, the other half (tails) is never used. If
unlearning were exact, the released model would not depend on the coins, so that permuting them gives an exact test
with one model and no oracle (audits.md 4.6).

Heads and tails of a kind get the same treatment: tails carry the label, patch or noise that they would have been
trained with. Only then are they exchangeable, and only then is the test exact. Kinds (audits.md 5, 3.7, 3.8):

- natural: as they are. mislabeled: a label drawn among the wrong ones. memorized: as they are, and chosen by scores of
  memorization, such as the margin in shadows that saw an example minus that in shadows that did not.
- ood: a noise image, or one of a set that is handed over, under a label drawn at random.
- patch: one random patch at one place, all under one label; `planted.patch_test` asks the model for that patch.
- gaussian: Gaussian noise on the input, of its own for each; `planted.noise_test` asks for that noise.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor

from unlearnkit.audits.designs import MIN_CANARIES
from unlearnkit.data import mapped_from
from unlearnkit.result import UsageError
from unlearnkit.store import canonical, write_atomic
from unlearnkit.types import Examples

Kind = Literal["natural", "mislabeled", "memorized", "ood", "patch", "gaussian"]
AMOUNTED = ("patch", "gaussian")  # kinds of which there is more or less
# Pawelczyk et al. 2024 plant a variance of 0.32 on CIFAR-10 images whose channels have a deviation of about a quarter
# of their range.
NOISE = 0.14
_MEASURED = 1 << 22  # numbers looked at once


@dataclass(frozen=True)
class Treatment:
    """What was done to the inputs of the canaries, heads and tails alike."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    seed: str  # hexadecimal: patch, noise or images are drawn from it
    amount: float  # patch: side in pixels; gaussian: standard deviation as a share of the inputs' range; ood: 0
    digest: str  # SHA-256 of all inputs as they are planted, in the order of the ids
    given: bool = False  # ood: the inputs are those of a set that was handed over, and must be again


@dataclass(frozen=True)
class Manifest:
    """The sealed record: which examples, which labels and inputs they were given, how each coin fell, and the salt."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: str
    ids: tuple[str, ...]
    labels: tuple[int, ...]  # the label a canary carries in training, and in the audit
    heads: tuple[bool, ...]
    salt: str  # keeps the commitment from being guessed, unless the coins were drawn from a known seed
    treatment: Treatment | None = None  # of the inputs, where the kind changes them

    @property
    def commitment(self) -> str:
        """SHA-256 to publish before training; it fixes coins, labels and inputs and gives none of them away."""
        sealed = {"class": f"{__name__}.Manifest"} | {f.name: getattr(self, f.name) for f in fields(self)}
        if self.treatment is None:  # manifests were sealed before there were treatments
            del sealed["treatment"]
        return hashlib.sha256(canonical(sealed).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the manifest with its commitment, atomically. Keep it sealed until the audit."""
        body = {**asdict(self), "commitment": self.commitment}
        if self.treatment is None:
            del body["treatment"]
        write_atomic(path, (json.dumps(body, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest and hold it against its commitment."""
        try:
            body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            commitment = body.pop("commitment")
            manifest: Manifest = TypeAdapter(cls).validate_json(json.dumps(body), strict=True)
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such canary manifest") from error
        except IsADirectoryError as error:
            raise UsageError(f"{path}: is a folder; name the canary manifest in it") from error
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise UsageError(f"{path}: not a canary manifest of unlearnkit") from error
        if not len(manifest.ids) == len(set(manifest.ids)) == len(manifest.labels) == len(manifest.heads):
            raise UsageError(f"{path}: not a canary manifest: each canary needs one id of its own, a label and a coin")
        if commitment != manifest.commitment:
            raise UsageError(
                f"{path}: the manifest does not open its commitment {str(commitment)[:12]}…; coins, ids or labels were "
                "changed after it was sealed"
            )
        return manifest


@dataclass(frozen=True, eq=False)
class Planted:
    """A training set with canaries in it.

    Inputs are shared with the set they were planted in where no kind changes them. Where one does, a memory-mapped set
    is mapped once more, privately: only what the canaries changed lies in memory, and the file stays as it is. Inputs
    in memory are copied.
    """

    train: Examples  # all rows; canaries carry their planted label and input
    heads: NDArray[np.int64]  # rows to be trained on and later deleted
    tails: NDArray[np.int64]  # rows never to be used


def draw(
    train: Examples,
    *,
    count: int,
    classes: int,
    seed: int | None,
    kind: Kind = "mislabeled",
    amount: float | None = None,
    scores: Float[np.ndarray, " n"] | None = None,
    outside: Examples | None = None,
) -> Manifest:
    """Draw `count` candidates of a kind and toss their coins: exactly half are heads.

    seed None: coins, and what is planted, come from the system's source of secrets, and nobody can draw them again. A
    seed repeats them, for whoever knows it.
    amount: of patch (side in pixels; left out, a quarter of the image's) and gaussian (standard deviation as a share
    of the inputs' range; left out, `NOISE`).
    scores: one per training example for kind memorized, higher = more memorized; from models that are blind to the
    coins. outside: examples that kind ood takes its inputs from; left out, noise.

    A wrong label is uniform over the other classes. Mislabeled canaries leave the plainest trace among natural images
    (audits.md 5). Raises UsageError for what the kind or the data do not allow.
    """
    _check(train, count, kind, amount, scores, outside)
    rng = np.random.default_rng(secrets.randbits(128) if seed is None else [seed, 0xC01])
    if scores is None:
        rows = rng.permutation(len(train))[:count]
    else:
        rows = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:count]
    labels = train.labels().numpy()[rows]
    if kind == "mislabeled":
        labels = (labels + rng.integers(1, classes, size=count)) % classes
    elif kind == "ood":
        labels = rng.integers(classes, size=count)
    elif kind == "patch":
        labels = np.full(count, rng.integers(classes))
    heads = np.zeros(count, dtype=bool)
    heads[rng.permutation(count)[: count // 2]] = True
    salt = rng.bytes(16).hex()
    treatment = None
    if kind in ("ood", *AMOUNTED):
        usual = {"ood": 0.0, "gaussian": NOISE, "patch": float(max(2, min(train.x.shape[1:][-2:]) // 4))}
        treatment = Treatment(rng.bytes(16).hex(), usual[kind] if amount is None else float(amount), "", bool(outside))
        digest = _digest(_inputs(train, rows, kind, treatment, outside))
        treatment = replace(treatment, digest=digest)
    return Manifest(
        kind=kind,
        ids=tuple(str(i) for i in train.ids[rows]),
        labels=tuple(int(label) for label in labels),
        heads=tuple(bool(head) for head in heads),
        salt=salt,
        treatment=treatment,
    )


def plant(train: Examples, manifest: Manifest, *, outside: Examples | None = None) -> Planted:
    """Give heads and tails their labels and inputs, and hold the tails out, as the manifest says.

    outside: the set that canaries of kind ood were taken from, if they were taken from one.
    """
    rows, heads = rows_of(train, manifest), np.array(manifest.heads)
    labels = train.labels().clone()
    labels[torch.from_numpy(rows)] = torch.tensor(manifest.labels)
    x, treatment = train.x, manifest.treatment
    if treatment is not None:
        if treatment.given and outside is None:
            raise UsageError(
                "canaries: these were taken from another set, which the manifest does not hold; hand it over to "
                "plant() as `outside`"
            )
        inputs = _inputs(train, rows, manifest.kind, treatment, outside)
        if _digest(inputs) != treatment.digest:
            raise UsageError(
                "canaries: the inputs that would be planted are not those that were sealed; the data have changed, or "
                "another version of numpy draws other numbers"
            )
        place = mapped_from(x.numpy())
        x = x.clone() if place is None else torch.from_numpy(place.open())
        x[torch.from_numpy(rows)] = inputs
    return Planted(Examples(x, labels, train.ids), np.sort(rows[heads]), np.sort(rows[~heads]))


def plant_canaries(
    train: Examples,
    path: Path,
    *,
    count: int,
    classes: int,
    kind: Kind = "mislabeled",
    seed: int | None = None,
    amount: float | None = None,
    scores: Float[np.ndarray, " n"] | None = None,
    outside: Examples | None = None,
) -> tuple[Planted, Manifest]:
    """Plant canaries in a training set of your own: draw them, seal the manifest at `path`, and hand back the set.

    Train on all rows but `tails`, publish `manifest.commitment` first, and let `[canaries] manifest = path` open it in
    the audit. Arguments as in `draw`. Raises UsageError where a manifest lies at `path` already: its coins are tossed.
    """
    if path.exists():
        raise UsageError(f"{path}: a file is there already; canaries whose coins are tossed must not be drawn again")
    manifest = draw(
        train, count=count, classes=classes, seed=seed, kind=kind, amount=amount, scores=scores, outside=outside
    )
    planted = plant(train, manifest, outside=outside)
    manifest.save(path)
    return planted, manifest


def rows_of(train: Examples, manifest: Manifest) -> NDArray[np.int64]:
    """Where the canaries lie in the training data, in the order of the manifest."""
    position = {str(name): row for row, name in enumerate(train.ids)}
    missing = [name for name in manifest.ids if name not in position]
    if missing:
        raise UsageError(
            f"canaries: {len(missing)} of {len(manifest.ids)} canaries are not in the training data, the first is "
            f"{missing[0]!r}; the manifest belongs to other data"
        )
    return np.array([position[name] for name in manifest.ids], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Patch:
    """Pixels in the units of the inputs, float32 [channel, side, side], and where they are stamped."""

    pixels: Float[Tensor, "c s s"]
    top: int
    left: int

    def stamp(self, x: Tensor) -> Tensor:
        """A copy of images [n, c, h, w] with the patch on each."""
        side, stamped = self.pixels.shape[-1], x.clone()
        stamped[:, :, self.top : self.top + side, self.left : self.left + side] = _as(self.pixels, x)
        return stamped


def patch_of(train: Examples, manifest: Manifest) -> Patch:
    """The patch that canaries of kind patch carry."""
    return _patch(train, _treatment(manifest, "patch"))


def fresh_patches(patch: Patch, train: Examples, *, count: int, seed: int) -> list[Patch]:
    """Patches drawn as the planted one was, at its place: exchangeable with it for a model that knows none of them."""
    rng = np.random.default_rng([seed, 0xF9E5])
    low, high = _range(train.x)
    return [Patch(_pixels(rng, tuple(patch.pixels.shape), low, high), patch.top, patch.left) for _ in range(count)]


def noise_of(train: Examples, manifest: Manifest) -> Float[Tensor, "n ..."]:
    """The noise that each canary of kind gaussian carries, in standard deviations, in the order of the manifest."""
    return _noise(_treatment(manifest, "gaussian"), (len(manifest.ids), *train.x.shape[1:]))


def _treatment(manifest: Manifest, kind: Kind) -> Treatment:
    if manifest.kind != kind or manifest.treatment is None:
        raise UsageError(f"canaries: kind {kind!r} is needed here, got a manifest of kind {manifest.kind!r}")
    return manifest.treatment


def _check(
    train: Examples,
    count: int,
    kind: Kind,
    amount: float | None,
    scores: Float[np.ndarray, " n"] | None,
    outside: Examples | None,
) -> None:
    if kind not in get_args(Kind):
        raise UsageError(f"canaries.kind: must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    if count < 2 * MIN_CANARIES or count % 2:
        raise UsageError(
            f"canaries.count: must be an even number of at least {2 * MIN_CANARIES} (half are trained on, and the coin "
            f"test needs {MIN_CANARIES} on each side), got {count}"
        )
    if count > len(train) // 2:
        raise UsageError(
            f"canaries.count: at most half of the {len(train)} training examples can be candidates, got {count}"
        )
    if (kind == "memorized") != (scores is not None):
        given = "scores" if scores is not None else "none"
        raise UsageError(f"canaries: kind memorized takes scores of memorization, no other does; {kind} got {given}")
    if scores is not None and (np.shape(scores) != (len(train),) or not np.isfinite(scores).all()):
        raise UsageError(
            f"canaries: scores of memorization must be finite, one for each of the {len(train)} training examples, got "
            f"shape {np.shape(scores)}"
        )
    check_amount(kind, amount)
    if outside is not None and kind != "ood":
        raise UsageError(f"canaries: only kind ood takes its inputs from another set, got one for {kind}")
    if outside is not None and (
        len(outside) < count or outside.x.dtype != train.x.dtype or outside.x.shape[1:] != train.x.shape[1:]
    ):
        raise UsageError(
            f"canaries: the other set must hold {count} inputs like those of the training set, {train.x.dtype} "
            f"{list(train.x.shape[1:])}, got {len(outside)} of {outside.x.dtype} {list(outside.x.shape[1:])}"
        )
    if kind == "patch":
        if train.x.ndim != 4:
            raise UsageError(f"canaries: kind patch needs images [n, c, h, w], got inputs {list(train.x.shape)}")
        if amount is not None and amount > min(train.x.shape[2:]):
            raise UsageError(
                f"canaries.amount: a patch of {amount:g} pixels does not fit on images of {list(train.x.shape[2:])}"
            )


def check_amount(kind: str, amount: float | None) -> None:
    """Raise UsageError unless the kind takes an amount, and this one."""
    if amount is None:
        return
    if kind not in AMOUNTED:
        raise UsageError(f"canaries.amount: is for kinds {' and '.join(AMOUNTED)}, not for {kind}; leave it out")
    if not 0 < amount < float("inf") or (kind == "patch" and amount != int(amount)):
        unit = "a whole number of pixels" if kind == "patch" else "a standard deviation, as a share of the range,"
        raise UsageError(f"canaries.amount: must be {unit} above 0, got {amount:g}")


def _inputs(
    train: Examples, rows: NDArray[np.int64], kind: str, treatment: Treatment, outside: Examples | None
) -> Tensor:
    """What is planted in the rows, in the type of the training inputs [count, ...]."""
    x, shape = train.x, (rows.size, *train.x.shape[1:])
    low, high = _range(x)
    if kind == "gaussian":
        changed = x[torch.from_numpy(rows)].float() + treatment.amount * (high - low) * _noise(treatment, shape)
        return _as(changed, x)
    if kind == "patch":
        return _patch(train, treatment).stamp(x[torch.from_numpy(rows)])
    rng = _generator(treatment)
    if treatment.given:
        assert outside is not None  # checked by the callers
        return outside.x[torch.from_numpy(rng.permutation(len(outside))[: rows.size])]
    return _as(_pixels(rng, shape, low, high), x)


def _patch(train: Examples, treatment: Treatment) -> Patch:
    rng, side = _generator(treatment), int(treatment.amount)
    channels, height, width = train.x.shape[1:]
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return Patch(_pixels(rng, (channels, side, side), *_range(train.x)), top, left)


def _generator(treatment: Treatment) -> np.random.Generator:
    return np.random.default_rng(int(treatment.seed, 16))


def _noise(treatment: Treatment, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(_generator(treatment).standard_normal(shape, dtype=np.float32))


def _pixels(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.from_numpy((low + (high - low) * rng.random(shape)).astype(np.float32))


def _as(values: Tensor, x: Tensor) -> Tensor:
    """Values in the type of the inputs; images are rounded to what a pixel can hold."""
    return values.round().clamp(0, 255).byte() if x.dtype == torch.uint8 else values.to(x.dtype)


def _range(x: Tensor) -> tuple[float, float]:
    """The lowest and the highest value of the inputs: of uint8 what it can hold."""
    if x.dtype == torch.uint8:
        return 0.0, 255.0
    parts = torch.split(x, max(1, _MEASURED // max(1, x[:1].numel())))
    return min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)


def _digest(inputs: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(inputs.numpy()).data).hexdigest()


__all__ = [
    "Kind",
    "Manifest",
    "Patch",
    "Planted",
    "Treatment",
    "draw",
    "fresh_patches",
    "noise_of",
    "patch_of",
    "plant",
    "plant_canaries",
    "rows_of",
]
