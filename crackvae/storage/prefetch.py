"""Images fetched from object storage before they are needed."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from crackvae.storage.uris import is_local

# Images of one task that are fetched at once while others are decoded: 16 hide 50 ms of object storage behind 5 ms of
# work. A local disk answers faster than a thread starts (docs/log.md), so nothing is fetched ahead there.
READ_THREADS = 16

# Bytes of images that may wait, so that photographs of 20 MB do not fill a worker's memory.
READ_AHEAD_BYTES = 64_000_000

# Attempts for a remote image that arrives shorter than it was listed, and the limit for one that stalls [s]: to every
# client library a connection that delivers one byte a second is alive.
WHOLE_ATTEMPTS, FETCH_S = 3, 120.0


@contextmanager
def read_ahead(images: Sequence[tuple[str, int]], read: Callable[[str], bytes]) -> Iterator[Callable[[str], bytes]]:
    """`read` for images that are requested in this order: threads fetch remote ones in advance.

    Args:
        images: name and size [bytes] (0 where it is not known) of each, in the order of the requests.
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
        assert name == image, "images are requested in the announced order"
        wait([future], FETCH_S)
        if not future.done():
            future.cancel()
            raise OSError(f"storage did not deliver it within {FETCH_S:g} s")
        return future.result()

    try:
        yield fetched
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # waiting would include a thread whose connection stalls


def _read_whole(read: Callable[[str], bytes], image: str, size: int) -> bytes:
    """The bytes of an image, as many as were listed: a truncated answer would be an unreadable image permanently."""
    for _ in range(WHOLE_ATTEMPTS):
        data = read(image)
        if not size or len(data) == size:
            return data
    raise OSError(f"storage delivered {len(data)} of {size} bytes: the image was changed, or is truncated in transit")
