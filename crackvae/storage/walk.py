"""Every file below a folder, in an archive, or below a URI, whatever it is."""

import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from typing import TypeVar

import pyarrow.fs as pafs

from crackvae.storage import archive
from crackvae.storage.archive import File
from crackvae.storage.filesystems import bucket, filesystem, retried
from crackvae.storage.uris import is_local, reason, split_uri, storage_errors

# Rows that exist as Python objects at any time.
CHUNK_ROWS = 10_000


Row = TypeVar("Row")


def chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Lists of up to CHUNK_ROWS rows."""
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, CHUNK_ROWS)):
        yield chunk


def files(path: str) -> Iterator[File]:
    """Every file below a path, in no order; of a single file only itself."""
    if archive.is_archive(path):
        yield from archive.entries(path)
        return
    with storage_errors("list", path):
        if is_local(path):
            yield from _local_files(path)
        else:
            yield from _remote_files(path)


def _local_files(root: str) -> Iterator[File]:
    """Files below a local folder. Follows links, each folder once: pyarrow's own walk never leaves a loop of links."""
    if not os.path.isdir(root):
        os.lstat(root)  # raises if there is nothing
        yield local_file(root)
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
                    yield local_file(entry.path)


def local_file(path: str) -> File:
    """One file of a disk, and why it cannot be opened, if so."""
    name = os.fsencode(path).decode("utf-8", errors="backslashreplace")
    try:
        status = os.stat(path)
    except OSError as error:
        is_dangling = isinstance(error, FileNotFoundError) and os.path.islink(path)
        return File(name, error="a link to a file that does not exist" if is_dangling else reason(error))
    problem = "" if stat.S_ISREG(status.st_mode) else "not a regular file"
    if name != path:
        problem = "the file's name is not UTF-8: rename it"
    return File(name, status.st_size, status.st_mtime_ns // 1000, problem)


def _remote_files(root: str) -> Iterator[File]:
    store, key = filesystem(root)
    infos = [retried(store.get_file_info, key)]
    if infos[0].type != pafs.FileType.File:
        infos = retried(store.get_file_info, pafs.FileSelector(key, recursive=True))
    address, _, options = split_uri(root)
    start = f"{bucket(root)[1]}/"
    for info in infos:
        if info.type == pafs.FileType.File:
            name = f"{address}/{info.path.removeprefix(start)}{options}"
            yield File(name, info.size, (info.mtime_ns or 0) // 1000)


def remote_file(uri: str) -> File:
    """One object that a list names. One that does not exist has no size: reading it will be tried all the same."""
    store, key = filesystem(uri)
    info = retried(store.get_file_info, key)
    if info.type == pafs.FileType.Directory:
        return File(uri, error="not a regular file")
    return File(uri, info.size, (info.mtime_ns or 0) // 1000) if info.type == pafs.FileType.File else File(uri)
