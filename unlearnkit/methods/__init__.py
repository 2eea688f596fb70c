"""The unlearning methods, one per file, and `METHODS`, the table of names that a spec may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from unlearnkit.methods.amun import AMUN
from unlearnkit.methods.bad_teacher import BadTeacher
from unlearnkit.methods.boundary_expand import BoundaryExpand
from unlearnkit.methods.boundary_shrink import BoundaryShrink
from unlearnkit.methods.cf_k import CFk
from unlearnkit.methods.class_vectors import ClassVectors
from unlearnkit.methods.class_vectors_mapping import ClassVectorsMapping
from unlearnkit.methods.delete import DELETE
from unlearnkit.methods.eu_k import EUk
from unlearnkit.methods.few_sample import FewSample
from unlearnkit.methods.finetune import FineTune
from unlearnkit.methods.fisher_forgetting import FisherForgetting
from unlearnkit.methods.hyperparameters import validated
from unlearnkit.methods.influence import InfluenceUnlearning
from unlearnkit.methods.l1_sparse import L1Sparse
from unlearnkit.methods.laf import LAF
from unlearnkit.methods.negative_gradient import NegativeGradient
from unlearnkit.methods.neggrad_plus import NegGradPlus
from unlearnkit.methods.prune_first import PruneFirst
from unlearnkit.methods.random_label import RandomLabel
from unlearnkit.methods.retrain import Retrain
from unlearnkit.methods.salun import SalUn
from unlearnkit.methods.salun_soft import SalUnSoft
from unlearnkit.methods.scrub import SCRUB
from unlearnkit.methods.ssd import SSD
from unlearnkit.methods.svd_projection import SVDProjection
from unlearnkit.result import UsageError, nearest
from unlearnkit.types import Method

__all__ = [
    "AMUN",
    "DELETE",
    "LAF",
    "METHODS",
    "SCRUB",
    "SSD",
    "BadTeacher",
    "BoundaryExpand",
    "BoundaryShrink",
    "CFk",
    "ClassVectors",
    "ClassVectorsMapping",
    "EUk",
    "FewSample",
    "FineTune",
    "FisherForgetting",
    "InfluenceUnlearning",
    "L1Sparse",
    "NegGradPlus",
    "NegativeGradient",
    "PruneFirst",
    "RandomLabel",
    "Retrain",
    "SVDProjection",
    "SalUn",
    "SalUnSoft",
    "method_named",
]

METHODS: dict[str, type[Method]] = {
    method.__name__: method
    for method in (
        Retrain,
        FineTune,
        CFk,
        EUk,
        L1Sparse,
        NegativeGradient,
        NegGradPlus,
        RandomLabel,
        SalUn,
        SalUnSoft,
        AMUN,
        DELETE,
        BoundaryShrink,
        BoundaryExpand,
        SCRUB,
        BadTeacher,
        LAF,
        SSD,
        FisherForgetting,
        InfluenceUnlearning,
        SVDProjection,
        FewSample,
        ClassVectors,
        ClassVectorsMapping,
        PruneFirst,
    )
}


def method_named(name: str, params: Mapping[str, Any], *, where: str = "method") -> Method:
    """The method of that name with these hyperparameters, the rest at their defaults; `where` opens error messages.

    A table among the values is a method inside the method: inner = {name = "SalUn", fraction = 0.3}. Raises UsageError
    for an unknown name or parameter, naming the nearest, and for a value of the wrong type or range.
    """
    if name not in METHODS:
        known = f"; methods are {', '.join(METHODS)}"
        raise UsageError(f"{where}.name: there is no method {name!r}{nearest(name, METHODS) or known}")
    method = METHODS[name]
    fields = [field.name for field in dataclasses.fields(method)]
    values = dict(params)
    for key, value in params.items():
        if key not in fields:
            known = f"; its parameters are {', '.join(fields)}" if fields else "; it has no parameters"
            raise UsageError(f"{where}.{key}: {name} has no parameter {key!r}{nearest(key, fields) or known}")
        if isinstance(value, Mapping):
            inner = {"name": None, **value}
            if not isinstance(inner["name"], str):
                raise UsageError(
                    f'{where}.{key}: a table must name a method, got {dict(value)}; write {{name = "FineTune"}}'
                )
            values[key] = method_named(inner.pop("name"), inner, where=f"{where}.{key}")
    return method(**validated(method, values))
