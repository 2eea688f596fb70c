"""Membership attacks: observations in, one score per example out, higher = more like a trained-on example.

ATTACKS read observations; LABEL_ONLY may only ask a model for labels; PROBES edit or open it and are read by rank.
"""

from __future__ import annotations

from unlearnkit.attacks.attack_p import AttackP
from unlearnkit.attacks.attack_r import AttackR
from unlearnkit.attacks.base import BASE, BASEOffline
from unlearnkit.attacks.class_threshold import ClassThreshold
from unlearnkit.attacks.gap import Gap
from unlearnkit.attacks.geometry import (
    ClassCollapse,
    ClassSeparability,
    MahalanobisNovelty,
    MaxLogitNovelty,
    NeighborClasses,
)
from unlearnkit.attacks.iam import IAM, IAMOffline, completeness
from unlearnkit.attacks.inversion import Inversion
from unlearnkit.attacks.label_only import LABEL_ONLY
from unlearnkit.attacks.leave_one_out import leave_one_out
from unlearnkit.attacks.linear_probe import LinearProbe, TwinProbe
from unlearnkit.attacks.lira import LiRA, LiRAOffline, LiRAOfflineDensity
from unlearnkit.attacks.mia_efficacy import BasicLogistic, MiaEfficacy
from unlearnkit.attacks.prototype import Prototype
from unlearnkit.attacks.pruning import Pruning
from unlearnkit.attacks.quantile import Quantile
from unlearnkit.attacks.quantization import Quantization
from unlearnkit.attacks.relearning import FewShotRelearning, RetainRelearning
from unlearnkit.attacks.residual_knowledge import RandomNeighbors, SearchedNeighbors
from unlearnkit.attacks.rmia import RMIA, RMIAOffline
from unlearnkit.attacks.ruli import RULI
from unlearnkit.attacks.signals import SIGNALS
from unlearnkit.attacks.threshold import Threshold
from unlearnkit.attacks.two_model import TwoModel
from unlearnkit.attacks.u_lira import ULiRA

ATTACKS = {
    attack.__name__: attack
    for attack in (
        Threshold,
        Gap,
        ClassThreshold,
        AttackP,
        Quantile,
        AttackR,
        LiRA,
        LiRAOffline,
        LiRAOfflineDensity,
        RMIA,
        RMIAOffline,
        BASE,
        BASEOffline,
        IAM,
        IAMOffline,
        ULiRA,
        RULI,
        TwoModel,
        MiaEfficacy,
        BasicLogistic,
    )
}

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

__all__ = [
    "ATTACKS",
    "BASE",
    "IAM",
    "LABEL_ONLY",
    "PROBES",
    "RMIA",
    "RULI",
    "SIGNALS",
    "AttackP",
    "AttackR",
    "BASEOffline",
    "BasicLogistic",
    "ClassCollapse",
    "ClassSeparability",
    "ClassThreshold",
    "FewShotRelearning",
    "Gap",
    "IAMOffline",
    "Inversion",
    "LiRA",
    "LiRAOffline",
    "LiRAOfflineDensity",
    "LinearProbe",
    "MahalanobisNovelty",
    "MaxLogitNovelty",
    "MiaEfficacy",
    "NeighborClasses",
    "Prototype",
    "Pruning",
    "Quantile",
    "Quantization",
    "RMIAOffline",
    "RandomNeighbors",
    "RetainRelearning",
    "SearchedNeighbors",
    "Threshold",
    "TwinProbe",
    "TwoModel",
    "ULiRA",
    "completeness",
    "leave_one_out",
]
