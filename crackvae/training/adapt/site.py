"""The images of a site: readable, each picture once, and on which side each is used.

Shape letters: N images.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from crackvae.console import say
from crackvae.errors import CalibrationError
from crackvae.images.groups import group_of
from crackvae.images.manifest.duplicates import fingerprints_of, same_picture
from crackvae.model.spec import ModelSpec
from crackvae.storage import listing, uris
from crackvae.training.tile_loader import tile_counts

# Shares of the tiles that set the threshold, and that choose the best epoch; the network is trained on the rest.
CALIBRATION_SHARE, VAL_SHARE = 0.4, 0.06
# With fewer groups neither side has enough of them to say how much they differ.
MIN_GROUPS = 5
# More tiles would take longer than the verb promises.
MAX_CALIBRATION_TILES, MAX_TRAINING_TILES = 12_000, 6_000


@dataclass(frozen=True)
class SiteImages:
    """The images to use.

    Attributes:
        table: image, group, sha256, width, height and bytes of each image, as in a manifest.
        tiles_N: number of tiles of each image.
        duplicates: number of images left out because another shows the same picture.
        unreadable: number of images left out because they cannot be read.
    """

    table: pa.Table
    tiles_N: np.ndarray
    duplicates: int
    unreadable: int

    @property
    def digest(self) -> str:
        """Hash of the bytes and groups of the images."""
        columns = (self.table[name].to_pylist() for name in ("sha256", "group"))
        return hashlib.sha256("\n".join(map("\t".join, zip(*columns, strict=True))).encode()).hexdigest()


def read_site(images: str, group_by: str, spec: ModelSpec, *, quiet: bool) -> SiteImages:
    """List the images of a site, read each once, and remove duplicates.

    Raises:
        CalibrationError: there are no images; StorageError: they cannot be listed or read.
    """
    found = listing.list_images(images)
    if not found.images.num_rows:
        raise CalibrationError(f"{found.root} holds no images ({found.skipped} other files): check --images.")
    say(f"{found.images.num_rows} images in {found.root}", quiet=quiet)
    prints, unreadable = fingerprints_of(found.images, quiet=quiet)
    readable = [number for number, one in enumerate(prints) if one is not None]
    pictures = same_picture(np.stack([one.thumb_SS for one in prints if one is not None]))
    firsts = [readable[position] for position in np.unique(pictures)]
    chosen = [one for number in firsts if (one := prints[number]) is not None]
    listed = found.images.take(firsts)
    groups = [group_of(uris.relative(image, found.root), group_by) for image in listed["image"].to_pylist()]
    table = pa.table(
        {
            "image": listed["image"],
            "group": groups,
            "sha256": [one.sha256 for one in chosen],
            "width": [one.width for one in chosen],
            "height": [one.height for one in chosen],
            "bytes": listed["bytes"],
        }
    )
    return SiteImages(table, tile_counts(table, spec), len(readable) - len(firsts), len(unreadable))


def sides_of(
    groups: list[str], tiles_N: np.ndarray, *, quick: bool, salt: str, calibration: float = CALIBRATION_SHARE
) -> np.ndarray:
    """Side of each image: "calibration", "val" or "train"; all are "calibration" if nothing is trained.

    Whole groups are dealt in the order of a hash of their names, until a side has its share of the tiles.

    Args:
        calibration: share of the tiles that set the threshold.
    """
    if quick:
        return np.full(len(groups), "calibration")
    names, group_N = np.unique(groups, return_inverse=True)
    tiles_of_group = np.bincount(group_N, tiles_N)
    wanted = {"calibration": calibration * tiles_N.sum(), "val": VAL_SHARE * tiles_N.sum(), "train": np.inf}
    side_of_group, side, dealt = np.empty(len(names), "<U11"), iter(wanted), 0.0
    current = next(side)
    for number in sorted(range(len(names)), key=lambda one: hashlib.sha256(f"{salt}/{names[one]}".encode()).digest()):
        if dealt >= wanted[current]:
            current, dealt = next(side), 0.0
        side_of_group[number] = current
        dealt += tiles_of_group[number]
    return side_of_group[group_N]


def require_enough(groups: list[str], tiles_N: np.ndarray, sides: np.ndarray, needed: int, *, quick: bool) -> None:
    """Raise CalibrationError if the images cannot set a threshold for the wanted rate, with the number needed.

    Args:
        needed: number of calibration tiles.
    """
    n_groups, n_tiles = len(set(groups)), int(tiles_N.sum())
    total = needed if quick else int(np.ceil(needed / CALIBRATION_SHARE))
    too_few = n_tiles < total or n_groups < MIN_GROUPS or int(tiles_N[sides == "calibration"].sum()) < needed
    if too_few or (not quick and not (sides == "train").any()):
        advice = "" if quick or n_tiles < needed else f", or use --quick, which needs {needed} tiles"
        raise CalibrationError(
            f"{n_tiles} tiles from {n_groups} groups of images are too few to adapt to: at least {total} tiles from "
            f"{MIN_GROUPS} or more groups are needed (a small image is one tile). Add photographs, or allow a higher "
            f"--max-false-alarm{advice}."
        )


def some_images(tiles_N: np.ndarray, max_tiles: int, seed: int) -> np.ndarray:
    """Ascending numbers of random images with at most `max_tiles` tiles together, or of one image."""
    order = np.random.default_rng(seed).permutation(len(tiles_N))
    fitting = order[: max(1, int(np.searchsorted(np.cumsum(tiles_N[order]), max_tiles, side="right")))]
    return np.sort(fitting)
