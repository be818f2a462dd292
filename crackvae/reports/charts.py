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
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, PercentFormatter

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


# Points of a curve that are closer on a log axis are drawn as one.
DOTS_A_DECADE = 100


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


def _figure(width_in: float = 4.8, height_in: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in))
    return figure, figure.add_subplot()


def _plain_log(axis: Axis, unit: float = 1.0, suffix: str = "") -> None:
    """Label a log axis with plain numbers, about as many as there is room for; small numbers keep their power."""
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.7 else (1, 3) if decades < 2.6 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{unit * value:g}{suffix}"))
    axis.set_minor_formatter(NullFormatter())


def _recall_axis(axis: Axis, n_crack: int) -> float:
    """Make a log axis of misses one of recall whose upper end is spread out: a good model has nearly all of it there.

    Returns:
        The least miss rate that the axis shows; no miss at all is drawn there.
    """
    least = 0.5 / max(n_crack, 1)
    axis.set_inverted(True)
    misses = [miss for miss in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001, 0.0001) if miss > 1.5 * least]
    if least < 0.003:
        misses = [miss for miss in misses if miss in (1, 0.5, 0.1, 0.01, 0.001, 0.0001)]
    axis.set_ticks([*misses, least], [*(f"{1 - miss:g}" for miss in misses), "1"])
    axis.set_minor_locator(NullLocator())
    axis.set_label_text("recall")
    return least


def _legend_above(axes: Axes, columns: int = 2) -> None:
    """A legend that hides no curve."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2)


def _bins(scores_N: np.ndarray) -> tuple[np.ndarray, bool]:
    """Edges of a histogram over all scores, and whether they are spaced by ratio: scores span decades."""
    low, high = float(scores_N.min()), float(scores_N.max())
    if low > 0 and high > 10 * low:
        return np.geomspace(low, high * 1.0001, BINS + 1), True
    return np.linspace(low, high + max(1e-9, 1e-6 * abs(high)), BINS + 1), False


def score_histogram(
    scores: dict[str, np.ndarray], threshold: float, name: str, usual_N: np.ndarray | None = None
) -> str:
    """Histogram of scores, one outline a label, with the threshold.

    Args:
        scores: float (N,) finite, by label; all or some may be empty.
        name: of the chart, unique in its page.
        usual_N: scores of sound images from another time, drawn in the size of `scores` to compare the shapes.
    """
    every = np.concatenate(list(scores.values()))
    if not len(every):
        return ""
    usual_N = np.zeros(0) if usual_N is None else usual_N
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        drawn = np.concatenate([every, usual_N, [threshold] if np.isfinite(threshold) else []])
        edges, by_ratio = _bins(drawn)
        for (label, scores_N), colour, style in zip(
            scores.items(), (SOUND_COLOUR, CRACK_COLOUR), LINE_STYLES, strict=False
        ):
            counts, _ = np.histogram(scores_N, edges)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.18)
            label = f"{label} ({len(scores_N):,})"
            axes.stairs(counts, edges, color=colour, linestyle=style, linewidth=1.6, label=label)
        if len(usual_N):
            shape = np.histogram(usual_N, edges)[0] * len(every) / len(usual_N)
            label = f"calibration ({len(usual_N):,}), scaled"
            axes.stairs(shape, edges, color=INK, linestyle="dotted", linewidth=1.3, label=label)
        axes.axvline(threshold, color=INK, linewidth=1.4, label=f"threshold {threshold:.3g}")
        axes.set(xlabel="score (larger is more crack-like)", ylabel="images", yscale="log")
        axes.set_ylim(bottom=0.7)
        _plain_log(axes.yaxis)
        if by_ratio:
            axes.set(xscale="log", xlim=(edges[0], edges[-1]))
            _plain_log(axes.xaxis)
        _legend_above(axes)
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
        _legend_above(axes)
        return _svg(figure, name, f"share of flagged and unreadable images over the last {len(runs)} runs")


def _thinned(x_K: np.ndarray, y_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a curve on two log axes that the eye can tell apart, and both ends of each of its steps."""
    places_2K = np.round(DOTS_A_DECADE * np.log10([x_K, y_K]))
    moves = (np.diff(places_2K) != 0).any(axis=0)
    kept = np.r_[True, moves] | np.r_[moves, True]
    return x_K[kept], y_K[kept]


def roc(
    curves: Mapping[str, tuple[np.ndarray, ...]], at: tuple[float, float], n_sound: int, n_crack: int, name: str
) -> str:
    """Recall over the false-alarm rate, on a log axis: a night can afford the left end only.

    Args:
        curves: false-alarm rates and recalls (K,), non-decreasing, by scorer.
        at: false-alarm rate and recall at the threshold.
        n_sound, n_crack: images; half a false alarm and half a miss among them are the ends of the axes.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        axes.set(xscale="log", yscale="log")
        left, least = 0.5 / max(n_sound, 1), _recall_axis(axes.yaxis, n_crack)
        for (label, (false_alarm_K, recall_K)), colour, style in _styled(curves):
            x_K, miss_K = _thinned(np.maximum(false_alarm_K, left), np.maximum(1 - recall_K, least))
            axes.step(x_K, miss_K, where="post", color=colour, linestyle=style, label=label)
        at_threshold = max(at[0], left), max(1 - at[1], least)
        axes.plot(*at_threshold, "o", color=INK, markersize=6, label="threshold", clip_on=False)
        axes.set(xlim=(left, 1), ylim=(1, least), xlabel="false-alarm rate")
        _plain_log(axes.xaxis, 100, " %")
        _legend_above(axes, columns=3)
        return _svg(figure, name, "ROC curve: recall over the false-alarm rate on a log axis")


def precision_recall(
    curves: Mapping[str, tuple[np.ndarray, ...]], prevalence: float, at: tuple[float, float], n_crack: int, name: str
) -> str:
    """False alarms a crack found over recall, on a log axis: precision restated for a night with few cracks.

    Args:
        curves, at, n_crack: as in roc().
        prevalence: share of cracked images that the rates are restated for.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        axes.set(xscale="log", yscale="log")
        least = _recall_axis(axes.xaxis, n_crack)
        for (label, (false_alarm_K, recall_K)), colour, style in _styled(curves):
            each_K = _alarms_a_crack(false_alarm_K, recall_K, prevalence)
            miss_K, each_K = _thinned(np.maximum(1 - recall_K, least), each_K)
            axes.plot(miss_K, each_K, color=colour, linestyle=style, label=label)
        each = _alarms_a_crack(np.array(at[0]), np.array(at[1]), prevalence)
        axes.plot(max(1 - at[1], least), each, "o", color=INK, markersize=6, label="threshold", clip_on=False)
        axes.set(xlim=(1, least), ylabel="false alarms for each crack found")
        axes.set_ylim(1e-3, 1.5 * (1 - prevalence) / prevalence)
        _plain_log(axes.yaxis)
        right = axes.secondary_yaxis("right")
        precisions = np.array([0.999, 0.99, 0.9, 0.5, 0.1, 0.01])
        precisions = precisions[precisions >= prevalence]
        right.set_yticks((1 - precisions) / precisions, [f"{one:g}" for one in precisions], minor=False)
        right.minorticks_off()
        right.set_ylabel(f"precision at {prevalence:.0%} cracked")
        _legend_above(axes, columns=3)
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
        bar.ax.xaxis.set_major_locator(MaxNLocator(6))
        bar.ax.xaxis.set_major_formatter("{x:g}")
        bar.set_label(unit)
        return _svg(figure, name, f"colour scale of the anomaly maps: {unit}, from 0 to {top:.3g} and above")


def tile_grid(tile_scores: np.ndarray, threshold: float, highest: float, name: str) -> str:
    """Scores of the tiles of one photograph in their grid; those above the threshold are ringed.

    Args:
        tile_scores: float (rows, cols).
        highest: tile score of the page, so that all its grids have one scale: nothing glows in a sound photograph.
    """
    rows, cols = tile_scores.shape
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 3.9 * min(1.3, rows / cols) + 0.7))
        axes = figure.add_subplot()
        scale = Normalize(min(0.0, float(tile_scores.min())), max(highest, 1.25 * threshold))
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
