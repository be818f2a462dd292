"""Files on a disk and in object storage: reads are retried, writes are atomic. Every module reads and writes here."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from crackvae.errors import OutputExists, StorageError, UnreadableImage
from crackvae.storage import archive
from crackvae.storage.filesystems import answered, filesystem, retried, s3_endpoint
from crackvae.storage.names.run_files import run_of_part
from crackvae.storage.uris import is_local, join, parent, reason, require_regular, storage_errors

# Refuse larger files unread: 100 Mpx of 8-bit RGB without compression is 300 MB, and decoded it is in memory once more.
MAX_IMAGE_BYTES = 320_000_000

# Random bytes that mark the end of a buffer before a read; that a file ends with the same ones is out of the question.
MARK_BYTES = 16

# A full disk still accepts an empty file; a part of a scores table has this size or less.
PROBE_BYTES = 1_000_000

Result = TypeVar("Result")


def exists(path: str) -> bool:
    """Whether there is a file, a folder or a link of this name, or an object with this prefix."""
    with storage_errors("look at", path):
        if is_local(path):
            return os.path.lexists(path)
        store, key = filesystem(path)
        return bool(answered(store.get_file_info, key).type != pafs.FileType.NotFound)


def is_folder(path: str) -> bool:
    """Whether there is a folder of this name, or an object below this prefix."""
    if is_local(path):
        return os.path.isdir(path)
    with storage_errors("look at", path):
        store, key = filesystem(path)
        return bool(answered(store.get_file_info, key).type == pafs.FileType.Directory)


def require_new(path: str, flag: str) -> None:
    """Raise OutputExists rather than overwrite."""
    if exists(path):
        raise OutputExists(f"{path} exists already: delete it, or choose another {flag}.")
    require_outside_table(path, flag)


def require_outside_table(path: str, flag: str, table: str = "") -> None:
    """Refuse an output in a local folder of Parquet parts, in the URI `table`, or in a folder below one of them.

    Readers of such a folder as one table read every file below it, unless its name or that of a folder on the way to it
    begins with an underscore.

    Raises:
        StorageError: the table could no longer be read.
    """
    folder = path
    while parent(folder) != folder:
        name, folder = PurePosixPath(folder).name, parent(folder)
        if name.startswith(("_", ".")):
            return
        if _has_parts(folder) if is_local(path) else folder == table:
            raise StorageError(
                f"{path} would break the table of scores in {folder}, of which readers take every file: choose another "
                f"{flag}, or a name that begins with an underscore (_{PurePosixPath(path).name})."
            )


def _has_parts(folder: str) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:  # a folder that is missing or not ours is no table
        return any(run_of_part(entry.name) for entry in entries)
    return False


# ---------------------------------------------------------------------------------------------------- reading


def read_image(image: str, endpoint: str | None = None) -> bytes:
    """All bytes of one listed image; a remote read is retried.

    Args:
        endpoint: S3 server; None for that of this process.

    Raises:
        UnreadableImage: too large, or damaged inside its archive.
        OSError: storage does not deliver it (after the retries).
    """
    if is_local(image):
        return _read_once(image, None)
    try:
        return retried(_read_once, image, endpoint)
    except pa.ArrowException as error:
        raise OSError(reason(error)) from error


def image_reader() -> Callable[[str], bytes]:
    """read_image() for a process on another machine, from the S3 server that this process uses.

    Only the address is sent: the other process uses its own credentials.
    """
    return partial(read_image, endpoint=s3_endpoint() or None)


def _read_once(image: str, endpoint: str | None) -> bytes:
    image = archive.file_of(image)
    entry = archive.split_entry(image)
    if entry:
        return archive.read_entry(*entry, MAX_IMAGE_BYTES, endpoint)
    if is_local(image):
        with open(image, "rb", opener=_open_nonblocking) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage("not a regular file")
            _refuse_large(status.st_size)
            return archive.read_at_most(file, MAX_IMAGE_BYTES)
    store, key = filesystem(image, endpoint)
    with store.open_input_file(key) as file:
        _refuse_large(file.size())
        return _whole(file)


def _refuse_large(n_bytes: int) -> None:
    if n_bytes > MAX_IMAGE_BYTES:
        raise UnreadableImage(f"larger than {MAX_IMAGE_BYTES} bytes")


def _whole(file: pa.NativeFile) -> bytes:
    """All bytes of a remote file.

    pyarrow's S3 client accepts a response that ends early, with a status of success, as complete: what is missing is
    then whatever was in memory. So the end is marked beforehand; a mark that is still there was never overwritten.

    Raises:
        OSError: truncated.
    """
    data = bytearray(file.size())
    mark = os.urandom(min(MARK_BYTES, len(data)))
    data[len(data) - len(mark) :] = mark
    n_bytes = file.readinto(data)
    if n_bytes < len(data) or (len(mark) == MARK_BYTES and data.endswith(mark)):
        raise OSError(f"storage truncated its response of {len(data)} bytes")
    return bytes(data)


def _open_nonblocking(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe that replaced it since it was listed would block until somebody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_bytes(path: str) -> bytes:
    """All bytes of a file that is not an image: a manifest, a part, a file of a model directory."""
    with storage_errors("read", path):
        if not is_local(path):
            return answered(_read_remote, path)
        # The `<(command)` of a shell is a pipe, into which nobody may ever write.
        return answered(_read_local, path) if Path(path).is_fifo() else _read_local(path)


def _read_local(path: str) -> bytes:
    return Path(path).read_bytes()


def _read_remote(path: str) -> bytes:
    store, key = filesystem(path)
    with store.open_input_file(key) as file:
        return _whole(file)


def parse_file(path: str, parse: Callable[[pa.NativeFile], Result]) -> Result:
    """The result of `parse` on an open file, in which it may seek: a Parquet reader fetches only the columns it needs.

    Raises:
        OSError, or what `parse` raises (after retries, if it is pyarrow's).
    """

    def parsed() -> Result:
        if is_local(path):
            require_regular(path)
            with pa.OSFile(path) as file:
                return parse(file)
        store, key = filesystem(path)
        with store.open_input_file(key) as file:
            return parse(file)

    return parsed() if is_local(path) else answered(parsed)


# ---------------------------------------------------------------------------------------------------- writing


def write_bytes(path: str, data: bytes | memoryview) -> None:
    """Write a file atomically: a reader sees all of it or none of it, even after a crash of the machine."""
    with storage_errors("write", path):
        if is_local(path):
            with _written_whole(Path(path)) as file:
                file.write(data)
        else:
            retried(_put, path, data)


def _put(path: str, data: bytes | memoryview) -> None:
    store, key = filesystem(path)
    with store.open_output_stream(key) as stream:  # one PUT, or a multipart upload completed at the end
        stream.write(data)


@contextmanager
def writing(path: str) -> Iterator[IO[bytes]]:
    """A file to write piece by piece, which appears complete when the block ends, or not at all."""
    with storage_errors("write", path):
        if is_local(path):
            with _written_whole(Path(path)) as file:
                yield file
            return
        # An abandoned stream to object storage is still completed, so the file is collected here first.
        with tempfile.TemporaryFile() as file:
            yield file
            retried(_upload, path, file)


def _upload(path: str, file: IO[bytes]) -> None:
    store, key = filesystem(path)
    file.seek(0)
    with store.open_output_stream(key) as stream:
        shutil.copyfileobj(file, stream, 8_000_000)


@contextmanager
def _written_whole(final: Path) -> Iterator[IO[bytes]]:
    final.parent.mkdir(parents=True, exist_ok=True)
    half = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        with open(half, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(half, final)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def write_folder(path: str, files: Mapping[str, bytes | memoryview]) -> None:
    """Write a new folder of files; on a disk atomically: a reader sees all of them or none.

    Object storage has no rename. There the last of `files` completes the folder: make it the one that readers open.
    What a process that was killed before it has left is written again.
    """
    if not is_local(path):
        require_new(join(path, [*files][-1]), "directory")
        for name, data in files.items():
            write_bytes(join(path, name), data)
        return
    require_new(path, "directory")
    final = Path(path)
    half = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(half, ignore_errors=True)  # left by a killed run: in a container each run has the same process id
    try:
        for name, data in files.items():
            with storage_errors("write", str(final / name)), _written_whole(half / name) as file:
                file.write(data)
        with storage_errors("write", path):
            os.rename(half, final)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def require_writable(folder: str) -> None:
    """Raise StorageError now rather than after hours of scoring, if nothing can be written to a folder."""
    exists(folder)  # storage that does not answer is noticed here, where a signal ends the wait
    probe = join(folder, f"_probe-{os.urandom(4).hex()}")  # two containers may have the same process id
    try:
        write_bytes(probe, os.urandom(PROBE_BYTES))  # a disk that compresses takes zeros when it is full
    except StorageError as error:
        raise StorageError(str(error).replace(probe, folder)) from error
    delete_file(probe)


# ------------------------------------------------------------------------------------------------- whole folders


def move_file(path: str, to: str) -> None:
    """Rename a file within the same storage: atomic on a disk, a copy and a deletion in object storage."""
    with storage_errors("move", path):
        if is_local(path):
            os.replace(path, to)
            return
        store, key = filesystem(path)
        retried(store.copy_file, key, filesystem(to)[1])
        retried(store.delete_file, key)


def delete_file(path: str) -> None:
    """Delete a file that this job wrote, if it exists."""
    with storage_errors("delete", path):
        if is_local(path):
            Path(path).unlink(missing_ok=True)
            return
        store, key = filesystem(path)
        if retried(store.get_file_info, key).type == pafs.FileType.File:
            retried(store.delete_file, key)


def modified_us(path: str) -> int | None:
    """Modification time of a file by the clock of the storage [µs since 1970]; None if there is no such file."""
    with storage_errors("look at", path):
        if is_local(path):
            try:
                return os.stat(path).st_mtime_ns // 1000
            except FileNotFoundError:
                return None
        store, key = filesystem(path)
        info = retried(store.get_file_info, key)
        return (info.mtime_ns or 0) // 1000 if info.type == pafs.FileType.File else None


def delete_folder(path: str) -> None:
    """Delete a folder that this job made, if it exists."""
    with storage_errors("delete", path):
        if is_local(path):
            shutil.rmtree(path, ignore_errors=True)
            return
        store, key = filesystem(path)
        if retried(store.get_file_info, key).type == pafs.FileType.Directory:
            retried(store.delete_dir, key)


def list_files(folder: str) -> list[str]:
    """Names of the files in one folder, sorted; empty if there is no such folder."""
    with storage_errors("list", folder):
        if is_local(folder):
            return sorted(entry.name for entry in os.scandir(folder) if entry.is_file()) if exists(folder) else []
        store, key = filesystem(folder)
        infos = answered(store.get_file_info, pafs.FileSelector(key, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.File)
