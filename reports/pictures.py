"""Shaded cells of a table that is a picture, and images of examples; for the report and for the worst-case page."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unlearnkit.reports import numbers

SHADES = ((255, 255, 255), (214, 84, 62))  # no gap, the largest gap
PIXELS = 96  # least height of a picture


def shaded(value: float | None, most: float, *, places: int) -> dict[str, str]:
    """A cell: its number, and its color between white for 0 and red for the largest; a dash where there is none."""
    share = min(1.0, max(0.0, value / most)) if value is not None and most > 0 else 0.0
    fill = "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*SHADES, strict=True))
    return {"text": numbers.DASH if value is None else numbers.fixed(value, places), "fill": fill}


def png(image: UInt8[np.ndarray, "c h w"]) -> bytes:
    """A PNG file, enlarged in whole pixels: the same image, the same bytes."""
    times = max(1, -(-PIXELS // image.shape[1]))
    large = np.repeat(np.repeat(image, times, axis=1), times, axis=2).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(large[..., 0] if large.shape[2] == 1 else large).save(file, format="PNG")
    return file.getvalue()


__all__ = ["png", "shaded"]
