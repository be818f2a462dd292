"""Images inside a .zip, read in place: its entry `Negative/1.jpg` is the image `/data/metu.zip!/Negative/1.jpg`."""

import errno
import functools
import lzma
import os
import re
import stat
import zipfile
import zlib
from typing import IO

from crackvae.errors import ArchiveError, UnreadableImage
from crackvae.storage.uris import filesystem, is_local, reason, retried, storage_errors, without_options

# deflate reaches about 1000:1 on zeros; a photograph in a lossless format stays under 20:1.
MAX_ZIP_RATIO = 200


# What zipfile raises on an entry that is damaged, encrypted or packed by an unknown method.
DAMAGED_ENTRY = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError)


_ENTRY = re.compile(r"(?P<archive>.*?\.zip)!/(?P<entry>.*)", re.DOTALL | re.IGNORECASE)


Entry = tuple[str, int, int, str]  # image, bytes, modified [µs], error


def is_archive(place: str) -> bool:
    """Whether a place is called like an archive, and is no folder of that name."""
    return without_options(place)[0].lower().endswith(".zip") and not (is_local(place) and os.path.isdir(place))


def split_entry(image: str) -> tuple[str, str] | None:
    """Worker of the archive and name of the entry, of an image that lies in an archive."""
    bare, options = without_options(image)
    match = _ENTRY.fullmatch(bare)
    return (match["archive"] + options, match["entry"]) if match else None


def entries(root: str) -> list[Entry]:
    """Entries of a .zip. An archive with an entry that would leave the folder it is unpacked to is refused whole.

    Raises:
        StorageError, ArchiveError.
    """
    with storage_errors("read", root):
        archive, modified = open_archive(root) if is_local(root) else retried(open_archive, root)
    bare, options = without_options(root)
    files, seen = [], set()
    for entry in archive.infolist():
        name = entry.filename
        if name in seen:
            raise ArchiveError(f"{root} holds two entries named {name!r}: pack it again with one of them.")
        if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in name.replace("\\", "/").split("/"):
            raise ArchiveError(f"{root} holds the entry {name!r}, which leaves its folder: do not trust this archive.")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ArchiveError(f"{root} holds the link {name!r}: pack the file itself, not a link to it.")
        seen.add(name)
        if not entry.is_dir():
            files.append((f"{bare}!/{name}{options}", entry.file_size, modified, _problem(entry)))
    return files


def _problem(entry: zipfile.ZipInfo) -> str:
    if entry.flag_bits & 1:
        return "encrypted in its archive"
    if entry.file_size > MAX_ZIP_RATIO * max(entry.compress_size, 1):
        return f"a bomb: {entry.compress_size} bytes in the archive claim to hold {entry.file_size}"
    return ""


def open_archive(place: str, endpoint: str | None = None) -> tuple[zipfile.ZipFile, int]:
    """The archive and when it was changed last [µs]; one that changes while a job runs is opened again."""
    if is_local(place):
        modified = os.stat(place).st_mtime_ns // 1000
    else:
        found, path = filesystem(place, endpoint)
        modified = (found.get_file_info(path).mtime_ns or 0) // 1000
    return _cached(place, modified, endpoint), modified


@functools.lru_cache(maxsize=2)
def _cached(place: str, modified: int, endpoint: str | None) -> zipfile.ZipFile:
    """A directory of 40,000 entries takes 0.3 s to read, so each process keeps the last two."""
    try:
        if is_local(place):
            return zipfile.ZipFile(place)
        found, path = filesystem(place, endpoint)
        return zipfile.ZipFile(found.open_input_file(path))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError) as error:
        raise ArchiveError(f"{place} is not a whole .zip archive: {reason(error)}. Copy it again.") from error


def read_entry(place: str, name: str, limit: int, endpoint: str | None = None) -> bytes:
    """All bytes of one entry.

    Raises:
        UnreadableImage: damaged, or larger than `limit` bytes.
        OSError: the archive or the entry is not there any more.
    """
    try:
        archive, _ = open_archive(place, endpoint)
        with archive.open(name) as stream:
            return read_at_most(stream, limit)
    except (*DAMAGED_ENTRY, ArchiveError) as error:
        raise UnreadableImage(f"damaged in its archive: {reason(error)}") from error
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, "no longer in its archive") from None


def read_at_most(stream: IO[bytes], limit: int) -> bytes:
    """All bytes of a stream; raises UnreadableImage where there are more than `limit`."""
    data = bytes(stream.read(limit + 1))
    if len(data) > limit:
        raise UnreadableImage(f"larger than {limit} bytes")
    return data
