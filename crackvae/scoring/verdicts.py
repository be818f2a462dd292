"""What verdicts of reviewers change in a calibration: images that they label as cracks are excluded."""

from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import ManifestError
from crackvae.storage import fileio, uris
from crackvae.storage.tables.verdict_csv import read_verdict_csv
from crackvae.storage.tables.verdicts import logged_verdicts


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
    """Images that verdicts label as cracks.

    Args:
        path: CSV downloaded from a page, or folder of scores with a log of verdicts.

    Raises:
        ManifestError: the file has verdicts, and none of them is on one of `images`: the paths are those of another
            machine, and the cracks would stay in.
    """
    folder = uris.absolute(path)
    judged = logged_verdicts(folder) if fileio.is_folder(folder) else read_verdict_csv(path)
    known = set(judged).intersection(images.to_pylist()) if judged else set()
    if judged and not known:
        raise ManifestError(
            f"none of the {len(judged)} images in {path} is among the calibration images: it names "
            f"{next(iter(judged))}, and they are named like {images[0].as_py()}. Calibrate with the paths that were "
            "reviewed, or replace the beginning of the paths in the file."
        )
    return {image for image, verdict in judged.items() if verdict == "crack"}


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
