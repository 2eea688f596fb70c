"""The unlearning methods, one per file, and `METHODS`, the table of names that a spec may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from unlearnkit.methods.finetune import FineTune
from unlearnkit.methods.hyperparameters import validated
from unlearnkit.methods.negative_gradient import NegativeGradient
from unlearnkit.methods.neggrad_plus import NegGradPlus
from unlearnkit.methods.random_label import RandomLabel
from unlearnkit.methods.retrain import Retrain
from unlearnkit.methods.salun import SalUn
from unlearnkit.result import UsageError, nearest
from unlearnkit.types import Method

__all__ = [
    "METHODS",
    "FineTune",
    "NegGradPlus",
    "NegativeGradient",
    "RandomLabel",
    "Retrain",
    "SalUn",
    "method_named",
]

METHODS: dict[str, type[Method]] = {
    method.__name__: method for method in (Retrain, FineTune, NegativeGradient, NegGradPlus, RandomLabel, SalUn)
}


def method_named(name: str, params: Mapping[str, Any]) -> Method:
    """The method of that name with these hyperparameters, the rest at their defaults.

    Raises UsageError for an unknown name or parameter, naming the nearest, and for a value of the wrong type or range.
    """
    if name not in METHODS:
        known = f"; methods are {', '.join(METHODS)}"
        raise UsageError(f"method.name: there is no method {name!r}{nearest(name, METHODS) or known}")
    method = METHODS[name]
    fields = [field.name for field in dataclasses.fields(method)]
    for key in params:
        if key not in fields:
            known = f"; its parameters are {', '.join(fields)}" if fields else "; it has no parameters"
            raise UsageError(f"method.{key}: {name} has no parameter {key!r}{nearest(key, fields) or known}")
    return method(**validated(method, params))
