"""Membership attacks: observations in, one score per example out, higher = more like a trained-on example."""

from __future__ import annotations

from unlearnkit.attacks.signals import SIGNALS
from unlearnkit.attacks.threshold import Threshold

ATTACKS = {attack.__name__: attack for attack in (Threshold,)}

__all__ = ["ATTACKS", "SIGNALS", "Threshold"]
