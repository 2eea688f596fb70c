"""Membership attacks: observations in, one score per example out, higher = more like a trained-on example."""

from __future__ import annotations

from unlearnkit.attacks.base import BASE, BASEOffline
from unlearnkit.attacks.lira import LiRA, LiRAOffline, LiRAOfflineDensity
from unlearnkit.attacks.rmia import RMIA, RMIAOffline
from unlearnkit.attacks.signals import SIGNALS
from unlearnkit.attacks.threshold import Threshold

ATTACKS = {
    attack.__name__: attack
    for attack in (
        Threshold,
        LiRA,
        LiRAOffline,
        LiRAOfflineDensity,
        RMIA,
        RMIAOffline,
        BASE,
        BASEOffline,
    )
}

__all__ = [
    "ATTACKS",
    "BASE",
    "RMIA",
    "SIGNALS",
    "BASEOffline",
    "LiRA",
    "LiRAOffline",
    "LiRAOfflineDensity",
    "RMIAOffline",
    "Threshold",
]
