"""Masks of cracks, read by what they hold: a picture of the cracks, or labels, or what is not transparent."""

import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from crackvae.errors import ManifestError, UnreadableImage
from crackvae.images import decoding
from crackvae.storage import fileio
from crackvae.storage.uris import without_options

# A mask of so few grey levels holds labels, of which 0 is the surface; one of more was resampled or compressed.
MAX_LABELS = 8
# A crack is narrow: a mask that marks a larger share than this marks the surface.
MAX_CRACKED = 0.5


def masks_of(images: Iterable[str], masks: Iterable[str]) -> dict[str, str]:
    """The mask of each image that has one of its name; of several that whose folders have most names in common.

    Raises:
        ManifestError: names and folders leave open which mask belongs to which image.
    """
    masks_of_name, images_of_mask = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for mask in masks:
        masks_of_name[_path(mask).stem].append(mask)
    for image in images:
        if same_name := masks_of_name.get(_path(image).stem):
            images_of_mask[_closest(image, same_name)].append(image)
    return {_closest(mask, same_mask): mask for mask, same_mask in images_of_mask.items()}


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(without_options(name)[0])


def _closest(path: str, others: Sequence[str]) -> str:
    """The one of several paths of the same name whose folders have most names in common, from the last one up."""
    folders = _path(path).parts[-2::-1]

    def in_common(other: str) -> int:
        pairs = zip(folders, _path(other).parts[-2::-1], strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    ranked = sorted(others, key=in_common, reverse=True)
    if len(ranked) > 1 and in_common(ranked[0]) == in_common(ranked[1]):
        raise ManifestError(
            f"{path} may belong to {ranked[0]} or to {ranked[1]}: keep masks in folders named like those of the images."
        )
    return ranked[0]


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


def require_size(image: str, mask_HW: np.ndarray, pixels_HW: np.ndarray | None) -> None:
    """Raise ManifestError where a mask is not as large as its image; None for one that cannot be read now."""
    if pixels_HW is not None and mask_HW.shape != pixels_HW.shape:
        raise ManifestError(f"the mask of {image} has another size than the image: provide one of its size.")


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
