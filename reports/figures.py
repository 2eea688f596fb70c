"""The figures of a report: arrays of the evidence drawn as vector graphics; scaling and smoothing, no finding.

Every figure is an SVG whose bytes depend on its inputs alone. It holds no text of the audit, only fixed words of
the report's language; names and numbers stand beside it, set by the page. Line style and label tell the curves apart,
color helps.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.numpy import load

from unlearnkit.hardest import drawable
from unlearnkit.reports.letterhead import language
from unlearnkit.result import Interval, Outcome, UsageError

FORGET, HEADS, TWINS, TAILS = 0, 1, 2, 3  # values of `points/group`

WORDS: dict[str, str] = language("en")["figure"]  # all the words that are drawn

FONT = "Libertinus Serif"  # set by Typst, which brings it along; measured here by the slightly wider DejaVu Serif
SIZE = 8.5  # pt
LIMIT = 2.75  # tolerances; what lies farther out gets an arrow
AXIS = 17.0  # pt under the last row of the dot plot

INK, SOFT, GRID = "#1d1d1d", "#666666", "#c9c9c9"
RED, BLUE, GRAY = "#b3261e", "#1a62c5", "#5a5a5a"
COLORS = {
    "PASS": "#1b7a3a",
    "FAIL": RED,
    "INCONCLUSIVE": "#8f5b00",
    "LEAK_BELOW_TOLERANCE": "#636b00",
    "INVALID": "#666666",
}
MARKERS = {"PASS": "o", "FAIL": "s", "INCONCLUSIVE": "D", "LEAK_BELOW_TOLERANCE": "^", "INVALID": "X"}
STYLES: dict[str, Any] = {
    "original": (0, (5, 2)),
    "audited": "-",
    "oracles": (0, (6, 1.5, 1, 1.5)),
    "twins": (0, (1, 1.5)),
}


@dataclass(frozen=True)
class Curve:
    """One ROC curve, or with two rates the band between them."""

    fpr: Float[ndarray, " n"]
    tpr: Float[ndarray, " n"]
    tpr_high: Float[ndarray, " n"] | None = None


@dataclass(frozen=True)
class Arrays:
    """What the evidence holds for drawing; None or no key where the audit did not make it."""

    group: UInt8[ndarray, " p"]
    original: Float[ndarray, " p"]
    audited: Float[ndarray, " p"]
    oracles: Float[ndarray, "n p"] | None
    roc: dict[str, Curve]  # "original", "audited", "oracles"
    images: UInt8[ndarray, "k c h w"] | None = None  # of the hardest examples of another set

    def has(self, group: int) -> bool:
        """Whether any point belongs to this group."""
        return bool((self.group == group).any())


def read_arrays(evidence: bytes, *, what: str = "evidence") -> Arrays:
    """The arrays of a sidecar; refuses one that cannot be drawn."""
    try:
        found = load(evidence)
    except SafetensorError as error:
        raise UsageError(f"{what}: not readable as safetensors ({error})") from error

    def numbers(key: str, *shape: int) -> Any:
        if key not in found:
            return None
        array = np.asarray(found[key], dtype=np.float64)
        if array.shape[-len(shape) :] != shape or not np.isfinite(array).all():
            raise UsageError(f"{what}: {key!r} must be finite and end in shape {shape}, got shape {array.shape}")
        return array

    def curve(model: str, *names: str) -> Curve | None:
        if (fpr := found.get(f"roc/{model}/fpr")) is None:
            return None
        parts = [numbers(f"roc/{model}/{name}", len(fpr)) for name in ("fpr", *names)]
        if any(part is None or part.ndim != 1 for part in parts):
            raise UsageError(f"{what}: the ROC curve of the {model} is incomplete, it needs fpr, {', '.join(names)}")
        return Curve(*parts)

    group = found.get("points/group")
    if group is None or group.dtype != np.uint8 or group.ndim != 1:
        raise UsageError(f"{what}: 'points/group' must be a row of uint8, got {None if group is None else group.dtype}")
    original, audited = numbers("margins/original", len(group)), numbers("margins/audited", len(group))
    oracles = numbers("margins/oracles", len(group))
    if original is None or audited is None:
        raise UsageError(f"{what}: 'margins/original' and 'margins/audited' must be there")
    curves = {
        "original": curve("original", "tpr"),
        "audited": curve("audited", "tpr"),
        "oracles": curve("oracles", "tpr_low", "tpr_high"),
    }
    return Arrays(
        group=group,
        original=original,
        audited=audited,
        oracles=oracles if oracles is not None and oracles.ndim == 2 and len(oracles) else None,
        roc={model: found for model, found in curves.items() if found is not None},
        images=found.get("stress/images") if drawable(found.get("stress/images")) else None,
    )


def dot_plot(
    tests: Sequence[Outcome],
    *,
    width: float = 220.0,
    row: float = 22.0,
    exact: bool = False,
    words: Mapping[str, str] = WORDS,
    beside: Sequence[Outcome] = (),
    axis: bool = True,
) -> bytes:
    """Each test's leak interval in units of its tolerance, in the given order, `row` points apart.

    exact: no tolerance is granted; what is called so is the size that each test must be able to see. beside: tests of
    other plots on the same scale, for a page that sets each test, and the axis, in a drawing of its own.
    """
    spans = [_in_tolerances(test.leak, test.tolerance) for test in tests]
    scale = spans + [_in_tolerances(test.leak, test.tolerance) for test in beside]
    left = float(np.clip(min(low for low, _, _ in scale) - 0.2, -LIMIT, -0.75))
    left = min(left, -1.3) if left < -0.9 else left  # where one comes near the lower tolerance, show it
    right = float(np.clip(max(high for _, _, high in scale) + 0.2, 1.6, LIMIT))
    foot = AXIS if axis else 0.0

    def draw(figure: Figure) -> None:
        height = len(tests) * row or 1.0  # an axis alone
        ax = figure.add_axes((0.01, foot / (height + foot), 0.98, height / (height + foot)))
        ax.set(xlim=(left, right), ylim=(max(1, len(tests)) - 0.5, -0.5))
        if not exact:
            ax.axvspan(max(-1.0, left), 1, color="#f1f3f1", lw=0)
        ax.axvline(0, color="#9a9a9a", lw=0.9)
        for edge in (-1, 1):
            if left < edge:
                ax.axvline(edge, color=INK, lw=0.9, ls=(0, (4, 2.5)))
        for y, (test, (low, value, high)) in enumerate(zip(tests, spans, strict=True)):
            color, dashed = COLORS[test.state], test.state == "INVALID"
            tip = 6 * (right - left) / width  # length of an arrow's head
            start, end = np.clip(low, left + tip, right - 3 * tip), np.clip(high, left + 3 * tip, right - tip)
            ax.plot([start, end], [y, y], color=color, lw=2.2, ls=(0, (2, 1)) if dashed else "-", solid_capstyle="butt")
            for beyond, head in ((low < left + tip, (left, start)), (high > right - tip, (right, end))):
                if beyond:
                    ax.fill([head[0], head[1], head[1]], [y, y - 0.17, y + 0.17], color=color, lw=0)
            if left <= value <= right:
                fill = color if test.required else "white"
                ax.plot([value], [y], MARKERS[test.state], ms=5.6, color=color, mfc=fill, mew=1.2, clip_on=False)
        edge_name = words["must-be-seen" if exact else "tolerance"]
        times = "×" if exact else words["times-tolerance"]
        ticks = {0: words["oracle-level"], 1: edge_name}
        ticks |= {-1: f"−{words['tolerance']}"} if left < -1 and not exact else {}
        ticks |= {2: f"2 {times}"} if right >= 2.3 else {}
        ticks |= {-2: f"−2 {times}"} if left < -2.3 else {}
        if left < -2.3:  # crowded: short labels
            ticks |= {-2: "−2 ×", -1: "−1 ×", 0: words["oracles"]} | ({2: "2 ×"} if 2 in ticks else {})
        ax.set_xticks(list(ticks) if axis else [], list(ticks.values()) if axis else [])
        ax.tick_params(length=2.5, pad=2)
        ax.set_yticks([])
        ax.spines[["left", "right", "top"]].set_visible(False)
        ax.spines["bottom"].set_visible(axis)

    return _svg(draw, width, (len(tests) * row or 1.0) + foot)


def margins(arrays: Arrays, *, width: float = 232.0, height: float = 128.0, words: Mapping[str, str] = WORDS) -> bytes:
    """Distributions of the margin of the examples to be forgotten, by model, and of the twins."""
    mine = arrays.group == (FORGET if arrays.has(FORGET) else HEADS)
    rows: dict[str, Float[ndarray, " m"]] = {"original": arrays.original[mine], "audited": arrays.audited[mine]}
    if arrays.has(TWINS):
        rows["twins"] = arrays.audited[arrays.group == TWINS]
    oracles = None if arrays.oracles is None else arrays.oracles[:, mine]
    if oracles is not None:
        rows["oracles"] = oracles.reshape(-1)
    grid = _grid(list(rows.values()))
    names = {name: words[name] for name in rows}
    if oracles is not None:
        names["oracles"] = f"{len(oracles)} {words['oracle' if len(oracles) == 1 else 'oracles']}"

    def draw(figure: Figure) -> None:
        ax = _axes(figure, width, height, left=12.0, bottom=27.0)
        curves = {name: _density(values, grid) for name, values in rows.items()}
        top = max(float(curve.max()) for curve in curves.values())
        if oracles is not None:
            each = np.stack([_density(values, grid) for values in oracles])
            ax.fill_between(grid, each.min(0), each.max(0), color="#d9d9d9", lw=0)
            top = max(top, float(each.max()) / 1.15)
        ax.set(xlim=(grid[0], grid[-1]), ylim=(0, 1.2 * top), xlabel=words["margin-forget"])
        ax.set_yticks([])
        ax.spines[["left", "right", "top"]].set_visible(False)
        for name in ("twins", "oracles", "original", "audited"):
            if name in curves:
                ax.plot(grid, curves[name], color=_color(name), ls=STYLES[name], lw=1.7 if name == "audited" else 1.3)
        shown = ("original", "audited", "oracles", "twins")
        _label(ax, [(grid, curves[name], names[name], _color(name)) for name in shown if name in curves])

    return _svg(draw, width, height)


def roc(arrays: Arrays, *, width: float = 232.0, height: float = 128.0, words: Mapping[str, str] = WORDS) -> bytes:
    """ROC curves on logarithmic axes, down to the smallest false positive rate that so few points can show."""
    rates = np.concatenate([curve.fpr for curve in arrays.roc.values()])
    smallest = float(min(rates[rates > 0], default=1.0))
    floor = min(smallest, 0.1)

    def draw(figure: Figure) -> None:
        ax = _axes(figure, width, height, left=46.0, bottom=27.0)
        ax.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.15))
        ax.set(xlabel=words["fpr"], ylabel=words["tpr"])
        ticks = [t for t in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0) if t >= floor]
        if floor > 5e-3:
            ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if t >= floor]
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda t, _: f"{100 * t:.3g} %")
        ax.spines[["right", "top"]].set_visible(False)
        drawn, edges = [], []
        chance = np.array([floor, 1.0])
        ax.plot(chance, chance, color=SOFT, lw=0.9, ls=STYLES["twins"])
        drawn.append((chance, chance, words["chance"], SOFT))
        if band := arrays.roc.get("oracles"):
            fpr, low, high = (np.maximum(v, floor / 2) for v in (band.fpr, band.tpr, _upper(band)))
            ax.fill_between(fpr, low, high, step="post", color="#dcdcdc", lw=0)
            for edge in (low, high):
                ax.step(fpr, edge, where="post", color=GRAY, lw=0.6)
            drawn.append((fpr, high, words["oracles"], GRAY))
            edges.append((fpr, low))
        for name in ("original", "audited"):
            if curve := arrays.roc.get(name):
                fpr, tpr = np.maximum(curve.fpr, floor / 2), np.maximum(curve.tpr, floor / 2)
                thick = 1.7 if name == "audited" else 1.3
                ax.step(fpr, tpr, where="post", color=_color(name), ls=STYLES[name], lw=thick)
                drawn.append((fpr, tpr, words[name], _color(name)))
        _label(ax, drawn[::-1], edges)

    return _svg(draw, width, height)


def canaries(arrays: Arrays, *, width: float = 483.0, height: float = 150.0, words: Mapping[str, str] = WORDS) -> bytes:
    """Margins of canaries that were trained on and deleted, against never used ones: original left, unlearned right."""
    heads, tails = arrays.group == HEADS, arrays.group == TAILS
    models = {"original": arrays.original, "audited": arrays.audited}
    grid = _grid([values[heads | tails] for values in models.values()])

    def draw(figure: Figure) -> None:
        for place, (name, values) in enumerate(models.items()):
            half = width / 2
            ax = figure.add_axes((place / 2 + 12 / width, 27 / height, (half - 26) / width, 1 - 45 / height))
            curves = [_density(values[mask], grid) for mask in (heads, tails)]
            top = 1.15 * max(float(curve.max()) for curve in curves)
            ax.set(xlim=(grid[0], grid[-1]), ylim=(-0.16 * top, top), xlabel=words["margin-canaries"])
            ax.set_title(words[name], color=_color(name), loc="left", fontsize=SIZE + 0.5)
            ax.set_yticks([])
            ax.spines[["left", "right", "top"]].set_visible(False)
            looks = (("heads", heads, "-", BLUE, -0.055), ("tails", tails, STYLES["original"], GRAY, -0.125))
            labels = []
            for (side, mask, style, color, rug), curve in zip(looks, curves, strict=True):
                ax.plot(grid, curve, color=color, ls=style, lw=1.5)
                ax.plot(values[mask], np.full(mask.sum(), rug * top), "|", color=color, ms=5, mew=0.6)
                labels.append((grid, curve, words[side], color))
            _label(ax, labels)

    return _svg(draw, width, height)


def _in_tolerances(leak: Interval, tolerance: float) -> tuple[float, float, float]:
    """Where an interval stands on the axis of the dot plot; beyond the axis where no limit exists."""
    far = 100 * LIMIT

    def place(value: float | None, missing: float) -> float:
        if value is None:
            return missing
        if tolerance > 0:
            return max(-far, min(far, value / tolerance))
        return 0.0 if value == 0 else far if value > 0 else -far  # an exact claim: any leak is beyond tolerance

    return place(leak.low, -far), place(leak.value, 0.0), place(leak.high, far)


def _grid(rows: Sequence[Float[ndarray, " _"]]) -> Float[ndarray, " g"]:
    """The visible range: nearly all values of every row, with room at the sides."""
    low = min(float(np.quantile(row, 0.005)) for row in rows)
    high = max(float(np.quantile(row, 0.995)) for row in rows)
    room = 0.12 * (high - low) or 1.0
    return np.linspace(low - room, high + room, 401)


def _density(values: Float[ndarray, " m"], grid: Float[ndarray, " g"]) -> Float[ndarray, " g"]:
    """A Gaussian kernel density for drawing: a fine histogram, smoothed with Silverman's bandwidth."""
    step = grid[1] - grid[0]
    edges = np.append(grid - step / 2, grid[-1] + step / 2)
    counts, _ = np.histogram(values, edges)
    quartiles = np.quantile(values, [0.25, 0.75])
    spread = min(values.std(), (quartiles[1] - quartiles[0]) / 1.34) or values.std()
    width = max(0.9 * spread * len(values) ** -0.2 / step, 1.5)  # in grid steps
    reach = np.arange(-len(grid) + 1, len(grid))
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum())
    shown: Float[ndarray, " g"] = smooth[len(grid) - 1 : 2 * len(grid) - 1] / (len(values) * step)
    return shown


def _upper(band: Curve) -> Float[ndarray, " n"]:
    return band.tpr if band.tpr_high is None else band.tpr_high


def _color(name: str) -> str:
    return {"original": RED, "audited": BLUE, "oracles": GRAY, "twins": INK}[name]


def _axes(figure: Figure, width: float, height: float, *, left: float, bottom: float) -> Axes:
    return figure.add_axes((left / width, bottom / height, 1 - (left + 14) / width, 1 - (bottom + 5) / height))


def _label(ax: Axes, curves: Sequence[tuple[Any, Any, str, str]], obstacles: Sequence[tuple[Any, Any]] = ()) -> None:
    """Write each curve's name beside it, where it covers no curve and no other name; joined by a hairline if apart."""
    frame = ax.get_window_extent()
    paths = [_on_page(ax, x, y) for x, y, _, _ in curves]
    ink = np.concatenate([*paths, *(_on_page(ax, x, y) for x, y in obstacles)])
    boxes: list[tuple[float, float, float, float]] = []  # center and half sizes of the names already written
    gap, side_x, side_y = (
        part.reshape(-1)
        for part in np.broadcast_arrays(
            np.array([3.0, 9.0, 16.0, 26.0])[:, None],
            np.array([1, -1, 1, -1, 1, -1, 0, 0]),
            np.array([0, 0, 0.8, 0.8, -0.8, -0.8, 1, -1]),
        )
    )
    for path, (_, _, text, color) in zip(paths, curves, strict=True):
        half_x, half_y = 0.24 * SIZE * len(text) + 1, 0.6 * SIZE
        visible = path[(path[:, 0] > frame.x0 + 2) & (path[:, 0] < frame.x1 - 2) & (path[:, 1] > frame.y0 + 4)]
        start = (visible if len(visible) else path)[::6]
        x, y = start[:, :1], start[:, 1:]
        cx, cy = x + side_x * (half_x + gap), y + side_y * (half_y + gap)
        beside = (abs(ink[:, 0] - cx[..., None]) < half_x + 1) & (abs(ink[:, 1] - cy[..., None]) < half_y + 1)
        price = 9 * beside.sum(axis=-1) + 1.6 * gap - 0.004 * y
        price += 20 * (np.maximum(0, frame.x0 - cx + half_x) + np.maximum(0, cx + half_x - frame.x1))
        price += 100 * np.maximum(0, frame.y0 + 1 - cy + half_y)  # below the axis stand its numbers
        price += 20 * np.maximum(0, cy + half_y - frame.y1)
        for bx, by, w, h in boxes:
            price += 500 * ((abs(cx - bx) < half_x + w) & (abs(cy - by) < half_y + h))
            for part in (0.0, 0.15, 0.3, 0.45, 0.6, 0.75):  # the hairline must not run through another name
                price += 100 * ((abs(x + part * (cx - x) - bx) < w) & (abs(y + part * (cy - y) - by) < h))
        i, j = np.unravel_index(int(price.argmin()), price.shape)
        at = (float(cx[i, j]), float(cy[i, j]))
        boxes.append((*at, half_x, half_y))
        edge = (
            float(np.clip(x[i, 0], at[0] - half_x, at[0] + half_x)),
            float(np.clip(y[i, 0], at[1] - half_y, at[1] + half_y)),
        )
        place, foot, near = ax.transData.inverted().transform([at, (x[i, 0], y[i, 0]), edge])
        ax.text(place[0], place[1], text, color=color, ha="center", va="center_baseline")
        if gap[j] > 6:
            ax.plot([foot[0], near[0]], [foot[1], near[1]], color=color, lw=0.5)


def _on_page(ax: Axes, x: Any, y: Any) -> Float[ndarray, "k 2"]:
    """A curve in points of the page, evenly sampled."""
    line = ax.transData.transform(np.column_stack([x, y]))
    along = np.append(0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
    at = np.linspace(0, along[-1], 220)
    return np.column_stack([np.interp(at, along, line[:, i]) for i in (0, 1)])


def _svg(draw: Callable[[Figure], None], width: float, height: float) -> bytes:
    """Draw on a page of so many points and write it without date, with fixed names and with text as text."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc must not change the report
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "unlearnkit",
                "font.family": "DejaVu Serif",
                "font.size": SIZE,
                "axes.linewidth": 0.7,
                "axes.edgecolor": INK,
                "axes.labelcolor": INK,
                "xtick.color": INK,
                "ytick.color": INK,
                "axes.labelpad": 2.5,
                "xtick.major.width": 0.7,
                "ytick.major.width": 0.7,
                "xtick.major.size": 2.5,
                "ytick.major.size": 2.5,
                "text.parse_math": False,
            }
        )
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(figure)
        draw(figure)
        target = io.BytesIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return re.sub(rb"'DejaVu Serif'[^;\"]*", f"'{FONT}'".encode(), target.getvalue())
