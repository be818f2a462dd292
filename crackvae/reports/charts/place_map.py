"""A map of findings that needs no network: metres east and north, with a scale bar and a north arrow.

Shape letters: N findings; C clusters of them.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from crackvae.images.metadata.places import metres_from_first, round_length
from crackvae.reports.charts import CRACK_COLOUR, INK, STYLE, new_figure, to_svg

# Findings in one square of this share of the map's side are one point of it.
CLUSTER_SHARE = 0.08

# A map of a single place is this wide [m].
MIN_SIDE_M = 20.0

# Length of the scale bar as a share of the map's side, at most.
BAR_SHARE = 0.25


def place_map(lats: Sequence[float], lons: Sequence[float], lengths_px: Sequence[float]) -> str:
    """Findings at their places as SVG; "" where fewer than two places are known.

    Args:
        lats, lons: degrees (N,), NaN where unknown.
        lengths_px: of the findings, (N,): a point is larger where the longest of its findings is longer.
    """
    known_N = np.isfinite(np.asarray(lats, float)) & np.isfinite(np.asarray(lons, float))
    lat_N, lon_N = np.asarray(lats, float)[known_N], np.asarray(lons, float)[known_N]
    if len(set(zip(lat_N, lon_N, strict=True))) < 2:
        return ""
    x_N, y_N = metres_from_first(lat_N, lon_N)
    side_m = max(MIN_SIDE_M, 1.1 * float(np.ptp(x_N)), 1.1 * float(np.ptp(y_N)))
    x_C, y_C, n_C, longest_C = _clusters(x_N, y_N, np.asarray(lengths_px, float)[known_N], side_m * CLUSTER_SHARE)
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(6.4, 5.2)
        axes.set_aspect("equal")
        axes.set_xlim(_middle(x_N) - side_m / 2, _middle(x_N) + side_m / 2)
        axes.set_ylim(_middle(y_N) - side_m / 2, _middle(y_N) + side_m / 2)
        axes.scatter(x_C, y_C, 40 + 260 * longest_C / longest_C.max(), color=CRACK_COLOUR, alpha=0.6, linewidths=0)
        for x, y, n in zip(x_C, y_C, n_C, strict=True):
            if n > 1:
                axes.annotate(str(n), (x, y), ha="center", va="center", fontsize=8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6))
            axis.set_major_formatter(FuncFormatter(lambda metres, _: f"{metres:g}"))
        axes.set_xlabel("east [m]")
        axes.set_ylabel("north [m]")
        _scale_bar(axes, side_m)
        arrow = {"arrowstyle": "-|>", "color": INK}
        axes.annotate("N", (0.95, 0.97), (0.95, 0.86), "axes fraction", "axes fraction", arrow, ha="center")
        return to_svg(figure, "map", f"map of {len(x_N)} findings at {len(x_C)} places")


def _middle(values_N: np.ndarray) -> float:
    return float(values_N.min() + values_N.max()) / 2


def _clusters(
    x_N: np.ndarray, y_N: np.ndarray, length_N: np.ndarray, cell_m: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean place, number and longest length of the findings in each square of `cell_m`."""
    cells = np.stack([x_N // cell_m, y_N // cell_m], axis=1)
    _, cell_N = np.unique(cells, axis=0, return_inverse=True)
    n_C = np.bincount(cell_N)
    longest_C = np.zeros(len(n_C))
    np.maximum.at(longest_C, cell_N, length_N)
    return np.bincount(cell_N, x_N) / n_C, np.bincount(cell_N, y_N) / n_C, n_C, longest_C


def _scale_bar(axes: mpl.axes.Axes, side_m: float) -> None:
    """A bar of a round length at the lower right."""
    length_m = round_length(BAR_SHARE * side_m)
    right, bottom = axes.get_xlim()[1] - 0.04 * side_m, axes.get_ylim()[0] + 0.05 * side_m
    axes.plot([right - length_m, right], [bottom, bottom], color=INK, linewidth=2.5, solid_capstyle="butt")
    text = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    axes.annotate(text, (right - length_m / 2, bottom + 0.012 * side_m), ha="center", va="bottom", fontsize=9)
