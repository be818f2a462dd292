"""Files: read with retry, write whole. Every module reads and writes through here; addresses come from `places`."""

import os
import shutil
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from crackvae.errors import OutputExists, StorageError, UnreadableImage
from crackvae.storage import archive
from crackvae.storage.uris import (
    filesystem,
    is_local,
    join,
    reason,
    retried,
    s3_endpoint,
    storage_errors,
)

# Refuse larger files unread: 100 Mpx of 8-bit RGB without compression is 300 MB, and decoded it is in memory once more.
MAX_IMAGE_BYTES = 320_000_000


# Images of one task that are fetched at once while others are decoded: 16 hide 50 ms of object storage behind 5 ms of
# work. A local disk answers faster than a thread is woken (docs/log.md), so nothing is fetched ahead there.
READ_THREADS = 16


# Bytes of images that may wait, so that photographs of 20 MB do not fill a worker's memory.
READ_AHEAD_BYTES = 64_000_000


# A remote image that comes shorter than it was listed is asked for so often, and one that drips in is given up after so
# long [s]: a connection that gives a byte a second is alive for every client library.
WHOLE_ATTEMPTS, FETCH_S = 3, 120.0


# Random bytes that mark the end of what is to be read: no file ends with them by chance.
MARK_BYTES = 16


# A full disk takes a file without a byte; a part of a scores table has this size or less.
PROBE_BYTES = 1_000_000


Result = TypeVar("Result")


def exists(place: str) -> bool:
    with storage_errors("look at", place):
        if is_local(place):
            return os.path.lexists(place)
        found, path = filesystem(place)
        return bool(retried(found.get_file_info, path).type != pafs.FileType.NotFound)


def require_new(place: str, flag: str) -> None:
    """Raise OutputExists rather than overwrite."""
    if exists(place):
        raise OutputExists(f"{place} exists already: delete it, or choose another {flag}.")


# ---------------------------------------------------------------------------------------------------- reading


def read_image(image: str, endpoint: str | None = None) -> bytes:
    """All bytes of one listed image; a remote one is asked for several times.

    Args:
        endpoint: S3 server; None for that of this process.

    Raises:
        UnreadableImage: too large, or damaged inside its archive.
        OSError: storage does not give it (after the retries).
    """
    if is_local(image):
        return _read_once(image, None)
    try:
        return retried(_read_once, image, endpoint)
    except pa.ArrowException as error:
        raise OSError(reason(error)) from error


def image_reader() -> Callable[[str], bytes]:
    """read_image() for a process on another machine, from the S3 server that this one talks to.

    Only the address travels: credentials are those that the other process has.
    """
    return partial(read_image, endpoint=s3_endpoint() or None)


def _read_once(image: str, endpoint: str | None) -> bytes:
    entry = archive.split_entry(image)
    if entry:
        return archive.read_entry(*entry, MAX_IMAGE_BYTES, endpoint)
    if is_local(image):
        with open(image, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableImage("not a regular file")
            _refuse_large(status.st_size)
            return archive.read_at_most(file, MAX_IMAGE_BYTES)
    found, path = filesystem(image, endpoint)
    with found.open_input_file(path) as file:
        _refuse_large(file.size())
        return _whole(file)


def _refuse_large(n_bytes: int) -> None:
    if n_bytes > MAX_IMAGE_BYTES:
        raise UnreadableImage(f"larger than {MAX_IMAGE_BYTES} bytes")


def _whole(file: pa.NativeFile) -> bytes:
    """All bytes of a remote file.

    pyarrow's S3 client takes an answer that ends too early, with a right status, for a whole one: what is missing is
    then whatever was in memory. So the end is marked before, and a mark that is still there was never written over.

    Raises:
        OSError: cut off.
    """
    data = bytearray(file.size())
    mark = os.urandom(min(MARK_BYTES, len(data)))
    data[len(data) - len(mark) :] = mark
    n_bytes = file.readinto(data)
    if n_bytes < len(data) or (len(mark) == MARK_BYTES and data.endswith(mark)):
        raise OSError(f"storage cut off its answer of {len(data)} bytes")
    return bytes(data)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe that was put in its place since it was listed has nobody who writes."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextmanager
def read_ahead(images: Sequence[tuple[str, int]], read: Callable[[str], bytes]) -> Iterator[Callable[[str], bytes]]:
    """`read` for images that are asked for in this order: remote ones are fetched by threads before their turn.

    Args:
        images: name and size [bytes] (0 where it is not known) of each, as they will be asked for.
    """
    if all(is_local(image) for image, _ in images):
        yield read
        return
    waiting: deque[tuple[str, int, Future[bytes]]] = deque()
    left = deque(images)
    pool = ThreadPoolExecutor(READ_THREADS)

    def fetched(image: str) -> bytes:
        n_bytes = sum(size for _, size, _ in waiting)
        while left and (not waiting or (len(waiting) < READ_THREADS and n_bytes + left[0][1] <= READ_AHEAD_BYTES)):
            name, size = left.popleft()
            waiting.append((name, size, pool.submit(_read_whole, read, name, size)))
            n_bytes += size
        name, _, future = waiting.popleft()
        assert name == image, "images are asked for in the order that was announced"
        wait([future], FETCH_S)
        if not future.done():
            future.cancel()
            raise OSError(f"storage did not give it within {FETCH_S:g} s")
        return future.result()

    try:
        yield fetched
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # a thread that storage keeps waiting would be waited for


def _read_whole(read: Callable[[str], bytes], image: str, size: int) -> bytes:
    """The bytes of an image, as many as were listed: a cut-off answer would be an unreadable image for good."""
    for _ in range(WHOLE_ATTEMPTS):
        data = read(image)
        if not size or len(data) == size:
            return data
    raise OSError(f"storage gave {len(data)} of {size} bytes: it was changed, or is cut off on its way")


def read_bytes(place: str) -> bytes:
    """All bytes of a file that is not an image: a manifest, a part, a file of a model directory."""
    with storage_errors("read", place):
        if is_local(place):
            return Path(place).read_bytes()
        return retried(_read_remote, place)


def _read_remote(place: str) -> bytes:
    found, path = filesystem(place)
    with found.open_input_file(path) as file:
        return _whole(file)


def parse_file(place: str, parse: Callable[[pa.NativeFile], Result]) -> Result:
    """What `parse` makes of a file that it may seek in, so that a reader of Parquet fetches only the columns it wants.

    Raises:
        OSError, or what `parse` raises (after retries, where it is pyarrow's).
    """

    def parsed() -> Result:
        if is_local(place):
            with pa.OSFile(place) as file:
                return parse(file)
        found, path = filesystem(place)
        with found.open_input_file(path) as file:
            return parse(file)

    return parsed() if is_local(place) else retried(parsed)


# ---------------------------------------------------------------------------------------------------- writing


def write_bytes(place: str, data: bytes | memoryview) -> None:
    """Write a file so that a reader sees all of it or none of it, after a crash of the machine too."""
    with storage_errors("write", place):
        if is_local(place):
            with _written_whole(Path(place)) as file:
                file.write(data)
        else:
            retried(_put, place, data)


def _put(place: str, data: bytes | memoryview) -> None:
    found, path = filesystem(place)
    with found.open_output_stream(path) as stream:  # one PUT, or a multipart upload completed at the end
        stream.write(data)


@contextmanager
def writing(place: str) -> Iterator[IO[bytes]]:
    """A file to write piece by piece, which appears whole when the block ends, or not at all."""
    with storage_errors("write", place):
        if is_local(place):
            with _written_whole(Path(place)) as file:
                yield file
            return
        # A stream to object storage that is given up is completed all the same: so the file is collected here first.
        with tempfile.TemporaryFile() as file:
            yield file
            retried(_upload, place, file)


def _upload(place: str, file: IO[bytes]) -> None:
    found, path = filesystem(place)
    file.seek(0)
    with found.open_output_stream(path) as stream:
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
            with storage_errors("write", str(final / name)), _written_whole(half / name) as file:
                file.write(data)
        with storage_errors("write", place):
            os.rename(half, final)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def require_writable(folder: str) -> None:
    """Raise StorageError now rather than after hours of scoring."""
    probe = join(folder, f"_probe-{os.getpid()}")
    try:
        write_bytes(probe, os.urandom(PROBE_BYTES))  # a disk that compresses takes zeros when it is full
    except StorageError as error:
        raise StorageError(str(error).replace(probe, folder)) from error
    delete_file(probe)


# ------------------------------------------------------------------------------------------------- whole folders


def move_file(place: str, to: str) -> None:
    """Give a file another name in the same storage. A rename on a disk; a copy and a deletion in object storage."""
    with storage_errors("move", place):
        if is_local(place):
            os.replace(place, to)
            return
        found, path = filesystem(place)
        retried(found.copy_file, path, filesystem(to)[1])
        retried(found.delete_file, path)


def delete_file(place: str) -> None:
    """Delete a file of this job's own; nothing happens where there is none."""
    with storage_errors("delete", place):
        if is_local(place):
            Path(place).unlink(missing_ok=True)
            return
        found, path = filesystem(place)
        if retried(found.get_file_info, path).type == pafs.FileType.File:
            retried(found.delete_file, path)


def modified_us(place: str) -> int | None:
    """When a file was changed last [µs since 1970], by the clock of the storage; None where there is no such file."""
    with storage_errors("look at", place):
        if is_local(place):
            try:
                return os.stat(place).st_mtime_ns // 1000
            except FileNotFoundError:
                return None
        found, path = filesystem(place)
        info = retried(found.get_file_info, path)
        return (info.mtime_ns or 0) // 1000 if info.type == pafs.FileType.File else None


def delete_folder(place: str) -> None:
    """Delete a folder that this job has made itself; nothing happens where there is none."""
    with storage_errors("delete", place):
        if is_local(place):
            shutil.rmtree(place, ignore_errors=True)
            return
        found, path = filesystem(place)
        if retried(found.get_file_info, path).type == pafs.FileType.Directory:
            retried(found.delete_dir, path)


def list_files(folder: str) -> list[str]:
    """Names of the files in one folder, sorted; empty where there is no such folder."""
    with storage_errors("list", folder):
        if is_local(folder):
            return sorted(entry.name for entry in os.scandir(folder) if entry.is_file()) if exists(folder) else []
        found, path = filesystem(folder)
        infos = retried(found.get_file_info, pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.File)
