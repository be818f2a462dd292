"""Every file below a folder, in an archive, or below a URI, whatever it is."""

import itertools
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import pyarrow.fs as pafs

from crackvae.errors import ArchiveError, StorageError
from crackvae.storage import archive
from crackvae.storage.archive import File
from crackvae.storage.filesystems import answered, bucket, filesystem
from crackvae.storage.listing.exclusions import LINK_LOOP, UNREADABLE_ARCHIVE, UNREADABLE_FOLDER
from crackvae.storage.uris import is_local, reason, split_uri, storage_errors

# Rows that exist as Python objects at any time.
CHUNK_ROWS = 10_000

# How Python decodes the names of files.
ENCODING = sys.getfilesystemencoding()
NOT_UTF_8 = "the file's name is not UTF-8: rename it"
AMBIGUOUS = "its path reads as that of an entry of an archive or of a part of a file: rename what ends with `!`"

Row = TypeVar("Row")


class SkippedFolder(NamedTuple):
    """A folder below the listed one, or an archive, that was not entered; and the kind of exclusion."""

    path: str
    kind: str


class Folder(NamedTuple):
    """A local folder on the way down from the listed one.

    Attributes:
        real: its path without symbolic links.
        above: real paths of the folders through which it was reached, itself included.
    """

    path: str
    real: str
    above: frozenset[str]

    @classmethod
    def root(cls, path: str) -> "Folder":
        real = os.path.realpath(path)
        return cls(path, real, frozenset({real}))

    def child(self, entry: "os.DirEntry[str]") -> "Folder | None":
        """A folder in this one; None for a link to a folder above, which would never end.

        Paths decide, not inode numbers: on some union and network mounts all folders have the same one.
        """
        real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(self.real, entry.name)
        if real in self.above or f"{self.real}/".startswith(f"{real.rstrip('/')}/"):
            return None
        return Folder(entry.path, real, self.above | {real})


def chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Lists of up to CHUNK_ROWS rows."""
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, CHUNK_ROWS)):
        yield chunk


def files(path: str, *, is_named: bool = True) -> Iterator[File | SkippedFolder]:
    """Every file below a path, in no order; of a single file only itself.

    Args:
        is_named: the user named this path, so it is an error if it cannot be listed; else it is counted as skipped.
    """
    if archive.is_archive(path):
        try:
            yield from archive.entries(path)
        except (ArchiveError, StorageError) as error:
            if is_named or not (is_local(path) or isinstance(error, ArchiveError)):  # a store may answer another time
                raise
            yield SkippedFolder(path, UNREADABLE_ARCHIVE)
        return
    with storage_errors("list", path):
        if is_local(path):
            yield from _local_files(path, is_named=is_named)
        else:
            yield from _remote_files(path)


def _local_files(root: str, *, is_named: bool) -> Iterator[File | SkippedFolder]:
    """Files below a local folder, through links too. A folder that cannot be read is passed on as such."""
    if not os.path.isdir(root):
        os.lstat(root)  # raises if there is nothing
        yield local_file(root)
        return
    folders = [Folder.root(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    if not is_folder(entry):
                        yield local_file(entry.path)
                    elif child := folder.child(entry):
                        folders.append(child)
                    else:
                        yield SkippedFolder(utf_8(entry.path), LINK_LOOP)
        except OSError:
            if is_named and folder.path == root:
                raise
            yield SkippedFolder(utf_8(folder.path), UNREADABLE_FOLDER)


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def utf_8(path: str) -> str:
    """A local path as text, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def local_file(path: str) -> File:
    """One file of a disk, and why it cannot be opened, if so."""
    name = utf_8(path)
    try:
        status = os.stat(path)
    except OSError as error:
        is_dangling = isinstance(error, FileNotFoundError) and os.path.islink(path)
        return File(name, error="a link to a file that does not exist" if is_dangling else reason(error))
    problem = "" if stat.S_ISREG(status.st_mode) else "not a regular file"
    if name != path:
        problem = NOT_UTF_8 if ENCODING == "utf-8" else f"this locale takes names as {ENCODING}: set PYTHONUTF8=1"
    return File(name, status.st_size, status.st_mtime_ns // 1000, problem or _ambiguity(name))


def _ambiguity(name: str) -> str:
    """What is wrong with a name that reads as that of a part of another file, as `a.zip!/1.jpg` does; else ""."""
    return AMBIGUOUS if archive.split_entry(name) or archive.file_of(name) != name else ""


def _remote_files(root: str) -> Iterator[File]:
    store, key = filesystem(root)
    infos = [answered(store.get_file_info, key)]
    if infos[0].type != pafs.FileType.File:
        infos = answered(store.get_file_info, pafs.FileSelector(key, recursive=True))
    address, _, options = split_uri(root)
    start = f"{bucket(root)[1]}/"
    for info in infos:
        if info.type == pafs.FileType.File:
            key = info.path.removeprefix(start)
            is_odd = not {"", ".", ".."}.isdisjoint(key.split("/"))
            name = f"{address}/{key}{options}"
            problem = "its key has an empty part or a part of dots, which pyarrow cannot open: copy it"
            yield File(name, info.size, (info.mtime_ns or 0) // 1000, problem if is_odd else _ambiguity(name))


def remote_file(uri: str) -> File:
    """One object that a list names. One that does not exist has no size: reading it will be tried all the same."""
    store, key = filesystem(uri)
    info = answered(store.get_file_info, key)
    if info.type == pafs.FileType.Directory:
        return File(uri, error="not a regular file")
    return File(uri, info.size, (info.mtime_ns or 0) // 1000) if info.type == pafs.FileType.File else File(uri)
