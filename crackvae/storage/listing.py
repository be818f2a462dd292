"""Which images a place holds: a folder, an archive, a URI, a glob, or a list of images.

The list may hold a million images, so rows are put into Arrow columns as they come: an image costs the bytes of its
name and some 30 more, where a Python object for each would cost 400.
"""

import fnmatch
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from crackvae.errors import ConfigError, StorageError
from crackvae.storage import archive, tables
from crackvae.storage.fileio import read_bytes
from crackvae.storage.uris import (
    absolute,
    bucket,
    filesystem,
    is_local,
    join,
    reason,
    relative,
    retried,
    split_uri,
    storage_errors,
    without_options,
)

LISTING_SCHEMA = pa.schema(
    [
        ("image", pa.string()),  # path or URI
        ("bytes", pa.int64()),
        ("modified", pa.timestamp("us", tz="UTC")),
        ("error", pa.string()),  # why it cannot be opened at all; "" for nearly every image
    ]
)


# What is listed as an image. HEIC and camera raw files are listed too, so that each becomes a row that says why.
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".bmp", ".webp"}


UNSUPPORTED_SUFFIXES = {".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}


# Rows that are Python objects at any time.
CHUNK_ROWS = 10_000


# Objects of a list that are asked for at once; each answer takes 10 to 50 ms.
HEAD_THREADS = 32


# Columns of a Parquet list that may hold the images, the first one found.
LIST_COLUMNS = ("image", "uri", "path", "file")


_File = archive.Entry  # image, bytes, modified [µs], error


@dataclass(frozen=True)
class Listing:
    """What was found below one place.

    Attributes:
        root: the absolute place that names are relative to: what was listed, or the part of it without wildcards.
        images: table of LISTING_SCHEMA, sorted by name, each image once.
        skipped: files that are no images (by their ending, or hidden); counted so that nothing vanishes.
        place: what was listed, in its absolute form; "" for `root`.
        passed_over: images that --since or --prefix left out.
    """

    root: str
    images: pa.Table
    skipped: int
    place: str = ""
    passed_over: int = 0


def list_images(place: str, since: datetime | None = None, prefix: str = "") -> Listing:
    """List every image below a folder, in a .zip, or below a URI; a single image is a list of one.

    `*`, `?`, `[...]` and `**` stand for names, unless a file of that very name exists. `@FILE` is a text file with an
    image a line, or a Parquet table with a column of them; what it names is taken as an image whatever its ending, and
    a relative name counts from the folder of the list.

    Args:
        since: only images modified then or later; one whose time is not known stays.
        prefix: only images whose path below the place starts so, `2026-11-2` or `bridge-7/`.

    Raises:
        StorageError: the place does not exist or cannot be listed.
        ArchiveError: a .zip that is broken or tries to leave its folder.
    """
    if place.startswith("@") and not os.path.lexists(place):
        asked = "@" + absolute(place[1:])
        root = str(PurePosixPath(without_options(asked[1:])[0]).parent) if is_local(asked[1:]) else _parent(asked[1:])
        images, skipped = _table(_listed_files(asked[1:])), 0
    else:
        asked = absolute(place)
        root, found = _found(asked, prefix)
        images, skipped = _images_of(found, root)
    kept = _kept(images, root, since, prefix)
    return Listing(root, kept, skipped, asked, images.num_rows - kept.num_rows)


def _found(place: str, prefix: str) -> tuple[str, Iterable[_File]]:
    """The root of a place and the files below it; of a folder only its sub-folder, where the prefix names one."""
    root, pattern = _split_glob(place)
    if pattern:
        matches = sorted(set(_matches(root, pattern)))
        if not matches:
            raise StorageError(f"{place} matches nothing: check the wildcards in --images, or quote them in the shell.")
        return root, itertools.chain.from_iterable(_files(match) for match in matches)
    folder = prefix.rpartition("/")[0]
    if folder and not archive.is_archive(root) and ".." not in folder.split("/"):
        below = join(root, folder)
        return root, _files(below) if _is_folder(below) else ()
    return root, _files(root)


def _files(place: str) -> Iterator[_File]:
    if archive.is_archive(place):
        yield from archive.entries(place)
        return
    with storage_errors("list", place):
        if is_local(place):
            yield from _local_files(place)
        else:
            yield from _remote_files(place)


def _images_of(files: Iterable[_File], root: str) -> tuple[pa.Table, int]:
    skipped = 0

    def images() -> Iterator[_File]:
        nonlocal skipped
        for file in files:
            if _is_image(relative(file[0], root)):
                yield file
            else:
                skipped += 1

    return _table(images()), skipped


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES | UNSUPPORTED_SUFFIXES


def _table(files: Iterable[_File]) -> pa.Table:
    """LISTING_SCHEMA, sorted by name, each name once."""
    chunks = []
    for rows in _chunks(files):
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        chunks.append(pa.table(columns, names=LISTING_SCHEMA.names).cast(LISTING_SCHEMA))
    if not chunks:
        return LISTING_SCHEMA.empty_table()
    images = pa.concat_tables(chunks)
    del chunks
    images = images.take(pc.sort_indices(images["image"])).combine_chunks()
    names = images["image"]
    if images.num_rows > 1:
        again = pc.equal(names.slice(1), names.slice(0, len(names) - 1))
        if pc.any(again).as_py():
            images = images.filter(pa.chunked_array([[True], *pc.invert(again).chunks]))
    return images


def _chunks(files: Iterable[_File]) -> Iterator[list[_File]]:
    rows = iter(files)
    while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
        yield chunk


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


# ---------------------------------------------------------------------------------------------------- on a disk


def _local_files(root: str) -> Iterator[_File]:
    """Files below a local folder. Follows links, each folder once: pyarrow's own walk never leaves a loop of links."""
    if not os.path.isdir(root):
        os.lstat(root)  # raises where there is nothing
        yield _local_file(root)
        return
    folders, seen = [root], set()
    while folders:
        folder = folders.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if os.path.isdir(entry.path):  # entry.is_dir() raises on a link to itself
                    folders.append(entry.path)
                else:
                    yield _local_file(entry.path)


def _local_file(path: str) -> _File:
    name = os.fsencode(path).decode("utf-8", errors="backslashreplace")
    try:
        status = os.stat(path)
    except OSError as error:
        is_dangling = isinstance(error, FileNotFoundError) and os.path.islink(path)
        return name, 0, 0, "a link to a file that does not exist" if is_dangling else reason(error)
    problem = "" if stat.S_ISREG(status.st_mode) else "not a regular file"
    if name != path:
        problem = "the file's name is not UTF-8: rename it"
    return name, status.st_size, status.st_mtime_ns // 1000, problem


# ------------------------------------------------------------------------------------------- in object storage


def _remote_files(root: str) -> Iterator[_File]:
    found, path = filesystem(root)
    infos = [retried(found.get_file_info, path)]
    if infos[0].type != pafs.FileType.File:
        infos = retried(found.get_file_info, pafs.FileSelector(path, recursive=True))
    address, _, options = split_uri(root)
    start = f"{bucket(root)[1]}/"
    for info in infos:
        if info.type == pafs.FileType.File:
            name = f"{address}/{info.path.removeprefix(start)}{options}"
            yield name, info.size, (info.mtime_ns or 0) // 1000, ""


def _remote_file(place: str) -> _File:
    """One object of a list. One that is not there has no size: it is asked for again when its turn comes."""
    found, path = filesystem(place)
    info = retried(found.get_file_info, path)
    if info.type == pafs.FileType.Directory:
        return place, 0, 0, "not a regular file"
    is_there = info.type == pafs.FileType.File
    return place, info.size if is_there else 0, (info.mtime_ns or 0) // 1000 if is_there else 0, ""


def _parent(uri: str) -> str:
    bare, options = without_options(uri)
    return bare.rpartition("/")[0] + options


def _is_folder(place: str) -> bool:
    if is_local(place):
        return os.path.isdir(place)
    with storage_errors("look at", place):
        found, path = filesystem(place)
        return bool(retried(found.get_file_info, path).type == pafs.FileType.Directory)


# -------------------------------------------------------------------------------------------------------- globs


def _split_glob(place: str) -> tuple[str, tuple[str, ...]]:
    """The part of a place before its first wildcard, and the names after it; no names where there is no wildcard."""
    bare, options = without_options(place)
    start = "/" if is_local(place) else split_uri(place)[0]
    parts = bare.removeprefix(start).strip("/").split("/")
    first = next((number for number, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if first is None or _is_there(place):
        return place, ()
    root = "/".join([start.rstrip("/"), *parts[:first]]) or "/"
    return root + options, tuple(parts[first:])


def _is_there(place: str) -> bool:
    """Whether a name with a wildcard in it is the name of a file: such names exist, and are meant."""
    if is_local(place):
        return os.path.lexists(place)
    with storage_errors("look at", place):
        found, path = filesystem(place)
        return bool(retried(found.get_file_info, path).type != pafs.FileType.NotFound)


def _matches(folder: str, pattern: Sequence[str]) -> Iterator[str]:
    """Places that a pattern stands for. A wildcard matches no name that starts with a dot; `**` any folders or none."""
    name, rest = pattern[0], pattern[1:]
    if name == "**" and rest:
        yield from _matches(folder, rest)
    for entry, is_folder in _entries(folder):
        if entry.startswith(".") and not name.startswith("."):
            continue
        place = join(folder, entry)
        if name == "**":
            if not rest:
                yield place
            elif is_folder:
                yield from _matches(place, pattern)
        elif fnmatch.fnmatchcase(entry, name):
            if not rest:
                yield place
            elif is_folder:
                yield from _matches(place, rest)


def _entries(folder: str) -> list[tuple[str, bool]]:
    """Names in one folder, and whether each is a folder."""
    with storage_errors("list", folder):
        if is_local(folder):
            if not os.path.isdir(folder):
                return []
            with os.scandir(folder) as entries:
                return [(entry.name, os.path.isdir(entry.path)) for entry in entries]
        found, path = filesystem(folder)
        infos = retried(found.get_file_info, pafs.FileSelector(path, allow_not_found=True))
        return [(info.base_name, info.type == pafs.FileType.Directory) for info in infos]


# -------------------------------------------------------------------------------------------------------- lists


def _listed_files(place: str) -> Iterator[_File]:
    """The images that a text or Parquet file names, each with its size and time."""
    names = _parquet_names(place) if without_options(place)[0].endswith(".parquet") else _text_names(place)
    folder = str(PurePosixPath(place).parent) if is_local(place) else _parent(place)
    archives: dict[str, dict[str, _File]] = {}

    def look(name: str) -> _File:
        entry = archive.split_entry(name)
        if entry:
            known = archives[entry[0]].get(name)
            return known or (name, 0, 0, "")
        with storage_errors("look at", name):
            if not is_local(name):
                return _remote_file(name)
            return _local_file(name) if os.path.lexists(name) else (name, 0, 0, "")

    with ThreadPoolExecutor(HEAD_THREADS) as pool:
        for number, chunk in enumerate(_name_chunks(names)):
            try:
                whole = [
                    absolute(one if not is_local(one) or os.path.isabs(one) else join(folder, one)) for one in chunk
                ]
            except ConfigError as error:
                raise ConfigError(f"@{place}, in lines {number * CHUNK_ROWS + 1} and on: {error}") from error
            for found in {entry[0] for entry in map(archive.split_entry, whole) if entry} - archives.keys():
                archives[found] = {file[0]: file for file in archive.entries(found)}
            if all(is_local(one) for one in whole):
                yield from map(look, whole)
            else:
                yield from pool.map(look, whole)


def _name_chunks(names: Iterable[str]) -> Iterator[list[str]]:
    rows = iter(names)
    while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
        yield chunk


def _text_names(place: str) -> Iterator[str]:
    try:
        text = read_bytes(place).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"{place} is no text in UTF-8 ({reason(error)}): write one image a line.") from error
    return (line.rstrip("\r") for line in text.split("\n") if line.strip())


def _parquet_names(place: str) -> Iterator[str]:
    column = tables.text_column(place, LIST_COLUMNS)
    return (name.as_py() for name in column if name.is_valid and name.as_py())
