"""Grey from colour."""

import numpy as np
from numpy.typing import NDArray

_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


def luma(rgb_HW3: np.ndarray) -> NDArray[np.float32]:
    """ITU-R 601 luma (H, W) of red, green and blue, in their unit."""
    return np.asarray(rgb_HW3 @ _WEIGHTS)
