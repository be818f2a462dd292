"""Lines followed beyond the ends of their traces, in the grey levels of the photograph.

The map of crack probabilities fades towards the ends of a crack, over stretches of it, and along most of a joint, where
the photograph still shows the line.

Shape letters: H, W rows and columns of a photograph; K points of a trace; N places; L samples along a line; T samples
across it; 2 = (y, x) [px].
"""

import numpy as np
from scipy import ndimage

from crackvae.tracing.profiles import normals, profiles

# Length of the strip along a line whose grey levels are averaged, and distance between two of them [px].
STRIP_PX, STEP_PX = 8, 4

# Strips looked at together, until a line leaves their direction by more than this [px].
AHEAD, STRAIGHT_PX = 6, 1

# Part of a trace whose contrast and width are those of its line, and whose direction is that of its end [px].
KNOWN_PX, DIRECTION_PX = 100, 20

# A line goes on where its contrast exceeds this share of its own; its end is where it falls to it.
END_CONTRAST = 0.5

# Share that counts where something hides the line.
HIDDEN_SHARE = END_CONTRAST / 2

# Smallest contrast of a line that is followed. A guess: that of the grain of rough concrete.
MIN_CONTRAST = 0.08

# A line is given up after a stretch without it of this length [px], and ends where it was last seen.
LOST_PX = 16

# A line that runs into a known one is looked for along it for at most this length [px].
ALONG_KNOWN_PX = 120

# The map of a wider line is in pieces with ragged edges [px]: what is known ahead is more of the line itself. A guess.
NARROW_PX = 12.0

# Largest length that is cut from the end of a long trace [px]: how far maps reach beyond drawn cracks.
MAX_CUT_PX = 35

# Samples on either side whose mean is the surface beside a line, and their distance from its edges [px].
SIDE_PX, BLUR_PX = 5, 3


def followed(pixels_HW: np.ndarray, mask_HW: np.ndarray, points_K2: np.ndarray, width_px: float) -> np.ndarray:
    """Places (M, 2) of a dark line beyond the last point of its trace, STEP_PX apart; none if it ends there.

    Each place adds its contrast as a share of that of the line, less END_CONTRAST, to a sum; the line ends where that
    is largest.

    Args:
        pixels_HW: grey levels, uint8 (H, W).
        mask_HW: of known lines, bool (H, W).
        points_K2: a trace in steps of about 1 px.
        width_px: of the line.
    """
    # The last pixels of a skeleton may bend towards a corner of the mask.
    last = len(points_K2) - 1 - min(round(width_px / 2) + 2, len(points_K2) // 3)
    known_N = np.arange(last, DIRECTION_PX // 2, -STEP_PX)
    if not len(known_N):
        return np.empty((0, 2))
    before_N2 = points_K2[np.maximum(0, known_N - DIRECTION_PX)]
    headings_N2 = _unit(points_K2[known_N] - before_N2)
    contrast = float(np.median(_line_at(pixels_HW, points_K2[known_N], headings_N2, width_px)[1]))
    path, n_kept, total, best = [before_N2[0], points_K2[last]], 2, 0.0, 0.0
    while contrast >= MIN_CONTRAST and total > best - LOST_PX / STEP_PX * END_CONTRAST:
        if len(path) - n_kept > ALONG_KNOWN_PX / STEP_PX or len(path) > sum(pixels_HW.shape) / STEP_PX:
            break  # along a known line, or in a circle
        heading_2 = _unit(path[-1] - path[max(0, len(path) - 1 - DIRECTION_PX // STEP_PX)])
        ahead_A2 = path[-1] + STEP_PX * np.arange(1, AHEAD + 1)[:, None] * heading_2
        ahead_A2 = ahead_A2[((ahead_A2 >= 0) & (ahead_A2 <= np.array(pixels_HW.shape) - 1)).all(axis=1)]
        if not len(ahead_A2):
            break
        places_A2, share_A = _places(pixels_HW, mask_HW, ahead_A2, heading_2, width_px, contrast)
        for place_2, share in zip(places_A2, share_A, strict=True):
            path.append(place_2)
            total += share - END_CONTRAST
            if total > best:
                best, n_kept = total, len(path)
    return np.array(path[1:n_kept])


def _places(
    pixels_HW: np.ndarray,
    mask_HW: np.ndarray,
    ahead_A2: np.ndarray,
    heading_2: np.ndarray,
    width_px: float,
    contrast: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Some places moved onto the line, up to the first where it turns, and their shares of its contrast.

    A place on a known line or beside one may hide the line, and is no part of it, unless the line is wide.
    """
    offset_A, contrast_A = _line_at(pixels_HW, ahead_A2, np.tile(heading_2, (len(ahead_A2), 1)), width_px)
    share_A = np.clip(contrast_A / contrast, 0, 1)
    across_2 = np.array([heading_2[1], -heading_2[0]])
    is_seen_A = share_A > END_CONTRAST
    moved_A2 = ahead_A2 + (is_seen_A * offset_A)[:, None] * across_2
    is_known_A = (width_px <= NARROW_PX) & (_at(mask_HW, ahead_A2) | _at(mask_HW, moved_A2))
    hidden_A = [
        not seen and _is_hidden(mask_HW, at_2, heading_2, width_px)
        for at_2, seen in zip(ahead_A2, is_seen_A, strict=True)
    ]
    share_A = np.maximum(share_A, np.where(hidden_A, HIDDEN_SHARE, 0))
    share_A = np.where(is_known_A, np.minimum(share_A, END_CONTRAST), share_A)
    moved_A2 = np.where(is_known_A[:, None], ahead_A2, moved_A2)
    turns_A = is_seen_A & ~is_known_A & (np.abs(offset_A) > STRAIGHT_PX)
    n = int(np.argmax([*turns_A, True])) + 1
    return moved_A2[:n], share_A[:n]


def _at(mask_HW: np.ndarray, places_N2: np.ndarray) -> np.ndarray:
    at_N2 = np.rint(places_N2).astype(int).clip(0, np.array(mask_HW.shape) - 1)
    return np.asarray(mask_HW[at_N2[:, 0], at_N2[:, 1]])


def _is_hidden(mask_HW: np.ndarray, place_2: np.ndarray, heading_2: np.ndarray, width_px: float) -> bool:
    """Whether a known line passes here or so close by that it hides the contrast of another one."""
    aside_2 = (width_px / 2 + BLUR_PX + SIDE_PX / 2) * np.array([heading_2[1], -heading_2[0]])
    return bool(_at(mask_HW, place_2 + np.array([[-1], [0], [1]]) * aside_2).any())


def _unit(vector_N2: np.ndarray) -> np.ndarray:
    return np.asarray(vector_N2 / np.maximum(1e-9, np.hypot(vector_N2[..., :1], vector_N2[..., 1:])))


def _line_at(
    pixels_HW: np.ndarray, places_N2: np.ndarray, headings_N2: np.ndarray, width_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Offset across the heading [px] and contrast of the most distinct dark line near some places, (N,) each."""
    shift = STEP_PX // 2 + round(width_px / 4) + 1
    aside = round(width_px / 2 + BLUR_PX + SIDE_PX / 2)
    across_T = np.arange(-shift - aside - SIDE_PX, shift + aside + SIDE_PX + 1.0)
    profile_NT = _strips(pixels_HW, places_N2, headings_N2, across_T)
    dark_NT = ndimage.uniform_filter1d(profile_NT, max(1, round(0.6 * width_px)), axis=1)
    side_NT = ndimage.uniform_filter1d(profile_NT, SIDE_PX, axis=1)
    middle = np.arange(-shift, shift + 1) + len(across_T) // 2
    light_NS = np.minimum(side_NT[:, middle - aside], side_NT[:, middle + aside])
    contrast_NS = 1 - dark_NT[:, middle] / np.maximum(1, light_NS)
    best_N = contrast_NS.argmax(axis=1)
    return best_N - shift, contrast_NS[np.arange(len(best_N)), best_N]


def _strips(pixels_HW: np.ndarray, places_N2: np.ndarray, headings_N2: np.ndarray, across_T: np.ndarray) -> np.ndarray:
    """Mean grey level of strips along a line for offsets across it, float32 (N, T)."""
    along_L = np.arange(STRIP_PX) - (STRIP_PX - 1) / 2
    normals_N2 = np.stack([headings_N2[:, 1], -headings_N2[:, 0]], axis=1)
    at_2NLT = (
        places_N2.T[:, :, None, None]
        + headings_N2.T[:, :, None, None] * along_L[:, None]
        + normals_N2.T[:, :, None, None] * across_T
    )
    found: np.ndarray = ndimage.map_coordinates(pixels_HW, at_2NLT, np.float32, order=1, mode="nearest")
    return np.asarray(found.mean(axis=1))


def end_of(pixels_HW: np.ndarray, points_K2: np.ndarray, width_px: float) -> float:
    """Distance [px] from the last point of a trace to the end of its line, where its contrast falls to END_CONTRAST.

    Negative where the trace is too long; 0 where no end is found near it.
    """
    ahead = round(width_px) + DIRECTION_PX
    n = min(len(points_K2) - 1, max(ahead, min(2 * MAX_CUT_PX, len(points_K2) // 2)))
    if n < 4:
        return 0.0
    heading_2 = _unit(points_K2[-1] - points_K2[-1 - min(n, max(4, round(width_px)))])
    at_S2 = np.concatenate([points_K2[-1 - n :], points_K2[-1] + np.arange(1, min(ahead, n) + 1)[:, None] * heading_2])
    aside_A = width_px / 2 + BLUR_PX + np.arange(SIDE_PX)
    inside_I = np.linspace(-width_px / 4, width_px / 4, 5)
    grey_ST = profiles(pixels_HW, at_S2, normals(at_S2), np.r_[-aside_A, aside_A, inside_I])
    dark_S = ndimage.gaussian_filter1d(grey_ST[:, -len(inside_I) :].mean(axis=1), 1, mode="nearest")
    light = float(np.median(grey_ST[: n + 1, : -len(inside_I)]))
    dark = float(np.median(dark_S[: max(3, n // 2)]))
    level = light - END_CONTRAST * (light - dark)
    beyond = np.flatnonzero(dark_S[n // 2 :] > level)
    if not len(beyond) or beyond[0] == 0:
        return 0.0
    after = n // 2 + int(beyond[0])
    return float(after - 1 + (level - dark_S[after - 1]) / (dark_S[after] - dark_S[after - 1]) - n)


def draw_line(mask_HW: np.ndarray, points_K2: np.ndarray, width_px: float) -> None:
    """Add a line of some width to a mask."""
    radius = width_px / 2
    n = np.arange(-int(radius), int(radius) + 1)
    disk_D2 = np.stack(np.meshgrid(n, n), axis=-1).reshape(-1, 2)
    disk_D2 = disk_D2[np.hypot(*disk_D2.T) <= radius]
    at_P2 = (np.rint(points_K2).astype(int)[:, None] + disk_D2).reshape(-1, 2)
    at_P2 = at_P2[((at_P2 >= 0) & (at_P2 < mask_HW.shape)).all(axis=1)]
    mask_HW[at_P2[:, 0], at_P2[:, 1]] = True
