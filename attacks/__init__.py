"""Membership attacks: observations in, one score per example out, higher = more like a trained-on example."""

from __future__ import annotations

from unlearnkit.attacks.attack_r import AttackR
from unlearnkit.attacks.base import BASE, BASEOffline
from unlearnkit.attacks.iam import IAM, IAMOffline, completeness
from unlearnkit.attacks.leave_one_out import leave_one_out
from unlearnkit.attacks.lira import LiRA, LiRAOffline, LiRAOfflineDensity
from unlearnkit.attacks.rmia import RMIA, RMIAOffline
from unlearnkit.attacks.ruli import RULI
from unlearnkit.attacks.signals import SIGNALS
from unlearnkit.attacks.threshold import Threshold
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
    )
}

__all__ = [
    "ATTACKS",
    "BASE",
    "IAM",
    "RMIA",
    "RULI",
    "SIGNALS",
    "AttackR",
    "BASEOffline",
    "IAMOffline",
    "LiRA",
    "LiRAOffline",
    "LiRAOfflineDensity",
    "RMIAOffline",
    "Threshold",
    "ULiRA",
    "completeness",
    "leave_one_out",
]
