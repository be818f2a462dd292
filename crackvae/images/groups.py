"""The group of each image, by its path or by a table: the structure it shows, and the unit of splitting."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa

from crackvae.config import PartitionConfig
from crackvae.console import say
from crackvae.errors import ManifestError
from crackvae.storage import archive, fileio, listing, uris
from crackvae.storage.names.unicode_forms import nfc

# Names that exist as Python objects at any time.
GROUP_ROWS = 10_000


def group_of(name: str, group_by: str, labels: Iterable[str] = ()) -> str:
    """Group of an image by its path: `none` (itself), `parent` (its folder, without labels) or a regular expression.

    Names and groups are in Unicode form NFC, so that a folder is one group however its name is stored.
    """
    name, group_by = nfc(name), nfc(group_by)
    if group_by == "none":
        return name
    name = archive.file_of(name)  # the pages of a file have one group
    if group_by == "parent":
        label_folders = set(map(nfc, labels))
        return "/".join(part for part in PurePosixPath(name).parts[:-1] if part not in label_folders)
    match = re.search(group_by, name)
    if match is None:
        raise ManifestError(
            f"--group-by {group_by} matches nothing in {name}: every image needs a group. "
            "Widen the expression, or group by folder: --group-by parent."
        )
    return match[1] if match.re.groups and match[1] is not None else match[0]


def with_groups(found: listing.Listing, group_by: str) -> pa.Table:
    """LISTING_SCHEMA and the group of each image by its path below the listed folder."""
    images = found.images["image"]
    groups = [
        pa.array([group_of(uris.relative(image, found.root), group_by) for image in chunk.to_pylist()], pa.string())
        for chunk in (images.slice(start, GROUP_ROWS) for start in range(0, len(images), GROUP_ROWS))
    ]
    return found.images.append_column("group", pa.chunked_array(groups, pa.string()).combine_chunks())


def groups_of(names: list[str], pictures: np.ndarray, config: PartitionConfig) -> tuple[np.ndarray, int]:
    """Group of every labelled image, and how many groups were merged because they share a picture.

    Args:
        names: N paths below the listed folder.
        pictures: int (N,), number of the first image with the same picture.

    Raises:
        ManifestError: an image has no group, or two.
    """
    if config.groups:
        named = _groups_from_csv(names, config)
    elif config.group_by == "near-duplicate":
        named = [names[first] for first in pictures]
    else:
        named = [group_of(name, config.group_by, config.labels) for name in names]
    if config.group_by == "none" and not config.groups:
        return np.array(named), 0
    from scipy.sparse import coo_array  # imported here: scoring needs group_of() alone, and starts 0.1 s earlier
    from scipy.sparse.csgraph import connected_components

    values, group_N = np.unique(named, return_inverse=True)
    graph = coo_array((np.ones(len(names)), (group_N, group_N[pictures])), shape=(len(values), len(values)))
    n_components, component = connected_components(graph, directed=False)
    first_of_component = np.unique(component, return_index=True)[1]
    return values[first_of_component][component][group_N], len(values) - n_components


def _groups_from_csv(names: list[str], config: PartitionConfig) -> list[str]:
    path, column = config.groups, config.group_column
    try:
        rows = pd.read_csv(pa.BufferReader(fileio.read_bytes(path)), dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{path} is not a CSV table: {uris.reason(error)}. It needs the columns image and group."
        ) from error
    column = column or ("group" if "group" in rows else rows.columns[-1])
    if "image" not in rows or column not in rows or column == "image":
        raise ManifestError(
            f"{path} has the columns {', '.join(map(str, rows.columns))}: it needs image and "
            f"{'group' if column == 'image' else column}. Name the column of the groups: --group-column."
        )
    say(f"groups: column {column} of {path}", quiet=config.quiet)
    rows["image"], rows[column] = rows["image"].map(nfc), rows[column].map(nfc)
    named = rows[["image", column]].drop_duplicates()["image"]
    if named.duplicated().any():
        raise ManifestError(f"{path} gives {named[named.duplicated()].iloc[0]} two groups: keep one row per image.")
    group_of_image = dict(zip(rows["image"], rows[column], strict=True))
    missing = [name for name in names if not group_of_image.get(nfc(name))]
    if missing:
        raise ManifestError(
            f"{len(missing)} of {len(names)} images have no group in {path}, the first {missing[0]}: "
            "its column image must contain paths below --images."
        )
    return [group_of_image[nfc(name)] for name in names]
