"""Width of a dark line along its trace, from grey levels across it, with sub-pixel edges.

The full width at half maximum of a blurred line is larger than its width. How much larger follows from how steep its
edges are for its depth and width, so that no blur needs to be known.

Shape letters: H, W rows and columns of an image; K points of a trace; T offsets across it; C stretches;
2 = (y, x) [px].
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage, special

from crackvae.tracing.profiles import normals, profiles

# Distance between samples across a line [px].
STEP_PX = 0.5

# Points of one stretch, whose profiles are averaged: noise falls by a factor of 4, and a width changes little over it.
STRETCH_PX = 16

# Standard deviation of the Gaussians along a trace that calm its moves to the middle of the line [px].
ALONG_PX = 2.0

# Smallest depth of a line as a multiple of the standard error of its surroundings; below, it has no width.
MIN_SIGNAL = 4.0

# Standard uncertainties: of any mean width [px], and as a share of the correction for blur. Fitted to drawn lines
# (benchmarks/findings.py), so that 1.645 standard uncertainties cover 90 %.
FLOOR_PX, BLUR_SHARE = 0.17, 0.35


@dataclass(frozen=True)
class Widths:
    """Widths along a trace.

    Attributes:
        points_K2: the trace, moved to the middle of the dark line.
        width_K: width at each point [px]; NaN where the line cannot be told from its surroundings.
        mean_px, mean_sigma_px, max_px, max_sigma_px: with standard uncertainties; NaN without any width.
        variation: standard deviation of the widths over their mean.
    """

    points_K2: np.ndarray
    width_K: np.ndarray
    mean_px: float
    mean_sigma_px: float
    max_px: float
    max_sigma_px: float
    variation: float


def widths_along(pixels_HW: np.ndarray, points_K2: np.ndarray, rough_width_px: float) -> Widths:
    """Measure the width of a dark line.

    Args:
        pixels_HW: grey levels, uint8 (H, W).
        points_K2: a trace within about half a width of the middle of the line, in steps of about 1 px.
        rough_width_px: of the line, from its mask.
    """
    reach_px = max(8.0, 1.5 * rough_width_px + 6)
    offsets_T = np.arange(-reach_px, reach_px + STEP_PX / 2, STEP_PX)
    profile_KT = profiles(pixels_HW, points_K2, normals(points_K2), offsets_T)
    shift_K = _shifts(profile_KT, offsets_T, rough_width_px)
    points_K2 = points_K2 + shift_K[:, None] * normals(points_K2)
    profile_KT = profiles(pixels_HW, points_K2, normals(points_K2), offsets_T)
    stretches = np.array_split(np.arange(len(points_K2)), max(1, len(points_K2) // STRETCH_PX))
    depth_CT, noise_C = _depths(np.array([profile_KT[part].mean(axis=0) for part in stretches]))
    measured = [_width(depth_T, noise) for depth_T, noise in zip(depth_CT, noise_C, strict=True)]
    width_C, half_C = np.array(measured).T
    width_K = np.repeat(width_C, [len(part) for part in stretches])
    return _summary(points_K2, width_K, width_C, half_C - width_C)


def _summary(points_K2: np.ndarray, width_K: np.ndarray, width_C: np.ndarray, blur_C: np.ndarray) -> Widths:
    known = np.isfinite(width_C)
    if not known.any():
        return Widths(points_K2, width_K, *[math.nan] * 5)
    width_C, blur_C = width_C[known], blur_C[known]
    scatter = float(np.median(np.abs(np.diff(width_C)))) * 1.0484 if len(width_C) > 2 else 0.5  # sigma of one stretch
    blur = BLUR_SHARE * float(blur_C.mean())
    mean = float(width_C.mean())
    calm_C = ndimage.median_filter(width_C, 3, mode="nearest")
    sigma = math.sqrt(scatter**2 / len(width_C) + FLOOR_PX**2 + blur**2)
    max_sigma = math.sqrt(scatter**2 + FLOOR_PX**2 + blur**2)
    return Widths(points_K2, width_K, mean, sigma, float(calm_C.max()), max_sigma, float(calm_C.std()) / max(mean, 0.1))


def _depths(profile_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Darkness of profiles (N, T) relative to the lines through their sides, and the noise of the sides (N,)."""
    n = profile_NT.shape[1] // 6
    left_N, right_N = np.median(profile_NT[:, :n], axis=1), np.median(profile_NT[:, -n:], axis=1)
    ramp_T = np.linspace(0, 1, profile_NT.shape[1])
    depth_NT = left_N[:, None] * (1 - ramp_T) + right_N[:, None] * ramp_T - profile_NT
    return depth_NT, np.concatenate([depth_NT[:, :n], depth_NT[:, -n:]], axis=1).std(axis=1)


def _shifts(profile_KT: np.ndarray, offsets_T: np.ndarray, rough_width_px: float) -> np.ndarray:
    """Distance of the middle of the dark line from each point, along the normal, float (K,) [px]."""
    smooth_KT = ndimage.gaussian_filter1d(profile_KT, ALONG_PX, axis=0, mode="nearest")
    depth_KT, _ = _depths(smooth_KT)
    near_T = np.abs(offsets_T) <= max(3.0, 0.75 * rough_width_px + 1)
    weight_KT = np.where(near_T, depth_KT, 0)
    weight_KT = np.clip(weight_KT - weight_KT.max(axis=1, keepdims=True) / 2, 0, None)
    shift_K = weight_KT @ offsets_T / np.maximum(weight_KT.sum(axis=1), 1e-6)
    return np.asarray(ndimage.gaussian_filter1d(shift_K, ALONG_PX, mode="nearest"))


def _width(depth_T: np.ndarray, noise: float) -> tuple[float, float]:
    """Width and full width at half maximum of a stretch [px]; NaN where nothing stands out."""
    middle = len(depth_T) // 2
    near = slice(middle - 4, middle + 5)
    peak = float(ndimage.uniform_filter1d(depth_T, 3)[near].max())
    if peak < max(1.0, MIN_SIGNAL * noise):
        return math.nan, math.nan
    top = middle - 4 + int(depth_T[near].argmax())
    right = _crossing(depth_T[top:], peak / 2)
    left = _crossing(depth_T[top::-1], peak / 2)
    if right is None or left is None:
        return math.nan, math.nan
    half_px = (left[0] + right[0]) * STEP_PX
    slope = (left[1] + right[1]) / 2 / STEP_PX
    ratio, factor = _blur_table()
    return half_px * float(np.interp(peak / (slope * half_px), ratio, factor)), half_px


def _crossing(depth_T: np.ndarray, level: float) -> tuple[float, float] | None:
    """Where a profile first falls through a level [samples], and its steepest fall there [grey level per sample]."""
    below = np.flatnonzero(depth_T < level)
    if not len(below) or below[0] == 0:
        return None
    after = int(below[0])
    at = after - 1 + (depth_T[after - 1] - level) / (depth_T[after - 1] - depth_T[after])
    fall_T = (depth_T[:-2] - depth_T[2:])[max(0, after - 5) : after + 4] / 2
    return (at, float(fall_T.max())) if len(fall_T) and fall_T.max() > 0 else None


@cache
def _blur_table() -> tuple[np.ndarray, np.ndarray]:
    """Depth over (steepest edge times full width at half maximum), ascending, and width over that full width.

    For a line of width u, in units of the standard deviation of a Gaussian blur.
    """
    t = np.linspace(-16, 16, 6401)
    rows = []
    for u in np.geomspace(20, 0.05, 150):
        depth = (special.erf((t + u / 2) / math.sqrt(2)) - special.erf((t - u / 2) / math.sqrt(2))) / 2
        wide = t[depth >= depth.max() / 2]
        full = wide[-1] - wide[0]
        rows.append((depth.max() / (np.gradient(depth, t).max() * full), min(1.0, u / full)))
    ratio, factor = np.array(sorted(rows)).T
    return ratio, factor
