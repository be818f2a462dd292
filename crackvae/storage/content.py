"""A key of what a file contains: a name, a size and a time may come again for another photograph."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from crackvae.storage import archive
from crackvae.storage.uris import is_local, require_regular

# Blocks of a larger file that are hashed [bytes], spread evenly from its first byte to its last. Two photographs
# differ in each of them, by the noise of the sensor alone, and reading them from a disk takes 0.1 ms.
BLOCKS, BLOCK_BYTES = 4, 4096

# Files of which the blocks are read at once: a network mount answers after a millisecond or more.
READ_THREADS = 8


def content_key(data: bytes) -> str:
    """16 hexadecimal digits that stand for the content of a file; the whole of it up to 16 KiB, else BLOCKS of it."""
    view = memoryview(data)
    return _key(len(data), lambda start, n_bytes: view[start : start + n_bytes])


def changed(images: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """Whether each image has another content than that of its key, bool (N,).

    Only files of a disk are read. Where an archive or an object store holds an image, its time of modification stands
    for its content: the first contains the checksum, the second cannot be set. Nor is a file read whose key is "".
    """
    changed_N = np.zeros(len(images), bool)
    paths = map(archive.file_of, images)
    to_read = {n: path for n, (path, key) in enumerate(zip(paths, keys, strict=True)) if key and _is_on_disk(path)}
    if to_read:  # handing a name to a thread costs more than looking at it
        with ThreadPoolExecutor(READ_THREADS) as pool:
            changed_N[[*to_read]] = list(pool.map(_is_changed, to_read.values(), (keys[n] for n in to_read)))
    return changed_N


def _is_on_disk(path: str) -> bool:
    return is_local(path) and not archive.split_entry(path)


def _is_changed(path: str, key: str) -> bool:
    try:
        require_regular(path)
        with open(path, "rb") as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            return _key(size, lambda start, n_bytes: os.pread(descriptor, n_bytes, start)) != key
    except OSError:  # reading the image will say why
        return True


def _key(size: int, read: Callable[[int, int], bytes | memoryview]) -> str:
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    if size <= BLOCKS * BLOCK_BYTES:
        digest.update(read(0, size))
    else:
        for number in range(BLOCKS):
            digest.update(read((size - BLOCK_BYTES) * number // (BLOCKS - 1), BLOCK_BYTES))
    return digest.hexdigest()
