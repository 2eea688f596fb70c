"""Coin canaries: examples planted by a coin that is committed before training and opened in the audit.

Of 2m candidates a random half (heads) is trained on and later deleted, the other half (tails) is never used. If
unlearning were exact, the released model would not depend on the coins, so that permuting them gives an exact test
with one model and no oracle (audits.md 4.6).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter

from unlearnkit.audits.designs import MIN_CANARIES
from unlearnkit.result import UsageError
from unlearnkit.store import canonical, write_atomic
from unlearnkit.types import Examples


@dataclass(frozen=True)
class Manifest:
    """The sealed record: which examples, which labels they were given, how each coin fell, and the salt."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: str
    ids: tuple[str, ...]
    labels: tuple[int, ...]  # the label a canary carries in training, and in the audit
    heads: tuple[bool, ...]
    salt: str  # keeps the commitment from being guessed, unless the coins were drawn from a known seed

    @property
    def commitment(self) -> str:
        """SHA-256 to publish before training; it fixes the coins and gives none of them away."""
        return hashlib.sha256(canonical(self).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the manifest with its commitment, atomically. Keep it sealed until the audit."""
        body = {**asdict(self), "commitment": self.commitment}
        write_atomic(path, (json.dumps(body, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest and hold it against its commitment."""
        try:
            body: dict[str, Any] = json.loads(path.read_text())
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
                f"{path}: the manifest does not open its commitment {commitment[:12]}…; coins, ids or labels were "
                "changed after it was sealed"
            )
        return manifest


@dataclass(frozen=True, eq=False)
class Planted:
    """A training set with canaries in it. Inputs are shared with the set they were planted in, not copied."""

    train: Examples  # all rows; canaries carry their planted label
    heads: NDArray[np.int64]  # rows to be trained on and later deleted
    tails: NDArray[np.int64]  # rows never to be used


def draw(train: Examples, *, count: int, classes: int, seed: int | None) -> Manifest:
    """Draw `count` mislabeled candidates and toss their coins: exactly half are heads.

    seed None: the coins come from the system's source of secrets, and nobody can toss them again. A seed repeats them,
    for whoever knows it.

    The wrong label is uniform over the other classes. Mislabeled canaries leave the plainest trace among natural
    images (audits.md 5).
    """
    if count < 2 * MIN_CANARIES or count % 2:
        raise UsageError(
            f"canaries.count: must be an even number of at least {2 * MIN_CANARIES} (half are trained on, and the coin "
            f"test needs {MIN_CANARIES} on each side), got {count}"
        )
    if count > len(train) // 2:
        raise UsageError(
            f"canaries.count: at most half of the {len(train)} training examples can be candidates, got {count}"
        )
    rng = np.random.default_rng(secrets.randbits(128) if seed is None else [seed, 0xC01])
    rows = rng.permutation(len(train))[:count]
    true = train.labels().numpy()[rows]
    labels = (true + rng.integers(1, classes, size=count)) % classes
    heads = np.zeros(count, dtype=bool)
    heads[rng.permutation(count)[: count // 2]] = True
    return Manifest(
        kind="mislabeled",
        ids=tuple(str(i) for i in train.ids[rows]),
        labels=tuple(int(label) for label in labels),
        heads=tuple(bool(head) for head in heads),
        salt=rng.bytes(16).hex(),
    )


def plant(train: Examples, manifest: Manifest) -> Planted:
    """Relabel the heads and hold the tails out, as the manifest says."""
    position = {str(name): row for row, name in enumerate(train.ids)}
    missing = [name for name in manifest.ids if name not in position]
    if missing:
        raise UsageError(
            f"canaries: {len(missing)} of {len(manifest.ids)} canaries are not in the training data, the first is "
            f"{missing[0]!r}; the manifest belongs to other data"
        )
    rows = np.array([position[name] for name in manifest.ids])
    heads = np.array(manifest.heads)
    labels = train.labels().clone()
    labels[torch.from_numpy(rows)] = torch.tensor(manifest.labels)
    return Planted(Examples(train.x, labels, train.ids), np.sort(rows[heads]), np.sort(rows[~heads]))
