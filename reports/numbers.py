"""How numbers are written in a report: rounding and typography, nothing else. A missing number is a dash."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from unlearnkit.result import Interval, Quantity

DASH = "–"
DIGITS = 3  # significant digits of everything measured
SMALL = 0.001  # below it a leak is said to lie below it
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimals(values: Sequence[int | float | None]) -> int:
    """Decimal places that give the largest of these values three significant digits; neighbors share them."""
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    return max(0, DIGITS - 1 - math.floor(math.log10(largest))) if largest > 0 else DIGITS - 1


def fixed(value: int | float | None, places: int) -> str:
    """A value with so many decimals, a thousands separator and a true minus sign; no negative zero."""
    if value is None:
        return DASH
    if places > 7:  # smaller than a millionth: powers of ten
        mantissa, exponent = f"{value:.{DIGITS - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", "−")
    text = f"{value:,.{places}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace("-", "−")


def alike(*values: int | float | None) -> list[str]:
    """Numbers that are read beside each other: all with as many decimals as the largest needs."""
    places = decimals(values)
    return [fixed(value, places) for value in values]


def number(value: int | float | None) -> str:
    """A measured value to three significant digits; a whole number in full."""
    return fixed(value, 0 if isinstance(value, int) else decimals([value]))


def setting(value: float | None) -> str:
    """A value somebody chose, such as a tolerance: three significant digits without trailing zeros."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text


def percent(value: float | None) -> str:
    """A share in percent with one decimal."""
    return DASH if value is None else f"{fixed(100 * value, 1)} %"


def share(value: float) -> str:
    """A chosen share such as a confidence level, in percent without trailing zeros."""
    return f"{setting(100 * value)} %"


def p_value(value: float | None) -> str:
    """Three decimals, never 0.000 and never a rounded 1."""
    if value is None:
        return DASH
    if value < SMALL:
        return f"< {SMALL}"
    if 0.999 < value < 1:
        return "> 0.999"
    return f"{value:.3f}" if value < 1 else "1"


def seconds(value: float | None) -> str:
    """A duration in seconds."""
    return DASH if value is None else f"{number(value)} s"


def limits(interval: Interval | Quantity) -> dict[str, Any]:
    """An estimate and its limits with the same number of decimals; a limit that does not exist stays None."""
    places = decimals([interval.low, interval.value, interval.high])
    return {
        "value": fixed(interval.value, places),
        "low": None if interval.low is None else fixed(interval.low, places),
        "high": None if interval.high is None else fixed(interval.high, places),
    }


def leak(interval: Interval | Quantity) -> dict[str, Any]:
    """The same of what a test measures; where value and limits all lie below the third decimal, that it does."""
    ends = (interval.low, interval.value, interval.high)
    if interval.value and all(end is not None and abs(end) < SMALL for end in ends):
        return {"value": f"< {SMALL}" if interval.value > 0 else f"> −{SMALL}", "low": None, "high": None}
    return limits(interval)


def literal(value: Any) -> str:
    """A parameter exactly as it stands in the JSON, unrounded."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
