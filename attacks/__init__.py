"""Membership attacks: observations in, one score per example out, higher = more like a trained-on example."""

from __future__ import annotations

from unlearnkit.attacks.attack_p import AttackP
from unlearnkit.attacks.attack_r import AttackR
from unlearnkit.attacks.base import BASE, BASEOffline
from unlearnkit.attacks.class_threshold import ClassThreshold
from unlearnkit.attacks.gap import Gap
from unlearnkit.attacks.iam import IAM, IAMOffline, completeness
from unlearnkit.attacks.label_only import LABEL_ONLY
from unlearnkit.attacks.leave_one_out import leave_one_out
from unlearnkit.attacks.lira import LiRA, LiRAOffline, LiRAOfflineDensity
from unlearnkit.attacks.mia_efficacy import BasicLogistic, MiaEfficacy
from unlearnkit.attacks.quantile import Quantile
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
    "BASE",
    "IAM",
    "LABEL_ONLY",
    "RMIA",
    "RULI",
    "SIGNALS",
    "AttackP",
    "AttackR",
    "BASEOffline",
    "BasicLogistic",
    "ClassThreshold",
    "Gap",
    "IAMOffline",
    "LiRA",
    "LiRAOffline",
    "LiRAOfflineDensity",
    "MiaEfficacy",
    "Quantile",
    "RMIAOffline",
    "Threshold",
    "TwoModel",
    "ULiRA",
    "completeness",
    "leave_one_out",
]
