"""Width of dark lines along their traces, from grey levels across them, with sub-pixel edges.

A line is a box of some width and depth under a Gaussian blur. Of a line that is narrower than the blur, nearly the same
profile follows from many pairs of width and blur; but one photograph has one blur, which its wider lines tell, though
the worn edges of some are softer. So all lines of a photograph are measured together: the likelihood of each width and
blur on a grid, summed over the lines for the blur, gives each width and its uncertainty.

Shape letters: H, W rows and columns of an image; K points of a trace; T offsets across it; C stretches; G parts of a
line; B blurs; U widths; 2 = (y, x) [px].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np
from scipy import ndimage, special

from crackvae.tracing.profiles import normals, profiles

# Distance between samples across a line [px].
STEP_PX = 0.5

# Points of one stretch, whose profiles are averaged: noise falls by a factor of 4, and a width changes little over it.
STRETCH_PX = 16

# Stretches of one part of a line, whose mean profile tells its width and the blur, and for how many parts a line with
# more of them counts. A part that crosses something may not outvote all others: its logarithm of the likelihood counts
# down to -MAX_SAY.
PART_STRETCHES, MAX_PARTS, MAX_SAY = 6, 4, 25.0

# Blurs [px], their prior (mean and standard deviation of the logarithm), and widths [px] of the grid.
BLURS_B = np.geomspace(0.4, 3.2, 53)
PRIOR_PX, PRIOR_SPREAD = 1.1, 0.6
WIDTHS_U = np.geomspace(0.3, 40, 150)

# Share of the parts whose edges are softer than the blur of the photograph (a guess), and the logarithm of the
# probability of the blur of edges, in columns, given that of the photograph.
SOFT_SHARE = 0.0003
with np.errstate(divide="ignore"):
    LOG_SOFTER_BB = np.log(
        (1 - SOFT_SHARE) * np.eye(len(BLURS_B))
        + SOFT_SHARE * np.triu(np.ones([len(BLURS_B)] * 2)) / np.arange(len(BLURS_B), 0, -1)[:, None]
    )

# Profiles that no box under a Gaussian has: standard deviation as a share of the depth.
MISFIT_SHARE = 0.02

# Standard deviation of the Gaussians along a trace that calm its moves to the middle of the line [px].
ALONG_PX = 2.0

# Smallest depth of a line as a multiple of the standard error of its surroundings; below, it has no width.
MIN_SIGNAL = 4.0

# What must be seen beside the edges of a line [px], and the largest share of a stretch without it that has a width.
BESIDE_PX, MAX_OUTSIDE = 1.0, 0.25

# Standard deviation of the median of three values of a normal distribution, as a share of theirs.
CALM_SHARE = 0.67

# Standard uncertainty of any mean width beside that of the fit [px]. Fitted to drawn lines (benchmarks/findings.py), so
# that 1.645 standard uncertainties cover 90 %.
FLOOR_PX = 0.2


@dataclass(frozen=True)
class Widths:
    """Widths along a trace.

    Attributes:
        width_C: width of each stretch [px]; NaN where the line cannot be told from its surroundings.
        mean_px, mean_sigma_px, max_px, max_sigma_px: with standard uncertainties; NaN without any width.
        variation: standard deviation of the widths over their mean.
    """

    width_C: np.ndarray
    mean_px: float
    mean_sigma_px: float
    max_px: float
    max_sigma_px: float
    variation: float


@dataclass(frozen=True)
class Sections:
    """Grey levels across a line, averaged over stretches.

    Attributes:
        points_K2: the trace, moved to the middle of the dark line.
        stretch_K: number of the stretch of each point.
        offsets_T: of the profiles [px].
        depth_CT: darkness relative to the surroundings [grey levels].
        noise_C: standard deviation of the surroundings [grey levels].
        middle_C, full_C: middle, and full width at half maximum [px]; NaN where nothing stands out.
    """

    points_K2: np.ndarray
    stretch_K: np.ndarray
    offsets_T: np.ndarray
    depth_CT: np.ndarray
    noise_C: np.ndarray
    middle_C: np.ndarray
    full_C: np.ndarray

    @property
    def full_px(self) -> float:
        """Median full width at half maximum [px]; NaN where nothing stands out."""
        known_C = self.full_C[np.isfinite(self.full_C)]
        return float(np.median(known_C)) if len(known_C) else math.nan

    def without(self, stretches_C: np.ndarray) -> "Sections":
        """The same without the widths of some stretches, bool (C,), unless there are no others."""
        full_C = np.where(stretches_C, math.nan, self.full_C)
        n_left, n_known = (int(np.isfinite(one_C).sum()) for one_C in (full_C, self.full_C))
        return replace(self, full_C=full_C) if 0 < n_left < n_known else self

    @cached_property
    def parts(self) -> list[np.ndarray]:
        """The stretches of each part of the line: neighbours that stand out."""
        known_N = np.flatnonzero(np.isfinite(self.full_C))
        runs = np.split(known_N, np.flatnonzero(np.diff(known_N) > 1) + 1) if len(known_N) else []
        return [part for run in runs for part in np.array_split(run, max(1, len(run) // PART_STRETCHES))]

    @cached_property
    def log_likelihood_GBU(self) -> np.ndarray:
        """Of each blur and width, for each part of the line; the largest of a part is 0."""
        return np.array([self._part(part) for part in self.parts]).reshape(-1, len(BLURS_B), len(WIDTHS_U))

    def _part(self, part: np.ndarray) -> np.ndarray:
        depth_T = self.depth_CT[part].mean(axis=0)
        depth_T = np.interp(self.offsets_T + np.median(self.middle_C[part]), self.offsets_T, depth_T)
        noise = 1.2 * float(np.median(self.noise_C[part])) / math.sqrt(len(part))
        error = math.hypot(max(noise, 0.1), MISFIT_SHARE * float(depth_T.max()))
        return np.asarray(_log_likelihood(depth_T) / error**2)


def sections(pixels_HW: np.ndarray, points_K2: np.ndarray, rough_width_px: float) -> Sections:
    """Take the profiles across a dark line.

    Args:
        pixels_HW: grey levels, uint8 (H, W).
        points_K2: a trace within about half a width of the middle of the line, in steps of about 1 px.
        rough_width_px: of the line, from its mask.
    """
    reach_px = math.ceil(max(8.0, 1.5 * rough_width_px + 6))
    offsets_T = _offsets(round(2 * reach_px / STEP_PX) + 1)
    profile_KT = profiles(pixels_HW, points_K2, normals(points_K2), offsets_T)
    shift_K = _shifts(profile_KT, offsets_T, rough_width_px)
    points_K2 = points_K2 + shift_K[:, None] * normals(points_K2)
    profile_KT = profiles(pixels_HW, points_K2, normals(points_K2), offsets_T)
    stretches = np.array_split(profile_KT, max(1, len(points_K2) // STRETCH_PX))
    depth_CT, noise_C = _depths(np.array([stretch.mean(axis=0) for stretch in stretches]))
    edges_C2 = np.array([_edges(depth_T, noise) for depth_T, noise in zip(depth_CT, noise_C, strict=True)])
    stretch_K = np.repeat(np.arange(len(stretches)), [len(stretch) for stretch in stretches])
    middle_C, full_C = edges_C2.mean(axis=1), edges_C2[:, 1] - edges_C2[:, 0]
    found = Sections(points_K2, stretch_K, offsets_T, depth_CT, noise_C, middle_C, full_C)
    return found.without(_cut(points_K2, edges_C2[stretch_K], stretch_K, pixels_HW.shape))


def _cut(points_K2: np.ndarray, edges_K2: np.ndarray, stretch_K: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Stretches of which a part has an edge beyond the border of a photograph of shape (H, W), bool (C,).

    Beyond it the grey levels of the border are repeated, and a line that runs into it at an angle seems wider.
    """
    beside_K2 = edges_K2 + np.array([-BESIDE_PX, BESIDE_PX])
    at_K22 = points_K2[:, None] + beside_K2[..., None] * normals(points_K2)[:, None]
    is_outside_K = ((at_K22 < 0) | (at_K22 > np.array(shape) - 1)).any(axis=(1, 2))
    return np.asarray(np.bincount(stretch_K, is_outside_K) > MAX_OUTSIDE * np.bincount(stretch_K))


def widths_of(lines: Sequence[Sections]) -> list[Widths]:
    """Measure the lines of one photograph, which share its blur."""
    weight_B = _blur(lines)
    return [_widths(line, weight_B) for line in lines]


def _blur(lines: Sequence[Sections]) -> np.ndarray:
    """Probability of each blur of the photograph, (B,)."""
    log_B = -((np.log(BLURS_B / PRIOR_PX) / PRIOR_SPREAD) ** 2) / 2
    for line in lines:
        share = min(1, MAX_PARTS / max(1, len(line.parts)))
        say_G = np.array([share * min(1, len(part) / PART_STRETCHES) for part in line.parts])
        said_GB = special.logsumexp(line.log_likelihood_GBU.max(axis=2)[:, None] + LOG_SOFTER_BB, axis=2)
        log_B += say_G @ np.maximum(said_GB, -MAX_SAY)
    weight_B = np.exp(log_B - log_B.max())
    return np.asarray(weight_B / weight_B.sum())


def _widths(line: Sections, weight_B: np.ndarray) -> Widths:
    if not line.parts:
        return Widths(line.full_C, *[math.nan] * 5)
    width_C = _unblurred(line.full_C, float(weight_B @ BLURS_B))
    mean, fit = _mean(line, weight_B)
    known_C = width_C[np.isfinite(width_C)]
    scatter = float(np.median(np.abs(np.diff(known_C)))) * 1.0484 if len(known_C) > 2 else 0.5  # sigma of one stretch
    calm_C = ndimage.median_filter(known_C, 3, mode="nearest")
    sigma = math.sqrt(fit + scatter**2 / len(known_C) + FLOOR_PX**2)
    # The largest of noisy widths is too large by their noise: only the share of their variance that is none counts.
    noise, variance = CALM_SHARE * scatter, float(calm_C.var())
    real = max(0.0, 1 - noise**2 / max(variance, 1e-9))
    widest = mean + real * float(calm_C.max() - calm_C.mean())
    max_sigma = math.sqrt(fit + noise**2 + real * variance + FLOOR_PX**2)
    return Widths(width_C, mean, sigma, widest, max_sigma, math.sqrt(variance) / max(mean, 0.1))


def _mean(line: Sections, weight_B: np.ndarray) -> tuple[float, float]:
    """Mean width of a line [px], and the variance of it that follows from the fit."""
    # The prior is even over widths, the grid over their logarithms.
    given_GBU = special.softmax(line.log_likelihood_GBU + np.log(WIDTHS_U), axis=2)
    mean_GB = given_GBU @ WIDTHS_U
    share_G = np.array([len(part) for part in line.parts]) / sum(len(part) for part in line.parts)
    variance_B = share_G**2 @ (given_GBU @ WIDTHS_U**2 - mean_GB**2)
    mean_B = share_G @ mean_GB
    mean = float(weight_B @ mean_B)
    return mean, float(weight_B @ (variance_B + (mean_B - mean) ** 2))


def _log_likelihood(depth_T: np.ndarray) -> np.ndarray:
    """Of each blur and width, (B, U), for noise of one grey level; the largest is 0.

    The depth of the line and a straight line through its surroundings fit as they may.
    """
    template_BUT, norm_BU, plane_T2 = _templates(len(depth_T))
    rest_T = depth_T - plane_T2 @ (plane_T2.T @ depth_T)
    found_BU = np.maximum(template_BUT @ rest_T, 0) ** 2 / norm_BU / 2
    return np.asarray(found_BU - found_BU.max())


def _offsets(n: int) -> np.ndarray:
    return (np.arange(n) - n // 2) * STEP_PX


@lru_cache(maxsize=8)  # up to 32 MB each
def _templates(n_offsets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Profiles of depth one without their straight parts (B, U, T), their squared norms (B, U), and a basis (T, 2)."""
    offsets_T = _offsets(n_offsets)
    plane_T2 = np.linalg.qr(np.stack([np.ones(n_offsets), offsets_T], axis=1))[0]
    long_BUT = _long_profiles(2 ** math.ceil(math.log2(n_offsets)) + 1)
    cut = (long_BUT.shape[2] - n_offsets) // 2
    template_BUT = long_BUT[:, :, cut : cut + n_offsets]
    template_BUT = template_BUT - (template_BUT @ plane_T2) @ plane_T2.T
    return template_BUT, (template_BUT**2).sum(axis=2), plane_T2


@cache
def _long_profiles(n_offsets: int) -> np.ndarray:
    """Profiles of depth one (B, U, T), from which shorter ones are cut: the error function takes the most time."""
    return _profile(_offsets(n_offsets), WIDTHS_U[:, None], BLURS_B[:, None, None])


def _profile(offsets: np.ndarray, width: np.ndarray | float, blur: np.ndarray | float) -> np.ndarray:
    """Darkness of a line of depth one [px]."""
    left, right = ((offsets + side * width / 2) / (math.sqrt(2) * blur) for side in (1, -1))
    return np.asarray((special.erf(left) - special.erf(right)) / 2)


def _unblurred(full_C: np.ndarray, blur_px: float) -> np.ndarray:
    """Widths of the boxes whose full widths at half maximum under a blur are these."""
    full_N, width_N = _full_widths()
    return np.asarray(blur_px * np.interp(full_C / blur_px, full_N, width_N, left=width_N[0]))


@cache
def _full_widths() -> tuple[np.ndarray, np.ndarray]:
    """Full widths at half maximum, and the widths that have them, in units of the blur."""
    at, width_N = np.linspace(0, 60, 12001), np.geomspace(0.05, 100, 200)
    full_N = []
    for width in width_N:
        profile = _profile(at, width, 1.0)
        full_N.append(2 * np.interp(-profile[0] / 2, -profile, at))
    return np.array(full_N), width_N


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


def _edges(depth_T: np.ndarray, noise: float) -> tuple[float, float]:
    """Where a stretch reaches half of its depth on either side of its middle [px]; NaN where nothing stands out."""
    middle = len(depth_T) // 2
    near = slice(middle - 4, middle + 5)
    peak = float(ndimage.uniform_filter1d(depth_T, 3)[near].max())
    if peak < max(1.0, MIN_SIGNAL * noise):
        return math.nan, math.nan
    top = middle - 4 + int(depth_T[near].argmax())
    right = _crossing(depth_T[top:], peak / 2)
    left = _crossing(depth_T[top::-1], peak / 2)
    return (top - left - middle) * STEP_PX, (top + right - middle) * STEP_PX


def _crossing(depth_T: np.ndarray, level: float) -> float:
    """Where a profile first falls through a level [samples]; NaN where it does not."""
    below = np.flatnonzero(depth_T < level)
    if not len(below) or below[0] == 0:
        return math.nan
    after = int(below[0])
    return float(after - 1 + (depth_T[after - 1] - level) / (depth_T[after - 1] - depth_T[after]))
