"""Charts of the page as SVG, and the colours of anomaly maps. Matplotlib draws; the page's own colours are put in.

Curves differ in line style as well as in colour (Okabe & Ito's colours, which colour-blind eyes tell apart), so the
charts survive grey print. Text and axes take the colour of the page's text, so one chart serves light and dark.

Shape letters: H, W rows and columns of a picture; N images; K points of a curve.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

# Colours that stand for variables of the page's style sheet; no chart uses them for anything else.
INK, FAINT = "#010203", "#040506"
CSS_OF = {INK: "var(--ink)", FAINT: "var(--line)"}
# Source: Okabe & Ito, Color Universal Design (2008). Blue and vermilion differ in lightness too.
SOUND_COLOUR, CRACK_COLOUR, OTHER_COLOURS = "#0072b2", "#d55e00", ("#009e73", "#cc79a7", "#56b4e9")
LINE_STYLES = ("solid", "dashed", "dotted", "dashdot")
# Perceptually uniform, and its lightness rises all the way: brighter is more anomalous in grey print too.
ANOMALY_COLOURS = "inferno"
# The picture below an anomaly map, darkened so that any colour above stands out.
BACKGROUND_SHARE = 0.45
# A curve of 10^6 points looks like one of this many.
MAX_POINTS = 600
BINS = 60

_STYLE: Any = {
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


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element to put into a page: no outside reference, ids of its own, said in words."""
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


def _figure(width_in: float = 5.2, height_in: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in))
    return figure, figure.add_subplot()


def _bins(scores_N: np.ndarray) -> tuple[np.ndarray, bool]:
    """Edges of a histogram over all scores, and whether they are spaced by ratio: scores span decades."""
    low, high = float(scores_N.min()), float(scores_N.max())
    if low > 0 and high > 10 * low:
        return np.geomspace(low, high * 1.0001, BINS + 1), True
    return np.linspace(low, high + max(1e-9, 1e-6 * abs(high)), BINS + 1), False


def score_histogram(scores: dict[str, np.ndarray], threshold: float, name: str) -> str:
    """Histogram of scores, one outline a label, with the threshold.

    Args:
        scores: float (N,) finite, by label; all or some may be empty.
        name: of the chart, unique in its page.
    """
    every = np.concatenate(list(scores.values()))
    if not len(every):
        return ""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        edges, by_ratio = _bins(np.append(every, threshold) if np.isfinite(threshold) else every)
        for (label, scores_N), colour, style in zip(
            scores.items(), (SOUND_COLOUR, CRACK_COLOUR), LINE_STYLES, strict=False
        ):
            counts, _ = np.histogram(scores_N, edges)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.18)
            axes.stairs(counts, edges, color=colour, linestyle=style, linewidth=1.6, label=f"{label} ({len(scores_N)})")
        axes.axvline(threshold, color=INK, linewidth=1.4)
        axes.annotate(
            f" threshold {threshold:.3g}", (threshold, 1), xycoords=("data", "axes fraction"), va="bottom", ha="center"
        )
        axes.set(xlabel="score (larger is more crack-like)", ylabel="images", yscale="log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_minor_formatter(NullFormatter())
        if by_ratio:
            axes.set_xscale("log")
        if len(scores) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.22), ncols=2)
        return _svg(figure, name, f"histogram of the scores of {len(every)} images, threshold {threshold:.3g}")


def trend(runs: Sequence[str], shares: dict[str, list[float]], expected: float | None, name: str) -> str:
    """Shares of the images of each of the last runs, in per cent: flagged, unreadable, unreachable.

    Args:
        runs: short names of the runs, oldest first.
        shares: one value a run, NaN where there is none.
        expected: share that would be flagged if all were sound, or None where that is not known.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        colours = (CRACK_COLOUR, SOUND_COLOUR, OTHER_COLOURS[0])
        for (label, values), colour, style in zip(shares.items(), colours, LINE_STYLES, strict=False):
            axes.plot(range(len(runs)), values, linestyle=style, marker="o", markersize=4, color=colour, label=label)
        if expected is not None:
            axes.axhline(expected, color=INK, linewidth=0.8, linestyle=(0, (1, 3)), label="flagged if all were sound")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_ylim(bottom=0)
        step = max(1, -(-len(runs) // 6))
        axes.set_xticks(range(0, len(runs), step), runs[::step], rotation=30, ha="right")
        axes.set(ylabel="share of the run's images")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.28), ncols=2)
        return _svg(figure, name, f"share of flagged and unreadable images over the last {len(runs)} runs")


def _thinned(*curves: np.ndarray) -> list[np.ndarray]:
    """The same points of each curve, first and last among them, at most MAX_POINTS; dense where the curve begins."""
    n = len(curves[0])
    if n <= MAX_POINTS:
        return list(curves)
    kept = np.unique(np.r_[0, np.geomspace(1, n - 1, MAX_POINTS).astype(int), np.linspace(0, n - 1, 200).astype(int)])
    return [curve[kept] for curve in curves]


def roc(curves: Mapping[str, tuple[np.ndarray, ...]], at: tuple[float, float], n_sound: int, name: str) -> str:
    """Recall over the false-alarm rate, on a log axis: a night can afford the left end only.

    Args:
        curves: false-alarm rates and recalls (K,), non-decreasing, by scorer.
        at: false-alarm rate and recall at the threshold.
        n_sound: sound images; one false alarm among them is the left end.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        left = 1 / max(n_sound, 2)
        for (label, (false_alarm_K, recall_K)), colour, style in _styled(curves):
            x_K, y_K = _thinned(np.maximum(false_alarm_K, left / 2), recall_K)
            axes.step(x_K, y_K, where="post", color=colour, linestyle=style, label=label)
        axes.plot(max(at[0], left / 2), at[1], "o", color=INK, markersize=6, label="threshold")
        axes.set(xscale="log", xlim=(left / 2, 1), ylim=(0, 1.02), xlabel="false-alarm rate", ylabel="recall")
        axes.legend(loc="lower right")
        return _svg(figure, name, "ROC curve: recall over the false-alarm rate on a log axis")


def precision_recall(
    curves: Mapping[str, tuple[np.ndarray, ...]], prevalence: float, at: tuple[float, float], name: str
) -> str:
    """False alarms a crack found over recall, on a log axis: precision restated for a night with few cracks.

    Args:
        curves, at: as in roc().
        prevalence: share of cracked images that the rates are restated for.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for (label, (false_alarm_K, recall_K)), colour, style in _styled(curves):
            alarm_K, found_K = _thinned(false_alarm_K, recall_K)
            axes.plot(
                found_K, _alarms_a_crack(alarm_K, found_K, prevalence), color=colour, linestyle=style, label=label
            )
        axes.plot(at[1], _alarms_a_crack(np.array(at[0]), np.array(at[1]), prevalence), "o", color=INK, markersize=6)
        axes.set(yscale="log", xlim=(0, 1.02), xlabel="recall", ylabel="false alarms for each crack found")
        axes.set_ylim(1e-3, 1.5 * (1 - prevalence) / prevalence)
        right = axes.secondary_yaxis("right")
        ticks = np.array([1e-3, 1e-2, 1e-1, 1, 1e1, 1e2])
        ticks = ticks[ticks < (1 - prevalence) / prevalence]
        right.set_yticks(ticks, [f"{1 / (1 + tick):.3g}" for tick in ticks], minor=False)
        right.minorticks_off()
        right.set_ylabel(f"precision at {prevalence:.0%} cracked")
        axes.legend(loc="upper left")
        return _svg(figure, name, "precision-recall curve, with false alarms for each crack found on a log axis")


def _alarms_a_crack(false_alarm_K: np.ndarray, recall_K: np.ndarray, prevalence: float) -> np.ndarray:
    found_K = np.maximum(recall_K * prevalence, 1e-12)
    return np.asarray(np.maximum(false_alarm_K * (1 - prevalence) / found_K, 1e-3))


def _styled(curves: Mapping[str, Any]) -> "zip[tuple[tuple[str, Any], str, str]]":
    colours = (CRACK_COLOUR, SOUND_COLOUR, *OTHER_COLOURS) * (1 + len(curves) // 5)
    return zip(curves.items(), colours, LINE_STYLES * (1 + len(curves) // 4), strict=False)


# ----------------------------------------------------------------------------------------------- anomaly maps


def anomaly_overlay(picture_HW: np.ndarray, anomaly_HW: np.ndarray, top: float) -> np.ndarray:
    """An anomaly map in colour over its darkened picture.

    Args:
        picture_HW: uint8 (H, W).
        anomaly_HW: float (H, W), in the same shape.
        top: the value that gets the brightest colour; greater ones get it too.

    Returns:
        uint8 (H, W, 3), sRGB.
    """
    strength_HW = (np.clip(anomaly_HW / np.float32(top), 0, 1) * 255).astype(np.uint8)
    colours = (mpl.colormaps[ANOMALY_COLOURS](np.arange(256))[:, :3] * 255).astype(np.uint16)
    cover = np.linspace(0, 1, 256) ** 0.75  # faint residuals leave the picture to be seen
    colour_weight = (cover * 256).astype(np.uint16)
    grey_weight = ((1 - cover) * BACKGROUND_SHARE * 256).astype(np.uint16)
    grey_HW = picture_HW.astype(np.uint16) * grey_weight[strength_HW]
    weighted = colours * colour_weight[:, None]
    return np.stack([((grey_HW + weighted[:, c][strength_HW]) >> 8).astype(np.uint8) for c in range(3)], axis=-1)


def colour_bar(top: float, unit: str, name: str) -> str:
    """The scale of anomaly_overlay(), with its unit."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 0.28))
        axes = figure.add_subplot()
        scale = ScalarMappable(Normalize(0, top), ANOMALY_COLOURS)
        bar = figure.colorbar(scale, cax=axes, orientation="horizontal", extend="max")
        bar.set_ticks(list(top * np.array([0, 0.2, 0.4, 0.6, 0.8, 1])))
        bar.ax.xaxis.set_major_formatter("{x:.2g}")
        bar.set_label(unit)
        return _svg(figure, name, f"colour scale of the anomaly maps: {unit}, from 0 to {top:.3g} and above")


def tile_grid(tile_scores: np.ndarray, threshold: float, name: str) -> str:
    """Scores of the tiles of one photograph in their grid; those above the threshold are ringed.

    Args:
        tile_scores: float (rows, cols).
    """
    rows, cols = tile_scores.shape
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 5.2 * min(1.2, rows / cols) + 0.9))
        axes = figure.add_subplot()
        picture = axes.imshow(tile_scores, cmap=ANOMALY_COLOURS, interpolation="nearest")
        ys, xs = np.nonzero(tile_scores > threshold)
        axes.scatter(xs, ys, s=min(60.0, 3000 / max(rows, cols)), facecolors="none", edgecolors="white", linewidths=1.2)
        axes.scatter(xs, ys, s=min(20.0, 900 / max(rows, cols)), facecolors="none", edgecolors="black", linewidths=0.8)
        axes.grid(visible=False)
        axes.set(xlabel="tile column", ylabel="tile row")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True))
        figure.colorbar(picture, ax=axes, label="tile score", shrink=0.8)
        return _svg(figure, name, f"scores of {rows} x {cols} tiles; {len(xs)} are above the threshold")


def loss_curve(epochs: pd.DataFrame) -> bytes:
    """PNG of the losses of a training against its epochs, with the epoch that was kept.

    Args:
        epochs: a row an epoch, with the columns train_loss and val_loss.
    """
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with mpl.rc_context(_STYLE | dict.fromkeys(inks, "black") | {"grid.color": "0.85"}):
        figure, axes = _figure()
        for column, colour, style in (("train_loss", SOUND_COLOUR, "dashed"), ("val_loss", CRACK_COLOUR, "solid")):
            axes.plot(epochs.index, epochs[column], color=colour, linestyle=style, marker=".", label=column[:-5])
        lowest = int(epochs["val_loss"].to_numpy().argmin())
        best = epochs.index[lowest]
        axes.plot(best, epochs["val_loss"].iloc[lowest], "ko", fillstyle="none", label=f"kept: epoch {best}")
        axes.set(xlabel="epoch", ylabel="loss")
        if epochs["train_loss"].max() > 5 * epochs["train_loss"].min():
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight", facecolor="white")
    return file.getvalue()
