"""Grey levels across a line.

Shape letters: H, W rows and columns of a photograph; K points of a trace; T offsets across it; 2 = (y, x) [px].
"""

import numpy as np
from scipy import ndimage

# Standard deviation of the Gaussian along a trace that removes its steps before normals are taken [points].
CALM = 4.0


def normals(points_K2: np.ndarray) -> np.ndarray:
    """Unit vectors across a trace in steps of about 1 px, (K, 2)."""
    if len(points_K2) < 2:
        return np.tile([1.0, 0.0], (len(points_K2), 1))
    along_K2 = np.gradient(ndimage.gaussian_filter1d(points_K2, CALM, axis=0, mode="nearest"), axis=0)
    along_K2 /= np.maximum(1e-9, np.hypot(*along_K2.T))[:, None]
    return np.stack([along_K2[:, 1], -along_K2[:, 0]], axis=1)


def profiles(pixels_HW: np.ndarray, points_K2: np.ndarray, normals_K2: np.ndarray, offsets_T: np.ndarray) -> np.ndarray:
    """Grey levels at offsets [px] from points along their normals, float32 (K, T)."""
    at_K2T = points_K2[:, :, None] + normals_K2[:, :, None] * offsets_T
    found: np.ndarray = ndimage.map_coordinates(
        pixels_HW, at_K2T.transpose(1, 0, 2), np.float32, order=1, mode="nearest"
    )
    return found
