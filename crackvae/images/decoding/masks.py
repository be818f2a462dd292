"""Masks of cracks, read by what they hold: 0 and 255, 0 and 1, a palette, or a lossy picture of them."""

import numpy as np

from crackvae.errors import ManifestError
from crackvae.images import decoding
from crackvae.storage import fileio

# A mask of so few grey levels holds labels, of which 0 is the surface; one of more was resampled or compressed.
MAX_LABELS = 8
# A crack is narrow: a mask that marks a larger share than this marks the surface.
MAX_CRACKED = 0.5


def read_mask(path: str) -> np.ndarray:
    """Cracked pixels of a mask, bool (H, W).

    Raises:
        ManifestError: nothing is marked, or most of it is: inverted, or labels that do not begin with 0.
        UnreadableImage, OSError: as for an image.
    """
    levels_HW = decoding.decode(fileio.read_image(path))
    is_label_mask = len(np.unique(levels_HW)) <= MAX_LABELS
    cracked_HW = levels_HW > (0 if is_label_mask else levels_HW.max() / 2)
    share = float(cracked_HW.mean())
    if share == 0:
        raise ManifestError(f"the mask {path} marks no pixel as cracked: provide the mask of a crack, or remove it.")
    if share > MAX_CRACKED:
        raise ManifestError(
            f"the mask {path} marks {share:.0%} of the image as cracked: it is inverted, or its surface is not 0. "
            "Write masks with 0 for the surface."
        )
    return np.asarray(cracked_HW)
