"""Which earlier photograph shows the place of a later one: by a CSV, by equal paths below the folders of visits, or by
the place and the heading of the camera.

Shape letters: N earlier and M later photographs; 2 = metres east and north.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.spatial import KDTree

from crackvae.errors import ManifestError
from crackvae.images.metadata.places import metres_from_first
from crackvae.storage import uris

COLUMNS = ("before", "after")

# Photographs from one place show different surfaces if the camera was turned further [degrees]: half the angle of view
# of a common lens.
MAX_TURN_DEG = 30.0

# A date in the name of a folder or a file, which differs between visits: 2026-11-28, 2026_11, 20261128.
_DATE = re.compile(r"(?<!\d)(19|20)\d\d([-_.](0[1-9]|1[0-2])([-_.]\d\d)?|(0[1-9]|1[0-2])[0-3]\d)(?!\d)")


def by_path(before: Sequence[str], after: Sequence[str], *, same_root: bool = False) -> dict[str, str]:
    """The earlier photograph of each later one that has the same path below the common folder of its visit.

    Dates in a path do not count as a part of it. Of several earlier photographs with one path the one of the latest
    date is taken, and of these the last in `before`.

    Args:
        before, after: URIs or absolute paths of the photographs of both visits, the earlier ones in order of time.
        same_root: both visits have one folder above them, and paths are those below it. A photograph that arrived
            late, after one of a later date, has only those of no later date than its own before it.

    Returns:
        Earlier by later photograph; later ones without a partner are missing.
    """
    if not before or not after:
        return {}
    roots = [uris.common_folder([*before, *after])] * 2 if same_root else list(map(uris.common_folder, (before, after)))
    earlier: dict[str, list[tuple[list[str], str]]] = {}
    for image in before:
        place, dates = _place(image, roots[0])
        earlier.setdefault(place, []).append((dates, image))
    pairs: dict[str, str] = {}
    for image in after:
        place, dates = _place(image, roots[1])
        fit = [one for one in earlier.get(place, ()) if not same_root or one[0] <= dates]
        last = max(reversed(fit), key=itemgetter(0), default=([], image))[1]
        if last != image:
            pairs[image] = last
    return pairs


def _place(image: str, root: str) -> tuple[str, list[str]]:
    """The path of a photograph below the folder of its visit, without dates, and these, each as its digits."""
    path = uris.relative(image, root)
    dates = [re.sub(r"\D", "", found[0]) for found in _DATE.finditer(path)]
    return "/".join(part for name in path.split("/") if (part := _DATE.sub("", name))), dates


def by_place(before: pa.Table, after: pa.Table, within_m: float) -> dict[str, str]:
    """The nearest earlier photograph of each later one, by the places of the cameras.

    Where both photographs have a heading, they must agree within MAX_TURN_DEG. Whether a pair shows the same surface is
    for its registration to say.

    Args:
        before, after: columns image, lat, lon and heading_deg; NaN where unknown.
        within_m: largest distance of the two places.

    Returns:
        Earlier by later photograph; later ones without a partner are missing.
    """
    placed = [rows.filter(pc.is_finite(rows["lat"])) for rows in (before, after)]
    (images_N, lat_N, lon_N, heading_N), (images_M, lat_M, lon_M, heading_M) = (
        [rows[name].to_numpy() for name in ("image", "lat", "lon", "heading_deg")] for rows in placed
    )
    if not len(images_N) or not len(images_M):
        return {}
    metres_2 = np.stack(metres_from_first(np.r_[lat_N, lat_M], np.r_[lon_N, lon_M]), axis=1)
    places_N2, places_M2 = metres_2[: len(images_N)], metres_2[len(images_N) :]
    pairs: dict[str, str] = {}
    for m, near in enumerate(KDTree(places_N2).query_ball_point(places_M2, within_m)):
        turn_K = np.abs((heading_N[near] - heading_M[m] + 180) % 360 - 180)
        is_fit_K = ~(turn_K > MAX_TURN_DEG) & (images_N[near] != images_M[m])
        chosen_K = np.array(near, int)[is_fit_K]
        if len(chosen_K):
            apart_K = np.hypot(*(places_N2[chosen_K] - places_M2[m]).T)
            pairs[images_M[m]] = images_N[chosen_K[apart_K.argmin()]]
    return pairs


def by_csv(content: bytes, source: str, before: Sequence[str], after: Sequence[str]) -> dict[str, str]:
    """The earlier photograph of each later one as a CSV with the columns `before` and `after` names them.

    A photograph is named by its whole path, or by the end of it from a folder on, as far as that is unambiguous.

    Args:
        content: of the CSV, in UTF-8.
        source: its path, named in errors.
        before, after: URIs or absolute paths of the photographs of both visits.

    Raises:
        ManifestError: it is no CSV, a column is missing, or a row names no photograph, several, or one a second time.
    """
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        numbered = [(rows.line_num, row) for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{source} is no CSV in UTF-8 ({error}): save it as one, with commas.") from error
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise ManifestError(f"{source} has no column {missing[0]}: its first line must be before,after.")
    ends = {"before": _by_end(before), "after": _by_end(after)}
    pairs: dict[str, str] = {}
    for line, row in numbered:
        where = f"{source}, line {line}"
        earlier, later = (_named(ends[column], row[column] or "", column, where) for column in COLUMNS)
        if pairs.setdefault(later, earlier) != earlier:
            raise ManifestError(f"{where}: {later} has a second earlier photograph: keep one row for it.")
    return pairs


def _by_end(images: Sequence[str]) -> dict[str, list[str]]:
    """Photographs by their path and by every end of it that begins after a slash."""
    ends: dict[str, list[str]] = {}
    for image in images:
        parts = image.split("/")
        for end in {image, *("/".join(parts[k:]) for k in range(len(parts)))}:
            ends.setdefault(end, []).append(image)
    return ends


def _named(ends: Mapping[str, Sequence[str]], name: str, column: str, where: str) -> str:
    found = ends.get(name.removeprefix("./"), ())
    if len(found) != 1:
        problem = "is no photograph" if not found else f"is the name of {len(found)} photographs"
        raise ManifestError(
            f"{where}: {column}={name} {problem} of that visit: give more of its path, as the scores table has it."
        )
    return found[0]
