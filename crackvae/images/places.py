"""Whether a photograph shows a place that an earlier one has shown.

Shape letters: H, W rows and columns of an image; S = 16 side of a thumbnail, K = S * S.
"""

import cv2
import numpy as np

from crackvae.images.registration import register, transformed

# Side of the thumbnails: at 8 px shading is all that is left.
THUMB_PX = 16

# Correlation of two thumbnails from which on the pictures are the same but for exposure and compression. The closest
# different tiles of a photograph of SDNET2018 have 0.992.
SAME_PICTURE = 0.995

# Below this correlation two photographs are not registered, which takes up to some seconds. Tiles moved by 10 px and
# turned by 3 degrees have 0.3 or more; nine of ten pairs of different tiles of a photograph have less than 0.14.
MIN_LIKENESS = 0.2


def outline(pixels_HW: np.ndarray) -> np.ndarray:
    """A perceptual hash: the thumbnail of a picture without its brightness and contrast, float32 (K,) of length 1.

    The product of two of them is the correlation of the thumbnails, which exposure does not change.
    """
    thumb_SS = cv2.resize(pixels_HW, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    centred_K = thumb_SS.ravel() - thumb_SS.mean()
    return np.asarray(centred_K / max(float(np.linalg.norm(centred_K)), 1e-6))


def shows_again(before_HW: np.ndarray, after_HW: np.ndarray, point_2: tuple[float, float]) -> bool:
    """Whether an earlier photograph shows a point (x, y) of a later one: nearly the same picture, or registered.

    Args:
        before_HW, after_HW: grey, uint8 (H, W).
    """
    likeness = float(outline(before_HW) @ outline(after_HW))
    if likeness >= SAME_PICTURE:
        return True
    if likeness < MIN_LIKENESS:
        return False
    found = register(before_HW, after_HW)
    if not found.is_matched:
        return False
    ((x, y),) = transformed(np.linalg.inv(found.matrix_33), np.array([point_2]))
    height, width = before_HW.shape
    return bool(0 <= x < width and 0 <= y < height)
