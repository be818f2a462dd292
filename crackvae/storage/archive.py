"""Images inside a .zip, read in place: its entry `Negative/1.jpg` is the image `/data/metu.zip!/Negative/1.jpg`."""

import errno
import functools
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from datetime import UTC, datetime
from typing import IO, NamedTuple

from crackvae.errors import ArchiveError, UnreadableImage
from crackvae.storage.filesystems import answered, filesystem
from crackvae.storage.names import zip_names
from crackvae.storage.names.excerpts import excerpt_of
from crackvae.storage.uris import is_local, reason, require_regular, storage_errors, without_options

# deflate reaches about 1000:1 on zeros; a photograph in a lossless format stays under 20:1.
MAX_ZIP_RATIO = 200

# Systems that an entry may state as its origin on which a backslash cannot be part of a name: FAT, NTFS, VFAT.
WINDOWS = (0, 10, 14)

# What zipfile raises on an entry that is damaged, encrypted or packed by an unknown method.
DAMAGED_ENTRY = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError)

_ENTRY = re.compile(r"(?P<archive>.*?\.zip)!/(?P<entry>.*)", re.DOTALL | re.IGNORECASE)

_PAGE = re.compile(r"(?P<file>.*\.tiff?(?:\?.*)?)!/page=(?P<page>\d+)", re.DOTALL | re.IGNORECASE)


def file_of(image: str) -> str:
    """Path of the file, or of the entry of an archive, of which an image is a page, a window or a frame."""
    if "!/" not in image:
        return image
    found = _PAGE.fullmatch(image) or excerpt_of(image)
    return image if found is None else found["file"] if isinstance(found, re.Match) else found.file


def page_of(image: str) -> int:
    """Number of the page of an image in its file, from 1."""
    found = _PAGE.fullmatch(image)
    return int(found["page"]) if found else 1


class File(NamedTuple):
    """A file that was found: an image, or something else.

    Attributes:
        image: path or URI.
        n_bytes: size; 0 where it is not known.
        modified_us: modification time [µs since 1970]; 0 where it is not known.
        error: why it cannot be opened at all; "" for nearly every file.
    """

    image: str
    n_bytes: int = 0
    modified_us: int = 0
    error: str = ""


def is_archive(path: str) -> bool:
    """Whether a path has the ending of an archive and is not a folder."""
    return without_options(path)[0].lower().endswith(".zip") and not (is_local(path) and os.path.isdir(path))


def split_entry(image: str) -> tuple[str, str] | None:
    """Path of the archive and name of the entry, of an image inside an archive."""
    if "!/" not in image:
        return None
    bare, options = without_options(image)
    match = _ENTRY.fullmatch(bare)
    return (match["archive"] + options, match["entry"]) if match else None


def entries(root: str) -> list[File]:
    """Entries of a .zip, each name once; one that must not or cannot be read says why.

    Raises:
        StorageError, ArchiveError.
    """
    with storage_errors("read", root):
        opened = open_archive(root) if is_local(root) else answered(open_archive, root)
    bare, options = without_options(root)
    times = Counter(name for name, _ in opened.names)
    return [
        File(f"{bare}!/{name}{options}", entry.file_size, _time_us(entry), _problem(name, entry, times[name]))
        for name, entry in dict(opened.names).items()
        if not name.endswith("/")
    ]


def _problem(name: str, entry: zipfile.ZipInfo, times: int) -> str:
    if times > 1:
        return f"its archive contains {times} entries of this name: pack it again with one of them"
    if re.match(r"[/\\]|[A-Za-z]:[/\\]", name) or ".." in name.replace("\\", "/").split("/"):
        return "its name leaves the folder of its archive: do not trust it"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link in an archive: pack the file itself"
    if entry.flag_bits & 1:
        return "encrypted in its archive"
    if entry.file_size > MAX_ZIP_RATIO * max(entry.compress_size, 1):
        return f"a decompression bomb: {entry.compress_size} bytes in the archive claim to be {entry.file_size}"
    return ""


def _time_us(entry: zipfile.ZipInfo) -> int:
    """Modification time of an entry [µs], which stands for its content: the archive around it may grow.

    An archive stores local times, here read as UTC, in steps of two seconds. The rest is taken from the checksum, so
    that another content of the same size and time has another modification time.
    """
    try:
        time_s = int(datetime(*entry.date_time, tzinfo=UTC).timestamp())
    except ValueError:  # a date such as the 0th of a month, which some programs write for none
        time_s = int(datetime(1980, 1, 1, tzinfo=UTC).timestamp())
    return time_s * 1_000_000 + entry.CRC % 2_000_000


class Archive:
    """An open .zip.

    Attributes:
        names: names of the entries with `/` as separator, and what zipfile knows of each, in their order.
    """

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        entries = file.infolist()
        names = zip_names.decoded(entries)
        has_slashes = any("/" in name for name in names)
        names = [  # some programs on Windows write backslashes, against the standard
            name.replace("\\", "/") if not has_slashes or entry.create_system in WINDOWS else name
            for name, entry in zip(names, entries, strict=True)
        ]
        self.names = list(zip(names, entries, strict=True))
        self._by_name = dict(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def open(self, name: str) -> IO[bytes]:
        return self._file.open(self._by_name[name])


def open_archive(path: str, endpoint: str | None = None) -> Archive:
    """The archive; one that changes while a job runs is opened again."""
    if is_local(path):
        modified = os.stat(path).st_mtime_ns
    else:
        store, key = filesystem(path, endpoint)
        modified = store.get_file_info(key).mtime_ns or 0
    return _cached(path, modified, endpoint)


@functools.lru_cache(maxsize=2)
def _cached(path: str, modified: int, endpoint: str | None) -> Archive:
    """A directory of 40,000 entries takes 0.3 s to read, so each process keeps the last two."""
    try:
        if is_local(path):
            require_regular(path)
            return Archive(zipfile.ZipFile(path))
        store, key = filesystem(path, endpoint)
        return Archive(zipfile.ZipFile(store.open_input_file(key)))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError) as error:
        raise ArchiveError(f"{path} is not a whole .zip archive: {reason(error)}. Copy it again.") from error


def has_entry(path: str, name: str) -> bool:
    """Whether an archive contains an entry of this name."""
    with storage_errors("read", path):
        return name in open_archive(path)


def read_entry(path: str, name: str, limit: int, endpoint: str | None = None) -> bytes:
    """All bytes of one entry.

    Raises:
        UnreadableImage: damaged, or larger than `limit` bytes.
        OSError: the archive or the entry no longer exists.
    """
    try:
        with open_archive(path, endpoint).open(name) as stream:
            return read_at_most(stream, limit)
    except (*DAMAGED_ENTRY, ArchiveError) as error:
        raise UnreadableImage(f"damaged in its archive: {reason(error)}") from error
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, "no longer in its archive") from None


def read_at_most(stream: IO[bytes], limit: int) -> bytes:
    """All bytes of a stream; raises UnreadableImage if there are more than `limit`."""
    data = bytes(stream.read(limit + 1))
    if len(data) > limit:
        raise UnreadableImage(f"larger than {limit} bytes")
    return data
