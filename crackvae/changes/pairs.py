"""Which earlier photograph shows the place of a later one: by a CSV, or by equal paths below the folders of visits."""

import csv
from collections.abc import Mapping, Sequence

from crackvae.errors import ManifestError
from crackvae.storage import uris

COLUMNS = ("before", "after")


def by_path(before: Sequence[str], after: Sequence[str]) -> dict[str, str]:
    """The earlier photograph of each later one that has the same path below the common folder of its visit.

    Args:
        before, after: URIs or absolute paths of the photographs of both visits.

    Returns:
        Earlier by later photograph; later ones without a partner are missing.
    """
    if not before or not after:
        return {}
    earlier = {uris.relative(image, uris.common_folder(before)): image for image in before}
    below = {image: uris.relative(image, uris.common_folder(after)) for image in after}
    return {image: earlier[path] for image, path in below.items() if path in earlier}


def by_csv(text: str, source: str, before: Sequence[str], after: Sequence[str]) -> dict[str, str]:
    """The earlier photograph of each later one as a CSV with the columns `before` and `after` names them.

    A photograph is named by its whole path, or by the end of it from a folder on, as far as that is unambiguous.

    Args:
        text: content of the CSV.
        source: its path, named in errors.
        before, after: URIs or absolute paths of the photographs of both visits.

    Raises:
        ManifestError: a column is missing, or a row names no photograph, several, or one a second time.
    """
    rows = csv.DictReader(text.lstrip("\ufeff").splitlines())
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise ManifestError(f"{source} has no column {missing[0]}: its first line must be before,after.")
    ends = {"before": _by_end(before), "after": _by_end(after)}
    pairs: dict[str, str] = {}
    for row in rows:
        where = f"{source}, line {rows.line_num}"
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
