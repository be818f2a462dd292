"""Verdicts of reviewers on images, as a page lets them download."""

import csv
import io
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import ManifestError
from crackvae.storage import fileio

VERDICTS = ("crack", "sound", "unsure")


def read_verdicts(path: str) -> dict[str, str]:
    """The verdict on each image: crack, sound or unsure.

    Other columns than image and verdict are ignored and rows without a verdict are skipped, so the file may have been
    edited in a spreadsheet.

    Raises:
        StorageError: the file does not exist.
        ManifestError: not a file of verdicts, an unknown verdict, or two verdicts on one image.
    """
    data = fileio.read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path} is not a CSV file in UTF-8 ({error}): download it from the page again.") from error
    if not rows and not text.startswith("image,"):
        raise ManifestError(f"{path} holds no verdicts: download verdicts.csv from a page of crackvae.")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if row.get("image") is None or row.get("verdict") is None:
            raise ManifestError(
                f"{path}: row {number} lacks the columns image and verdict: "
                "download verdicts.csv from a page of crackvae, or save it with commas."
            )
        image, verdict = row["image"], row["verdict"].strip()
        if verdict and verdict not in VERDICTS:
            raise ManifestError(
                f"{path}: {verdict!r} on {image} is not one of {', '.join(VERDICTS)}: correct the file."
            )
        if verdict and found.setdefault(image, verdict) != verdict:
            raise ManifestError(f"{path}: {image} is called {found[image]} and {verdict}: keep one of the two rows.")
    return found


@dataclass(frozen=True)
class ExcludedCracks:
    """What verdicts change in a calibration.

    Attributes:
        called_cracks: images that the file labels as cracks.
        dropped: those of them that were excluded.
        not_found: those of them that are not among the calibration images.
    """

    called_cracks: int
    dropped: int
    not_found: int

    def counts(self) -> dict[str, int]:
        """By name, for the summary."""
        return asdict(self)


def find_cracks(images: pa.ChunkedArray, path: str) -> set[str]:
    """Images that a file of verdicts labels as cracks.

    Raises:
        ManifestError: the file has verdicts, and none of them is on one of `images`: the paths are those of another
            machine, and the cracks would stay in.
    """
    verdicts = read_verdicts(path)
    known = set(verdicts).intersection(images.to_pylist()) if verdicts else set()
    if verdicts and not known:
        raise ManifestError(
            f"none of the {len(verdicts)} images in {path} is among the calibration images: it names "
            f"{next(iter(verdicts))}, and they are named like {images[0].as_py()}. Calibrate with the paths that were "
            "reviewed, or replace the beginning of the paths in the file."
        )
    return {image for image, verdict in verdicts.items() if verdict == "crack"}


def without_cracks(scored: pa.Table, cracks: set[str], images: pa.ChunkedArray) -> tuple[pa.Table, ExcludedCracks]:
    """The rows that are not in `cracks`, and how many were excluded.

    Args:
        images: all calibration images, also those that are no row of `scored`.
    """
    names = pa.array(sorted(cracks), pa.string())
    is_crack = pc.is_in(scored["image"], names)
    found = int(pc.sum(pc.is_in(images, names)).as_py() or 0)
    excluded = ExcludedCracks(len(cracks), int(pc.sum(is_crack).as_py() or 0), len(cracks) - found)
    return scored.filter(pc.invert(is_crack)), excluded
