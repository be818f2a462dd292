"""Curves of an evaluation as SVG, and the loss curve of a training.

Shape letters: K points of a curve.
"""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator, NullLocator

from crackvae.reports.charts import (
    CRACK_COLOUR,
    INK,
    LINE_STYLES,
    OTHER_COLOURS,
    SOUND_COLOUR,
    STYLE,
    legend_above,
    new_figure,
    plain_log,
    to_svg,
)

# Resolution of a curve on a log axis: closer points are merged.
POINTS_PER_DECADE = 100


def _recall_axis(axis: Axis, n_crack: int) -> float:
    """Label a log axis of miss rates with recall, which magnifies the range near 1 where good models differ.

    Returns:
        The lowest miss rate on the axis; a miss rate of 0 is drawn there.
    """
    lowest = 0.5 / max(n_crack, 1)
    axis.set_inverted(True)
    misses = [miss for miss in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001, 0.0001) if miss > 1.5 * lowest]
    if lowest < 0.003:
        misses = [miss for miss in misses if miss in (1, 0.5, 0.1, 0.01, 0.001, 0.0001)]
    axis.set_ticks([*misses, lowest], [*(f"{1 - miss:g}" for miss in misses), "1"])
    axis.set_minor_locator(NullLocator())
    axis.set_label_text("recall")
    return lowest


def _thinned(x_K: np.ndarray, y_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinguishable points of a curve on two log axes, including both ends of each step."""
    positions_2K = np.round(POINTS_PER_DECADE * np.log10([x_K, y_K]))
    changes = (np.diff(positions_2K) != 0).any(axis=0)
    kept = np.r_[True, changes] | np.r_[changes, True]
    return x_K[kept], y_K[kept]


def roc(
    curves: Mapping[str, tuple[np.ndarray, ...]], at: tuple[float, float], n_sound: int, n_crack: int, name: str
) -> str:
    """Recall over the false-alarm rate on log axes, because only low false-alarm rates are useful in practice.

    Args:
        curves: false-alarm rates and recalls (K,), non-decreasing, by scorer.
        at: false-alarm rate and recall at the threshold.
        n_sound, n_crack: numbers of images; the axes end at half a false alarm and half a miss.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure()
        axes.set(xscale="log", yscale="log")
        left, lowest = 0.5 / max(n_sound, 1), _recall_axis(axes.yaxis, n_crack)
        for (label, (false_alarm_K, recall_K)), colour, style in _styled(curves):
            x_K, miss_K = _thinned(np.maximum(false_alarm_K, left), np.maximum(1 - recall_K, lowest))
            axes.step(x_K, miss_K, where="post", color=colour, linestyle=style, label=label)
        at_threshold = max(at[0], left), max(1 - at[1], lowest)
        axes.plot(*at_threshold, "o", color=INK, markersize=6, label="threshold", clip_on=False)
        axes.set(xlim=(left, 1), ylim=(1, lowest), xlabel="false-alarm rate")
        plain_log(axes.xaxis, 100, " %")
        legend_above(axes, columns=3)
        return to_svg(figure, name, "ROC curve: recall over the false-alarm rate on a log axis")


def precision_recall(
    curves: Mapping[str, tuple[np.ndarray, ...]], prevalence: float, at: tuple[float, float], n_crack: int, name: str
) -> str:
    """Precision and recall at a low prevalence, as false alarms per crack found over recall, on log axes.

    Args:
        curves, at, n_crack: as in roc().
        prevalence: assumed share of cracked images.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure()
        axes.set(xscale="log", yscale="log")
        lowest = _recall_axis(axes.xaxis, n_crack)
        for (label, (false_alarm_K, recall_K)), colour, style in _styled(curves):
            alarms_K = _alarms_per_crack(false_alarm_K, recall_K, prevalence)
            miss_K, alarms_K = _thinned(np.maximum(1 - recall_K, lowest), alarms_K)
            axes.plot(miss_K, alarms_K, color=colour, linestyle=style, label=label)
        alarms = _alarms_per_crack(np.array(at[0]), np.array(at[1]), prevalence)
        axes.plot(max(1 - at[1], lowest), alarms, "o", color=INK, markersize=6, label="threshold", clip_on=False)
        axes.set(xlim=(1, lowest), ylabel="false alarms per crack found")
        axes.set_ylim(1e-3, 1.5 * (1 - prevalence) / prevalence)
        plain_log(axes.yaxis)
        right = axes.secondary_yaxis("right")
        precisions = np.array([0.999, 0.99, 0.9, 0.5, 0.1, 0.01])
        precisions = precisions[precisions >= prevalence]
        right.set_yticks((1 - precisions) / precisions, [f"{one:g}" for one in precisions], minor=False)
        right.minorticks_off()
        right.set_ylabel(f"precision at {prevalence:.0%} cracked")
        legend_above(axes, columns=3)
        return to_svg(figure, name, "precision-recall curve, with false alarms per crack found on a log axis")


def _alarms_per_crack(false_alarm_K: np.ndarray, recall_K: np.ndarray, prevalence: float) -> np.ndarray:
    found_K = np.maximum(recall_K * prevalence, 1e-12)
    return np.asarray(np.maximum(false_alarm_K * (1 - prevalence) / found_K, 1e-3))


def _styled(curves: Mapping[str, Any]) -> "zip[tuple[tuple[str, Any], str, str]]":
    colours = (CRACK_COLOUR, SOUND_COLOUR, *OTHER_COLOURS) * (1 + len(curves) // 5)
    return zip(curves.items(), colours, LINE_STYLES * (1 + len(curves) // 4), strict=False)


def loss_curve(epochs: pd.DataFrame) -> bytes:
    """PNG of training and validation loss by epoch, with the selected epoch marked.

    Args:
        epochs: one row per epoch, with the columns train_loss and val_loss.
    """
    inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with mpl.rc_context(STYLE | dict.fromkeys(inks, "black") | {"grid.color": "0.85"}):
        figure, axes = new_figure()
        for column, colour, style in (("train_loss", SOUND_COLOUR, "dashed"), ("val_loss", CRACK_COLOUR, "solid")):
            axes.plot(epochs.index, epochs[column], color=colour, linestyle=style, marker=".", label=column[:-5])
        lowest = int(epochs["val_loss"].to_numpy().argmin())
        best = epochs.index[lowest]
        axes.plot(best, epochs["val_loss"].iloc[lowest], "ko", fillstyle="none", label=f"best: epoch {best}")
        axes.set(xlabel="epoch", ylabel="loss")
        if epochs["train_loss"].max() > 5 * epochs["train_loss"].min():
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight", facecolor="white")
    return file.getvalue()
