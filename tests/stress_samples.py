"""Other sets than the requested one with a known truth, drawn in milliseconds: margins, no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unlearnkit.audits.worst_case.gaps import Answers, Looked
from unlearnkit.audits.worst_case.stress_evidence import StressEvidence

FOUND = ("memorized", "mislabeled", "worst-by-loss", "class")


def others_of_class(size: int, points: int) -> np.ndarray:
    """Labels where the set is class 3 and nothing retained is; of the held-out points every tenth is."""
    return np.concatenate([np.full(size, 3), np.full(40, 4), np.arange(points - size - 40) % 10])


def stress_evidence(
    seed: int = 0,
    *,
    leak: Mapping[str, float] | None = None,
    found: Sequence[str] = FOUND,
    random: int = 5,
    size: int = 20,
    images: bool = True,
    trace: float = 0.0,
) -> StressEvidence:
    """Margins of every set are one law, but for what the method leaves on the sets that `leak` names (in σ).

    trace: what it leaves on every set, in the mean: of each example so much of what the one original that all
    unlearnings start from remembers of it.
    """
    rng = np.random.default_rng([seed, 0x57E5])
    points = size + 40 + 30
    names = [*found, *(f"random {i + 1}" for i in range(random))]

    def answers(hard: np.ndarray, models: int, extra: float | np.ndarray) -> Answers:
        margins = hard + rng.normal(0, 0.2, (models, 1)) + rng.normal(0, 1, (models, points))
        margins[:, :size] += extra
        return Answers(margins.astype(np.float32), margins > 0)

    sets: list[Looked] = []
    for i, name in enumerate(names):
        hard = rng.normal(1.5, 1.5, points)
        remembered = trace * rng.exponential(1, size) if trace else 0.0
        sets.append(
            Looked(
                name,
                "found" if name in found else "random",
                "",
                3 if name == "class" else None,
                () if name in found else tuple(other for other in found if other != "class"),
                np.array([f"simulated/{i}/{j}" for j in range(size)]),
                others_of_class(size, points) if name == "class" else rng.integers(0, 10, points),
                40,
                answers(hard, 5, 0.0),
                {"SalUn": answers(hard, 3, (leak or {}).get(name, 0.0) + remembered)},
            )
        )
    ranked = [name for name in found if name != "class"]
    document = {
        "method": "SalUn",
        "rules": {name: f"found as {name}" for name in found},
        "units": dict.fromkeys(ranked, "mean out-of-sample loss"),
        "size": size,
        "of": 1437,
        "random": random,
        "shared": True,
        "oracles": 5,
        "unlearnings": 3,
        "seed": seed,
        "pool": [f"{i:064x}" for i in range(16)],
        "left out": [],
        "points": {name: [size, 40, 30] for name in ("examples", "3")},
    }
    shown = rng.integers(0, 256, (10, 1, 8, 8)).astype(np.uint8) if images else None
    return StressEvidence(
        document, tuple(sets), {name: tuple(np.linspace(4, 3, min(size, 10))) for name in ranked}, (), shown
    )
