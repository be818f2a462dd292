"""Masks of cracks, read by what they hold: a picture of the cracks, or labels, or what is not transparent."""

import io

import numpy as np
from PIL import Image

from crackvae.errors import ManifestError, UnreadableImage
from crackvae.images import decoding
from crackvae.storage import fileio

# A mask of so few grey levels holds labels, of which 0 is the surface; one of more was resampled or compressed.
MAX_LABELS = 8
# A crack is narrow: a mask that marks a larger share than this marks the surface.
MAX_CRACKED = 0.5


def read_mask(path: str) -> np.ndarray:
    """Cracked pixels of a mask, bool (H, W).

    A mask is a picture in which cracks are brighter than the surface. One that is black or white all over as a picture
    holds labels: 1 in 16 bits or in a floating-point TIFF, or an entry of a palette of any colour.

    Raises:
        ManifestError: nothing is marked, or most of it is: inverted, or labels that do not begin with 0.
        UnreadableImage, OSError: as for an image.
    """
    data = fileio.read_image(path)
    try:
        cracked_HW, problem = _from_picture(data), None
    except UnreadableImage as error:  # pixels without a defined grey level may be labels all the same
        cracked_HW, problem = np.zeros((1, 1), bool), error
    if not 0 < cracked_HW.mean() <= MAX_CRACKED:
        labelled_HW = _from_labels(data)
        cracked_HW = labelled_HW if labelled_HW is not None and 0 < labelled_HW.mean() <= MAX_CRACKED else cracked_HW
    share = float(cracked_HW.mean())
    if 0 < share <= MAX_CRACKED:
        return cracked_HW
    if problem:
        raise problem
    if share == 0:
        raise ManifestError(f"the mask {path} marks no pixel as cracked: provide the mask of a crack, or remove it.")
    raise ManifestError(
        f"the mask {path} marks {share:.0%} of the image as cracked: it is inverted, or its surface is not 0. "
        "Write masks with 0 for the surface."
    )


def _from_picture(data: bytes) -> np.ndarray:
    """Pixels that are bright and not transparent."""
    picture = decoding.decode_picture(data)
    levels_HW = picture.pixels_HW
    is_label_mask = len(np.unique(levels_HW)) <= MAX_LABELS
    cracked_HW = levels_HW > (0 if is_label_mask else levels_HW.max() / 2)
    return cracked_HW if picture.hidden_HW is None else cracked_HW & ~picture.hidden_HW


def _from_labels(data: bytes) -> np.ndarray | None:
    """Pixels whose stored value is not 0, or that are not transparent; None if no value can be read."""
    try:
        image = Image.open(io.BytesIO(data))
        stored = np.nan_to_num(np.asarray(image.getchannel("A") if "A" in image.getbands() else image))
    except decoding.DECODER_ERRORS:
        return None
    return np.asarray(stored.any(axis=2) if stored.ndim == 3 else stored != 0)
