"""unlearnkit: did this model forget what it was asked to forget? Unlearning methods, and audits with evidence."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearnkit.data import Dataset, load
    from unlearnkit.models import Architecture, Classifier, build, load_model, save_model
    from unlearnkit.observing import observe
    from unlearnkit.result import AuditResult, Interval, UsageError
    from unlearnkit.store import Store
    from unlearnkit.train import Privacy, Recipe, fit
    from unlearnkit.types import (
        Access,
        Attack,
        Deletion,
        Examples,
        Method,
        Need,
        Observation,
        Scores,
        Splits,
        Unlearned,
    )
    from unlearnkit.unlearning import unlearn

__version__ = "0.1.0"

# Names are looked up when first used: `unlearnkit --help`, `report` and `verify` start without loading torch.
_HOME = {
    "data": ("Dataset", "load"),
    "models": ("Architecture", "Classifier", "build", "load_model", "save_model"),
    "observing": ("observe",),
    "result": ("AuditResult", "Interval", "UsageError"),
    "store": ("Store",),
    "train": ("Privacy", "Recipe", "fit"),
    "types": (
        "Access",
        "Attack",
        "Deletion",
        "Examples",
        "Method",
        "Need",
        "Observation",
        "Scores",
        "Splits",
        "Unlearned",
    ),
    "unlearning": ("unlearn",),
}

__all__ = [
    "Access",
    "Architecture",
    "Attack",
    "AuditResult",
    "Classifier",
    "Dataset",
    "Deletion",
    "Examples",
    "Interval",
    "Method",
    "Need",
    "Observation",
    "Privacy",
    "Recipe",
    "Scores",
    "Splits",
    "Store",
    "Unlearned",
    "UsageError",
    "build",
    "fit",
    "load",
    "load_model",
    "observe",
    "save_model",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"unlearnkit.{module}"), name)
    raise AttributeError(f"module 'unlearnkit' has no attribute {name!r}")
