"""What a hyperparameter may be: one type per rule, and `check`, which holds the fields of a method or probe to them."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field, InstanceOf, TypeAdapter, ValidationError

from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Method, Probe

__all__ = [
    "Count",
    "CountOrZero",
    "Inner",
    "Momentum",
    "NotNegative",
    "Positive",
    "PositiveShare",
    "Share",
    "Sparsity",
    "check",
    "unquoted",
    "validated",
]

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
PositiveShare = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Sparsity = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Inner = Annotated[Method, InstanceOf()]  # a method inside a method


def unquoted(value: object, rule: str) -> str:
    """What to write instead of a number in quotes, where the rule asks for a number; empty for anything else."""
    if not isinstance(value, str) or not re.search("number|integer", rule):
        return ""
    text = value.strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return ""
    return f"; write {number / 100:g}" if text.endswith("%") else f"; write {text} without quotes"


def check(method: Method | Attack | Probe) -> None:
    """Hold every field of a method, attack or probe to its type and range; call it in `__post_init__`.

    An integer given for a float becomes one: lr = 1 and lr = 1.0 are one method with one content hash.
    """
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    for name, value in validated(type(method), fields).items():
        object.__setattr__(method, name, value)


def validated(method: type[Method | Attack | Probe], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given fields of `method` in their own types. Raises UsageError: the field, the rule, what was given."""
    values = {}
    for name, value in given.items():
        try:
            values[name] = _adapters(method)[name].validate_python(value, strict=True)
        except ValidationError as error:
            rule = error.errors()[0]["msg"].replace("Input should", "must")
            raise UsageError(f"{method.__name__}.{name}: {rule}, got {value!r}{unquoted(value, rule)}") from None
    return values


@cache
def _adapters(method: type[Method | Attack | Probe]) -> dict[str, Any]:  # TypeAdapters, which beartype cannot read
    hints = typing.get_type_hints(method, include_extras=True)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(method)}
