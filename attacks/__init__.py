"""Membership attacks: observations in, one score per example out, higher = more like a trained-on example."""

from __future__ import annotations

from unlearnkit.attacks.geometry import (
    ClassCollapse,
    ClassSeparability,
    MahalanobisNovelty,
    MaxLogitNovelty,
    NeighborClasses,
)
from unlearnkit.attacks.inversion import Inversion
from unlearnkit.attacks.linear_probe import LinearProbe, TwinProbe
from unlearnkit.attacks.prototype import Prototype
from unlearnkit.attacks.pruning import Pruning
from unlearnkit.attacks.quantization import Quantization
from unlearnkit.attacks.relearning import FewShotRelearning, RetainRelearning
from unlearnkit.attacks.residual_knowledge import RandomNeighbors, SearchedNeighbors
from unlearnkit.attacks.signals import SIGNALS
from unlearnkit.attacks.threshold import Threshold

ATTACKS = {attack.__name__: attack for attack in (Threshold,)}

# Questions to open models: what comes back, and what is still inside? Inversion also needs the original.
PROBES = {
    probe.__name__: probe
    for probe in (
        RetainRelearning,
        FewShotRelearning,
        LinearProbe,
        TwinProbe,
        Prototype,
        Quantization,
        Pruning,
        RandomNeighbors,
        SearchedNeighbors,
        Inversion,
        MahalanobisNovelty,
        MaxLogitNovelty,
        ClassCollapse,
        ClassSeparability,
        NeighborClasses,
    )
}

__all__ = ["ATTACKS", "PROBES", "SIGNALS", "Threshold"]
