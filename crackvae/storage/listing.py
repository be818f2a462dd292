"""Which images a path contains: a folder, an archive, a URI, a pattern, or a list of images.

A listing may contain a million images, so rows go into Arrow columns as they are found: an image costs the bytes of
its name and some 30 more, where a Python object for each would cost 400.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from crackvae.errors import StorageError
from crackvae.storage import archive, fileio
from crackvae.storage.archive import File
from crackvae.storage.lists import listed_files
from crackvae.storage.patterns import matches, split_pattern
from crackvae.storage.uris import absolute, common_folder, join, parent, relative
from crackvae.storage.walk import chunks, files

LISTING_SCHEMA = pa.schema(
    [
        ("image", pa.string()),  # path or URI
        ("bytes", pa.int64()),
        ("modified", pa.timestamp("us", tz="UTC")),
        ("error", pa.string()),  # why it cannot be opened at all; "" for nearly every image
    ]
)


# Listed as images. HEIC and camera raw files are listed too, so that each becomes a row that says why.
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".webp"}


UNSUPPORTED_SUFFIXES = {".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}


@dataclass(frozen=True)
class Listing:
    """What was found below one path.

    Attributes:
        root: the absolute path that names are relative to: what was listed, or the part of it before a wildcard.
        images: table of LISTING_SCHEMA, sorted by name, each image once.
        skipped: files that are not images (by their ending, or hidden); counted so that nothing disappears.
        source: what was listed, in its absolute form; "" for `root`.
        passed_over: images that --since or --prefix excluded.
    """

    root: str
    images: pa.Table
    skipped: int
    source: str = ""
    passed_over: int = 0


def list_images(path: str, since: datetime | None = None, prefix: str = "") -> Listing:
    """List every image below a folder, in a .zip, or below a URI; a single image is a list of one.

    `*`, `?`, `[...]` and `**` are wildcards, unless a file of that very name exists. `@FILE` is a text file with one
    image a line, or a Parquet table with a column of them; what it names is taken as an image whatever its ending, and
    a relative name is relative to the folder of the list.

    Args:
        since: only images modified then or later; one whose time is not known stays.
        prefix: only images whose path below the listed one starts so, `2026-11-2` or `bridge-7/`.

    Raises:
        StorageError: the path does not exist or cannot be listed.
        ArchiveError: a .zip that is broken or whose entries leave its folder.
    """
    if path.startswith("@") and not os.path.lexists(path):
        source = "@" + absolute(path[1:])
        root = parent(source[1:])
        images, skipped = _table(listed_files(source[1:])), 0
    else:
        source = absolute(path)
        root, found = _found(source, prefix)
        images, skipped = _images_of(found, root)
    kept = _kept(images, root, since, prefix)
    return Listing(root, kept, skipped, source, images.num_rows - kept.num_rows)


def list_paths(paths: Sequence[str], since: datetime | None = None, prefix: str = "") -> Listing:
    """list_images() of one or several paths, in one listing; an image that two of them contain is listed once.

    Its root is the folder that all paths have in common. `prefix` applies to each path by itself.
    """
    listings = [list_images(path, since, prefix) for path in paths]
    if len(listings) == 1:
        return listings[0]
    return Listing(
        common_folder([one.root for one in listings]),
        _sorted_once(pa.concat_tables([one.images for one in listings])),
        sum(one.skipped for one in listings),
        f"{listings[0].source} and {len(paths) - 1} more",
        sum(one.passed_over for one in listings),
    )


def _found(path: str, prefix: str) -> tuple[str, Iterable[File]]:
    """The root of a path and the files below it; of a folder only its subfolder, if the prefix names one."""
    root, pattern = split_pattern(path)
    if pattern:
        matching = sorted(set(matches(root, pattern)))
        if not matching:
            raise StorageError(f"{path} matches nothing: check the wildcards in --images, or quote them in the shell.")
        return root, itertools.chain.from_iterable(files(match) for match in matching)
    folder = prefix.rpartition("/")[0]
    if folder and not archive.is_archive(root) and ".." not in folder.split("/"):
        below = join(root, folder)
        return root, files(below) if fileio.is_folder(below) else ()
    return root, files(root)


def _images_of(found: Iterable[File], root: str) -> tuple[pa.Table, int]:
    skipped = 0

    def images() -> Iterator[File]:
        nonlocal skipped
        for file in found:
            if _is_image(relative(file.image, root)):
                yield file
            else:
                skipped += 1

    return _table(images()), skipped


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES | UNSUPPORTED_SUFFIXES


def _table(found: Iterable[File]) -> pa.Table:
    """LISTING_SCHEMA, sorted by name, each name once."""
    parts = []
    for rows in chunks(found):
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        parts.append(pa.table(columns, names=LISTING_SCHEMA.names).cast(LISTING_SCHEMA))
    if not parts:
        return LISTING_SCHEMA.empty_table()
    images = pa.concat_tables(parts)
    del parts
    return _sorted_once(images)


def _sorted_once(images: pa.Table) -> pa.Table:
    images = images.take(pc.sort_indices(images["image"])).combine_chunks()
    names = images["image"]
    if images.num_rows > 1:
        again = pc.equal(names.slice(1), names.slice(0, len(names) - 1))
        if pc.any(again).as_py():
            images = images.filter(pa.chunked_array([[True], *pc.invert(again).chunks]))
    return images


def _kept(images: pa.Table, root: str, since: datetime | None, prefix: str) -> pa.Table:
    if since is not None:
        modified = images["modified"]
        is_known = pc.greater(modified, pa.scalar(0, modified.type))
        is_old = pc.less(modified, pa.scalar(since, modified.type))
        images = images.filter(pc.invert(pc.and_(is_known, is_old)))
    if prefix:
        names = (relative(name.as_py(), root) for name in images["image"])
        images = images.filter(pa.array([name.startswith(prefix) for name in names], pa.bool_()))
    return images
