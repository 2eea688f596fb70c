"""Membership attacks: observations in, one score per example out, higher = more like a trained-on example."""

from __future__ import annotations

from unlearnkit.attacks.attack_p import AttackP
from unlearnkit.attacks.class_threshold import ClassThreshold
from unlearnkit.attacks.gap import Gap
from unlearnkit.attacks.label_only import LABEL_ONLY
from unlearnkit.attacks.mia_efficacy import BasicLogistic, MiaEfficacy
from unlearnkit.attacks.quantile import Quantile
from unlearnkit.attacks.signals import SIGNALS
from unlearnkit.attacks.threshold import Threshold
from unlearnkit.attacks.two_model import TwoModel

ATTACKS = {
    attack.__name__: attack
    for attack in (
        Threshold,
        Gap,
        ClassThreshold,
        AttackP,
        Quantile,
        TwoModel,
        MiaEfficacy,
        BasicLogistic,
    )
}

__all__ = [
    "ATTACKS",
    "LABEL_ONLY",
    "SIGNALS",
    "AttackP",
    "BasicLogistic",
    "ClassThreshold",
    "Gap",
    "MiaEfficacy",
    "Quantile",
    "Threshold",
    "TwoModel",
]
