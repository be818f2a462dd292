"""Detection of duplicate images: identical bytes, re-encoded, resized, mirrored or rotated.

Thumbnails are compared in all eight orientations of a square. Candidate pairs are found by a hash that is invariant to
flips and quarter turns; the distance of two hashes is a lower bound of the distance of the thumbnails, so no pair that
the comparison would accept is missed.

Shape letters: N images, S = 32 side of a thumbnail, C = 8 side of the coarser one in the hash, Q pairs.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from crackvae.console import progress
from crackvae.cores import thread_count
from crackvae.errors import ManifestError, StorageError, UnreadableImage
from crackvae.images import surface
from crackvae.images.decoding import decode_picture
from crackvae.storage import archive, fileio, uris

THUMB_PX, COARSE_PX = 32, 8

# Measured on METU's 20,000 internal images: duplicates differ by at most 0.73 grey levels (root mean square over the
# thumbnail), the closest different images by 1.98. Any two images of smoother walls may differ by less than 1.7, so the
# difference must also be small relative to the contrast of the image (duplicates: at most 0.24 of it; the closest
# different images: 0.57).
MAX_DIFFERENCE = 1.7

MAX_RELATIVE_DIFFERENCE = 0.3

PAIRS_AT_ONCE = 20_000  # 20,000 pairs of float32 thumbnails are 160 MB


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of one image to find its duplicates.

    Attributes:
        sha256: of the file's bytes, in hexadecimal.
        thumb_SS: uint8 (32, 32), the whole image shrunk.
        width, height: of the upright image [px].
    """

    sha256: str
    thumb_SS: np.ndarray
    width: int
    height: int


def fingerprint(data: bytes, page: int = 1) -> Fingerprint:
    """Fingerprint of a page of an image file.

    Raises:
        UnreadableImage: damaged, or it shows no surface.
    """
    picture = decode_picture(data, page)
    pixels_HW = picture.pixels_HW
    hidden_HW = surface.hidden_parts(pixels_HW, picture.hidden_HW)
    if surface.is_blank(pixels_HW, hidden_HW) or surface.is_flat(pixels_HW):
        raise UnreadableImage(surface.no_surface(pixels_HW, hidden_HW, [pixels_HW]))
    # Not Pillow's box filter: it does not split pixels, and a copy of another size would differ by 2 grey levels.
    thumb = Image.fromarray(pixels_HW).resize((THUMB_PX, THUMB_PX), Image.Resampling.HAMMING)
    height, width = pixels_HW.shape
    return Fingerprint(hashlib.sha256(data).hexdigest(), np.asarray(thumb), width, height)


def fingerprints_of(images: pa.Table, *, quiet: bool) -> tuple[list[Fingerprint | None], list[tuple[str, str]]]:
    """Fingerprint of every image, None if it cannot be read, and the unreadable images with the reason."""

    def one(image: str, error: str) -> Fingerprint | str:
        try:
            return error or fingerprint(fileio.read_image(image), archive.page_of(image))
        except UnreadableImage as problem:
            return str(problem)
        except OSError as problem:
            raise StorageError(f"cannot read {image}: {uris.reason(problem)}. Run it again.") from problem

    names, errors = images["image"].to_pylist(), images["error"].to_pylist()
    with ThreadPoolExecutor(thread_count()) as pool, progress("read", len(names), "images", quiet=quiet) as bar:
        found = []
        for result in pool.map(one, names, errors):
            found.append(result)
            bar.update()
    left_out = [(name, result) for name, result in zip(names, found, strict=True) if isinstance(result, str)]
    if len(left_out) == len(names):
        raise ManifestError(
            f"none of {len(names)} images can be read; the first, {names[0]}: {left_out[0][1]}. Check --images."
        )
    return [None if isinstance(result, str) else result for result in found], left_out


def orientations(thumbs_NSS: np.ndarray) -> list[np.ndarray]:
    """The eight flips and quarter turns of every thumbnail."""
    turned = [np.rot90(thumbs_NSS, turns, axes=(1, 2)) for turns in range(4)]
    return turned + [thumbs_NSS[:, :, ::-1] for thumbs_NSS in turned]


def invariant_hash(thumbs_NSS: np.ndarray) -> np.ndarray:
    """A vector of each thumbnail that is invariant to flips and quarter turns.

    The eight orientations permute each cell of an 8x8 grid within an orbit of at most eight cells; sorting the values
    of each orbit removes the orientation. Sorting and averaging never increase a distance, so two hashes are at most
    COARSE_PX times the root mean square difference of the thumbnails in their best orientation apart.

    Returns:
        float32 (N, 64).
    """
    step = THUMB_PX // COARSE_PX
    coarse_NCC = thumbs_NSS.reshape(-1, COARSE_PX, step, COARSE_PX, step).mean(axis=(2, 4), dtype=np.float32)
    cells = np.arange(COARSE_PX**2).reshape(1, COARSE_PX, COARSE_PX)
    orbit_of_cell = np.min([turned.ravel() for turned in orientations(cells)], axis=0)
    flat_NC = coarse_NCC.reshape(len(thumbs_NSS), -1)
    return np.concatenate(
        [np.sort(flat_NC[:, orbit_of_cell == orbit], axis=1) for orbit in np.unique(orbit_of_cell)], 1
    )


def same_picture(thumbs_NSS: np.ndarray) -> np.ndarray:
    """Number the images so that duplicates share a number.

    Args:
        thumbs_NSS: uint8 (N, 32, 32).

    Returns:
        int (N,): the position of the first of the duplicates.
    """
    if not len(thumbs_NSS):
        return np.empty(0, int)
    # Identical thumbnails are merged first: a thousand copies of one file would be half a million pairs.
    _, first_U, unique_N = np.unique(
        thumbs_NSS.reshape(len(thumbs_NSS), -1), axis=0, return_index=True, return_inverse=True
    )
    thumbs_USS = thumbs_NSS[first_U]
    tree = KDTree(invariant_hash(thumbs_USS))
    pairs_Q2 = tree.query_pairs(COARSE_PX * MAX_DIFFERENCE, output_type="ndarray")
    chunks = np.array_split(pairs_Q2, len(pairs_Q2) // PAIRS_AT_ONCE + 1)
    same_Q2 = np.concatenate([pairs[_are_copies(thumbs_USS[pairs[:, 0]], thumbs_USS[pairs[:, 1]])] for pairs in chunks])
    graph = coo_array((np.ones(len(same_Q2)), (same_Q2[:, 0], same_Q2[:, 1])), shape=(len(first_U), len(first_U)))
    _, component_U = connected_components(graph, directed=False)
    component_N = component_U[unique_N.ravel()]
    _, first_of_component, number_N = np.unique(component_N, return_index=True, return_inverse=True)
    return np.asarray(first_of_component[number_N])


def _are_copies(one_QSS: np.ndarray, other_QSS: np.ndarray) -> np.ndarray:
    """bool (Q,): equal in one of the eight orientations, within what re-encoding changes."""
    one_QSS = one_QSS.astype(np.float32)
    squares = [np.square(one_QSS - turned).mean(axis=(1, 2)) for turned in orientations(other_QSS.astype(np.float32))]
    difference_Q = np.sqrt(np.min(squares, axis=0))
    contrast_Q = one_QSS.std(axis=(1, 2))
    return np.asarray(difference_Q <= np.minimum(MAX_DIFFERENCE, MAX_RELATIVE_DIFFERENCE * contrast_Q))
