"""The only file-system code: list, read with retry, write whole.

A place is a local path or a URI (`s3://`, `gs://`, `abfs://`, `file://`). A `.zip` is read in place: its entry
`Negative/1.jpg` is the image `/data/metu.zip!/Negative/1.jpg`. Nothing is ever extracted.
"""

import errno
import functools
import lzma
import os
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import pyarrow as pa
import pyarrow.fs as pafs

from crackvae.errors import ArchiveError, ConfigError, OutputExists, StorageError, UnreadableImage

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

# Larger than any image that may be decoded: 100 Mpx of 16-bit RGB without compression is 600 MB.
MAX_IMAGE_BYTES = 600_000_000
# deflate reaches about 1000:1 on zeros; a photograph in a lossless format stays under 20:1.
MAX_ZIP_RATIO = 200
# Attempts and first pause [s] of a remote read; the pause doubles. S3 answers 503 for seconds, not minutes.
READ_ATTEMPTS, FIRST_PAUSE_S = 4, 0.5
# Without a limit the Google client retries a missing credential for 15 minutes.
GCS_RETRY_S = 20

# What zipfile raises on an entry that is damaged, encrypted or packed by an unknown method.
DAMAGED_ENTRY = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError)

_ZIP_ENTRY = re.compile(r"(?P<archive>.*?\.zip)!/(?P<entry>.*)", re.DOTALL | re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


def is_local(place: str) -> bool:
    """Whether a place is a path of this machine, not a URI."""
    return not _SCHEME.match(place)


def absolute(place: str) -> str:
    """The place in the one form that tables hold: an absolute local path, or a URI without a trailing slash."""
    if not place:  # an unset variable of a shell; the current folder is written as a dot
        raise ConfigError("a path is empty: give a folder, a file or a URI.")
    if place.startswith("file://"):
        with storage_errors("look at", place):
            place = pafs.FileSystem.from_uri(place)[1]
    return os.path.abspath(os.path.expanduser(place)) if is_local(place) else "".join(_without_options(place))


def join(folder: str, name: str) -> str:
    """The place of a file in a folder; options of a URI stay at its end."""
    bare, options = _without_options(folder)
    return f"{bare.rstrip('/')}/{name}{options}"


def relative(image: str, root: str) -> str:
    """Name of an image below the folder or archive it was listed from: `Negative/1.jpg`."""
    image, root = _without_options(image)[0], _without_options(root)[0]
    return image.removeprefix(root).removeprefix("!/").lstrip("/") or PurePosixPath(image).name


def reason(error: BaseException) -> str:
    """What an operating system or a client library says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


def _mend(error: BaseException) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space, or write somewhere else."
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Give this user the right to it, or choose another place."
    if code == errno.ENOENT:
        return "Check the spelling; is the disk mounted?"
    return "Check the address, the credentials and the network."


@contextmanager
def storage_errors(doing: str, place: str) -> Iterator[None]:
    """Turn what pyarrow and the operating system raise into one StorageError that names the place."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        where = getattr(error, "filename", None) or place
        if str(where).endswith(".tmp"):  # the name of a half-written file means nothing to a user
            where = place
        raise StorageError(f"cannot {doing} {where}: {reason(error)}. {_mend(error)}") from error


# Options such as `?region=eu-central-1` end a URI. All else is taken letter by letter: a key may hold `%`, `#` or `?`.
_URI = re.compile(r"(?P<address>[a-z0-9]+://[^/?]*)/?(?P<path>.*?)(?P<options>\?[a-z_]+=[^/?]*)?", re.DOTALL)
# A colon in the address that no port number follows parts a name from its secret, which may hold a slash itself.
_SECRET = re.compile(r"[^:]*://[^/?]*:(?!\d*([/?]|$))|.*\?.*secret=", re.DOTALL)


@functools.lru_cache(maxsize=16)
def _bucket(address: str, options: str) -> tuple[pafs.FileSystem, str]:
    """File system of `s3://bucket`, and the bucket's path in it."""
    if address.startswith(("gs:", "gcs:")) and "retry_limit_seconds" not in options:
        options += f"{'&' if options else '?'}retry_limit_seconds={GCS_RETRY_S}"
    filesystem, path = pafs.FileSystem.from_uri(address + options)
    return filesystem, path.strip("/")


def _split_uri(uri: str) -> tuple[str, str, str]:
    """`s3://bucket`, `key`, `?options` of a URI; refuses secrets, because URIs are written into tables and logs."""
    if _SECRET.match(uri):
        raise ConfigError("a URI with a password would be written into every table: put it into the environment.")
    match = _URI.fullmatch(uri)
    if not match or match["address"].endswith("://"):
        raise ConfigError(f"{uri} names no bucket: write it as s3://bucket/folder.")
    return match["address"], match["path"], match["options"] or ""


def _without_options(place: str) -> tuple[str, str]:
    """`s3://bucket/key` and `?options` of a URI; a local path has no options."""
    if is_local(place):
        return place, ""
    address, path, options = _split_uri(place)
    return f"{address}/{path}".rstrip("/"), options


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    address, path, options = _split_uri(uri)
    filesystem, bucket = _bucket(address, options)
    return filesystem, f"{bucket}/{path}".rstrip("/")


def exists(place: str) -> bool:
    with storage_errors("look at", place):
        if is_local(place):
            return os.path.lexists(place)
        filesystem, path = _filesystem(place)
        return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def require_new(place: str, flag: str) -> None:
    """Raise OutputExists rather than overwrite."""
    if exists(place):
        raise OutputExists(f"{place} exists already: delete it, or choose another {flag}.")


# ---------------------------------------------------------------------------------------------------- listing


@dataclass(frozen=True)
class Listing:
    """What was found below one place.

    Attributes:
        root: the absolute place that was listed.
        images: table of LISTING_SCHEMA, sorted by name, each image once.
        skipped: files that are no images (by their ending, or hidden); counted so that nothing vanishes.
    """

    root: str
    images: pa.Table
    skipped: int


def list_images(place: str) -> Listing:
    """List every image below a folder, in a .zip, or below a URI; a single image is a list of one.

    Raises:
        StorageError: the place does not exist or cannot be listed.
        ArchiveError: a .zip that is broken or tries to leave its folder.
    """
    root = absolute(place)
    if _without_options(root)[0].lower().endswith(".zip") and not os.path.isdir(root):
        found = _zip_files(root)
    elif is_local(root):
        with storage_errors("list", root):
            found = list(_local_files(root))
    else:
        with storage_errors("list", root):
            found = _remote_files(root)
    rows = [file for file in found if _is_image(relative(file[0], root))]
    columns = zip(*sorted(rows), strict=True) if rows else ([], [], [], [])
    images = pa.table([pa.array(column) for column in columns], names=LISTING_SCHEMA.names).cast(LISTING_SCHEMA)
    return Listing(root, images, skipped=len(found) - len(rows))


_File = tuple[str, int, int, str]  # image, bytes, modified [µs], error


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES | UNSUPPORTED_SUFFIXES


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


def _remote_files(root: str) -> list[_File]:
    address, _, options = _split_uri(root)
    filesystem, path = _filesystem(root)
    bucket = _bucket(address, options)[1]
    infos = [filesystem.get_file_info(path)]
    if infos[0].type != pafs.FileType.File:
        infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    return [
        (f"{address}/{info.path.removeprefix(f'{bucket}/')}{options}", info.size, (info.mtime_ns or 0) // 1000, "")
        for info in infos
        if info.type == pafs.FileType.File
    ]


def _zip_files(root: str) -> list[_File]:
    """Entries of a .zip. An archive with an entry that would leave the folder it is unpacked to is refused whole."""
    with storage_errors("read", root):
        archive, modified = _open_zip(root)
    bare, options = _without_options(root)
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
            files.append((f"{bare}!/{name}{options}", entry.file_size, modified, _zip_entry_problem(entry)))
    return files


def _zip_entry_problem(entry: zipfile.ZipInfo) -> str:
    if entry.flag_bits & 1:
        return "encrypted in its archive"
    if entry.file_size > MAX_ZIP_RATIO * max(entry.compress_size, 1):
        return f"a bomb: {entry.compress_size} bytes in the archive claim to hold {entry.file_size}"
    return ""


def _open_zip(place: str) -> tuple[zipfile.ZipFile, int]:
    """The archive and when it was changed last [µs]; one that changes while a job runs is opened again."""
    if is_local(place):
        modified = os.stat(place).st_mtime_ns // 1000
    else:
        filesystem, path = _filesystem(place)
        modified = (filesystem.get_file_info(path).mtime_ns or 0) // 1000
    return _cached_zip(place, modified), modified


@functools.lru_cache(maxsize=2)
def _cached_zip(place: str, modified: int) -> zipfile.ZipFile:
    """A directory of 40,000 entries takes 0.3 s to read, so each process keeps the last two."""
    try:
        if is_local(place):
            return zipfile.ZipFile(place)
        filesystem, path = _filesystem(place)
        return zipfile.ZipFile(filesystem.open_input_file(path))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError) as error:
        raise ArchiveError(f"{place} is not a whole .zip archive: {reason(error)}. Copy it again.") from error


# ---------------------------------------------------------------------------------------------------- reading


def read_image(image: str) -> bytes:
    """All bytes of one listed image; a remote one is tried READ_ATTEMPTS times.

    Raises:
        UnreadableImage: too large, or damaged inside its archive.
        OSError: storage does not give it (after the retries).
    """
    if is_local(image):
        return _read_once(image)
    for pause_s in [*(FIRST_PAUSE_S * 2**n for n in range(READ_ATTEMPTS - 1)), None]:
        try:
            return _read_once(image)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            if pause_s is None:
                raise OSError(reason(error)) from error
            time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")


def _read_once(image: str) -> bytes:
    bare, options = _without_options(image)
    match = _ZIP_ENTRY.fullmatch(bare)
    if match:
        return _read_zip_entry(match["archive"] + options, match["entry"])
    if is_local(image):
        return _read_at_most(open(image, "rb"))
    filesystem, path = _filesystem(image)
    return _read_at_most(filesystem.open_input_stream(path))


def _read_at_most(stream: IO[bytes]) -> bytes:
    with stream:
        data = stream.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise UnreadableImage(f"larger than {MAX_IMAGE_BYTES} bytes")
    return bytes(data)


def _read_zip_entry(place: str, name: str) -> bytes:
    try:
        archive, _ = _open_zip(place)
        return _read_at_most(archive.open(name))
    except (*DAMAGED_ENTRY, ArchiveError) as error:
        raise UnreadableImage(f"damaged in its archive: {reason(error)}") from error
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, "no longer in its archive") from None


def read_bytes(place: str) -> bytes:
    """All bytes of a file that is not an image: a manifest, a part, a file of a model directory."""
    with storage_errors("read", place):
        if is_local(place):
            return Path(place).read_bytes()
        filesystem, path = _filesystem(place)
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())


# ---------------------------------------------------------------------------------------------------- writing


def open_input(place: str) -> pa.NativeFile:
    """A file for random access, so that a reader of Parquet fetches only the columns that it wants.

    Raises:
        StorageError: not there, or storage does not give it.
    """
    with storage_errors("read", place):
        if is_local(place):
            return pa.OSFile(place)
        filesystem, path = _filesystem(place)
        return filesystem.open_input_file(path)


def write_bytes(place: str, data: bytes | memoryview) -> None:
    """Write a file so that a reader sees all of it or none of it, after a crash of the machine too."""
    with storage_errors("write", place):
        if not is_local(place):
            filesystem, path = _filesystem(place)
            with filesystem.open_output_stream(path) as stream:  # one PUT, or a multipart upload completed at the end
                stream.write(data)
            return
        final = Path(place)
        final.parent.mkdir(parents=True, exist_ok=True)
        half = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        try:
            with open(half, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(half, final)
        except BaseException:
            half.unlink(missing_ok=True)
            raise


def write_folder(place: str, files: Mapping[str, bytes | memoryview]) -> None:
    """Write a new folder of files so that a reader sees all of them or, but for object storage, none.

    Object storage has no rename: there the last of `files` completes the folder, so name the one that readers ask for.
    """
    require_new(place, "directory")
    if not is_local(place):
        for name, data in files.items():
            write_bytes(join(place, name), data)
        return
    final = Path(place)
    half = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(half, ignore_errors=True)  # of a run that was killed: in a container each run has the same id
    try:
        for name, data in files.items():
            write_bytes(str(half / name), data)
        with storage_errors("write", place):
            os.rename(half, final)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def require_writable(folder: str) -> None:
    """Raise StorageError now rather than after hours of scoring."""
    probe = join(folder, f"_probe-{os.getpid()}")
    try:
        write_bytes(probe, b"")
    except StorageError as error:
        raise StorageError(str(error).replace(probe, folder)) from error
    with storage_errors("delete", probe):
        if is_local(probe):
            os.unlink(probe)
        else:
            filesystem, path = _filesystem(probe)
            filesystem.delete_file(path)


def delete_folder(place: str) -> None:
    """Delete a folder that this job has made itself; nothing happens where there is none."""
    with storage_errors("delete", place):
        if is_local(place):
            shutil.rmtree(place, ignore_errors=True)
            return
        filesystem, path = _filesystem(place)
        if filesystem.get_file_info(path).type == pafs.FileType.Directory:
            filesystem.delete_dir(path)


def list_files(folder: str) -> list[str]:
    """Names of the files in one folder, sorted; empty where there is no such folder."""
    with storage_errors("list", folder):
        if is_local(folder):
            return sorted(entry.name for entry in os.scandir(folder) if entry.is_file()) if exists(folder) else []
        filesystem, path = _filesystem(folder)
        found = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.File)
