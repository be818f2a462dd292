"""Charts of the page as SVG, drawn by Matplotlib, and the colours of anomaly maps. curves has those of an evaluation.

Lines differ in style as well as in colour (Okabe & Ito's palette, safe for colour-blind readers), so the charts remain
readable in greyscale. Text and axes use the text colour of the page, so one chart suits light and dark themes.

Shape letters: H, W rows and columns of a picture; N images.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

# Placeholder colours, replaced by variables of the page's style sheet; no chart uses them otherwise.
INK, FAINT = "#010203", "#040506"

CSS_OF = {INK: "var(--ink)", FAINT: "var(--line)"}

# Source: Okabe & Ito, Color Universal Design (2008). Blue and vermilion differ in lightness too.
SOUND_COLOUR, CRACK_COLOUR, OTHER_COLOURS = "#0072b2", "#d55e00", ("#009e73", "#cc79a7", "#56b4e9")

LINE_STYLES = ("solid", "dashed", "dotted", "dashdot")

# Perceptually uniform with monotonically increasing lightness: brighter is more anomalous, also in greyscale.
ANOMALY_COLOURS = "inferno"

# Brightness of the picture below an anomaly map, so that the colours stand out.
BACKGROUND_SHARE = 0.45

BINS = 60

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def to_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an inline SVG element without external references, with unique ids and a text alternative."""
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = file.getvalue().decode()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, css in CSS_OF.items():
        svg = svg.replace(colour, css)
    ids = re.sub(r"\W", "-", name)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{ids}-", svg)
    escaped = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escaped}" class="chart" ', 1)


def new_figure(width_in: float = 4.8, height_in: float = 3.0) -> tuple[Figure, Axes]:
    """A figure of this size [inch] with one pair of axes."""
    figure = Figure(figsize=(width_in, height_in))
    return figure, figure.add_subplot()


def plain_log(axis: Axis, unit: float = 1.0, suffix: str = "") -> None:
    """Label a log axis with plain numbers, about as many as fit."""
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.7 else (1, 3) if decades < 2.6 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{unit * value:g}{suffix}"))
    axis.set_minor_formatter(NullFormatter())


def legend_above(axes: Axes, columns: int = 2) -> None:
    """Put the legend above the axes, where it covers no curve."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2)


def _bins(scores_N: np.ndarray) -> tuple[np.ndarray, bool]:
    """Edges of a histogram over all scores, and whether they are logarithmic because the scores span decades."""
    low, high = float(scores_N.min()), float(scores_N.max())
    if low > 0 and high > 10 * low:
        return np.geomspace(low, high * 1.0001, BINS + 1), True
    return np.linspace(low, high + max(1e-9, 1e-6 * abs(high)), BINS + 1), False


def score_histogram(
    scores: dict[str, np.ndarray], threshold: float, name: str, usual_N: np.ndarray | None = None
) -> str:
    """Histogram of scores, one outline per label, with the threshold.

    Args:
        scores: finite scores, float (N,), by label; all or some may be empty.
        name: name of the chart, unique in its page.
        usual_N: scores of calibration images, scaled to the number of `scores` to compare the distributions.
    """
    every = np.concatenate(list(scores.values()))
    if not len(every):
        return ""
    usual_N = np.zeros(0) if usual_N is None else usual_N
    with mpl.rc_context(STYLE):
        figure, axes = new_figure()
        drawn = np.concatenate([every, usual_N, [threshold] if np.isfinite(threshold) else []])
        edges, by_ratio = _bins(drawn)
        for (label, scores_N), colour, style in zip(
            scores.items(), (SOUND_COLOUR, CRACK_COLOUR), LINE_STYLES, strict=False
        ):
            counts, _ = np.histogram(scores_N, edges)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.18)
            label = f"{label} ({len(scores_N):,})"
            axes.stairs(counts, edges, color=colour, linestyle=style, linewidth=1.6, label=label)
        lowest = 0.7
        if len(usual_N):
            shape = np.histogram(usual_N, edges)[0] * len(every) / len(usual_N)
            label = f"calibration ({len(usual_N):,}), scaled"
            axes.stairs(shape, edges, color=INK, linestyle="dotted", linewidth=1.3, label=label)
            lowest = min(lowest, 0.05 * shape.max())  # of few images the scaled counts are below one
        axes.axvline(threshold, color=INK, linewidth=1.4, label=f"threshold {threshold:.3g}")
        axes.set(xlabel="score (larger is more crack-like)", ylabel="images", yscale="log")
        axes.set_ylim(bottom=lowest)
        plain_log(axes.yaxis)
        if by_ratio:
            axes.set(xscale="log", xlim=(edges[0], edges[-1]))
            plain_log(axes.xaxis)
        legend_above(axes)
        return to_svg(figure, name, f"histogram of the scores of {len(every)} images, threshold {threshold:.3g}")


def trend(runs: Sequence[str], shares: dict[str, list[float]], expected: float | None, name: str) -> str:
    """Shares of the images of the latest runs in per cent, such as flagged and unreadable.

    Args:
        runs: short names of the runs, oldest first.
        shares: one value per run by name, NaN if there is none.
        expected: expected flagged share if all images were sound, or None if unknown.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure()
        colours = (CRACK_COLOUR, SOUND_COLOUR, OTHER_COLOURS[0])
        for (label, values), colour, style in zip(shares.items(), colours, LINE_STYLES, strict=False):
            axes.plot(range(len(runs)), values, linestyle=style, marker="o", markersize=4, color=colour, label=label)
        if expected is not None:
            axes.axhline(expected, color=INK, linewidth=0.8, linestyle=(0, (1, 3)), label="expected if all sound")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_ylim(bottom=0)
        step = max(1, -(-len(runs) // 6))
        axes.set_xticks(range(0, len(runs), step), runs[::step], rotation=30, ha="right")
        axes.set(ylabel="share of the run's images")
        legend_above(axes)
        return to_svg(figure, name, f"share of flagged and unreadable images over the last {len(runs)} runs")


# ----------------------------------------------------------------------------------------------- anomaly maps


def anomaly_overlay(picture_HW: np.ndarray, anomaly_HW: np.ndarray, vmax: float) -> np.ndarray:
    """An anomaly map in colour over its darkened picture.

    Args:
        picture_HW: uint8 (H, W).
        anomaly_HW: float (H, W), same shape.
        vmax: upper end of the colour scale; larger values are clipped.

    Returns:
        uint8 (H, W, 3), sRGB.
    """
    strength_HW = (np.clip(anomaly_HW / np.float32(vmax), 0, 1) * 255).astype(np.uint8)
    colours = (mpl.colormaps[ANOMALY_COLOURS](np.arange(256))[:, :3] * 255).astype(np.uint16)
    cover = np.linspace(0, 1, 256) ** 0.75  # the picture shows through faint residuals
    colour_weight = (cover * 256).astype(np.uint16)
    grey_weight = ((1 - cover) * BACKGROUND_SHARE * 256).astype(np.uint16)
    grey_HW = picture_HW.astype(np.uint16) * grey_weight[strength_HW]
    weighted = colours * colour_weight[:, None]
    return np.stack([((grey_HW + weighted[:, c][strength_HW]) >> 8).astype(np.uint8) for c in range(3)], axis=-1)


def colour_bar(vmax: float, unit: str, name: str) -> str:
    """The colour scale of anomaly_overlay(), with its unit."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 0.28))
        axes = figure.add_subplot()
        scale = ScalarMappable(Normalize(0, vmax), ANOMALY_COLOURS)
        bar = figure.colorbar(scale, cax=axes, orientation="horizontal", extend="max")
        bar.ax.xaxis.set_major_locator(MaxNLocator(6))
        bar.ax.xaxis.set_major_formatter("{x:g}")
        bar.set_label(unit)
        return to_svg(figure, name, f"colour scale of the anomaly maps: {unit}, from 0 to {vmax:.3g} and above")


def tile_grid(tile_scores: np.ndarray, threshold: float, highest: float, name: str) -> str:
    """Tile scores of one photograph as a grid; tiles above the threshold are circled.

    Args:
        tile_scores: float (rows, cols); NaN, left blank, for a tile without a surface, which not all are.
        highest: highest tile score of the page, so that all grids share one colour scale.
    """
    rows, cols = tile_scores.shape
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.9 * min(1.3, rows / cols) + 0.7))
        axes = figure.add_subplot()
        scale = Normalize(min(0.0, float(np.nanmin(tile_scores))), max(highest, 1.25 * threshold))
        picture = axes.imshow(tile_scores, cmap=ANOMALY_COLOURS, norm=scale, interpolation="nearest")
        ys, xs = np.nonzero(tile_scores > threshold)
        axes.scatter(xs, ys, s=min(60.0, 3000 / max(rows, cols)), facecolors="none", edgecolors="white", linewidths=1.2)
        axes.scatter(xs, ys, s=min(20.0, 900 / max(rows, cols)), facecolors="none", edgecolors="black", linewidths=0.8)
        axes.grid(visible=False)
        axes.set(xlabel="tile column", ylabel="tile row")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True))
        bar = figure.colorbar(picture, ax=axes, label="tile score", shrink=0.8)
        bar.ax.axhline(threshold, color="white", linewidth=3.5)
        bar.ax.axhline(threshold, color="black", linewidth=1.5)
        return to_svg(figure, name, f"scores of {rows} x {cols} tiles; {len(xs)} are above the threshold")
