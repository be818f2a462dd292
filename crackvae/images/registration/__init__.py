"""Registration of two photographs of a surface by a homography, with its error on points that it was not fitted to.

Shape letters: H, W rows and columns of an image; N points as (x, y) [px], the centre of the first pixel at (0, 0).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np

from crackvae.images.registration.features import Features, features_of, matches

# Long sides to which photographs are reduced for features [px]; the larger one is tried where the smaller one does not
# do. A feature is located to about a third of a reduced pixel, which the refinement at full size corrects.
REDUCED_PX = (800, 1600)

# Distance [reduced px] up to which a match agrees with a transform.
AGREE_PX = 3.0

# A transform needs this many agreeing matches, and this share of all matches on top. Measured by benchmarks/change.py.
MIN_AGREEING, MIN_AGREEING_SHARE = 8, 0.08

# Fewer agreeing matches do not determine the eight parameters of a homography: a similarity is fitted instead.
MIN_FOR_HOMOGRAPHY = 40

# Side of the patches that are located at full size, and the distance searched around their predicted place [px].
PATCH_PX, SEARCH_PX = 41, 9

# Grid of patches over the overlap, per side; and the lowest normalised cross-correlation of a patch that was found.
GRID, MIN_CORRELATION = 16, 0.5

# A third of the patches measure the residual and are not used for the fit.
HELD_OUT = 3
MIN_HELD_OUT = 5

# Largest median residual of a pair that is compared [px of the later photograph].
LIMIT_PX = 3.0

# A camera that returns differs at most this much in scale, with a margin.
MIN_SCALE, MAX_SCALE = 0.4, 2.5


@dataclass(frozen=True)
class Registration:
    """How an earlier photograph lies in a later one.

    Attributes:
        matrix_33: homography that maps (x, y) of the earlier photograph to the later one, float (3, 3); the identity
            for an unmatched pair.
        residual_px: median distance between predicted and located places of patches that the fit did not use [px of
            the later photograph]; NaN for an unmatched pair.
        n_held_out: number of these patches.
        overlap: share of the later photograph that the earlier one covers, 0 to 1.
        reason: why the pair is unmatched, or "".
    """

    matrix_33: np.ndarray
    residual_px: float
    n_held_out: int
    overlap: float
    reason: str = ""

    @property
    def is_matched(self) -> bool:
        """Whether anything may be claimed about the pair."""
        return not self.reason


def unmatched(reason: str) -> Registration:
    """The registration of a pair about which nothing is claimed."""
    return Registration(np.eye(3), float("nan"), 0, 0.0, reason)


def register(before_HW: np.ndarray, after_HW: np.ndarray, limit_px: float = LIMIT_PX) -> Registration:
    """Find the homography between two photographs of one plane surface.

    SIFT features of reduced photographs give a first transform by MAGSAC++; normalised cross-correlation of patches at
    full size then refines it. Moderate differences of camera, crop, rotation, exposure and shadow are allowed, and of
    scale from 0.5 to 2.

    Args:
        before_HW: the earlier photograph, grey, uint8 (H, W).
        after_HW: the later one; it may have another size.
        limit_px: largest median residual [px of the later photograph].

    Source: Lowe, Distinctive image features from scale-invariant keypoints (2004); Barath et al., MAGSAC++ (2020).
    """
    found = _registered(before_HW, after_HW, REDUCED_PX[0], limit_px)
    if found.is_matched or max(*before_HW.shape, *after_HW.shape) <= REDUCED_PX[0]:
        return found
    return _registered(before_HW, after_HW, REDUCED_PX[1], limit_px)


def _registered(before_HW: np.ndarray, after_HW: np.ndarray, reduced_px: int, limit_px: float) -> Registration:
    """The registration by features of photographs whose long side is at most `reduced_px`, refined at full size."""
    before, after = (features_of(pixels_HW, reduced_px) for pixels_HW in (before_HW, after_HW))
    first_33, reason = first_transform(before, after)
    if first_33 is None:
        return unmatched(reason)
    return refined(before_HW, after_HW, first_33, after.unit_px, limit_px)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block OpenCV uses one thread: a worker has one core."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def transformed(matrix_33: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
    """Points (x, y) mapped by a homography, float (N, 2)."""
    homogeneous_N3 = np.c_[points_N2, np.ones(len(points_N2))] @ matrix_33.T
    return np.asarray(homogeneous_N3[:, :2] / homogeneous_N3[:, 2:])


def scale_at(matrix_33: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
    """Local scale of a homography: pixels of the later photograph per pixel of the earlier one, float (N,)."""
    jacobian_N22 = _jacobian(matrix_33, points_N2)
    return np.asarray(np.sqrt(np.abs(np.linalg.det(jacobian_N22))))


def _jacobian(matrix_33: np.ndarray, points_N2: np.ndarray) -> np.ndarray:
    """Derivatives of the mapped points, float (N, 2, 2)."""
    depth_N = points_N2 @ matrix_33[2, :2] + matrix_33[2, 2]
    mapped_N2 = transformed(matrix_33, points_N2)
    moved_N22 = matrix_33[None, :2, :2] - mapped_N2[:, :, None] * matrix_33[None, 2:, :2]
    return np.asarray(moved_N22 / depth_N[:, None, None])


def cut_out(before_HW: np.ndarray, matrix_33: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The earlier photograph in a box of the later one: left, top, right, bottom [px]; black where it ends."""
    left, top, right, bottom = box
    to_box_33 = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]], float) @ matrix_33
    return np.asarray(cv2.warpPerspective(before_HW, to_box_33, (right - left, bottom - top)))


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """The corners of an image of shape (H, W), in order around it, float (4, 2)."""
    height, width = shape[:2]
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)


def implausible(matrix_33: np.ndarray, before: tuple[int, ...], after: tuple[int, ...]) -> str:
    """Why a homography cannot be that of a camera that returned, or ""."""
    corners_42 = corners(before)
    if (corners_42 @ matrix_33[2, :2] + matrix_33[2, 2] <= 0).any() or np.linalg.det(matrix_33) <= 0:
        return "the matches agree on no view of a plane surface"
    scales_4 = scale_at(matrix_33, corners_42)
    if scales_4.min() < MIN_SCALE or scales_4.max() > MAX_SCALE:
        return f"the scale differs by a factor of {scales_4.min():.2g} to {scales_4.max():.2g}"
    return "" if _overlap(matrix_33, before, after) > 0 else "the photographs do not overlap"


def _overlap(matrix_33: np.ndarray, before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """Share of the later photograph that the earlier one covers."""
    quad_42 = transformed(matrix_33, corners(before)).astype(np.float32)
    area, _ = cv2.intersectConvexConvex(quad_42, corners(after).astype(np.float32))
    return float(area / (after[0] * after[1]))


def first_transform(before: Features, after: Features) -> tuple[np.ndarray | None, str]:
    """The transform between two photographs from features alone, float (3, 3), and why there is none."""
    found = matches(before, after)
    if found is None:
        return None, "too few features: blurred, dark, or without texture"
    before_N2, after_N2 = found
    n_needed = MIN_AGREEING + MIN_AGREEING_SHARE * len(before_N2)
    if len(before_N2) < n_needed:
        return None, "no common features"
    affine_23, agree_N1 = cv2.estimateAffinePartial2D(
        before_N2, after_N2, method=cv2.RANSAC, ransacReprojThreshold=2 * AGREE_PX * after.unit_px, maxIters=5000
    )
    wide_33, wide_N1 = None, None
    if len(before_N2) >= MIN_FOR_HOMOGRAPHY:
        wide_33, wide_N1 = cv2.findHomography(
            before_N2, after_N2, cv2.USAC_MAGSAC, AGREE_PX * after.unit_px, maxIters=10_000, confidence=0.9999
        )
    n_similar, n_wide = (0 if agree is None else int(agree.sum()) for agree in (agree_N1, wide_N1))
    if max(n_similar, n_wide) < n_needed:
        return None, f"only {max(n_similar, n_wide)} of {len(before_N2)} matched features agree"
    is_wide = affine_23 is None or n_wide >= max(n_similar, MIN_FOR_HOMOGRAPHY)
    matrix_33 = np.asarray(wide_33 if is_wide else np.vstack([affine_23, [0, 0, 1]]))
    reason = implausible(matrix_33, before.shape, after.shape)
    return (None if reason else matrix_33), reason


# ----------------------------------------------------------------------------------------------------- refinement


def refined(
    before_HW: np.ndarray, after_HW: np.ndarray, first_33: np.ndarray, unit_px: float, limit_px: float = LIMIT_PX
) -> Registration:
    """The transform fitted to patches at full size, judged by those held out; the first one is good to `unit_px`."""
    matrix_33 = first_33
    for search_px in (round(SEARCH_PX + 2 * unit_px), SEARCH_PX):
        before_N2, after_N2 = _located(before_HW, after_HW, matrix_33, search_px)
        is_held_out_N = np.arange(len(before_N2)) % HELD_OUT == 0
        if is_held_out_N.sum() < MIN_HELD_OUT:
            return unmatched(f"only {len(before_N2)} places look alike at full size")
        fitted_33 = _fit(before_N2[~is_held_out_N], after_N2[~is_held_out_N], matrix_33)
        if fitted_33 is None:
            return unmatched("the places that look alike agree on no transform")
        matrix_33 = fitted_33
    reason = implausible(matrix_33, before_HW.shape, after_HW.shape)
    if reason:
        return unmatched(reason)
    apart_N = np.hypot(*(transformed(matrix_33, before_N2[is_held_out_N]) - after_N2[is_held_out_N]).T)
    residual_px = float(np.median(apart_N))
    if residual_px > limit_px:
        return unmatched(f"the residual of {residual_px:.1f} px exceeds the limit of {limit_px:g} px")
    overlap = _overlap(matrix_33, before_HW.shape, after_HW.shape)
    return Registration(matrix_33, residual_px, len(apart_N), overlap)


def _fit(before_N2: np.ndarray, after_N2: np.ndarray, first_33: np.ndarray) -> np.ndarray | None:
    """A homography, or the first transform corrected by a similarity where too few points would determine one."""
    if len(before_N2) >= MIN_FOR_HOMOGRAPHY:
        matrix_33, _ = cv2.findHomography(before_N2, after_N2, cv2.USAC_MAGSAC, AGREE_PX, maxIters=2000)
        return None if matrix_33 is None else np.asarray(matrix_33)
    predicted_N2 = transformed(first_33, before_N2)
    affine_23, _ = cv2.estimateAffinePartial2D(predicted_N2, after_N2, ransacReprojThreshold=AGREE_PX)
    return None if affine_23 is None else np.asarray(np.vstack([affine_23, [0, 0, 1]]) @ first_33)


def _located(
    before_HW: np.ndarray, after_HW: np.ndarray, matrix_33: np.ndarray, search_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """Patches of the overlap that were found again: their centres in both photographs, float (N, 2) [px].

    Centres form a grid over the overlap in the later photograph, in an order that spreads those that are held out.
    """
    half, reach = PATCH_PX // 2, PATCH_PX // 2 + search_px
    back_33 = np.linalg.inv(matrix_33)
    centres = np.random.default_rng(0).permutation(_grid(before_HW.shape, after_HW.shape, matrix_33, reach))
    found = []
    for x, y in centres:
        window_hw = after_HW[y - reach : y + reach + 1, x - reach : x + reach + 1]
        shift_33 = np.array([[1, 0, x - half], [0, 1, y - half], [0, 0, 1]], float)
        patch_hw = cv2.warpPerspective(
            before_HW,
            back_33 @ shift_33,
            (PATCH_PX, PATCH_PX),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        offset_2 = _offset(patch_hw, window_hw)
        if offset_2 is not None:
            found.append((x, y, *offset_2))
    found_N4 = np.array(found, float).reshape(-1, 4)
    return transformed(back_33, found_N4[:, :2]), found_N4[:, :2] + found_N4[:, 2:]


def _grid(before: tuple[int, ...], after: tuple[int, ...], matrix_33: np.ndarray, reach: int) -> np.ndarray:
    """Whole places in the later photograph whose windows both photographs contain, int (N, 2)."""
    quad_42 = transformed(matrix_33, corners(before))
    low_2 = np.maximum(quad_42.min(0), 0) + reach
    high_2 = np.minimum(quad_42.max(0), [after[1] - 1, after[0] - 1]) - reach
    if (high_2 <= low_2).any():
        return np.zeros((0, 2), int)
    xs, ys = (np.unique(np.linspace(low, high, GRID).round()) for low, high in zip(low_2, high_2, strict=True))
    places_N2 = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    earlier_N2 = transformed(np.linalg.inv(matrix_33), places_N2)
    is_inside_N = ((earlier_N2 >= PATCH_PX // 2) & (earlier_N2 < np.array(before[1::-1]) - PATCH_PX // 2)).all(1)
    return places_N2[is_inside_N].astype(int)


def _offset(patch_hw: np.ndarray, window_hw: np.ndarray) -> tuple[float, float] | None:
    """Where a patch lies in a window that is larger on all sides, as (dx, dy) from its middle [px]; None if nowhere."""
    correlation_hw = cv2.matchTemplate(window_hw, patch_hw, cv2.TM_CCOEFF_NORMED)
    _, highest, _, (x, y) = cv2.minMaxLoc(correlation_hw)
    last = correlation_hw.shape[0] - 1
    # A peak at the rim may rise beyond it; a patch without any contrast has no defined correlation.
    if not MIN_CORRELATION <= highest <= 1.01 or not (0 < x < last and 0 < y < last):
        return None
    dx = _vertex(correlation_hw[y, x - 1 : x + 2])
    dy = _vertex(correlation_hw[y - 1 : y + 2, x])
    return x + dx - last / 2, y + dy - last / 2


def _vertex(values_3: np.ndarray) -> float:
    """Place of the vertex of a parabola through three values around their largest, -0.5 to 0.5."""
    left, middle, right = map(float, values_3)
    bend = left - 2 * middle + right
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))
