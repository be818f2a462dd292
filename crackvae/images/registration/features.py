"""Features of a photograph and those that two photographs have in common.

Shape letters: H, W rows and columns of an image; N, M features; D numbers that describe one; K pairs of them.
"""

from typing import NamedTuple

import cv2
import numpy as np

# Features kept for each photograph, those with the highest contrast; 4,000 by 4,000 descriptors are compared in 0.2 s.
MAX_FEATURES = 4000

# Contrast threshold of SIFT: a tenth of its default, because sound concrete has little contrast.
CONTRAST = 0.004

# Largest ratio of the distances to the nearest and the second nearest descriptor. Source: Lowe (2004), section 7.1.
MAX_RATIO = 0.8


class Features(NamedTuple):
    """The features of one photograph.

    Attributes:
        places_N2: as (x, y) [px of the photograph].
        described_ND: descriptors of length 1, float32.
        shape: (H, W) of the photograph.
        unit_px: size of a pixel of the reduced photograph in which they were found [px of the photograph].
    """

    places_N2: np.ndarray
    described_ND: np.ndarray
    shape: tuple[int, ...]
    unit_px: float


def features_of(pixels_HW: np.ndarray, reduced_px: int, n: int = MAX_FEATURES) -> Features:
    """At most `n` features of a photograph, found where it is reduced to a long side of at most `reduced_px`."""
    height, width = pixels_HW.shape
    unit_px = max(1.0, max(height, width) / reduced_px)
    size = max(1, round(width / unit_px)), max(1, round(height / unit_px))
    reduced_hw = cv2.resize(pixels_HW, size, interpolation=cv2.INTER_AREA) if unit_px > 1 else pixels_HW
    # Equalisation in cells evens out exposure and the two sides of the edge of a shadow.
    even_hw = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(reduced_hw)
    points, described_ND = cv2.SIFT.create(nfeatures=n, contrastThreshold=CONTRAST).detectAndCompute(even_hw, None)
    if described_ND is None:
        return Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32), pixels_HW.shape, unit_px)
    ratio_2 = np.array([width / size[0], height / size[1]])
    places_N2 = (np.array([one.pt for one in points[:n]]) + 0.5) * ratio_2 - 0.5
    # Root-SIFT. Source: Arandjelovic & Zisserman, Three things everyone should know to improve object retrieval (2012).
    rooted_ND = np.sqrt(described_ND[:n] / np.maximum(described_ND[:n].sum(1, keepdims=True), 1))
    return Features(places_N2, rooted_ND, pixels_HW.shape, unit_px)


def matches(before: Features, after: Features) -> tuple[np.ndarray, np.ndarray] | None:
    """Places of matched features in both photographs (K, 2) [px]; None where one has hardly any."""
    if min(len(before.places_N2), len(after.places_N2)) < 2:
        return None
    chosen_K2 = _mutual(before.described_ND, after.described_ND)
    # Features at one place with several orientations are one observation.
    _, kept = np.unique(before.places_N2[chosen_K2[:, 0]].round(), axis=0, return_index=True)
    return before.places_N2[chosen_K2[kept, 0]], after.places_N2[chosen_K2[kept, 1]]


def _mutual(described_ND: np.ndarray, described_MD: np.ndarray) -> np.ndarray:
    """Pairs of features that are each other's nearest by far, as indices, int (K, 2); descriptors have length 1."""
    likeness_NM = described_ND @ described_MD.T
    nearest_N, rows = likeness_NM.argmax(1), np.arange(len(described_ND))
    is_mutual_N = likeness_NM.argmax(0)[nearest_N] == rows
    first_N = likeness_NM[rows, nearest_N]
    likeness_NM[rows, nearest_N] = -1
    # The squared distance of two vectors of length 1 is 2 - 2 times their product.
    is_clear_N = 1 - first_N < MAX_RATIO**2 * (1 - likeness_NM.max(1))
    chosen_N = is_mutual_N & is_clear_N
    return np.asarray(np.c_[rows[chosen_N], nearest_N[chosen_N]])
